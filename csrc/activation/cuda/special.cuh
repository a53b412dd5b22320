// What the GPU does in one instruction and C++ has no word for. Elsewhere (the tests' emulation) the same values,
// rounded once: the errors named here are the hardware's, measured on an H200 over all mantissas.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "math/host_device.h"

namespace hrta {
namespace cuda {

// 2^x within 2^-22.7, relative; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_approx(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;
#endif
}

// 1 / x within 2^-23.3; subnormal numbers count as 0.
__device__ __forceinline__ float reciprocal_approx(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

// 1 / x within 2^-24, for normal x whose inverse is normal too: one Newton step, without the division's slow path.
__device__ __forceinline__ float reciprocal(float x) {
  const float r = reciprocal_approx(x);
  return fmaf(r, fmaf(-x, r, 1.0f), r);
}

// min and max that keep NaN, in one instruction also where the bound is no constant.
__device__ __forceinline__ float keep_below(float x, float bound) {
#if defined(__CUDA_ARCH__)
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(bound));
  return x;
#else
  return at_most(x, bound);
#endif
}

__device__ __forceinline__ float keep_above(float x, float bound) {
#if defined(__CUDA_ARCH__)
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(bound));
  return x;
#else
  return at_least(x, bound);
#endif
}

template <int kCount>
__device__ __forceinline__ float polynomial(const float (&c)[kCount], float x) {  // c[0] + c[1] x + ...
  float p = c[kCount - 1];
#pragma unroll
  for (int k = kCount - 2; k >= 0; --k) p = fmaf(p, x, c[k]);
  return p;
}

}  // namespace cuda
}  // namespace hrta
