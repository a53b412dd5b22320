// The base activations: value, slope, curvature and third derivative of each as scalar functions, the only copy in C++.
// hrta_ext/bases.py lists the same bases, by the same numbers and names, in plain torch.
//
// A rectifier (gelu, silu, softplus; relu has no tail) is written as sigma(x) = max(x, 0) + tail(x) with a tail that
// vanishes at both infinities: sigma_s then needs no cancellation at large |x| (homotopy.h). The others give sigma
// itself as `tail`. It comes in two pieces, since the rounding of their sum would be worth an ulp of sigma_s; a
// rectifier's `plain_tail`, one number good to 3.8 ulp, does for sigma itself (s = 1), where no other error joins it.
// These others also have `excess`, sigma(x) - x, and `slope_excess`, sigma'(x) - 1, the gradients in s, without
// cancellation at small |x|; homotopy.h has those of the rectifiers.
#pragma once

#include <type_traits>

#include "math/elementary.h"

namespace hrta {

// Every base, in the order of its number: X(its struct below, its name). The numbers, the names and with_base come from
// this list.
#define HRTA_BASES(X)     \
  X(Relu, "relu")         \
  X(Relu2, "relu2")       \
  X(Tanh, "tanh")         \
  X(Gelu, "gelu")         \
  X(Silu, "silu")         \
  X(Softplus, "softplus") \
  X(Erf, "erf")           \
  X(Sin, "sin")

#define HRTA_BASE_NUMBER(Base, name) k##Base,
enum BaseIndex : int { HRTA_BASES(HRTA_BASE_NUMBER) kBaseCount };  // kRelu = 0, kRelu2, ...
#undef HRTA_BASE_NUMBER

#define HRTA_BASE_NAME(Base, name) name,
constexpr const char* kBaseNames[] = {HRTA_BASES(HRTA_BASE_NAME)};
#undef HRTA_BASE_NAME
static_assert(sizeof(kBaseNames) / sizeof(kBaseNames[0]) == kBaseCount);

inline namespace HRTA_SIMD_LEVEL {

// How sigma behaves far out; it decides how sigma_s is put together.
enum class Growth { kRamp, kRectifier, kQuadratic, kBounded, kOscillating };

// PyTorch's convention: the slope of ReLU at 0 is 0.
struct Relu {
  static constexpr Growth kGrowth = Growth::kRamp;
  template <typename T>
  static HRTA_INLINE Pair<T> tail(T) {
    return {T(0), T(0)};
  }
  template <typename T>
  static HRTA_INLINE T slope(T x) {
    return where(x > T(0), T(1), T(0));
  }
  template <typename T>
  static HRTA_INLINE T curvature(T) {
    return T(0);
  }
  template <typename T>
  static HRTA_INLINE T third(T) {
    return T(0);
  }
};

// ReLU(x)^2 / 2. homotopy.h multiplies by s before it squares, so that nothing overflows early.
struct Relu2 {
  static constexpr Growth kGrowth = Growth::kQuadratic;
  template <typename T>
  static HRTA_INLINE Pair<T> tail(T x) {
    return {where(x < T(0), T(0), T(0.5) * x * x), T(0)};
  }
  template <typename T>
  static HRTA_INLINE T slope(T x) {
    return at_least(x, T(0));
  }
  template <typename T>
  static HRTA_INLINE T curvature(T x) {
    return where(x > T(0), T(1), T(0));
  }
  template <typename T>
  static HRTA_INLINE T third(T) {
    return T(0);
  }
};

struct Tanh {
  static constexpr Growth kGrowth = Growth::kBounded;
  template <typename T>
  static HRTA_INLINE Pair<T> tail(T x) {
    return tanh_of(x);
  }
  template <typename T>
  static HRTA_INLINE T slope(T x) {
    return tanh_slope(x);
  }
  template <typename T>
  static HRTA_INLINE T curvature(T x) {
    Pair<T> value = tail(x);
    return T(-2) * (value.high + value.low) * slope(x);
  }
  template <typename T>
  static HRTA_INLINE T third(T x) {  // p (4 t^2 - 2 p), p = 1 - t^2
    Pair<T> value = tail(x);
    T t = value.high + value.low, p = slope(x);
    return p * multiply_add(T(4) * t, t, T(-2) * p);
  }
  template <typename T>
  static HRTA_INLINE T excess(T x) {
    Pair<T> value = tanh_pair(x);
    T u = x * x;
    return where(absolute(x) < T(0.75), x * u * tanh_core(u), (value.high - x) + value.low);
  }
  template <typename T>
  static HRTA_INLINE T slope_excess(T x) {  // -tanh(x)^2
    Pair<T> value = tail(x);
    T t = value.high + value.low;
    return -t * t;
  }
};

// x Phi(x), Phi the normal distribution function: the exact (erf) GELU. Its tail is -a Phi(-a) at a = |x|.
struct Gelu {
  static constexpr Growth kGrowth = Growth::kRectifier;
  static constexpr double kDensityAtZero = 0.3989422804014327;

  template <typename T>
  static HRTA_INLINE T distance(T x) {
    return at_most(absolute(x), T(normal_tail_limit<Scalar<T>>()));
  }
  template <typename T>
  static HRTA_INLINE Pair<T> tail(T x) {
    const Pair<T> below = weighted_normal_tail(distance(x));
    return {-below.high, -below.low};
  }
  template <typename T>
  static HRTA_INLINE T plain_tail(T x) {
    return -plain_weighted_normal_tail(distance(x));
  }
  template <typename T>
  static HRTA_INLINE T slope(T x) {  // Phi(x) + x phi(x)
    T a = distance(x);
    T below =
        times_exp(multiply_add(a, T(-kDensityAtZero), scaled_normal_tail(a)), exp_of_minus_square<false>(a, T(0.5)));
    return where(x > T(0), T(1) - below, below);
  }
  template <typename T>
  static HRTA_INLINE T curvature(T x) {  // (2 - x^2) phi(x)
    T a = distance(x);
    return times_exp(multiply_add(-a, a, T(2)) * T(kDensityAtZero), exp_of_minus_square(a, T(0.5)));
  }
  template <typename T>
  static HRTA_INLINE T third(T x) {  // (x^3 - 4 x) phi(x)
    T a = distance(x);
    T odd = with_sign(a * T(kDensityAtZero), x) * multiply_add(a, a, T(-4));
    return times_exp(odd, exp_of_minus_square(a, T(0.5)));
  }
};

// The logistic function at |x| and at -|x|, from exp(-|x|): neither overflows.
template <typename T>
struct LogisticPair {
  T a;                // |x|, bounded
  ExpParts<T> e;      // exp(-a)
  Pair<T> one_and_e;  // 1 + exp(-a)
  T above, below;     // 1 / (1 + exp(-a)), 1 / (1 + exp(a))
};

template <bool kExact = true, typename T>
HRTA_INLINE LogisticPair<T> logistic_pair(T x) {
  LogisticPair<T> pair;
  pair.a = at_most(absolute(x), T(-FloatTraits<Scalar<T>>::kExpLowest));
  pair.e = exp_of_sum<kExact>(-pair.a, T(0));
  pair.one_and_e = exact_sum(T(1), times_exp(T(1), pair.e));
  pair.above = reciprocal(pair.one_and_e.high);
  pair.below = times_exp(pair.above, pair.e);
  return pair;
}

template <typename T>
HRTA_INLINE T silu_slope(T x) {
  LogisticPair<T> pair = logistic_pair<false>(x);
  T below = pair.below * multiply_add(-pair.a, pair.above, T(1));
  return where(x > T(0), T(1) - below, below);
}

// x / (1 + exp(-x)). Its tail is -a / (1 + exp(a)) at a = |x|.
struct Silu {
  static constexpr Growth kGrowth = Growth::kRectifier;
  template <typename T>
  static HRTA_INLINE Pair<T> tail(T x) {
    LogisticPair<T> pair = logistic_pair(x);
    Pair<T> q = quotient(Pair<T>{-pair.a, -pair.a * pair.e.reduced}, pair.one_and_e, pair.above);
    return {scaled(q.high, pair.e.scale), scaled(q.low, pair.e.scale)};
  }
  template <typename T>
  static HRTA_INLINE T plain_tail(T x) {
    LogisticPair<T> pair = logistic_pair<false>(x);
    return scaled(divided(multiply_add(-pair.a, pair.e.reduced, -pair.a), pair.one_and_e.high), pair.e.scale);
  }
  template <typename T>
  static HRTA_INLINE T slope(T x) {
    return silu_slope(x);
  }
  template <typename T>
  static HRTA_INLINE T curvature(T x) {  // even in x
    LogisticPair<T> pair = logistic_pair(x);
    return pair.above * pair.below * multiply_add(pair.a, pair.below - pair.above, T(2));
  }
  template <typename T>
  static HRTA_INLINE T third(T x) {  // odd in x
    LogisticPair<T> pair = logistic_pair(x);
    T p = pair.above * pair.below;
    T above = p * multiply_add(pair.a, multiply_add(T(-6), p, T(1)), T(3) * (pair.below - pair.above));
    return where(x > T(0), above, -above);
  }
};

// log(1 + exp(x)). Its tail is log(1 + exp(-a)) at a = |x|.
struct Softplus {
  static constexpr Growth kGrowth = Growth::kRectifier;
  template <typename T>
  static HRTA_INLINE Pair<T> tail(T x) {
    return log1p_of_unit(times_exp(T(1), exp_of_negative(-absolute(x))));
  }
  template <typename T>
  static HRTA_INLINE T plain_tail(T x) {
    Pair<T> value = tail(x);
    return value.high + value.low;
  }
  template <typename T>
  static HRTA_INLINE T slope(T x) {
    LogisticPair<T> pair = logistic_pair(x);
    return where(x > T(0), pair.above, pair.below);
  }
  template <typename T>
  static HRTA_INLINE T curvature(T x) {
    LogisticPair<T> pair = logistic_pair(x);
    return pair.above * pair.below;
  }
  template <typename T>
  static HRTA_INLINE T third(T x) {  // odd in x
    LogisticPair<T> pair = logistic_pair(x);
    T above = pair.above * pair.below * (pair.below - pair.above);
    return where(x > T(0), above, -above);
  }
};

struct Erf {
  static constexpr Growth kGrowth = Growth::kBounded;
  static constexpr double kTwoOverSqrtPi = 1.1283791670955126;
  static constexpr double kExcessAtZero = 0.1283791670955125739;

  template <typename T>
  static HRTA_INLINE T distance(T x) {
    return at_most(absolute(x), T(Scalar<T>(0.7) * normal_tail_limit<Scalar<T>>()));
  }
  template <typename T>
  static HRTA_INLINE Pair<T> tail(T x) {
    return erf_of(x, distance(x));
  }
  template <typename T>
  static HRTA_INLINE T slope(T x) {
    return times_exp(T(kTwoOverSqrtPi), exp_of_minus_square(distance(x), T(1)));
  }
  template <typename T>
  static HRTA_INLINE T curvature(T x) {
    return T(-2) * with_sign(distance(x), x) * slope(x);
  }
  template <typename T>
  static HRTA_INLINE T third(T x) {  // (4 x^2 - 2) erf'(x)
    T a = distance(x);
    return multiply_add(T(4) * a, a, T(-2)) * slope(x);
  }
  template <typename T>
  static HRTA_INLINE T excess(T x) {  // near 0 the first piece is x
    Pair<T> value = tail(x);
    return (value.high - x) + value.low;
  }
  template <typename T>
  static HRTA_INLINE T slope_excess(T x) {  // c (e - 1) + (c - 1), e = exp(-x^2), c its factor
    ExpParts<T> e = exp_of_minus_square(distance(x), T(1));
    T scale = scaled(T(1), e.scale);
    return multiply_add(T(kTwoOverSqrtPi), multiply_add(e.reduced, scale, scale - T(1)), T(kExcessAtZero));
  }
};

// The loops go through fast_sin while every |x| in a block is below fast_turn_limit, and else element by element
// through `any`, which gives the same bits below that limit and the library's full reduction beyond it.
template <typename T, bool kFast>
struct SinAt {
  static HRTA_INLINE T sine(T x, uint32_t quarter_turns) {
    if constexpr (kFast) {
      return fast_sin(x, quarter_turns);
    } else {
      if (absolute(x) <= fast_turn_limit<T>()) return fast_sin(x, quarter_turns);
      T value = (quarter_turns & 1u) ? ::cos(x) : ::sin(x);
      return (quarter_turns & 2u) ? -value : value;
    }
  }
  static HRTA_INLINE T excess(T x) {
    if constexpr (!kFast) {
      if (!(absolute(x) <= fast_turn_limit<T>())) return ::sin(x) - x;
    }
    return fast_sin_excess(x);
  }
};

template <bool kFast>
struct SinBase {
  static constexpr Growth kGrowth = kFast ? Growth::kBounded : Growth::kOscillating;
  template <typename T>
  static HRTA_INLINE Pair<T> tail(T x) {
    return {SinAt<T, kFast>::sine(x, 0), T(0)};
  }
  template <typename T>
  static HRTA_INLINE T slope(T x) {
    return SinAt<T, kFast>::sine(x, 1);
  }
  template <typename T>
  static HRTA_INLINE T curvature(T x) {
    return SinAt<T, kFast>::sine(x, 2);
  }
  template <typename T>
  static HRTA_INLINE T third(T x) {
    return SinAt<T, kFast>::sine(x, 3);
  }
  template <typename T>
  static HRTA_INLINE T excess(T x) {
    return SinAt<T, kFast>::excess(x);
  }
  template <typename T>
  static HRTA_INLINE T slope_excess(T x) {  // cos(x) - 1 = -2 sin(x / 2)^2
    T half = SinAt<T, kFast>::sine(T(0.5) * x, 0);
    return T(-2) * half * half;
  }
};

using Sin = SinBase<false>;
using FastSin = SinBase<true>;

// Whether the fast sine serves the whole block.
template <typename T>
bool all_within(const T* x, int n, T limit) {
  int outside = 0;
  for (int i = 0; i < n; ++i) outside |= !(absolute(x[i]) <= limit);
  return outside == 0;
}

// Calls body(a base) for its number and returns what it does. A number that is no base's ends the program: it must
// never be taken for another base.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // a body for the host alone, or for the device alone
#endif
template <typename Body>
HRTA_INLINE auto with_base(int base, const Body& body) {
#define HRTA_BASE_CASE(Base, name) \
  case k##Base: return body(Base{});
  switch (base) { HRTA_BASES(HRTA_BASE_CASE) }
#undef HRTA_BASE_CASE
#if !defined(__CUDA_ARCH__)  // kernels, where it would cost registers, are chosen through this on the host
  __builtin_trap();
#endif
  __builtin_unreachable();
}

template <typename T>
HRTA_INLINE T plain_silu(T x) {
  return at_least(x, T(0)) + Silu::plain_tail(x);
}

// sigma(x), as homotopy_value at s = 1 but for an ulp or two.
template <typename Base, typename T>
HRTA_INLINE T base_value(T x) {
  if constexpr (std::is_same_v<Base, Gelu>) {
    return plain_gelu(x, Gelu::distance(x));
  } else if constexpr (std::is_same_v<Base, Silu>) {
    return plain_silu(x);
  } else if constexpr (Base::kGrowth == Growth::kRectifier) {
    return at_least(x, T(0)) + Base::plain_tail(x);
  } else {
    const Pair<T> tail = Base::tail(x);
    const T rest = tail.high + tail.low;
    return Base::kGrowth == Growth::kRamp ? at_least(x, T(0)) + rest : rest;
  }
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
