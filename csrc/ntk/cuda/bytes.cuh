// Four bytes at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hrta {
namespace cuda {
namespace digits {

// The bytes that the selector's digits name: 0 to 3 of a, 4 to 7 of b; 8 more: eight times its sign.
__device__ __forceinline__ uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
#if defined(__CUDA_ARCH__)
  uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
  return result;
#else
  const uint64_t all = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t name = selector >> (4 * i) & 15u;
    uint32_t byte = uint32_t(all >> (8 * (name & 7u))) & 255u;
    if (name & 8u) byte = (byte & 128u) != 0 ? 255u : 0u;
    result |= byte << (8 * i);
  }
  return result;
#endif
}

// 0xff for each of four negative doubles, given their upper words.
__device__ __forceinline__ uint32_t sign_bytes(uint32_t h0, uint32_t h1, uint32_t h2, uint32_t h3) {
  return permute(permute(h0, h1, 0x00fb), permute(h2, h3, 0x00fb), 0x5410);
}

// a - b, byte by byte, for bytes below 128: signed bytes.
__device__ __forceinline__ uint32_t less_bytes(uint32_t a, uint32_t b) {
  return ((a | 0x80808080u) - b) ^ 0x80808080u;
}

// The upper 16 bits are a hash of h, which is one itself: the dither of one number.
__device__ __forceinline__ uint32_t mixed_once(uint32_t h) {
  h *= 0x7feb352du;
  h ^= h >> 15;
  return h * 0x846ca68bu;
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
