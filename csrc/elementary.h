// exp, log1p, tanh, the normal tail, erf, sin and cos without branches, so that a plain loop over them vectorises.
// Errors are against exact values, for float; double behaves alike. NaN stays NaN. tests/test_accuracy.py measures
// them.
#pragma once

#include <math.h>

#include "host_device.h"
#include "polynomials.h"

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {

template <typename T>
struct FloatTraits;

template <>
struct FloatTraits<float> {
  using Bits = uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr Bits kExponentBias = 127;
  static constexpr float kRoundingMagic = 0x1.8p23f;  // adding it rounds to an integer, kept in the low bits
  static constexpr float kLog2E = 0x1.715476p0f;
  static constexpr float kLn2High = 0x1.62e4p-1f;  // 15 bits: times |n| <= 256 exact
  static constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr float kScaleSplit = -100.0f;
  static constexpr float kExpLowest = -120.0f;  // x exp(x) and exp(x) have underflowed to zero here
  static constexpr float kLargest = 0x1.fffffep127f;
  static constexpr Bits kHighHalf = 0xfffff000u;
};

template <>
struct FloatTraits<double> {
  using Bits = uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr Bits kExponentBias = 1023;
  static constexpr double kRoundingMagic = 0x1.8p52;
  static constexpr double kLog2E = 0x1.71547652b82fep0;
  static constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits: times |n| <= 2048 exact
  static constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr double kScaleSplit = -1000.0;
  static constexpr double kExpLowest = -760.0;
  static constexpr double kLargest = 0x1.fffffffffffffp1023;
  static constexpr Bits kHighHalf = 0xfffffffff8000000ull;
};

// 2^n for an integral n in the normal range.
template <typename T>
HRTA_INLINE T power_of_two(T n) {
  using Traits = FloatTraits<T>;
  using Bits = typename Traits::Bits;
  Bits integer = bit_cast<Bits>(n + Traits::kRoundingMagic);
  return bit_cast<T>((integer + Traits::kExponentBias) << Traits::kMantissaBits);
}

// exp(x) = scale_high scale_low (1 + reduced), where x = high + low and low is small. The pieces serve exp and expm1.
template <typename T>
struct ExpParts {
  T reduced;  // expm1 of the reduced argument, |reduced| <= 0.42
  T scale_high, scale_low;
};

template <typename T>
HRTA_INLINE ExpParts<T> exp_parts(T high, T low) {
  using Traits = FloatTraits<T>;
  T n = multiply_add(high + low, Traits::kLog2E, Traits::kRoundingMagic) - Traits::kRoundingMagic;
  // r + r_low is the reduced argument; without r_low its rounding alone would cost half an ulp.
  T r_high = multiply_add(-n, Traits::kLn2High, high);
  T correction = multiply_add(-n, Traits::kLn2Low, low);
  T r = r_high + correction;
  T r_low = (r_high - r) + correction;
  ExpParts<T> parts;
  parts.reduced = multiply_add(r * r, expm1_core(r), r_low) + r;
  // Two factors, so that results below the normal range come out denormal and not as zero.
  T n_high = at_least(n, Traits::kScaleSplit);
  parts.scale_high = power_of_two(n_high);
  parts.scale_low = power_of_two(n - n_high);
  return parts;
}

// exp(high + low) for high <= 0 and small low.
template <typename T>
HRTA_INLINE ExpParts<T> exp_of_sum(T high, T low) {
  return exp_parts(at_least(high, FloatTraits<T>::kExpLowest), low);
}

template <typename T>
HRTA_INLINE ExpParts<T> exp_of_negative(T x) {
  return exp_of_sum(x, T(0));
}

// factor exp(x): rounded twice in all, and once more if it ends up denormal.
template <typename T>
HRTA_INLINE T times_exp(T factor, ExpParts<T> e) {
  return multiply_add(factor, e.reduced, factor) * e.scale_high * e.scale_low;
}

// exp(-factor x^2), factor 1 or 1/2, with x^2 carried in two pieces: a rounded square would cost x^2 ulp.
template <typename T>
HRTA_INLINE ExpParts<T> exp_of_minus_square(T x, T factor) {
  T scaled = factor * x;
  if constexpr (kHasFusedMultiplyAdd<T>) {
    T square = scaled * x;
    return exp_of_sum(-square, -multiply_add(scaled, x, -square));
  } else {
    using Bits = typename FloatTraits<T>::Bits;
    T head = bit_cast<T>(bit_cast<Bits>(x) & FloatTraits<T>::kHighHalf);
    return exp_of_sum(-factor * (head * head), -factor * ((x - head) * (x + head)));
  }
}

// high + low: a number to about twice the precision, for the few places where one more rounding would show.
template <typename T>
struct Pair {
  T high, low;
};

// (n.high + n.low) / (d.high + d.low), given inverse = 1 / d.high rounded.
template <typename T>
HRTA_INLINE Pair<T> quotient(Pair<T> n, Pair<T> d, T inverse) {
  T q = n.high * inverse;
  T rest = multiply_add(-q, d.high, n.high) + multiply_add(-q, d.low, n.low);
  return {q, rest * inverse};
}

// constant + x for |x| <= constant, or for any |x| < 2 if the constant is a multiple of 1/4 below 1.
template <typename T>
HRTA_INLINE Pair<T> exact_sum(T constant, T x) {
  T sum = constant + x;
  return {sum, x - (sum - constant)};
}

// log(1 + e) for 0 <= e <= 1: 2 atanh(t) with t = e / (2 + e).
template <typename T>
HRTA_INLINE T log1p_of_unit(T e) {
  Pair<T> d = exact_sum(T(2), e);
  Pair<T> twice = quotient(Pair<T>{e + e, T(0)}, d, T(1) / d.high);
  T u = T(0.25) * twice.high * twice.high;
  return multiply_add(twice.high * u, log1p_core(u), twice.low) + twice.high;
}

// exp(-2a) and expm1(-2a) at a = |x|, from which tanh and its derivatives follow.
template <typename T>
struct TanhParts {
  T e, em1;
};

template <typename T>
HRTA_INLINE TanhParts<T> tanh_parts(T a) {
  ExpParts<T> parts = exp_of_negative(T(-2) * a);
  TanhParts<T> result;
  result.e = times_exp(T(1), parts);
  T scale = parts.scale_high * parts.scale_low;
  result.em1 = multiply_add(parts.reduced, scale, scale - T(1));
  return result;
}

// Phi(-a) exp(a^2 / 2) for a >= 0 (Mills' ratio times the normal density at 0).
template <typename T>
HRTA_INLINE T scaled_normal_tail(T a) {
  T inverse = T(1) / (a + T(4));
  T t = multiply_add(a + a, inverse, T(-1));  // (a - 4) / (a + 4)
  return (T(0.75) + normal_tail_core(t)) * inverse;
}

// a Phi(-a): the same, with the roundings of the sum, of the product and of the quotient made good.
template <typename T>
HRTA_INLINE T weighted_normal_tail(T a) {
  T sum = a + T(4);
  T rest = a < T(4) ? a - (sum - T(4)) : T(4) - (sum - a);
  T inverse = T(1) / sum;
  Pair<T> core = exact_sum(T(0.75), normal_tail_core(multiply_add(a + a, inverse, T(-1))));
  T product = a * core.high;
  T product_rest = multiply_add(a, core.low, multiply_add(a, core.high, -product));
  Pair<T> q = quotient(Pair<T>{product, product_rest}, Pair<T>{sum, rest}, inverse);
  ExpParts<T> e = exp_of_minus_square(a, T(0.5));
  return (multiply_add(q.high, e.reduced, q.low) + q.high) * e.scale_high * e.scale_low;
}

template <typename T>
HRTA_INLINE T normal_tail_limit() {  // Phi(-a) and its derivatives are zero from here on
  return sizeof(T) == 4 ? T(15) : T(40);
}

template <typename T>
HRTA_INLINE T erf_of(T x) {
  constexpr T kTwoOverSqrtPi = T(1.1283791670955125738961589031215452L);
  constexpr T kSqrtTwo = T(1.4142135623730950488016887242096981L);
  T a = absolute(x);
  T bounded = at_most(a, T(6.5));
  T u = a * a;
  T near_zero = multiply_add(a * u, erf_core(u), a * kTwoOverSqrtPi);
  T tail = times_exp(T(2) * scaled_normal_tail(bounded * kSqrtTwo), exp_of_minus_square(bounded, T(1)));
  return with_sign(a < T(0.75) ? near_zero : T(1) - tail, x);
}

// sin(x + quarter_turns pi/2) for |x| <= fast_turn_limit. The reduction x - n pi/2 is exact to 2^-70 for float (done in
// double) and keeps a relative 2^-52 for double (pi/2 in three pieces).
template <typename T>
HRTA_INLINE T fast_turn_limit() {
  return sizeof(T) == 4 ? T(1e6) : T(1e5);
}

template <typename T>
HRTA_INLINE T sin_of_reduced(T r, uint32_t quadrant) {
  T u = r * r;
  T sine = with_sign(multiply_add(r * u, sin_core(u), r), r);  // keeps -0
  T cosine = multiply_add(u * u, cos_core(u), multiply_add(T(-0.5), u, T(1)));
  T value = (quadrant & 1u) ? cosine : sine;
  return (quadrant & 2u) ? -value : value;
}

HRTA_INLINE float fast_sin(float x, uint32_t quarter_turns) {
  constexpr double kMagic = FloatTraits<double>::kRoundingMagic;
  double wide = x;
  double shifted = multiply_add(wide, 0x1.45f306dc9c883p-1, kMagic);
  double n = shifted - kMagic;
  double r = multiply_add(-n, 0x1.921fb544p0, wide);  // 33 bits: the product is exact
  r = multiply_add(-n, 0x1.0b4611a626331p-34, r);
  return sin_of_reduced(float(r), uint32_t(bit_cast<uint64_t>(shifted)) + quarter_turns);
}

HRTA_INLINE double fast_sin(double x, uint32_t quarter_turns) {
  constexpr double kMagic = FloatTraits<double>::kRoundingMagic;
  double shifted = multiply_add(x, 0x1.45f306dc9c883p-1, kMagic);
  double n = shifted - kMagic;
  double r = multiply_add(-n, 0x1.921fb544p0, x);
  r = multiply_add(-n, 0x1.0b4611a6p-34, r);
  r = multiply_add(-n, 0x1.3198a2e037073p-69, r);
  return sin_of_reduced(r, uint32_t(bit_cast<uint64_t>(shifted)) + quarter_turns);
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
