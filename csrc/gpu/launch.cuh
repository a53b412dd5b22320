// What every launch needs: the right device for its duration, its errors, a block's sum.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "math/half.h"
#include "math/homotopy.h"
#include "types.h"

namespace hrta {
namespace cuda {

constexpr int kThreads = 256;

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    if (cudaGetDevice(&previous_) == cudaSuccess && previous_ != device)
      changed_ = cudaSetDevice(device) == cudaSuccess;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

inline const char* launch_error() {
  cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Every launch. Outside nvcc a kernel is an ordinary function that the tests' emulation runs thread by thread.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, int threads, void* stream, const Arguments&... arguments) {
#if defined(__CUDACC__)
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
#else
  (void)stream;
  emulate(blocks, threads, [&] { kernel(arguments...); });
#endif
}

// Adds the values of a block of kThreads; valid in thread 0.
__device__ inline double sum_over_block(double value) {
  __shared__ double shared[kThreads];
  __syncthreads();  // a second call may find the first's result still being read
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  return shared[0];
}

}  // namespace cuda
}  // namespace hrta
