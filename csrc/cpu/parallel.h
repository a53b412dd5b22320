// Work on the caller's thread pool, from a lambda.
#pragma once

#include "../activation.h"

namespace hrta {
namespace cpu {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Runs work(begin, end) over pieces of [0, count).
template <typename Work>
void run_parallel(ParallelFor parallel_for, int64_t count, int64_t grain, const Work& work) {
  auto body = [](int64_t begin, int64_t end, void* context) { (*static_cast<const Work*>(context))(begin, end); };
  if (count > 0) parallel_for(count, grain, body, const_cast<Work*>(&work));
}

}  // namespace cpu
}  // namespace hrta
