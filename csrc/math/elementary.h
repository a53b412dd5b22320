// exp, log1p, tanh, the normal tail, erf, sin, cos and atan without branches, so that a plain loop over them
// vectorises. Errors are against exact values, for float; double behaves alike. NaN stays NaN.
// tests/activation/test_accuracy.py measures them.
#pragma once

#include <math.h>

#include "math/host_device.h"
#include "math/polynomials.h"

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {

template <typename T>
struct FloatTraits;

template <>
struct FloatTraits<float> {
  using Bits = uint32_t;
  static constexpr Bits kExponentBias = 127;
  static constexpr float kRoundingMagic = 0x1.8p23f;  // adding it rounds to an integer, kept in the low bits
  static constexpr float kLog2E = 0x1.715476p0f;
  static constexpr float kLn2High = 0x1.62e4p-1f;  // 15 bits: times |n| <= 256 exact
  static constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr Bits kScaleExponent = 64;
  static constexpr float kUnscale = 0x1p-64f;
  static constexpr float kExpLowest = -120.0f;  // x exp(x) and exp(x) have underflowed to zero here
  static constexpr float kLargest = 0x1.fffffep127f;
  static constexpr Bits kHighHalf = 0xfffff000u;
};

template <>
struct FloatTraits<double> {
  using Bits = uint64_t;
  static constexpr Bits kExponentBias = 1023;
  static constexpr double kRoundingMagic = 0x1.8p52;
  static constexpr double kLog2E = 0x1.71547652b82fep0;
  static constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits: times |n| <= 2048 exact
  static constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr Bits kScaleExponent = 512;
  static constexpr double kUnscale = 0x1p-512;
  static constexpr double kExpLowest = -800.0;
  static constexpr double kLargest = 0x1.fffffffffffffp1023;
  static constexpr Bits kHighHalf = 0xfffffffff8000000ull;
};

// exp(x) = (1 + reduced) 2^n, by way of scaled(): `scale` may lie beyond the numbers of T.
template <typename T>
struct ExpParts {
  T reduced;  // expm1 of the reduced argument, |reduced| <= 0.42
  T scale;    // 2^n / kUnscale, a normal number where exp(x) no longer is
};

// What stands for 2^n, given n and n plus the rounding magic, and x 2^n, denormal if need be. Lanes that have an
// instruction for the product take n itself (simd/lanes.h).
template <typename T>
HRTA_INLINE T scale_of(T shifted, T) {
  using Traits = FloatTraits<Scalar<T>>;
  return power_of_two(shifted, Traits::kExponentBias + Traits::kScaleExponent);
}

template <typename T>
HRTA_INLINE T scaled(T x, T scale) {
  return x * scale * T(FloatTraits<Scalar<T>>::kUnscale);
}

// exp(high + low) for kExpLowest <= high <= 0 and small low. Without `kExact` the rounding of the reduced argument
// costs up to half an ulp.
template <bool kExact = true, typename T>
HRTA_INLINE ExpParts<T> exp_of_sum(T high, T low) {
  using Traits = FloatTraits<Scalar<T>>;
  T shifted = multiply_add(high, T(Traits::kLog2E), T(Traits::kRoundingMagic));
  T n = shifted - T(Traits::kRoundingMagic);
  T r_high = multiply_add(n, T(-Traits::kLn2High), high);
  T correction = multiply_add(n, T(-Traits::kLn2Low), low);
  T r = r_high + correction, scale = scale_of(shifted, n);
  if constexpr (!kExact) return {multiply_add(r * r, expm1_core(r), r), scale};
  T r_low = (r_high - r) + correction;
  return {multiply_add(r * r, expm1_core(r), r_low) + r, scale};
}

template <typename T>
HRTA_INLINE ExpParts<T> exp_of_negative(T x) {
  return exp_of_sum(at_least(x, T(FloatTraits<Scalar<T>>::kExpLowest)), T(0));
}

// factor exp(x): rounded twice in all, and once more if it ends up denormal.
template <typename T>
HRTA_INLINE T times_exp(T factor, ExpParts<T> e) {
  return scaled(multiply_add(factor, e.reduced, factor), e.scale);
}

// exp(-factor x^2), factor 1 or 1/2, for factor x^2 <= -kExpLowest, with x^2 carried in two pieces: a rounded
// square would cost x^2 ulp.
template <bool kExact = true, typename T>
HRTA_INLINE ExpParts<T> exp_of_minus_square(T x, T factor) {
  if constexpr (kHasFusedMultiplyAdd<Scalar<T>>) {
    T multiple = -factor * x;
    T square = multiple * x;
    return exp_of_sum<kExact>(square, multiply_add(multiple, x, -square));
  } else {
    using Bits = typename FloatTraits<T>::Bits;
    T head = bit_cast<T>(bit_cast<Bits>(x) & FloatTraits<T>::kHighHalf);
    return exp_of_sum<kExact>(-factor * (head * head), -factor * ((x - head) * (x + head)));
  }
}

// high + low, where the rounding of their sum would show. low need not be small.
template <typename T>
struct Pair {
  T high, low;
};

// 1 / d and n / d for d from 1e-30 to 1e30, which lanes may have from an approximation, within an ulp.
template <typename T>
HRTA_INLINE T reciprocal(T d) {
  return T(1) / d;
}

template <typename T>
HRTA_INLINE T divided(T n, T d) {
  return n / d;
}

// (n.high + n.low) / (d.high + d.low), given inverse = 1 / d.high rounded.
template <typename T>
HRTA_INLINE Pair<T> quotient(Pair<T> n, Pair<T> d, T inverse) {
  T q = n.high * inverse;
  T rest = multiply_add(-q, d.high, n.high) + multiply_add(-q, d.low, n.low);
  return {q, rest * inverse};
}

// constant + x, exact while the constant is a multiple of the sum's ulp: |x| <= constant, or a constant of few bits.
template <typename T>
HRTA_INLINE Pair<T> exact_sum(T constant, T x) {
  T sum = constant + x;
  return {sum, x - (sum - constant)};
}

// log(1 + e) for 0 <= e <= 1: 2 atanh(t) with t = e / (2 + e).
template <typename T>
HRTA_INLINE Pair<T> log1p_of_unit(T e) {
  Pair<T> d = exact_sum(T(2), e);
  Pair<T> twice = quotient(Pair<T>{e + e, T(0)}, d, reciprocal(d.high));
  T u = T(0.25) * twice.high * twice.high;
  return {twice.high, multiply_add(twice.high * u, log1p_core(u), twice.low)};
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
  T scale = scaled(T(1), parts.scale);
  result.em1 = multiply_add(parts.reduced, scale, scale - T(1));
  return result;
}

// tanh(a) = -m / (2 + m), 1 - tanh(a)^2 = 4 e / (2 + m)^2 with e = exp(-2a), m = e - 1.
template <typename T>
HRTA_INLINE Pair<T> tanh_pair(T x) {
  TanhParts<T> parts = tanh_parts(absolute(x));
  T n = with_sign(parts.em1, x), d = T(2) + parts.em1, inverse = T(1) / d;
  T q = n * inverse;
  return {q, multiply_add(-q, d, n) * inverse};
}

// The same to an ulp.
template <typename T>
HRTA_INLINE Pair<T> tanh_of(T x) {
  return tanh_pair(x);
}

template <typename T>
HRTA_INLINE T tanh_slope(T x) {
  TanhParts<T> parts = tanh_parts(absolute(x));
  T inverse = T(1) / (T(2) + parts.em1);
  return T(4) * parts.e * inverse * inverse;
}

// Phi(-a) exp(a^2 / 2) for a >= 0 (Mills' ratio times the normal density at 0) = (1 + v) / d, d growing like a.
template <typename T>
struct NormalTail {
  T d;
  T w;  // a / d, in [0, 1/kSlope)
  T v;  // in [-2/3, 1)
};

template <typename T>
HRTA_INLINE NormalTail<T> normal_tail(T a) {
  using Map = NormalTailMap<Scalar<T>>;
  NormalTail<T> tail;
  tail.d = multiply_add(a, T(Map::kSlope), T(Map::kOffset));
  tail.w = a / tail.d;
  const T u = tail.w - T(Map::kCentre);
  tail.v = u * normal_tail_core(u);
  return tail;
}

// 1 / d, to a few ulp of 1 / kOffset.
template <typename T>
HRTA_INLINE T inverse(const NormalTail<T>& tail) {
  using Map = NormalTailMap<Scalar<T>>;
  return multiply_add(tail.w, T(-Map::kSlope / Map::kOffset), T(1 / Map::kOffset));
}

template <typename T>
HRTA_INLINE T scaled_normal_tail(T a) {
  const NormalTail<T> tail = normal_tail(a);
  const T scale = inverse(tail);
  return multiply_add(scale, tail.v, scale);
}

// a Phi(-a) in two pieces, with the roundings of d, w and their products made good.
template <typename T>
HRTA_INLINE Pair<T> weighted_normal_tail(T a) {
  using Map = NormalTailMap<Scalar<T>>;
  const NormalTail<T> tail = normal_tail(a);
  const T q = multiply_add(tail.w, tail.v, tail.w);
  const T d_rest = multiply_add(a, T(Map::kSlope), T(Map::kOffset) - tail.d);
  const T w_rest = multiply_add(-tail.w, d_rest, multiply_add(-tail.w, tail.d, a)) * inverse(tail);
  const T q_rest = multiply_add(tail.w, tail.v, tail.w - q) + multiply_add(w_rest, tail.v, w_rest);
  const ExpParts<T> e = exp_of_minus_square(a, T(0.5));
  const Pair<T> result = exact_sum(q, multiply_add(q, e.reduced, q_rest));
  const auto tiny = a < T(0x1p-100);  // w and the like would be denormal; this is rounded once
  return {where(tiny, T(0.5) * a, scaled(result.high, e.scale)), where(tiny, T(0), scaled(result.low, e.scale))};
}

// The same to 3.8 ulp, which was found over all floats.
template <typename T>
HRTA_INLINE T plain_weighted_normal_tail(T a) {
  const NormalTail<T> tail = normal_tail(a);
  const T q = multiply_add(tail.w, tail.v, tail.w);
  return times_exp(q, exp_of_minus_square<false>(a, T(0.5)));
}

// x Phi(x), given |x| bounded by the limit below.
template <typename T>
HRTA_INLINE T plain_gelu(T x, T bounded) {
  return at_least(x, T(0)) - plain_weighted_normal_tail(bounded);
}

template <typename T>
HRTA_INLINE T normal_tail_limit() {  // a Phi(-a) and its derivatives are zero from here on
  return sizeof(T) == 4 ? T(14.9) : T(40);
}

// x + x (erf(x)/x - 1) near 0, else sign(x) (1 - 2 Phi(-sqrt(2) |x|)).
template <typename T>
HRTA_INLINE Pair<T> erf_of(T x, T bounded) {  // bounded = |x| up to where erf and its slope no longer change
  T tail = times_exp(T(2) * scaled_normal_tail(bounded * T(1.4142135623730950488016887242096981L)),
                     exp_of_minus_square(bounded, T(1)));
  const auto near_zero = absolute(x) < T(0.75);
  return {where(near_zero, x, with_sign(T(1), x)), where(near_zero, x * erf_core(x * x), -with_sign(tail, x))};
}

// sin(x + quarter_turns pi/2) for |x| <= fast_turn_limit. The reduction x - n pi/2 is exact to 2^-70 for float (done in
// double) and keeps a relative 2^-52 for double (pi/2 in three pieces).
template <typename T>
HRTA_INLINE T fast_turn_limit() {
  return sizeof(T) == 4 ? T(1e6) : T(1e5);
}

template <typename T>
struct Turn {
  T r;  // of |r| <= pi/4
  uint32_t quadrant;
};

template <typename T>
HRTA_INLINE T sin_of_reduced(T r, uint32_t quadrant) {
  T u = r * r;
  T sine = with_sign(multiply_add(r * u, sin_core(u), r), r);  // keeps -0
  T cosine = multiply_add(u * u, cos_core(u), multiply_add(T(-0.5), u, T(1)));
  T value = (quadrant & 1u) ? cosine : sine;
  return (quadrant & 2u) ? -value : value;
}

HRTA_INLINE Turn<float> reduced_turn(float x) {
  constexpr double kMagic = FloatTraits<double>::kRoundingMagic;
  double wide = x;
  double shifted = multiply_add(wide, 0x1.45f306dc9c883p-1, kMagic);
  double n = shifted - kMagic;
  double r = multiply_add(-n, 0x1.921fb544p0, wide);  // 33 bits: the product is exact
  r = multiply_add(-n, 0x1.0b4611a626331p-34, r);
  return {float(r), uint32_t(bit_cast<uint64_t>(shifted))};
}

HRTA_INLINE Turn<double> reduced_turn(double x) {
  constexpr double kMagic = FloatTraits<double>::kRoundingMagic;
  double shifted = multiply_add(x, 0x1.45f306dc9c883p-1, kMagic);
  double n = shifted - kMagic;
  double r = multiply_add(-n, 0x1.921fb544p0, x);
  r = multiply_add(-n, 0x1.0b4611a6p-34, r);
  r = multiply_add(-n, 0x1.3198a2e037073p-69, r);
  return {r, uint32_t(bit_cast<uint64_t>(shifted))};
}

template <typename T>
HRTA_INLINE T fast_sin(T x, uint32_t quarter_turns) {
  const Turn<T> turn = reduced_turn(x);
  return sin_of_reduced(turn.r, turn.quadrant + quarter_turns);
}

// sin(x) - x: r is x itself, which drops out, where no quarter turn comes off.
template <typename T>
HRTA_INLINE T fast_sin_excess(T x) {
  const Turn<T> turn = reduced_turn(x);
  const T r = turn.r, u = r * r;
  const bool cosine = (turn.quadrant & 1u) != 0, negative = (turn.quadrant & 2u) != 0;
  const T high = cosine ? T(1) : r;
  const T low = cosine ? multiply_add(u * u, cos_core(u), T(-0.5) * u) : r * u * sin_core(u);
  return ((negative ? -high : high) - x) + (negative ? -low : low);
}

// The angle of a point (x, y), x, y >= 0 and not both zero, as begin + atan(over / under) with a quotient of at most
// tan(pi/8): whoever divides by something else too needs one division for both.
struct Direction {
  double over, under, begin;
};

HRTA_INLINE Direction direction_of(double x, double y) {
  constexpr double kTangent = 0.41421356237309504880;  // of pi/8
  constexpr double kEighth = 0.78539816339744830962;   // of a turn
  const bool low = y <= kTangent * x, high = x < kTangent * y;
  return {low ? y : high ? -x : y - x, low ? x : high ? y : x + y, low ? 0.0 : high ? 2.0 * kEighth : kEighth};
}

HRTA_INLINE double angle_of(Direction direction, double quotient) {
  const double u = quotient * quotient;
  return direction.begin + multiply_add(quotient * u, atan_core(u), quotient);
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
