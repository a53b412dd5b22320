// Polynomials behind the bases of float16 and bfloat16, for a float or a vector of floats: errors of some 2^-20, where
// the promise is 2^-8 ulp of the half type before the one rounding. They are those that serve a GPU and the CPU alike.
#pragma once

#include "math/host_device.h"

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {
// a b + c for the F of these polynomials; simd/half.h has that of a vector.
template <typename F>
struct HalfMath {
  static HRTA_INLINE F fused(F a, F b, F c) { return multiply_add(a, b, c); }
};

// c[0] + c[1] x + ...; F is float or a vector of floats.
template <typename F, int kCount>
HRTA_INLINE F half_polynomial(const float (&c)[kCount], F x) {
  F p = F{} + c[kCount - 1];
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int k = kCount - 2; k >= 0; --k) p = HalfMath<F>::fused(p, x, F{} + c[k]);
  return p;
}

// tanh(x) = x numerator / denominator in u = x^2, |x| <= 7.6, beyond which it is 1.
constexpr float kHalfTanhLimit = 7.6f;
template <typename F>
HRTA_INLINE F half_tanh_numerator(F u) {
  const float c[] = {9.999998808e-01f, 1.274637580e-01f, 2.731366083e-03f, 7.430540791e-06f, -6.639425898e-09f};
  return half_polynomial(c, u);
}
template <typename F>
HRTA_INLINE F half_tanh_denominator(F u) {
  const float c[] = {1.0f, 4.607959390e-01f, 2.299828082e-02f, 2.012756304e-04f};
  return half_polynomial(c, u);
}

// erf(x) = x numerator / denominator in u = x^2, |x| <= 3.7.
constexpr float kHalfErfLimit = 3.7f;
template <typename F>
HRTA_INLINE F half_erf_numerator(F u) {
  const float c[] = {1.128378987e+00f, 3.228721917e-01f, 6.643050909e-02f,
                     8.511838503e-03f, 2.210960811e-04f, -1.342928726e-06f};
  return half_polynomial(c, u);
}
template <typename F>
HRTA_INLINE F half_erf_denominator(F u) {
  const float c[] = {1.0f, 6.194646358e-01f, 1.653958708e-01f, 2.446736954e-02f, 2.006826224e-03f};
  return half_polynomial(c, u);
}

// (a + k) Phi(-a) exp(a^2 / 2) in t = (a - k) / (a + k), 0 <= a <= 14.
constexpr float kHalfNormalTailCentre = 2.75f;
template <typename F>
HRTA_INLINE F half_normal_tail_core(F t) {
  const float c[] = {7.189862132e-01f,  -4.743595719e-01f, 1.823253334e-01f, -1.646146923e-02f,
                     -1.630329154e-02f, 2.851009835e-03f,  2.022683620e-03f};
  return half_polynomial(c, t);
}

// log(1 + e) / e, 0 <= e <= 1.
template <typename F>
HRTA_INLINE F half_log1p_core(F e) {
  const float c[] = {9.999998212e-01f, -4.999740422e-01f, 3.327547908e-01f, -2.449546307e-01f,
                     1.774524003e-01f, -1.076816991e-01f, 4.408962280e-02f, -8.539206348e-03f};
  return half_polynomial(c, e);
}

// sin(r) / r in u = r^2, |r| <= pi / 2.
template <typename F>
HRTA_INLINE F half_sin_core(F u) {
  const float c[] = {9.999990463e-01f, -1.666555405e-01f, 8.311890997e-03f, -1.848787069e-04f};
  return half_polynomial(c, u);
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
