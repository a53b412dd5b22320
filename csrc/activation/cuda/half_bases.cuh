// sigma_s and its slope for float16 and bfloat16 on the GPU, in float arithmetic made just good enough: within 2^-8 ulp
// of the half type, at the larger of the terms |(1 - s) x| and |s sigma(x)|, before the one rounding. The formulas for
// float32 spend three times the instructions, and a half type has half the time per element.
#pragma once

#include "activation/cuda/float_bases.cuh"
#include "math/half_polynomials.h"

namespace hrta {
namespace cuda {
namespace half_math {

using float_math::kLog2E;

// (1 - s) x, where s = 1 and x is infinite too; -0 adds nothing to a zero of either sign.
__device__ __forceinline__ float line(float x, const Parameter<float>& h) {
  return h.linear == 0.0f ? -0.0f : h.linear * x;
}

// max(x, 0) + (1 - s) min(x, 0)
__device__ __forceinline__ float rectifier_line(float x, const Parameter<float>& h) {
  return (x > 0.0f ? 1.0f : h.linear) * keep_above(x, h.lowest);
}

__device__ __forceinline__ float clamp(float x, float bound) {
  return keep_below(keep_above(x, -bound), bound);
}

template <typename Base>
struct Functions;  // value(x, h), slope(x, h)

template <>
struct Functions<Tanh> {
  static __device__ __forceinline__ float value(float x, const Parameter<float>& h) {
    const float b = clamp(x, kHalfTanhLimit), u = b * b;
    const float q = b * half_tanh_numerator(u) * reciprocal_approx(half_tanh_denominator(u));
    return fmaf(h.s, q, line(x, h));
  }
  static __device__ __forceinline__ float slope(float x,
                                                const Parameter<float>& h) {  // 4 e / (1 + e)^2, e = exp(-2|x|)
    const float e = exp2_approx(absolute(x) * (-2.0f * kLog2E)), r = reciprocal_approx(1.0f + e);
    return fmaf(4.0f * h.s, e * r * r, h.linear);
  }
};

template <>
struct Functions<Gelu> {
  // Phi(-a) = q inverse e at a = |x|, as in float_math; e is 2^16 times too large, lest it be flushed to zero early.
  struct Parts {
    float a, inverse, q, e;
  };
  static __device__ __forceinline__ Parts parts(float x) {
    constexpr float k = kHalfNormalTailCentre;
    const float a = keep_below(absolute(x), 14.0f), inverse = reciprocal_approx(a + k);
    return {a, inverse, half_normal_tail_core(fmaf(-2.0f * k, inverse, 1.0f)),
            exp2_approx(fmaf(a * a, -0.5f * kLog2E, 16.0f))};
  }
  static __device__ __forceinline__ float value(float x, const Parameter<float>& h) {
    const Parts p = parts(x);
    return fmaf(-0x1p-16f * h.s, (p.a * p.q) * (p.inverse * p.e), rectifier_line(x, h));
  }
  static __device__ __forceinline__ float slope(float x, const Parameter<float>& h) {  // Phi(x) + x phi(x)
    const Parts p = parts(x);
    const float below = p.e * fmaf(p.q, p.inverse, p.a * -0.39894228040143267794f), s = 0x1p-16f * h.s;
    return x > 0.0f ? fmaf(-s, below, 1.0f) : fmaf(s, below, h.linear);
  }
};

template <>
struct Functions<Silu> {
  static __device__ __forceinline__ float value(float x, const Parameter<float>& h) {  // x (1 - s + s / (1 + exp(-x)))
    const float scaled = reciprocal_approx(0x1p-16f + exp2_approx(fmaf(x, -kLog2E, -16.0f)));
    return fmaf(0x1p-16f * h.s, scaled, h.linear) * keep_above(x, h.lowest);
  }
  static __device__ __forceinline__ float slope(float x, const Parameter<float>& h) {
    const float b = clamp(x, 25.0f);
    const float e = exp2_approx(b * -kLog2E), r = reciprocal_approx(1.0f + e);
    return fmaf(h.s, fmaf(b * (e * r), r, r), h.linear);
  }
};

template <>
struct Functions<Softplus> {
  static __device__ __forceinline__ float value(float x, const Parameter<float>& h) {  // max(x, 0) + log(1 + exp(-|x|))
    const float scaled = exp2_approx(fmaf(absolute(x), -kLog2E, 15.0f));
    return fmaf(0x1p-15f * h.s, scaled * half_log1p_core(0x1p-15f * scaled), rectifier_line(x, h));
  }
  static __device__ __forceinline__ float slope(float x, const Parameter<float>& h) {
    return fmaf(h.s, reciprocal_approx(1.0f + exp2_approx(x * -kLog2E)), h.linear);
  }
};

template <>
struct Functions<Erf> {
  static __device__ __forceinline__ float value(float x, const Parameter<float>& h) {
    const float b = clamp(x, kHalfErfLimit), u = b * b;
    const float q = b * half_erf_numerator(u) * reciprocal_approx(half_erf_denominator(u));
    return fmaf(h.s, q, line(x, h));
  }
  static __device__ __forceinline__ float slope(float x, const Parameter<float>& h) {
    return fmaf(1.12837916709551f * h.s, exp2_approx(x * x * -kLog2E), h.linear);
  }
};

template <>
struct Functions<FastSin> {  // |x| <= kFastTurnLimit
  // r in [-pi/2, pi/2] with x = (n + half) pi + r; returns (-1)^n sin(r).
  static __device__ __forceinline__ float reduced(float x, float half) {
    const float shifted = fmaf(x, 0.318309886f, -half) + float_math::kMagic;
    const float n = (shifted - float_math::kMagic) + half;
    float r = fmaf(-n, 3.1415925f, x);
    r = fmaf(-n, 1.50995788e-07f, r);
    r = fmaf(-n, 1.07806051e-14f, r);
    return float_math::flipped(r * half_sin_core(r * r), shifted);
  }
  static __device__ __forceinline__ float value(float x, const Parameter<float>& h) {
    return fmaf(h.s, reduced(x, 0.0f), line(x, h));
  }
  static __device__ __forceinline__ float slope(float x, const Parameter<float>& h) {  // cos(x) = -(-1)^n sin(r)
    return fmaf(-h.s, reduced(x, 0.5f), h.linear);
  }
};

template <typename Base, bool kValue, bool kSlope>
__device__ __forceinline__ void evaluate(float x, const Parameter<float>& h, float& value, float& slope) {
  if constexpr (kValue) value = Functions<Base>::value(x, h);
  if constexpr (kSlope) slope = Functions<Base>::slope(x, h);
}

}  // namespace half_math
}  // namespace cuda
}  // namespace hrta
