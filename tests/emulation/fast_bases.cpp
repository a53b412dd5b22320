// The functions of csrc/network/cuda/fast_bases.cuh on arrays, as a C function for ctypes.
#include "network/cuda/fast_bases.cuh"

#include "cuda_runtime.h"

extern "C" void fast_base(int base, int64_t n, const float* z, float* value, float* slope, float* curvature,
                          float* third) {
  hrta::with_base(base, [&](auto tag) {
    using Base = decltype(tag);
    for (int64_t i = 0; i < n; ++i) {
      float alone;
      hrta::cuda::FastBase<Base>::evaluate(z[i], value + i, slope + i, curvature + i, third + i);
      hrta::cuda::FastBase<Base>::evaluate(z[i], &alone, nullptr, nullptr);
      if (hrta::bit_cast<uint32_t>(alone) != hrta::bit_cast<uint32_t>(value[i])) __builtin_trap();
    }
  });
}
