// How a sweep over neurons reads them, and fills shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "gpu/device.h"

namespace hrta {
namespace cuda {
namespace arcs {

// kCount elements, a multiple of 16 bytes; `count` of them are there, the others read as 0.
template <int kCount, typename T>
__device__ __forceinline__ void load(const T* source, int count, bool aligned, T (&target)[kCount]) {
  if (aligned && count == kCount) {
    alignas(16) T raw[kCount];
#pragma unroll
    for (int k = 0; k < int(sizeof(raw) / 16); ++k) {
      reinterpret_cast<uint4*>(raw)[k] = reinterpret_cast<const uint4*>(source)[k];
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) target[j] = raw[j];
  } else {
#pragma unroll
    for (int j = 0; j < kCount; ++j) target[j] = j < count ? source[j] : T(0);
  }
}

// Copied by the whole block; a barrier is to follow.
template <typename T>
__device__ __forceinline__ void copy_to_shared(T* target, const T* source, int count) {
  for (int k = int(threadIdx.x); k < count; k += int(blockDim.x)) target[k] = source[k];
}

// Bytes of shared memory that a block may take for arrays, besides what its kernel declares.
inline size_t room_of(const Device& device) {
  constexpr int kDeclared = 1024;
  return device.shared > kDeclared ? size_t(device.shared - kDeclared) : 0;
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
