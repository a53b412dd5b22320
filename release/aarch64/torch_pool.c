// Stands for libtorch where there is none: the thread pool is all that the binary asks of it. One range, in this thread.
#include <stdint.h>

int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void*),
                           void* context) {
  (void)grain;
  if (begin < end) body(begin, end, context);
  return 0;
}
