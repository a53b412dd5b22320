// float16 and bfloat16 to float and back, without branches and without special instructions: these loops vectorise at
// every SIMD level. Rounding is to nearest, ties to even; NaN stays NaN.
#pragma once

#include "math/host_device.h"

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

HRTA_INLINE float widen(BFloat16 value) {
  return bit_cast<float>(uint32_t(value.bits) << 16);
}

HRTA_INLINE float widen(Float16 value) {
  // The 15 low bits as a float are the half times 2^-112, denormals included; exponent 31 means Inf or NaN.
  uint32_t magnitude = uint32_t(value.bits & 0x7fffu) << 13;
  float scaled = bit_cast<float>(magnitude) * 0x1p112f;
  uint32_t special = magnitude | 0x7f800000u;
  uint32_t bits = magnitude >= (0x7c00u << 13) ? special : bit_cast<uint32_t>(scaled);
  return bit_cast<float>(bits | (uint32_t(value.bits & 0x8000u) << 16));
}

HRTA_INLINE float widen(float value) {
  return value;
}
HRTA_INLINE double widen(double value) {
  return value;
}

// The type that elements of a stored type are computed in.
template <typename Stored>
using Computed = decltype(widen(Stored{}));

HRTA_INLINE void narrow(float value, BFloat16& result) {
  uint32_t bits = bit_cast<uint32_t>(value);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  uint32_t quiet = (bits >> 16) | 0x40u;
  result.bits = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

HRTA_INLINE void narrow(float value, Float16& result) {
  uint32_t bits = bit_cast<uint32_t>(value);
  uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  // Normal halves: rebias the exponent and round off 13 bits. Denormal ones: adding 1/2 aligns the last bit (2^-24)
  // with the float's, and the float adder rounds.
  uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t denormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - bit_cast<uint32_t>(0.5f);
  uint32_t half = magnitude < (113u << 23) ? denormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // from 65520 on: Inf
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  result.bits = uint16_t(sign | half);
}

HRTA_INLINE void narrow(float value, float& result) {
  result = value;
}
HRTA_INLINE void narrow(double value, double& result) {
  result = value;
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
