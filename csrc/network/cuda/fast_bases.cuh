// sigma and its first three derivatives of every base for the float32 network on the GPU, by the hardware's power of
// two and inverse where that is cheapest: about half the instructions of the pointwise op
// (activation/cuda/float_bases.cuh). The network sums over neurons or samples, so what counts is the error beside the
// largest terms: up to |z| = 1e5 value within 8e-7 max(|sigma|, min(|z|, 1)), slope within 8e-7 max(|sigma'|, 1),
// curvature within 1.6e-6, sigma''' within 3.2e-6, of which half is left for the hardware's ex2, lg2 and rcp
// (tests/network/test_fast_bases.py, where these are rounded once, holds the other half). Beyond, sin is bounded and
// the others are at their limits. NaN stays NaN. The hardware's tanh is no choice: it is off by 2^-11.
#pragma once

#include "activation/cuda/float_bases.cuh"

namespace hrta {
namespace cuda {

namespace fast_math {

constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;

// log2(x) within 2^-22, absolute, in [1, 2].
__device__ __forceinline__ float log2_approx(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return log2f(x);
#endif
}

__device__ __forceinline__ void give(float* target, float value) {
  if (target != nullptr) *target = value;
}

}  // namespace fast_math

// What is not wanted is null and costs nothing.
template <typename Base>
struct FastBase;

template <>
struct FastBase<Relu> {
  static __device__ __forceinline__ void evaluate(float z, float* value, float* slope, float* curvature,
                                                  float* third = nullptr) {
    fast_math::give(value, keep_above(z, 0.0f));
    fast_math::give(slope, z > 0.0f ? 1.0f : 0.0f);
    fast_math::give(curvature, 0.0f);
    fast_math::give(third, 0.0f);
  }
};

template <>
struct FastBase<Relu2> {
  static __device__ __forceinline__ void evaluate(float z, float* value, float* slope, float* curvature,
                                                  float* third = nullptr) {
    const float p = keep_above(z, 0.0f);
    fast_math::give(value, 0.5f * p * p);
    fast_math::give(slope, p);
    fast_math::give(curvature, z > 0.0f ? 1.0f : 0.0f);
    fast_math::give(third, 0.0f);
  }
};

// 1 - 2 / (1 + exp(2 z)), and z + z u p(u), u = z^2, near 0, where that would cancel. exp(2 z) = inf gives 1, 0 gives
// -1.
template <>
struct FastBase<Tanh> {
  static __device__ __forceinline__ void evaluate(float z, float* value, float* slope, float* curvature,
                                                  float* third = nullptr) {
    const float core[] = {-3.333324971e-01f, 1.332924933e-01f, -5.334365657e-02f, 1.802475613e-02f};  // 5e-9
    const float far = fmaf(-2.0f, reciprocal_approx(exp2_approx(z * (2.0f * fast_math::kLog2E)) + 1.0f), 1.0f);
    const float u = z * z, near = fmaf(z * u, polynomial(core, u), z);
    const float v = absolute(z) < 0.45f ? near : far, d = fmaf(-v, v, 1.0f);
    fast_math::give(value, v);
    fast_math::give(slope, d);
    fast_math::give(curvature, -2.0f * v * d);
    fast_math::give(third, d * fmaf(-6.0f, d, 4.0f));  // of 4 v^2 - 2 d, v^2 = 1 - d
  }
};

// max(z, 0) - a Phi(-a) with a = |z| and Phi(-a) = 2^p(a): the error of p is 6e-8 of the larger of Phi(-a) and a
// Phi(-a). What is left beyond a = 6 is below 4e-8.
template <>
struct FastBase<Gelu> {
  static __device__ __forceinline__ void evaluate(float z, float* value, float* slope, float* curvature,
                                                  float* third = nullptr) {
    const float core[] = {-9.999998220e-01f, -1.151114968e+00f, -4.591202975e-01f, -5.278468422e-02f,
                          7.508276445e-03f,  -4.947069376e-04f, -3.247909425e-05f, 6.119301014e-06f};
    const float a = keep_below(absolute(z), 6.0f), tail = exp2_approx(polynomial(core, a));
    fast_math::give(value, fmaf(-a, tail, keep_above(z, 0.0f)));
    if (slope == nullptr && curvature == nullptr && third == nullptr) return;
    const float b = third == nullptr ? a : keep_below(absolute(z), 14.0f);  // at 6 it is not small enough yet
    const float density = 0.3989422804f * exp2_approx(b * b * (-0.5f * fast_math::kLog2E));
    const float below = fmaf(-b, density, tail);
    fast_math::give(slope, z > 0.0f ? 1.0f - below : below);
    fast_math::give(curvature, fmaf(-b, b, 2.0f) * density);
    fast_math::give(third, with_sign(b, z) * fmaf(b, b, -4.0f) * density);
  }
};

// z L, L = 1 / (1 + exp(-z)); sigma' = L + z L (1 - L), sigma'' = L (1 - L) (2 + z (1 - 2 L)).
template <>
struct FastBase<Silu> {
  static __device__ __forceinline__ void evaluate(float z, float* value, float* slope, float* curvature,
                                                  float* third = nullptr) {
    const float above = keep_above(z, -80.0f);
    const float e = exp2_approx(-fast_math::kLog2E * above), L = reciprocal_approx(1.0f + e);
    fast_math::give(value, above * L);
    const float bounded = keep_below(above, 80.0f), M = e * L;  // 1 - L
    fast_math::give(slope, fmaf(bounded * L, M, L));
    const float p = L * M, difference = M - L;
    fast_math::give(curvature, p * fmaf(bounded, difference, 2.0f));
    fast_math::give(third, p * fmaf(bounded, fmaf(-6.0f, p, 1.0f), 3.0f * difference));
  }
};

// max(z, 0) + log(1 + e), e = exp(-|z|); sigma' = L = 1 / (1 + exp(-z)), sigma'' = L (1 - L).
template <>
struct FastBase<Softplus> {
  static __device__ __forceinline__ void evaluate(float z, float* value, float* slope, float* curvature,
                                                  float* third = nullptr) {
    const float e = exp2_approx(-fast_math::kLog2E * absolute(z));
    fast_math::give(value, fmaf(fast_math::kLn2, fast_math::log2_approx(1.0f + e), keep_above(z, 0.0f)));
    if (slope == nullptr && curvature == nullptr && third == nullptr) return;
    const float above = reciprocal_approx(1.0f + e), below = e * above;
    fast_math::give(slope, z > 0.0f ? above : below);
    fast_math::give(curvature, above * below);
    fast_math::give(third, with_sign(above * below * (above - below), -z));
  }
};

// As pointwise, which has one power of two and no inverse; sigma' = 2 / sqrt(pi) exp(-z^2).
template <>
struct FastBase<Erf> {
  static __device__ __forceinline__ void evaluate(float z, float* value, float* slope, float* curvature,
                                                  float* third = nullptr) {
    if (value != nullptr) {
      const Pair<float> sum = float_math::Functions<Erf>::tail(z);
      *value = sum.high + sum.low;
    }
    if (slope == nullptr && curvature == nullptr && third == nullptr) return;
    const float a = keep_below(absolute(z), 10.0f), d = 1.12837917f * exp2_approx(a * a * -fast_math::kLog2E);
    fast_math::give(slope, d);
    fast_math::give(curvature, -2.0f * with_sign(a, z) * d);
    fast_math::give(third, fmaf(4.0f * a, a, -2.0f) * d);
  }
};

// z = n pi + r with |r| <= pi / 2: sin(z) = (-1)^n sin(r), cos(z) = (-1)^n cos(r).
template <>
struct FastBase<Sin> {
  static __device__ __forceinline__ void evaluate(float z, float* value, float* slope, float* curvature,
                                                  float* third = nullptr) {
    const float sine[] = {float_math::kTurnCore[0], float_math::kTurnCore[1], float_math::kTurnCore[2],
                          float_math::kTurnCore[3]};
    const float cosine[] = {1.0f, -4.999993202e-01f, 4.166398152e-02f, -1.385586244e-03f, 2.319282468e-05f};  // 5e-8
    const float shifted = fmaf(z, 0.318309886f, float_math::kMagic), n = shifted - float_math::kMagic;
    float r = fmaf(-n, 1.50995788e-07f, fmaf(-n, 3.1415925f, z)), parity = shifted;
    if (absolute(z) > float_math::kFastTurnLimit) {
      constexpr double kMagic = FloatTraits<double>::kRoundingMagic;
      const double wide = fma(double(z), 0.31830988618379067154, kMagic), turns = wide - kMagic;
      r = float(fma(-turns, 0x1.1a62633145c07p-53, fma(-turns, 0x1.921fb54442d18p1, double(z))));
      r = keep_below(keep_above(r, -1.5707963f), 1.5707963f);  // where a float knows no turns any more
      parity = bit_cast<float>(uint32_t(bit_cast<uint64_t>(wide)));
    }
    const float u = r * r;
    const float v = float_math::flipped(fmaf(r * u, polynomial(sine, u), r), parity);
    fast_math::give(value, v);
    const float c = float_math::flipped(polynomial(cosine, u), parity);
    fast_math::give(slope, c);
    fast_math::give(curvature, -v);
    fast_math::give(third, -c);
  }
};

}  // namespace cuda
}  // namespace hrta
