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

template <>
struct BaseJet<Tanh> {
  template <typename T>
  static HRTA_INLINE JetOf<T> at(T x) {
    const TanhParts<T> parts = tanh_parts(absolute(x));
    const T inverse = T(1) / (T(2) + parts.em1);
    const T t = with_sign(parts.em1, x) * inverse, p = T(4) * parts.e * inverse * inverse;
    return {t, p, T(-2) * t * p, p * multiply_add(T(4) * t, t, T(-2) * p)};
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
    const LogisticPair<T> pair = logistic_pair<false>(x);
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
    const LogisticPair<T> pair = logistic_pair<false>(x);
    const Pair<T> tail = log1p_of_unit(times_exp(T(1), pair.e));
    const T p = pair.above * pair.below, third = p * (pair.below - pair.above);
    return {at_least(x, T(0)) + (tail.high + tail.low), where(x > T(0), pair.above, pair.below), p,
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

// Of sigma_s.
template <typename Base, typename T>
HRTA_INLINE JetOf<T> homotopy_jet(T x, Homotopy<T> h) {
  const JetOf<T> jet = BaseJet<Base>::at(x);
  return {multiply_add(h.linear, x, h.s * jet.value), multiply_add(h.s, jet.slope, h.linear), h.s * jet.curvature,
          h.s * jet.third};
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
