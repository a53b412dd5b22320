// What lets one scalar function serve every SIMD level of the CPU build and the CUDA kernels.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define HRTA_INLINE __host__ __device__ __forceinline__
#else
#define HRTA_INLINE inline __attribute__((always_inline))
#endif

// The CPU loops are compiled once per SIMD level. An inline namespace of its own keeps each level's copy apart: the
// linker must never merge an AVX-512 instance into the baseline.
#if !defined(HRTA_SIMD_LEVEL)
#define HRTA_SIMD_LEVEL baseline
#endif

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {

// float or double: V itself, or what its lanes hold (simd/lanes.h). The formulas are templates of V, which serves both.
template <typename V>
struct ScalarOf {
  using type = V;
};
template <typename V>
using Scalar = typename ScalarOf<V>::type;

// Whether multiply_add rounds once.
template <typename T>
#if defined(__CUDA_ARCH__) || defined(__FMA__) || defined(__aarch64__)
constexpr bool kHasFusedMultiplyAdd = true;
#else
constexpr bool kHasFusedMultiplyAdd = sizeof(T) == 4;
#endif

// a b + c, in one rounding where the machine has the instruction. Written out rather than left to the compiler
// (-ffp-contract=off), so that vector bodies and scalar remainders of a loop give the same bits.
template <typename T>
HRTA_INLINE T multiply_add(T a, T b, T c) {
#if defined(__CUDA_ARCH__)
  return fma(a, b, c);
#elif defined(__FMA__) || defined(__aarch64__)
  if constexpr (sizeof(T) == 4) {
    return __builtin_fmaf(a, b, c);
  } else {
    return __builtin_fma(a, b, c);
  }
#else
  // Double makes up for the missing instruction in float; processors without it are too rare to spend more thought on.
  if constexpr (sizeof(T) == 4) {
    return T(double(a) * double(b) + double(c));
  } else {
    return a * b + c;
  }
#endif
}

template <typename To, typename From>
HRTA_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

HRTA_INLINE float absolute(float x) {
  return bit_cast<float>(bit_cast<uint32_t>(x) & 0x7fffffffu);
}

HRTA_INLINE double absolute(double x) {
  return bit_cast<double>(bit_cast<uint64_t>(x) & 0x7fffffffffffffffull);
}

HRTA_INLINE float square_root(float x) {
#if defined(__CUDA_ARCH__)
  return sqrtf(x);
#else
  return __builtin_sqrtf(x);
#endif
}

HRTA_INLINE double square_root(double x) {
#if defined(__CUDA_ARCH__)
  return sqrt(x);
#else
  return __builtin_sqrt(x);
#endif
}

// |x| with the sign of y.
HRTA_INLINE float with_sign(float x, float y) {
  return bit_cast<float>((bit_cast<uint32_t>(x) & 0x7fffffffu) | (bit_cast<uint32_t>(y) & 0x80000000u));
}

HRTA_INLINE double with_sign(double x, double y) {
  return bit_cast<double>((bit_cast<uint64_t>(x) & 0x7fffffffffffffffull) |
                          (bit_cast<uint64_t>(y) & 0x8000000000000000ull));
}

// condition ? a : b, which lanes do one by one.
template <typename T>
HRTA_INLINE T where(bool condition, T a, T b) {
  return condition ? a : b;
}

// 2^(shifted's integer + exponent) of a number to which a rounding magic was added; normal, or meaningless.
HRTA_INLINE float power_of_two(float shifted, uint32_t biased_exponent) {
  return bit_cast<float>((bit_cast<uint32_t>(shifted) + biased_exponent) << 23);
}

HRTA_INLINE double power_of_two(double shifted, uint64_t biased_exponent) {
  return bit_cast<double>((bit_cast<uint64_t>(shifted) + biased_exponent) << 52);
}

// min(x, bound) that keeps NaN.
template <typename T>
HRTA_INLINE T at_most(T x, T bound) {
  return x > bound ? bound : x;
}

// max(x, bound) that keeps NaN.
template <typename T>
HRTA_INLINE T at_least(T x, T bound) {
  return x < bound ? bound : x;
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
