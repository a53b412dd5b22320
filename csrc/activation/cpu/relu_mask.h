// The lean passes of ReLU: the value with one bit per element, bit i % 8 of byte i / 8 for x_i > 0, and its backward.
// Bits are stored 64 at a time: small stores between those of whole lines cost a third of the time.
#pragma once

#include "math/homotopy.h"
#include "simd/vector.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

// Eight elements or more at a time, by instructions that GCC 12 does not find: a quarter off the time of 1e5 elements.
#if defined(__AVX512F__)
HRTA_INLINE uint32_t relu_and_bits(const float* x, float* y, float linear, float lowest) {
  const __m512 value = _mm512_loadu_ps(x);
  const __mmask16 positive = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_GT_OQ);
  const __m512 bounded = _mm512_max_ps(_mm512_set1_ps(lowest), value);  // max keeps the NaN of its second
  _mm512_storeu_ps(y, _mm512_mask_mul_ps(value, _knot_mask16(positive), bounded, _mm512_set1_ps(linear)));
  return _cvtmask16_u32(positive);
}
HRTA_INLINE uint32_t relu_and_bits(const double* x, double* y, double linear, double lowest) {
  const __m512d value = _mm512_loadu_pd(x);
  const __mmask8 positive = _mm512_cmp_pd_mask(value, _mm512_setzero_pd(), _CMP_GT_OQ);
  const __m512d bounded = _mm512_max_pd(_mm512_set1_pd(lowest), value);
  _mm512_storeu_pd(y, _mm512_mask_mul_pd(value, _knot_mask8(positive), bounded, _mm512_set1_pd(linear)));
  return _cvtmask8_u32(positive);
}
HRTA_INLINE void scale_by_bits(const float* grad, const uint8_t* mask, float* result, float linear) {
  uint16_t bits;
  memcpy(&bits, mask, 2);
  const __m512 g = _mm512_loadu_ps(grad);
  _mm512_storeu_ps(result, _mm512_mask_mul_ps(g, _cvtu32_mask16(uint16_t(~bits)), g, _mm512_set1_ps(linear)));
}
HRTA_INLINE void scale_by_bits(const double* grad, const uint8_t* mask, double* result, double linear) {
  const __m512d g = _mm512_loadu_pd(grad);
  _mm512_storeu_pd(result, _mm512_mask_mul_pd(g, _cvtu32_mask8(uint8_t(~*mask)), g, _mm512_set1_pd(linear)));
}
template <typename T>
constexpr int kMaskStep = kLanes<T>;
#elif defined(__AVX2__)
HRTA_INLINE uint32_t relu_and_bits(const float* x, float* y, float linear, float lowest) {
  const __m256 value = _mm256_loadu_ps(x);
  const __m256 positive = _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_GT_OQ);
  const __m256 bounded = _mm256_max_ps(_mm256_set1_ps(lowest), value);  // max keeps the NaN of its second
  _mm256_storeu_ps(y, _mm256_blendv_ps(_mm256_mul_ps(bounded, _mm256_set1_ps(linear)), value, positive));
  return uint32_t(_mm256_movemask_ps(positive));
}
HRTA_INLINE uint32_t relu_and_bits(const double* x, double* y, double linear, double lowest) {
  int bits = 0;
  for (int half = 0; half < 2; ++half) {
    const __m256d value = _mm256_loadu_pd(x + 4 * half);
    const __m256d positive = _mm256_cmp_pd(value, _mm256_setzero_pd(), _CMP_GT_OQ);
    const __m256d bounded = _mm256_max_pd(_mm256_set1_pd(lowest), value);
    _mm256_storeu_pd(y + 4 * half, _mm256_blendv_pd(_mm256_mul_pd(bounded, _mm256_set1_pd(linear)), value, positive));
    bits |= _mm256_movemask_pd(positive) << (4 * half);
  }
  return uint32_t(bits);
}
// The byte in every byte, and each lane's bit shifted to its sign, by which the blend goes.
HRTA_INLINE void scale_by_bits(const float* grad, const uint8_t* mask, float* result, float linear) {
  const __m256i shifts = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  const __m256 chosen = _mm256_castsi256_ps(_mm256_sllv_epi32(_mm256_set1_epi8(char(*mask)), shifts));
  const __m256 g = _mm256_loadu_ps(grad);
  _mm256_storeu_ps(result, _mm256_blendv_ps(_mm256_mul_ps(g, _mm256_set1_ps(linear)), g, chosen));
}
HRTA_INLINE void scale_by_bits(const double* grad, const uint8_t* mask, double* result, double linear) {
  const __m256i bytes = _mm256_set1_epi8(char(*mask));
  for (int half = 0; half < 2; ++half) {
    const __m256i shifts = half == 0 ? _mm256_setr_epi64x(7, 6, 5, 4) : _mm256_setr_epi64x(3, 2, 1, 0);
    const __m256d chosen = _mm256_castsi256_pd(_mm256_sllv_epi64(bytes, shifts));
    const __m256d g = _mm256_loadu_pd(grad + 4 * half);
    _mm256_storeu_pd(result + 4 * half, _mm256_blendv_pd(_mm256_mul_pd(g, _mm256_set1_pd(linear)), g, chosen));
  }
}
template <typename T>
constexpr int kMaskStep = 8;
#else
template <typename T>
uint32_t relu_and_bits(const T* x, T* y, T linear, T lowest) {
  uint32_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    bits |= uint32_t(x[i] > T(0)) << i;
    y[i] = x[i] > T(0) ? x[i] : linear * at_least(x[i], lowest);
  }
  return bits;
}
template <typename T>
void scale_by_bits(const T* grad, const uint8_t* mask, T* result, T linear) {
  for (int i = 0; i < 8; ++i) result[i] = ((*mask >> i) & 1) != 0 ? grad[i] : linear * grad[i];
}
template <typename T>
constexpr int kMaskStep = 8;
#endif

constexpr int kMaskWord = 64;  // elements

template <typename T>
HRTA_INLINE uint64_t relu_and_word(const T* x, T* y, T linear, T lowest) {
  uint64_t word = 0;
  for (int i = 0; i < kMaskWord; i += kMaskStep<T>) word |= uint64_t(relu_and_bits(x + i, y + i, linear, lowest)) << i;
  return word;
}

// y may be x, and result grad.
template <typename T>
void relu_mask_block(const T* x, T* y, uint8_t* mask, int n, Homotopy<T> h) {
  const T lowest = h.linear == T(0) ? -FloatTraits<T>::kLargest : -T(INFINITY);  // 0 times -inf is to be 0
  int i = 0;
  for (; i + kMaskWord <= n; i += kMaskWord) {
    const uint64_t word = relu_and_word(x + i, y + i, h.linear, lowest);
    memcpy(mask + i / 8, &word, sizeof(word));
  }
  if (i == n) return;
  T padded[kMaskWord] = {}, values[kMaskWord];
  memcpy(padded, x + i, size_t(n - i) * sizeof(T));
  const uint64_t word = relu_and_word(padded, values, h.linear, lowest);
  memcpy(y + i, values, size_t(n - i) * sizeof(T));
  memcpy(mask + i / 8, &word, size_t(n - i + 7) / 8);
}

template <typename T>
void masked_scale(const T* grad, const uint8_t* mask, T* result, int n, T linear) {
  int i = 0;
  for (; i + kMaskStep<T> <= n; i += kMaskStep<T>) scale_by_bits(grad + i, mask + i / 8, result + i, linear);
  if (i == n) return;
  T padded[kMaskStep<T>] = {}, values[kMaskStep<T>];
  uint8_t bits[2] = {};
  memcpy(padded, grad + i, size_t(n - i) * sizeof(T));
  memcpy(bits, mask + i / 8, size_t(n - i + 7) / 8);
  scale_by_bits(padded, bits, values, linear);
  memcpy(result + i, values, size_t(n - i) * sizeof(T));
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
