// float16 and bfloat16 in memory, two SIMD registers of float at a time, with the level's conversions: F16C and its
// AVX-512 form for float16, integer instructions for bfloat16 (vcvtneps2bf16 would flush denormal numbers).
#pragma once

#include "math/half.h"
#include "simd/vector.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

constexpr int kHalfStep = 2 * kLanes<float>;  // elements

struct Two {
  Vector<float> a, b;
};

// The 2 kCount halves that lie in the high parts of 2 kCount numbers of 32 bits; the order is that of memory.
#if defined(__AVX512F__)
#define HRTA_HIGH_PARTS                                                                                              \
  1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, \
      61, 63
#elif defined(__AVX2__)
#define HRTA_HIGH_PARTS 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#else
#define HRTA_HIGH_PARTS 1, 3, 5, 7, 9, 11, 13, 15
#endif

#if defined(__AVX512F__)
HRTA_INLINE Vector<float> load_widened(const BFloat16* memory) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(memory));
  return Vector<float>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
#elif defined(__AVX2__)
HRTA_INLINE Vector<float> load_widened(const BFloat16* memory) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(memory));
  return Vector<float>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
#else
HRTA_INLINE Vector<float> load_widened(const BFloat16* memory) {
  typedef uint16_t Half __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
  return Vector<float>(__builtin_convertvector(*reinterpret_cast<const Half*>(memory), Vector<uint32_t>) << 16);
}
#endif

// Rounded to the nearest, ties to even, by an addition of just below half an ulp. A NaN that the addition would make
// something else has bits in its low half; those that arithmetic on widened numbers gives have none.
HRTA_INLINE Vector<uint32_t> rounded_to_bfloat16(Vector<float> v) {
  const Vector<uint32_t> bits = Vector<uint32_t>(v);
#if defined(__AVX512F__)  // an instruction less
  const __mmask16 odd = _mm512_test_epi32_mask(__m512i(bits), _mm512_set1_epi32(0x10000));
  return bits + Vector<uint32_t>(_mm512_mask_blend_epi32(odd, _mm512_set1_epi32(0x7fff), _mm512_set1_epi32(0x8000)));
#else
  return bits + (((bits >> 16) & 1u) + 0x7fffu);
#endif
}

HRTA_INLINE void store_two(BFloat16* memory, Two v) {
  typedef uint16_t Halves __attribute__((vector_size(kVectorBytes), aligned(2), may_alias));
  const Vector<uint16_t> a = Vector<uint16_t>(rounded_to_bfloat16(v.a)), b = Vector<uint16_t>(rounded_to_bfloat16(v.b));
  *reinterpret_cast<Halves*>(memory) = __builtin_shufflevector(a, b, HRTA_HIGH_PARTS);
}
#undef HRTA_HIGH_PARTS

#if defined(__AVX512F__)
HRTA_INLINE Vector<float> load_widened(const Float16* memory) {
  return Vector<float>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(memory))));
}
HRTA_INLINE void store_narrowed(Float16* memory, Vector<float> v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(memory), _mm512_cvtps_ph(__m512(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
HRTA_INLINE Vector<float> load_widened(const Float16* memory) {
  return Vector<float>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(memory))));
}
HRTA_INLINE void store_narrowed(Float16* memory, Vector<float> v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(memory), _mm256_cvtps_ph(__m256(v), _MM_FROUND_TO_NEAREST_INT));
}
#else
inline Vector<float> load_widened(const Float16* memory) {
  float values[kLanes<float>];
  for (int i = 0; i < kLanes<float>; ++i) values[i] = widen(memory[i]);
  return load(values);
}
inline void store_narrowed(Float16* memory, Vector<float> v) {
  float values[kLanes<float>];
  store(values, v);
  for (int i = 0; i < kLanes<float>; ++i) narrow(values[i], memory[i]);
}
#endif

HRTA_INLINE void store_two(Float16* memory, Two v) {
  store_narrowed(memory, v.a);
  store_narrowed(memory + kLanes<float>, v.b);
}

template <typename Stored>
HRTA_INLINE Two load_two(const Stored* memory) {
  return {load_widened(memory), load_widened(memory + kLanes<float>)};
}

template <typename Stored>
void widen_block(const Stored* memory, float* block, int n) {
  int i = 0;
  for (; i + kLanes<float> <= n; i += kLanes<float>) store(block + i, load_widened(memory + i));
  for (; i < n; ++i) block[i] = widen(memory[i]);
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
