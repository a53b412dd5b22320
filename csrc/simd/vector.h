// One SIMD register of T and the few operations that GCC's vector types lack. Each level has its own width.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "math/host_device.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kVectorRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kVectorRegisters = 16;
#else
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 16;
#endif

template <typename T>
struct VectorTypes {
  typedef T Register __attribute__((vector_size(kVectorBytes)));
  typedef T InMemory __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};

template <typename T>
using Vector = typename VectorTypes<T>::Register;

template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
template <typename T>
constexpr BitsOf<T> kSignBit = BitsOf<T>(1) << (8 * sizeof(T) - 1);
template <typename T>
using BitVector = typename VectorTypes<BitsOf<T>>::Register;

template <typename T>
HRTA_INLINE BitVector<T> bits_of(Vector<T> v) {
  return BitVector<T>(v);
}
template <typename T>
HRTA_INLINE Vector<T> with_bits(BitVector<T> bits) {
  return Vector<T>(bits);
}

template <typename T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <typename T>
HRTA_INLINE Vector<T> load(const T* memory) {
  return *reinterpret_cast<const typename VectorTypes<T>::InMemory*>(memory);
}

template <typename T>
HRTA_INLINE void store(T* memory, Vector<T> v) {
  *reinterpret_cast<typename VectorTypes<T>::InMemory*>(memory) = v;
}

template <typename T>
HRTA_INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};  // x - 0 is x for every x, so this is one broadcast
}

#if defined(__AVX512F__)
HRTA_INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
  return Vector<float>(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
}
HRTA_INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
  return Vector<double>(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
}
#elif defined(__FMA__)
HRTA_INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
  return Vector<float>(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
}
HRTA_INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
  return Vector<double>(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
}
#else
// a b + c, in two roundings where there is no fused instruction.
template <typename V>
HRTA_INLINE V fused(V a, V b, V c) {
  return a * b + c;
}
#endif

// 1 / d and n / d to an ulp, for d from 1e-30 to 1e30 and finite n.
#if defined(__AVX512F__)
HRTA_INLINE Vector<float> reciprocal(Vector<float> d) {
  const Vector<float> guess = Vector<float>(_mm512_rcp14_ps(__m512(d)));
  return fused(fused(-guess, d, broadcast(1.0f)), guess, guess);
}
HRTA_INLINE Vector<float> divided(Vector<float> n, Vector<float> d) {
  const Vector<float> guess = Vector<float>(_mm512_rcp14_ps(__m512(d))), q = n * guess;
  return fused(-fused(q, d, -n), guess, q);  // -0 stays what it is
}
#else
HRTA_INLINE Vector<float> reciprocal(Vector<float> d) {
  return 1.0f / d;
}
#endif

// |x| with the sign of y.
#if defined(__AVX512F__)
HRTA_INLINE Vector<float> signed_as(Vector<float> x, Vector<float> y) {  // bit by bit: of the sign bit ? y : x
  return Vector<float>(_mm512_ternarylogic_epi32(__m512i(x), __m512i(y), _mm512_set1_epi32(int(0x80000000u)), 0xd8));
}
HRTA_INLINE Vector<double> signed_as(Vector<double> x, Vector<double> y) {
  return Vector<double>(
      _mm512_ternarylogic_epi64(__m512i(x), __m512i(y), _mm512_set1_epi64(int64_t(kSignBit<double>)), 0xd8));
}
#else
HRTA_INLINE Vector<float> signed_as(Vector<float> x, Vector<float> y) {
  return with_bits<float>((bits_of<float>(x) & ~kSignBit<float>) | (bits_of<float>(y) & kSignBit<float>));
}
HRTA_INLINE Vector<double> signed_as(Vector<double> x, Vector<double> y) {
  return with_bits<double>((bits_of<double>(x) & ~kSignBit<double>) | (bits_of<double>(y) & kSignBit<double>));
}
#endif

// a < b ? a : b and a > b ? a : b, with the instructions' own rule: b where one is NaN, or both are zero.
#if defined(__AVX512F__)
HRTA_INLINE Vector<float> least(Vector<float> a, Vector<float> b) {
  return Vector<float>(_mm512_min_ps(__m512(a), __m512(b)));
}
HRTA_INLINE Vector<double> least(Vector<double> a, Vector<double> b) {
  return Vector<double>(_mm512_min_pd(__m512d(a), __m512d(b)));
}
HRTA_INLINE Vector<float> greatest(Vector<float> a, Vector<float> b) {
  return Vector<float>(_mm512_max_ps(__m512(a), __m512(b)));
}
HRTA_INLINE Vector<double> greatest(Vector<double> a, Vector<double> b) {
  return Vector<double>(_mm512_max_pd(__m512d(a), __m512d(b)));
}
// x 2^n, n an integer; rounded once, to a denormal number too.
HRTA_INLINE Vector<float> times_power_of_two(Vector<float> x, Vector<float> n) {
  return Vector<float>(_mm512_scalef_ps(__m512(x), __m512(n)));
}
HRTA_INLINE Vector<double> times_power_of_two(Vector<double> x, Vector<double> n) {
  return Vector<double>(_mm512_scalef_pd(__m512d(x), __m512d(n)));
}
#elif defined(__AVX2__)
HRTA_INLINE Vector<float> least(Vector<float> a, Vector<float> b) {
  return Vector<float>(_mm256_min_ps(__m256(a), __m256(b)));
}
HRTA_INLINE Vector<double> least(Vector<double> a, Vector<double> b) {
  return Vector<double>(_mm256_min_pd(__m256d(a), __m256d(b)));
}
HRTA_INLINE Vector<float> greatest(Vector<float> a, Vector<float> b) {
  return Vector<float>(_mm256_max_ps(__m256(a), __m256(b)));
}
HRTA_INLINE Vector<double> greatest(Vector<double> a, Vector<double> b) {
  return Vector<double>(_mm256_max_pd(__m256d(a), __m256d(b)));
}
#else
template <typename V>
HRTA_INLINE V least(V a, V b) {
  return a < b ? a : b;
}
template <typename V>
HRTA_INLINE V greatest(V a, V b) {
  return a > b ? a : b;
}
#endif

#if defined(__AVX512F__)
// Masked instructions: a compare and one operation, where GCC 12 makes a blend besides.
HRTA_INLINE Vector<float> add_where_active(Vector<float> z, Vector<float> sum, Vector<float> term) {
  const __mmask16 active = _mm512_cmp_ps_mask(__m512(z), _mm512_setzero_ps(), _CMP_NLE_UQ);
  return Vector<float>(_mm512_mask_add_ps(__m512(sum), active, __m512(sum), __m512(term)));
}
HRTA_INLINE Vector<double> add_where_active(Vector<double> z, Vector<double> sum, Vector<double> term) {
  const __mmask8 active = _mm512_cmp_pd_mask(__m512d(z), _mm512_setzero_pd(), _CMP_NLE_UQ);
  return Vector<double>(_mm512_mask_add_pd(__m512d(sum), active, __m512d(sum), __m512d(term)));
}
HRTA_INLINE Vector<float> scale_where_not_positive(Vector<float> z, Vector<float> y, Vector<float> factor) {
  const __mmask16 below = _mm512_cmp_ps_mask(__m512(z), _mm512_setzero_ps(), _CMP_LE_OQ);
  return Vector<float>(_mm512_mask_mul_ps(__m512(y), below, __m512(y), __m512(factor)));
}
HRTA_INLINE Vector<double> scale_where_not_positive(Vector<double> z, Vector<double> y, Vector<double> factor) {
  const __mmask8 below = _mm512_cmp_pd_mask(__m512d(z), _mm512_setzero_pd(), _CMP_LE_OQ);
  return Vector<double>(_mm512_mask_mul_pd(__m512d(y), below, __m512d(y), __m512d(factor)));
}
HRTA_INLINE Vector<float> zero_where_negative(Vector<float> z) {
  return Vector<float>(_mm512_max_ps(_mm512_setzero_ps(), __m512(z)));  // max keeps the NaN of its second
}
HRTA_INLINE Vector<double> zero_where_negative(Vector<double> z) {
  return Vector<double>(_mm512_max_pd(_mm512_setzero_pd(), __m512d(z)));
}
HRTA_INLINE double sum_of_lanes(Vector<float> v) {
  return _mm512_reduce_add_ps(__m512(v));
}
HRTA_INLINE double sum_of_lanes(Vector<double> v) {
  return _mm512_reduce_add_pd(__m512d(v));
}
#else
// sum + term where z > 0 or NaN, else sum: a sample that is NaN must show in every gradient.
template <typename V>
HRTA_INLINE V add_where_active(V z, V sum, V term) {
  return sum + (z <= V{} ? V{} : term);
}

// factor y where z <= 0, else y; also at z = NaN.
template <typename V>
HRTA_INLINE V scale_where_not_positive(V z, V y, V factor) {
  return z <= V{} ? y * factor : y;
}

// max(z, 0) that keeps NaN.
template <typename V>
HRTA_INLINE V zero_where_negative(V z) {
  return z < V{} ? V{} : z;
}

// In a fixed order, as a tree.
template <typename V>
HRTA_INLINE double sum_of_lanes(V v) {
  constexpr int kCount = int(sizeof(V) / sizeof(v[0]));
  auto width = v;
  for (int half = kCount / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) width[i] += width[i + half];
  }
  return width[0];
}
#endif

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
