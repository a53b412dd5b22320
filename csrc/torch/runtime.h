// What the bindings need of the running torch: its thread pool and its current CUDA stream, through the stable ABI; and
// the choice between the two devices.
#pragma once

#include <cstdint>

#include "activation/activation.h"

namespace hrta {

// torch's own pool, so that torch.set_num_threads rules and no second OpenMP runtime is loaded.
void torch_pool_parallel_for(int64_t count, int64_t grain, cpu::RangeBody body, void* context);

// The caller's current CUDA stream on `device`.
void* current_cuda_stream(int device);

// Throws what a CUDA launcher reported, if anything.
void check_cuda(const char* kernel, const char* error);

// Comma-separated names of the CUDA targets in this binary; empty in a build without CUDA.
const char* cuda_architectures();

constexpr int kCpuDevice = -1;  // every binding takes the device last: this, or a CUDA device index
#if defined(HRTA_WITH_CUDA)
constexpr bool kWithCuda = true;
#else
constexpr bool kWithCuda = false;
#endif

// One pass on `device`: on_cpu(), or on_cuda(stream), which returns null or an error message. Both must be generic in
// what they call cuda:: functions with (`auto stream`), which a build without CUDA does not have.
template <typename OnCpu, typename OnCuda>
void run_on(int device, const char* kernel, const OnCpu& on_cpu, [[maybe_unused]] const OnCuda& on_cuda) {
  if (device == kCpuDevice) {
    on_cpu();
  } else if constexpr (kWithCuda) {
    check_cuda(kernel, on_cuda(current_cuda_stream(device)));
  } else {
    check_cuda(kernel, "hrta_ext was built without CUDA");
  }
}

// Bytes or doubles of scratch that a pass wants: none on the CPU, where it takes its own.
template <typename OnCuda>
int64_t scratch_on(int device, [[maybe_unused]] const OnCuda& on_cuda) {
  if constexpr (kWithCuda) {
    if (device != kCpuDevice) return on_cuda(device);
  }
  return 0;
}

}  // namespace hrta
