// sigma with its first three derivatives at one point, from one exponential or sine: for sums over many neurons, where
// a few ulp of each term do not show. bases.h has each of them alone, to 4 ulp of sigma_s.
#pragma once

#include "math/homotopy.h"

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {

template <typename T>
struct JetOf {
  T value, slope, curvature, third;
};

// exp(x) and expm1(x), over 2^kHalvings, to a few ulp, for x <= -lowest_jet_exponent. Below the lowest they stay at its
// normal numbers, so that no scale needs care for denormals.
template <typename T>
HRTA_INLINE T lowest_jet_exponent() {
  return sizeof(Scalar<T>) == 4 ? T(-80) : T(-700);
}

template <int kHalvings = 0, typename T>
HRTA_INLINE TanhParts<T> jet_exp(T x) {
  using Traits = FloatTraits<Scalar<T>>;
  x = at_least(x, lowest_jet_exponent<T>());
  const T shifted = multiply_add(x, T(Traits::kLog2E), T(Traits::kRoundingMagic));
  const T n = shifted - T(Traits::kRoundingMagic);
  const T r = multiply_add(n, T(-0.693147180559945309417232121458L), x);
  const T reduced = multiply_add(r * r, expm1_core(r), r);
  const T scale = power_of_two(shifted, Traits::kExponentBias - kHalvings);
  const T one(kHalvings == 0 ? 1.0 : 0.5);
  return {multiply_add(reduced, scale, scale), multiply_add(reduced, scale, scale - one)};
}

// The logistic function at a = |x|, bounded, and at -a.
template <typename T>
struct JetLogistic {
  T a, above, below;
};

template <typename T>
HRTA_INLINE JetLogistic<T> jet_logistic(T x) {
  const T a = at_most(absolute(x), -lowest_jet_exponent<T>()), e = jet_exp(-a).e, above = T(1) / (T(1) + e);
  return {a, above, e * above};
}

template <typename Base>
struct BaseJet;

template <>
struct BaseJet<Relu> {
  template <typename T>
  static HRTA_INLINE JetOf<T> at(T x) {
    return {at_least(x, T(0)), Relu::slope(x), T(0), T(0)};
  }
};

template <>
struct BaseJet<Relu2> {
  template <typename T>
  static HRTA_INLINE JetOf<T> at(T x) {
    const T ramp = at_least(x, T(0));
    return {T(0.5) * ramp * ramp, ramp, Relu2::curvature(x), T(0)};
  }
};

// tanh(x) = m / (1 + m), 1 - tanh(x)^2 = 2 h / (1 + m)^2 with h = exp(2 x) / 2, m = h - 1/2: sums run beside products,
// so that few products are left.
template <>
struct BaseJet<Tanh> {
  template <typename T>
  static HRTA_INLINE JetOf<T> at(T x) {
    const TanhParts<T> parts = jet_exp<1>(at_most(x + x, -lowest_jet_exponent<T>()));
    const T inverse = T(1) / (T(1) + parts.em1), half = parts.e * (inverse * inverse);
    const T t = parts.em1 * inverse, twice = t + t, p = half + half;
    return {t, p, -(twice * p), p * multiply_add(twice, twice, -(p + p))};
  }
};

template <>
struct BaseJet<Gelu> {
  template <typename T>
  static HRTA_INLINE JetOf<T> at(T x) {
    const T a = Gelu::distance(x), square = a * a;
    const T e = times_exp(T(1), exp_of_minus_square<false>(a, T(0.5)));
    const T density = T(Gelu::kDensityAtZero) * e, below = e * scaled_normal_tail(a);  // phi(a), Phi(-a)
    const T rest = multiply_add(-a, density, below);
    return {multiply_add(-a, below, at_least(x, T(0))), where(x > T(0), T(1) - rest, rest),
            multiply_add(-a, a, T(2)) * density, with_sign(a, x) * (square - T(4)) * density};
  }
};

template <>
struct BaseJet<Silu> {
  template <typename T>
  static HRTA_INLINE JetOf<T> at(T x) {
    const JetLogistic<T> pair = jet_logistic(x);
    const T p = pair.above * pair.below, difference = pair.below - pair.above;
    const T rest = pair.below * multiply_add(-pair.a, pair.above, T(1));
    const T third = p * multiply_add(pair.a, multiply_add(T(-6), p, T(1)), T(3) * difference);
    return {multiply_add(-pair.a, pair.below, at_least(x, T(0))), where(x > T(0), T(1) - rest, rest),
            p * multiply_add(pair.a, difference, T(2)), where(x > T(0), third, -third)};
  }
};

template <>
struct BaseJet<Softplus> {
  template <typename T>
  static HRTA_INLINE JetOf<T> at(T x) {
    const T e = jet_exp(-absolute(x)).e, one = T(1) + e, two = T(2) + e, inverse = T(1) / (one * two);
    const T above = two * inverse, below = e * above;
    const T t = e * (one * inverse), u = t * t;  // log(1 + e) = 2 atanh(t)
    const T p = above * below, third = p * (below - above);
    return {at_least(x, T(0)) + multiply_add((t + t) * u, log1p_core(u), t + t), where(x > T(0), above, below), p,
            where(x > T(0), third, -third)};
  }
};

template <>
struct BaseJet<Erf> {
  template <typename T>
  static HRTA_INLINE JetOf<T> at(T x) {
    const T a = Erf::distance(x);
    const Pair<T> value = erf_of(x, a);
    const T slope = times_exp(T(Erf::kTwoOverSqrtPi), exp_of_minus_square(a, T(1)));
    return {value.high + value.low, slope, T(-2) * with_sign(a, x) * slope, multiply_add(T(4) * a, a, T(-2)) * slope};
  }
};

template <bool kFast>
struct BaseJet<SinBase<kFast>> {
  template <typename T>
  static HRTA_INLINE JetOf<T> at(T x) {
    const T sine = SinAt<T, kFast>::sine(x, 0), cosine = SinAt<T, kFast>::sine(x, 1);
    return {sine, cosine, -sine, -cosine};
  }
};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
