// sigma_s(x) = (1 - s) x + s sigma(x) and its derivatives, from a base of bases.h.
//
// float: within 4 ulp of the exact value, an ulp being that of the larger of |(1 - s) x| and |s sigma(x)|, for every
// finite x. At infinite x the limit of the formula; NaN stays NaN.
#pragma once

#include "math/bases.h"

namespace hrta {

// Which function of x a kernel computes.
enum class Quantity : int {
  kValue,               // sigma_s(x)
  kSlope,               // sigma_s'(x)
  kCurvature,           // sigma_s''(x)
  kParameterGradient,   // d sigma_s / ds = sigma(x) - x
  kParameterGradient1,  // d sigma_s' / ds = sigma'(x) - 1
};

inline namespace HRTA_SIMD_LEVEL {

// s as the arithmetic wants it. 1 - s is formed in double: near s = 1 the float difference would lose digits. What
// rounding s and 1 - s to float leaves over is carried along: it is worth up to two ulp of the result.
template <typename T>
struct Homotopy {
  T s, s_rest;
  T linear, linear_rest;  // 1 - s

  static HRTA_INLINE Homotopy from(double s) {
    Homotopy h;
    h.s = T(s);
    h.s_rest = T(s - double(h.s));
    h.linear = T(1.0 - s);
    h.linear_rest = T((1.0 - s) - double(h.linear));
    return h;
  }

  // (1 - s) x for x <= 0, where s = 1 gives 0 at -inf too.
  template <typename V>
  HRTA_INLINE V below_zero(V x) const {
    return V(linear) * (linear == T(0) ? at_least(x, V(-FloatTraits<T>::kLargest)) : x);
  }

  // (1 - s) x + s sigma: the larger terms last, what rounding left over first (at finite x, lest it be 0 inf).
  template <typename V>
  HRTA_INLINE V combine(V x, Pair<V> sigma) const {
    V finite = at_most(at_least(x, V(-FloatTraits<T>::kLargest)), V(FloatTraits<T>::kLargest));
    V rest = multiply_add(V(s), sigma.low, multiply_add(V(s_rest), sigma.high, V(linear_rest) * finite));
    rest = where(rest == V(0), V(-0.0), rest);  // which adds nothing even to -0
    return multiply_add(V(s), sigma.high, multiply_add(V(linear), linear == T(0) ? finite : x, rest));
  }
};

// V is float, double or lanes of them.
template <typename Base, typename V>
HRTA_INLINE V homotopy_value(V x, Homotopy<Scalar<V>> h) {
  if constexpr (Base::kGrowth == Growth::kRamp) {
    return where(x > V(0), x, h.below_zero(x));
  } else if constexpr (Base::kGrowth == Growth::kRectifier) {
    Pair<V> tail = Base::tail(x);
    return where(x > V(0), multiply_add(V(h.s), tail.high + tail.low, x), h.combine(x, tail));
  } else if constexpr (Base::kGrowth == Growth::kQuadratic) {
    // x (1 - s + (s/2) x): at s = 0 and x = inf the inner product stays 0.
    V bounded = at_most(x, V(FloatTraits<Scalar<V>>::kLargest));
    V half_s = V(0.5) * V(h.s), half_s_rest = V(0.5) * V(h.s_rest);
    V inner = multiply_add(half_s, bounded, multiply_add(half_s_rest, bounded, V(h.linear)));
    return where(x > V(0), x * inner, h.below_zero(x));
  } else {
    if constexpr (Base::kGrowth == Growth::kOscillating) {
      // sin has no limit at infinity, but the line outgrows it unless s = 1.
      if (absolute(x) == V(INFINITY) && h.linear != V(0)) return h.linear * x;
    }
    return h.combine(x, Base::tail(x));
  }
}

// 1 at s = 0, sigma'(x) at s = 1; negative where sigma' < 1 - 1/s.
template <typename Base, typename V>
HRTA_INLINE V homotopy_slope(V x, Homotopy<Scalar<V>> h) {
  if constexpr (Base::kGrowth == Growth::kRamp) {
    return where(x > V(0), V(1), V(h.linear));
  } else if constexpr (Base::kGrowth == Growth::kOscillating) {
    return h.s == V(0) && x == x ? V(1) : multiply_add(h.s, Base::slope(x), h.linear);
  } else if constexpr (Base::kGrowth == Growth::kQuadratic) {
    V bounded = h.s == 0 ? at_most(x, V(FloatTraits<Scalar<V>>::kLargest)) : x;
    return multiply_add(V(h.s), Base::slope(bounded), V(h.linear));
  } else {
    return multiply_add(V(h.s), Base::slope(x), V(h.linear));
  }
}

template <typename Base, typename V>
HRTA_INLINE V homotopy_curvature(V x, Homotopy<Scalar<V>> h) {
  return V(h.s) * Base::curvature(x);
}

template <typename Base, typename V>
HRTA_INLINE V homotopy_third(V x, Homotopy<Scalar<V>> h) {
  return V(h.s) * Base::third(x);
}

// sigma(x) - x, to a few ulp of its own: the gradient in s is a sum of these. A rectifier's is sigma(-x).
template <typename Base, typename T>
HRTA_INLINE T homotopy_parameter_gradient(T x) {
  if constexpr (Base::kGrowth == Growth::kRamp || Base::kGrowth == Growth::kRectifier) {
    Pair<T> tail = Base::tail(x);
    return where(x > T(0), T(0), -x) + (tail.high + tail.low);
  } else if constexpr (Base::kGrowth == Growth::kQuadratic) {
    return where(x > T(0), x * multiply_add(T(0.5), x, T(-1)), -x);
  } else {
    return Base::excess(x);
  }
}

// sigma'(x) - 1, likewise.
template <typename Base, typename T>
HRTA_INLINE T homotopy_slope_parameter_gradient(T x) {
  if constexpr (Base::kGrowth == Growth::kRectifier) {
    return -Base::slope(-x);
  } else if constexpr (Base::kGrowth == Growth::kRamp || Base::kGrowth == Growth::kQuadratic) {
    return Base::slope(x) - T(1);
  } else {
    return Base::slope_excess(x);
  }
}

template <typename Base, Quantity kQuantity, typename V>
HRTA_INLINE V homotopy_quantity(V x, Homotopy<Scalar<V>> h) {
  if constexpr (kQuantity == Quantity::kValue) return homotopy_value<Base>(x, h);
  if constexpr (kQuantity == Quantity::kSlope) return homotopy_slope<Base>(x, h);
  if constexpr (kQuantity == Quantity::kCurvature) return homotopy_curvature<Base>(x, h);
  if constexpr (kQuantity == Quantity::kParameterGradient) return homotopy_parameter_gradient<Base>(x);
  if constexpr (kQuantity == Quantity::kParameterGradient1) return homotopy_slope_parameter_gradient<Base>(x);
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
