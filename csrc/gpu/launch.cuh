// What every launch needs: the right device for its duration, a grid for n elements, 8 elements per thread in and out.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "math/half.h"
#include "math/homotopy.h"
#include "types.h"

namespace hrta {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;  // one mask byte; 16 bytes of a half type
constexpr int64_t kPerBlock = int64_t(kThreads) * kPerThread;

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

inline unsigned blocks_for(int64_t n) {
  return static_cast<unsigned>((n + kPerBlock - 1) / kPerBlock);
}

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

// `count` (1 to 8) elements; 16-byte accesses where all 8 are there and the address allows.
template <typename Stored>
__device__ __forceinline__ void load_pack(const Stored* source, int count, Computed<Stored> (&pack)[kPerThread]) {
  alignas(16) Stored raw[kPerThread];
  if (count == kPerThread && reinterpret_cast<uintptr_t>(source) % 16 == 0) {
    const uint4* words = reinterpret_cast<const uint4*>(source);
#pragma unroll
    for (int k = 0; k < int(sizeof(raw) / 16); ++k) reinterpret_cast<uint4*>(raw)[k] = words[k];
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) pack[j] = widen(raw[j]);
  } else {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) pack[j] = j < count ? widen(source[j]) : Computed<Stored>(0);
  }
}

template <typename Stored>
__device__ __forceinline__ void store_pack(const Computed<Stored> (&pack)[kPerThread], int count, Stored* target) {
  alignas(16) Stored raw[kPerThread];
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) narrow(pack[j], raw[j]);
  if (count == kPerThread && reinterpret_cast<uintptr_t>(target) % 16 == 0) {
    uint4* words = reinterpret_cast<uint4*>(target);
#pragma unroll
    for (int k = 0; k < int(sizeof(raw) / 16); ++k) words[k] = reinterpret_cast<const uint4*>(raw)[k];
  } else {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      if (j < count) target[j] = raw[j];
    }
  }
}

// The same for a type known at run time: half types and float share the float kernels, a choice uniform over the grid.
__device__ __forceinline__ void load_as(ScalarKind kind, const void* source, int64_t i, int count,
                                        float (&pack)[kPerThread]) {
  if (kind == ScalarKind::kFloat32) {
    load_pack(static_cast<const float*>(source) + i, count, pack);
  } else if (kind == ScalarKind::kFloat16) {
    load_pack(static_cast<const Float16*>(source) + i, count, pack);
  } else {
    load_pack(static_cast<const BFloat16*>(source) + i, count, pack);
  }
}

__device__ __forceinline__ void load_as(ScalarKind, const void* source, int64_t i, int count,
                                        double (&pack)[kPerThread]) {
  load_pack(static_cast<const double*>(source) + i, count, pack);
}

__device__ __forceinline__ void store_as(ScalarKind kind, const float (&pack)[kPerThread], int count, void* target,
                                         int64_t i) {
  if (kind == ScalarKind::kFloat32) {
    store_pack(pack, count, static_cast<float*>(target) + i);
  } else if (kind == ScalarKind::kFloat16) {
    store_pack(pack, count, static_cast<Float16*>(target) + i);
  } else {
    store_pack(pack, count, static_cast<BFloat16*>(target) + i);
  }
}

__device__ __forceinline__ void store_as(ScalarKind, const double (&pack)[kPerThread], int count, void* target,
                                         int64_t i) {
  store_pack(pack, count, static_cast<double*>(target) + i);
}

}  // namespace cuda
}  // namespace hrta
