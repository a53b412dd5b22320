// sigma_s and its slope for float32 on the GPU: the bases of math/bases.h in other forms. Those are made for vector
// units without special functions; here an inverse and a power of two cost one instruction each, and at the speed of
// memory there is time for some 60 instructions per element. Same promise: value within 4 ulp, slope within 4 ulp, of
// the larger term. Constants by least squares of the relative error with the weights of the ulp, over each range.
#pragma once

#include "activation/cuda/parameter.cuh"
#include "math/bases.h"

namespace hrta {
namespace cuda {
namespace float_math {

constexpr double kLog2EDouble = 1.44269504088896340736;
constexpr float kLog2E = float(kLog2EDouble), kLog2ELow = float(kLog2EDouble - double(kLog2E));
constexpr float kHalfLog2E = float(0.5 * kLog2EDouble);
constexpr float kMagic = 0x1.8p23f;     // adding it rounds to an integer, kept in the low bits
constexpr float kTailScale = 0x1p-32f;  // tails are 2^32 too large, lest they be flushed to zero early

// 2^32 2^n, n being the integer part that adding kMagic left in `shifted`.
__device__ __forceinline__ float scale_of(float shifted) {
  return bit_cast<float>((bit_cast<uint32_t>(shifted) << 23) + ((127u + 32u) << 23));
}

// 2^f - 1 for |f| <= 0.51, relative error 2^-29 before rounding.
__device__ __forceinline__ float exp2_minus_1(float f) {
  const float c[] = {6.931471825e-01f, 2.402265072e-01f, 5.550327897e-02f,
                     9.618003853e-03f, 1.340027084e-03f, 1.547627180e-04f};
  return polynomial(c, f) * f;
}

// exp(y) = scale 2^-32 (1 + reduced).
struct Exponential {
  float scale, reduced;
};

// exp(high + low) for -87 <= high <= 0, as exp_of_sum of math/elementary.h without the rest of the reduced argument:
// three instructions less for a quarter of an ulp more. unscale is FloatTraits' kUnscale.
__device__ __forceinline__ ExpParts<float> exp_of(float high, float low) {
  using Traits = FloatTraits<float>;
  const float shifted = fmaf(high, Traits::kLog2E, kMagic), n = shifted - kMagic;
  const float r = fmaf(-n, Traits::kLn2High, high) + fmaf(-n, Traits::kLn2Low, low);
  return {fmaf(r * r, expm1_core(r), r), bit_cast<float>((bit_cast<uint32_t>(shifted) << 23) + ((127u + 64u) << 23))};
}

// A rectifier's sigma = max(x, 0) + tail: (1 - s) x + s sigma in one form for both signs, x + s tail where x is
// positive.
__device__ __forceinline__ float with_tail(float x, Pair<float> tail, const Parameter<float>& h) {
  const bool above = x > 0.0f;
  const float scaled = h.s * kTailScale;
  const float low = fmaf(h.s_ratio, tail.high, tail.low);
  float rest = fmaf(scaled, low, h.linear_rest * keep_above(x, -FloatTraits<float>::kLargest));
  rest = above || rest == 0.0f ? -0.0f : rest;
  const float inner = fmaf(above ? 1.0f : h.linear, keep_above(x, h.lowest), rest);
  return fmaf(scaled, above ? tail.high + low : tail.high, inner);
}

// (1 - s) x + s sigma: the larger terms last, what rounding left over first (at finite x, lest it be 0 inf).
__device__ __forceinline__ float combine(float x, Pair<float> sigma, const Parameter<float>& h) {
  const float finite = keep_below(keep_above(x, -FloatTraits<float>::kLargest), FloatTraits<float>::kLargest);
  float rest = fmaf(h.s, sigma.low, fmaf(h.s_rest, sigma.high, h.linear_rest * finite));
  rest = rest == 0.0f ? -0.0f : rest;  // which adds nothing even to -0
  return fmaf(h.s, sigma.high, fmaf(h.linear, h.linear == 0.0f ? finite : x, rest));
}

// What a base is here: parts(x) computed once for value and slope, tail(parts), slope(parts).
template <typename Base>
struct Functions;

template <>
struct Functions<Tanh> {
  struct Parts {  // e = exp(-2 |x|) and e - 1
    float x, e, em1;
  };
  static __device__ __forceinline__ Parts parts(float x) {
    const ExpParts<float> p = exp_of(keep_above(-2.0f * absolute(x), FloatTraits<float>::kExpLowest), 0.0f);
    const float scale = p.scale * FloatTraits<float>::kUnscale;
    return {x, fmaf(scale, p.reduced, scale), fmaf(p.reduced, scale, scale - 1.0f)};
  }
  static __device__ __forceinline__ Pair<float> tail(const Parts& p) {  // -m / (2 + m), m = e - 1
    const float n = with_sign(p.em1, p.x), d = 2.0f + p.em1, inverse = reciprocal(d), q = n * inverse;
    return {q, fmaf(-q, d, n) * inverse};
  }
  static __device__ __forceinline__ float slope(const Parts& p) {  // 4 h (1 - h), h = 1 / (1 + exp(2 |x|))
    const float h = p.e * reciprocal(1.0f + p.e);
    return 4.0f * fmaf(-h, h, h);
  }
};

// Phi(-a) = Q(t) / (a + k) 2^(-c a^2) at a = |x|, with Q = (a + k) Phi(-a) 2^(c a^2) in t = (a - k) / (a + k), whose
// derivative is small at a = 0 for this k: the rounding of the quotient does not matter there. c is log2(e) / 2 rounded
// to float; Q makes up for the rounding. The square is taken in two pieces.
template <>
struct Functions<Gelu> {
  static constexpr float k = 1.5f;
  struct Parts {
    float x, a, inverse, w;  // w = Q - 1/2
    Exponential e;
  };
  static __device__ __forceinline__ Parts parts(float x) {
    const float core[] = {1.173419952e-01f,  -1.950995028e-01f, -5.749572068e-02f, 1.789627969e-02f,
                          1.764226891e-02f,  3.989109769e-03f,  -2.441817662e-03f, -2.714133589e-03f,
                          -1.029593870e-03f, 2.560678113e-04f,  4.571687314e-04f,  1.464767265e-04f};
    const float a = keep_below(absolute(x), 14.6f), inverse = reciprocal_approx(a + k);
    const float w = polynomial(core, fmaf(-2.0f * k, inverse, 1.0f));
    const float square = a * a, square_low = fmaf(a, a, -square);
    const float shifted = fmaf(square, -kHalfLog2E, kMagic), n = shifted - kMagic;
    const float f = fmaf(square_low, -kHalfLog2E, fmaf(square, -kHalfLog2E, -n));
    return {x, a, inverse, w, {scale_of(shifted), exp2_minus_1(f)}};
  }
  // -a Phi(-a). One residual, a (1/2 + w) - high (a + k), makes the quotient's roundings good.
  static __device__ __forceinline__ Pair<float> tail(const Parts& p) {
    const float scaled = -p.a * p.e.scale, half = 0.5f * scaled;
    const float high = fmaf(scaled, p.w, half) * p.inverse;
    const float low = fmaf(scaled, p.w, fmaf(-k, high, fmaf(-p.a, high, half))) * p.inverse;
    return {high, fmaf(high, p.e.reduced, fmaf(low, p.e.reduced, low))};
  }
  static __device__ __forceinline__ float slope(const Parts& p) {  // Phi(x) + x phi(x)
    const float density = 0.39894228040143267794f;
    float below = fmaf(-p.a, density, fmaf(p.w, p.inverse, 0.5f * p.inverse)) * (p.e.scale * kTailScale);
    below = fmaf(below, p.e.reduced, below);
    return p.x > 0.0f ? 1.0f - below : below;
  }
};

// e = exp(-a) = 2^n (1 + r) at a = |x|; scale is 2^32 2^n.
struct LogisticParts {
  float x, a, scale, r, e;
};

__device__ __forceinline__ LogisticParts logistic_parts(float x) {
  const float a = keep_below(absolute(x), 110.0f);
  const float shifted = fmaf(a, -kLog2E, kMagic), minus_n = kMagic - shifted;  // +0 at a = 0, so that r is no -0
  const float r = exp2_minus_1(fmaf(a, -kLog2ELow, fmaf(a, -kLog2E, minus_n)));
  const float scale = scale_of(shifted), unscaled = scale * kTailScale;
  return {x, a, scale, r, fmaf(unscaled, r, unscaled)};
}

template <>
struct Functions<Silu> {
  using Parts = LogisticParts;
  static __device__ __forceinline__ Parts parts(float x) { return logistic_parts(x); }
  // -a / (1 + exp(a)) = (high + low) / (1 + e) with high + low = -a e exactly; the residual is of the unrounded
  // denominator.
  static __device__ __forceinline__ Pair<float> tail(const Parts& p) {
    const float inverse = reciprocal_approx(1.0f + p.e);
    const float high = -p.a * p.scale, low = high * p.r;
    const float q = (high + low) * inverse;
    const float residual = (high - q) + fmaf(-q, p.e, low);
    return {q, residual * inverse};
  }
  static __device__ __forceinline__ float slope(const Parts& p) {
    const float above = reciprocal(1.0f + p.e);
    const float below = p.e * above * fmaf(-p.a, above, 1.0f);
    return p.x > 0.0f ? 1.0f - below : below;
  }
};

template <>
struct Functions<Softplus> {
  using Parts = LogisticParts;
  static __device__ __forceinline__ Parts parts(float x) { return logistic_parts(x); }
  // log(1 + e) = 2^n + (2^n r + e (log(1 + e) / e - 1)). The two pieces overlap; their sum and its rest do not.
  static __device__ __forceinline__ Pair<float> tail(const Parts& p) {
    const float core[] = {-4.999993145e-01f, 3.333051205e-01f,  -2.495858818e-01f, 1.969540119e-01f, -1.535539627e-01f,
                          1.068055630e-01f,  -5.766445398e-02f, 2.020458877e-02f,  -3.318473464e-03f};
    const float rest = p.scale * p.r, q = polynomial(core, p.e);
    const float low = fmaf(p.scale + rest, q * p.e, rest), high = p.scale + low;
    return {high, low - (high - p.scale)};
  }
  static __device__ __forceinline__ float slope(const Parts& p) {
    const float above = reciprocal(1.0f + p.e);
    return p.x > 0.0f ? above : p.e * above;
  }
};

// x + x (erf(x) / x - 1) up to 1, then +-(1 - erfc(|x|)) with erfc = 2^polynomial.
template <>
struct Functions<Erf> {
  using Parts = float;  // x
  static __device__ __forceinline__ Parts parts(float x) { return x; }
  static __device__ __forceinline__ Pair<float> tail(float x) {
    const float near_core[] = {1.283791661e-01f, -3.761262596e-01f, 1.128358543e-01f, -2.685381100e-02f,
                               5.188327283e-03f, -8.010191377e-04f, 7.853854186e-05f};
    const float far_core[] = {-4.334344994e-04f, -1.626280069e+00f, -9.202708006e-01f, -1.490698010e-01f,
                              3.165332228e-02f,  -4.288320430e-03f, 2.724141523e-04f};
    float p = polynomial(near_core, x * x);
    const float tail = exp2_approx(polynomial(far_core, keep_below(absolute(x), 4.1f)));
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+f"(p));  // keeps the compiler from branching around one of the two
#endif
    const bool near_zero = absolute(x) < 1.0f;
    return {near_zero ? x : with_sign(1.0f, x), near_zero ? x * p : -with_sign(tail, x)};
  }
  static __device__ __forceinline__ float slope(float x) {  // 2 / sqrt(pi) exp(-x^2), the square in two pieces
    const float a = keep_below(absolute(x), 0.7f * 15.0f), square = a * a;
    return times_exp(1.12837916709551f, exp_of(-square, -fmaf(a, a, -square)));
  }
};

// sin and cos of |x| <= kFastTurnLimit by three fused steps, the first of them exact; farther out the library's, out of
// line lest every element carry its registers.
constexpr float kFastTurnLimit = 1e5f;
constexpr float kTurnCore[] = {-1.666665971e-01f, 8.333065547e-03f, -1.980957022e-04f, 2.605705959e-06f};

static __device__ __noinline__ float far_sine(float x) {
  return ::sinf(x);
}
static __device__ __noinline__ float far_cosine(float x) {
  return ::cosf(x);
}

__device__ __forceinline__ float flipped(float value, float shifted) {  // times (-1)^n
  return bit_cast<float>(bit_cast<uint32_t>(value) ^ bit_cast<uint32_t>(shifted) << 31);
}

template <bool kFast>
struct Functions<SinBase<kFast>> {
  using Parts = float;
  static __device__ __forceinline__ Parts parts(float x) { return x; }
  static __device__ __forceinline__ Pair<float> tail(float x) {  // (-1)^n (r + r u p(u)), x = n pi + r
    if (!kFast && absolute(x) > kFastTurnLimit) return {far_sine(x), 0.0f};
    const float core[] = {kTurnCore[0], kTurnCore[1], kTurnCore[2], kTurnCore[3]};
    const float shifted = fmaf(x, 0.318309886f, kMagic), n = shifted - kMagic;
    float r = fmaf(-n, 3.1415925f, x);
    r = fmaf(-n, 1.50995788e-07f, r);
    r = flipped(fmaf(-n, 1.07806051e-14f, r), shifted);
    const float u = r * r;
    return {r, r * u * polynomial(core, u)};
  }
  static __device__ __forceinline__ float slope(float x) {  // cos(x) = sin(x + pi / 2)
    if (!kFast && absolute(x) > kFastTurnLimit) return far_cosine(x);
    const float core[] = {kTurnCore[0], kTurnCore[1], kTurnCore[2], kTurnCore[3]};
    const float shifted = fmaf(x, 0.318309886f, 0.5f) + kMagic, n = (shifted - kMagic) - 0.5f;
    float r = fmaf(-n, 3.1415925f, x);
    r = fmaf(-n, 1.50995788e-07f, r);
    const float u = r * r;
    return flipped(fmaf(r * u, polynomial(core, u), r), shifted);
  }
};

template <typename Base>
constexpr bool kHasOwnMath = Base::kGrowth != Growth::kRamp && Base::kGrowth != Growth::kQuadratic;

// sigma_s and its slope at x. ReLU and ReLU^2 are math/homotopy.h's.
template <typename Base, bool kValue, bool kSlope>
__device__ __forceinline__ void evaluate(float x, const Parameter<float>& h, float& value, float& slope) {
  if constexpr (!kHasOwnMath<Base>) {
    if constexpr (kValue) {
      value = Base::kGrowth == Growth::kRamp ? (x > 0.0f ? x : h.linear * keep_above(x, h.lowest))
                                             : homotopy_value<Base>(x, h);
    }
    if constexpr (kSlope) slope = homotopy_slope<Base>(x, h);
  } else {
    using F = Functions<Base>;
    const typename F::Parts parts = F::parts(x);
    if constexpr (kValue) {
      if constexpr (Base::kGrowth == Growth::kRectifier) {
        value = with_tail(x, F::tail(parts), h);
      } else if constexpr (std::is_same_v<Base, Sin>) {
        // sin has no limit at infinity, but the line outgrows it unless s = 1.
        value = absolute(x) == INFINITY && h.linear != 0.0f ? h.linear * x : combine(x, F::tail(parts), h);
      } else {
        value = combine(x, F::tail(parts), h);
      }
    }
    if constexpr (kSlope) {
      slope = fmaf(h.s, F::slope(parts), h.linear);
      if constexpr (std::is_same_v<Base, Sin>) slope = h.s == 0.0f && x == x ? 1.0f : slope;
    }
  }
}

}  // namespace float_math
}  // namespace cuda
}  // namespace hrta
