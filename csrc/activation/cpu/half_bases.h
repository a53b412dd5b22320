// sigma_s and its slope for float16 and bfloat16 on the CPU, a SIMD register at a time: float arithmetic within 2^-8
// ulp of the half type before the one rounding, as half_bases.cuh on a GPU. The value at the larger of its two terms,
// so that tails keep their digits; the slope at max(|s|, |1 - s|), so that it needs no exponential where a quotient of
// polynomials does.
#pragma once

#include "math/bases.h"
#include "math/half_polynomials.h"
#include "simd/half.h"
#include "simd/lanes.h"

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {

template <>
struct HalfMath<cpu::Vector<float>> {
  static HRTA_INLINE cpu::Vector<float> fused(cpu::Vector<float> a, cpu::Vector<float> b, cpu::Vector<float> c) {
    return cpu::fused(a, b, c);
  }
};

namespace cpu_half {

using V = cpu::Vector<float>;
using Bits = cpu::Vector<uint32_t>;
using cpu::fused;
using cpu::reciprocal;

HRTA_INLINE V all(float value) {
  return cpu::broadcast(value);
}

// min and max that keep the NaN of x, in one instruction.
#if defined(__AVX512F__)
HRTA_INLINE V keep_below(V x, V bound) {
  return V(_mm512_min_ps(__m512(bound), __m512(x)));
}
HRTA_INLINE V keep_above(V x, V bound) {
  return V(_mm512_max_ps(__m512(bound), __m512(x)));
}
#elif defined(__AVX__)
HRTA_INLINE V keep_below(V x, V bound) {
  return V(_mm256_min_ps(__m256(bound), __m256(x)));
}
HRTA_INLINE V keep_above(V x, V bound) {
  return V(_mm256_max_ps(__m256(bound), __m256(x)));
}
#else
HRTA_INLINE V keep_below(V x, V bound) {
  return x > bound ? bound : x;
}
HRTA_INLINE V keep_above(V x, V bound) {
  return x < bound ? bound : x;
}
#endif

HRTA_INLINE V clamp(V x, float bound) {
  return keep_below(keep_above(x, all(-bound)), all(bound));
}

HRTA_INLINE V magnitude(V x) {
  return V(Bits(x) & 0x7fffffffu);
}

// n / d, within two ulp of float.
HRTA_INLINE V ratio(V n, V d) {
#if defined(__AVX512F__)
  return n * reciprocal(d);
#else
  return n / d;
#endif
}

constexpr float kLog2E = 0x1.715476p0f;
constexpr float kMagic = 0x1.8p23f;  // adding it rounds to an integer, kept in the low bits

#if defined(__AVX512F__)
// 2^y, relative error 2^-23.
HRTA_INLINE V exp2_of(V y) {
  const V f = V(_mm512_reduce_ps(__m512(y), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));  // y - floor(y)
  return cpu::times_power_of_two(half_polynomial(kExp2OfFraction, f), y);                 // which takes floor(y)
}
#else
// 2^y for -126 <= y <= 127, relative error 2^-23.
HRTA_INLINE V exp2_of(V y) {
  const float core[] = {1.000000072e+00f, 6.931469669e-01f, 2.402211974e-01f,
                        5.550713466e-02f, 9.675540837e-03f, 1.327640980e-03f};
  const V shifted = y + kMagic, f = y - (shifted - kMagic);
  return V(Bits(half_polynomial(core, f)) + (Bits(shifted) << 23));
}
#endif

// s as the arithmetic wants it: of one vector, the same everywhere or one per element.
struct Parameter {
  V s, linear;
  V limit;  // where (1 - s) x cuts x off: s = 1 gives 0 at infinite x too

  static HRTA_INLINE Parameter of(V s, V linear) {
    return {s, linear, linear == V{} ? all(FloatTraits<float>::kLargest) : all(INFINITY)};
  }
};

HRTA_INLINE V line(V x, const Parameter& h) {
  return h.linear * keep_below(keep_above(x, -h.limit), h.limit);
}

// max(x, 0) + (1 - s) min(x, 0)
HRTA_INLINE V rectifier_line(V x, const Parameter& h) {
  return (x > 0.0f ? all(1.0f) : h.linear) * keep_above(x, -h.limit);
}

template <typename Base>
struct Functions {  // value(x, h), slope(x, h)
  static constexpr bool kServes = false;
};

template <>
struct Functions<Relu> {
  static constexpr bool kServes = true;
  static HRTA_INLINE V value(V x, const Parameter& h) { return rectifier_line(x, h); }
  static HRTA_INLINE V slope(V x, const Parameter& h) { return x > 0.0f ? all(1.0f) : h.linear; }
};

HRTA_INLINE V tanh_of(V x) {
  const V b = clamp(x, kHalfTanhLimit), u = b * b;
  return ratio(b * half_tanh_numerator(u), half_tanh_denominator(u));
}

template <>
struct Functions<Tanh> {
  static constexpr bool kServes = true;
  static HRTA_INLINE V value(V x, const Parameter& h) { return fused(h.s, tanh_of(x), line(x, h)); }
  static HRTA_INLINE V slope(V x, const Parameter& h) {  // 1 - s + s (1 - tanh(x)^2)
    const V t = tanh_of(x);
    return fused(h.s, fused(-t, t, all(1.0f)), h.linear);
  }
};

template <>
struct Functions<Gelu> {
  static constexpr bool kServes = true;
#if defined(__AVX512F__)
  static HRTA_INLINE V value(V x, const Parameter& h) {  // x (1 - s + s Phi(x)) where no tail needs its digits
    const V first = all(kHalfNormalPieces.first);
    const V near = x * fused(h.s, cpu::near_normal(kHalfNormalPieces, x), h.linear);
    if (_mm512_cmp_ps_mask(__m512(x), __m512(first), _CMP_LE_OQ) == 0) return near;
    return x <= first ? far_value(x, h) : near;
  }
#else
  static HRTA_INLINE V value(V x, const Parameter& h) { return far_value(x, h); }
#endif
  // -a Phi(-a) at a = |x|; the exponential is 2^16 times too large, lest it be denormal.
  static HRTA_INLINE V far_value(V x, const Parameter& h) {
    constexpr float k = kHalfNormalTailCentre;
    const V a = keep_below(magnitude(x), all(14.0f)), inverse = reciprocal(a + k);
    const V q = half_normal_tail_core(fused(all(-2.0f * k), inverse, all(1.0f)));
    const V e = exp2_of(fused(a * a, all(-0.5f * kLog2E), all(16.0f)));
    return fused(-0x1p-16f * h.s, (a * q) * (inverse * e), rectifier_line(x, h));
  }
  static HRTA_INLINE V slope(V x, const Parameter& h) {  // Phi(x) + x phi(x) - 1/2 is odd
    const float numerator[] = {7.978853454e-01f, -3.097536537e-02f, 1.422606918e-02f,
                               1.975119058e-05f, 3.589929450e-05f,  1.921673713e-07f};
    const float denominator[] = {
        1.0f, 2.945195697e-01f, 4.098373916e-02f, 3.522637338e-03f, 1.920517815e-04f, 8.928173819e-06f};
    const V b = clamp(x, 5.6f), u = b * b;
    const V odd = ratio(b * half_polynomial(numerator, u), half_polynomial(denominator, u));
    return fused(h.s, odd, fused(all(0.5f), h.s, h.linear));
  }
};

template <>
struct Functions<Silu> {
  static constexpr bool kServes = true;
#if defined(__AVX512F__)
  // x (1 - s + s l) with l = 1 / (1 + exp(-x)), here 2^24 times too large, lest it be denormal. s = 1 wants an x that l
  // brings to nothing.
  static HRTA_INLINE V value(V x, const Parameter& h) {
    const V above = keep_above(x, h.linear == V{} ? all(-200.0f) : all(-INFINITY));
    const V e = exp2_of(keep_below(fused(x, all(-kLog2E), all(-24.0f)), all(125.0f)));
    return above * fused(0x1p-24f * h.s, reciprocal(e + 0x1p-24f), h.linear);
  }
#else
  static HRTA_INLINE V value(V x, const Parameter& h) {  // tail -a e / (1 + e), e = exp(-a), here 2^24 times too large
    const V a = keep_below(magnitude(x), all(100.0f));
    const V e = exp2_of(fused(a, all(-kLog2E), all(24.0f)));
    const V tail = ratio(a * e, fused(e, all(0x1p-24f), all(1.0f)));
    return fused(-0x1p-24f * h.s, tail, rectifier_line(x, h));
  }
#endif
  static HRTA_INLINE V slope(V x, const Parameter& h) {  // less 1/2 it is odd
    const float numerator[] = {5.000036468e-01f, 2.679864523e-02f, 1.092750991e-03f,
                               4.716602348e-06f, 6.831951369e-10f, 3.989300137e-13f};
    const float denominator[] = {1.0f, 2.202805009e-01f, 1.388825912e-02f, 1.935148455e-04f, 2.219137243e-07f};
    const V b = clamp(x, 17.6f), u = b * b;
    const V odd = ratio(b * half_polynomial(numerator, u), half_polynomial(denominator, u));
    return fused(h.s, odd, fused(all(0.5f), h.s, h.linear));
  }
};

template <>
struct Functions<Softplus> {
  static constexpr bool kServes = true;
  static HRTA_INLINE V value(V x, const Parameter& h) {  // max(x, 0) + log(1 + e), e = exp(-|x|)
    const V e = exp2_of(fused(keep_below(magnitude(x), all(100.0f)), all(-kLog2E), all(24.0f)));
    return fused(0x1p-24f * h.s, e * half_log1p_core(0x1p-24f * e), rectifier_line(x, h));
  }
  static HRTA_INLINE V slope(V x, const Parameter& h) {  // logistic(x) - 1/2 is odd
    const float numerator[] = {2.499998480e-01f, 7.959442711e-03f, 4.250645119e-05f, 2.872857548e-08f,
                               -6.361464603e-12f};
    const float denominator[] = {1.0f, 1.151705325e-01f, 1.434394563e-03f, 3.123741894e-06f};
    const V b = clamp(x, 15.2f), u = b * b;
    const V odd = ratio(b * half_polynomial(numerator, u), half_polynomial(denominator, u));
    return fused(h.s, odd, fused(all(0.5f), h.s, h.linear));
  }
};

template <>
struct Functions<Erf> {
  static constexpr bool kServes = true;
  static HRTA_INLINE V value(V x, const Parameter& h) {
    const V b = clamp(x, kHalfErfLimit), u = b * b;
    return fused(h.s, ratio(b * half_erf_numerator(u), half_erf_denominator(u)), line(x, h));
  }
  static HRTA_INLINE V slope(V x, const Parameter& h) {
    const V b = clamp(x, 9.0f);
    return fused(1.12837916709551f * h.s, exp2_of(b * b * -kLog2E), h.linear);
  }
};

// Of |x| <= kFarTurn; the caller sees to the others.
constexpr float kFarTurn = 1e5f;

template <>
struct Functions<Sin> {
#if defined(__FMA__)
  static constexpr bool kServes = true;
#else
  static constexpr bool kServes = false;  // the steps of the reduction would be rounded twice
#endif
  // (-1)^n sin(r) of x = (n + half) pi + r with r in [-pi/2, pi/2].
  static HRTA_INLINE V reduced(V x, float half) {
    const V shifted = fused(x, all(0.318309886f), all(-half)) + kMagic, n = (shifted - kMagic) + half;
    V r = fused(-n, all(3.1415925f), x);
    r = fused(-n, all(1.50995788e-07f), r);
    r = fused(-n, all(1.07806051e-14f), r);
    return V(Bits(r * half_sin_core(r * r)) ^ Bits(shifted) << 31);
  }
  static HRTA_INLINE V value(V x, const Parameter& h) { return fused(h.s, reduced(x, 0.0f), line(x, h)); }
  static HRTA_INLINE V slope(V x, const Parameter& h) { return fused(-h.s, reduced(x, 0.5f), h.linear); }
};

}  // namespace cpu_half
}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
