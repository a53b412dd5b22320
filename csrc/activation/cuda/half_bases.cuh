// sigma_s and its slope for float16 and bfloat16 on the GPU, in float arithmetic made just good enough: within 2^-8 ulp
// of the half type, at the larger of the terms |(1 - s) x| and |s sigma(x)|, before the one rounding. The formulas for
// float32 spend three times the instructions, and a half type has half the time per element.
#pragma once

#include "activation/cuda/float_bases.cuh"

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
    const float numerator[] = {9.999998808e-01f, 1.274637580e-01f, 2.731366083e-03f, 7.430540791e-06f,
                               -6.639425898e-09f};
    const float denominator[] = {1.0f, 4.607959390e-01f, 2.299828082e-02f, 2.012756304e-04f};
    const float b = clamp(x, 7.6f), u = b * b;
    const float q = b * polynomial(numerator, u) * reciprocal_approx(polynomial(denominator, u));
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
    constexpr float k = 2.75f;
    const float core[] = {7.189862132e-01f,  -4.743595719e-01f, 1.823253334e-01f, -1.646146923e-02f,
                          -1.630329154e-02f, 2.851009835e-03f,  2.022683620e-03f};
    const float a = keep_below(absolute(x), 14.0f), inverse = reciprocal_approx(a + k);
    return {a, inverse, polynomial(core, fmaf(-2.0f * k, inverse, 1.0f)),
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
    const float core[] = {9.999998212e-01f, -4.999740422e-01f, 3.327547908e-01f, -2.449546307e-01f,
                          1.774524003e-01f, -1.076816991e-01f, 4.408962280e-02f, -8.539206348e-03f};
    const float scaled = exp2_approx(fmaf(absolute(x), -kLog2E, 15.0f));
    return fmaf(0x1p-15f * h.s, scaled * polynomial(core, 0x1p-15f * scaled), rectifier_line(x, h));
  }
  static __device__ __forceinline__ float slope(float x, const Parameter<float>& h) {
    return fmaf(h.s, reciprocal_approx(1.0f + exp2_approx(x * -kLog2E)), h.linear);
  }
};

template <>
struct Functions<Erf> {
  static __device__ __forceinline__ float value(float x, const Parameter<float>& h) {
    const float numerator[] = {1.128378987e+00f, 3.228721917e-01f, 6.643050909e-02f,
                               8.511838503e-03f, 2.210960811e-04f, -1.342928726e-06f};
    const float denominator[] = {1.0f, 6.194646358e-01f, 1.653958708e-01f, 2.446736954e-02f, 2.006826224e-03f};
    const float b = clamp(x, 3.7f), u = b * b;
    const float q = b * polynomial(numerator, u) * reciprocal_approx(polynomial(denominator, u));
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
    const float core[] = {9.999990463e-01f, -1.666555405e-01f, 8.311890997e-03f, -1.848787069e-04f};
    const float shifted = fmaf(x, 0.318309886f, -half) + float_math::kMagic;
    const float n = (shifted - float_math::kMagic) + half;
    float r = fmaf(-n, 3.1415925f, x);
    r = fmaf(-n, 1.50995788e-07f, r);
    r = fmaf(-n, 1.07806051e-14f, r);
    return float_math::flipped(r * polynomial(core, r * r), shifted);
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
