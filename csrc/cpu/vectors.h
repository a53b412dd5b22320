// The widest vector of each SIMD level, for the few loops that the compiler does not shape well on its own.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../host_device.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kVectorRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kVectorRegisters = 16;
#else
constexpr int kVectorBytes = 16, kVectorRegisters = 16;
#endif

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;
template <typename T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <typename T>
HRTA_INLINE Vector<T> load_vector(const T* memory) {
  Vector<T> v;
  __builtin_memcpy(&v, memory, sizeof(v));
  return v;
}

template <typename T>
HRTA_INLINE void store_vector(T* memory, Vector<T> v) {
  __builtin_memcpy(memory, &v, sizeof(v));
}

template <typename T>
HRTA_INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

// a b + c, fused where the level has the instruction.
#if defined(__AVX512F__)
HRTA_INLINE Vector<float> multiply_add_vector(Vector<float> a, Vector<float> b, Vector<float> c) {
  return Vector<float>(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
}
HRTA_INLINE Vector<double> multiply_add_vector(Vector<double> a, Vector<double> b, Vector<double> c) {
  return Vector<double>(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
}
#elif defined(__AVX2__)
HRTA_INLINE Vector<float> multiply_add_vector(Vector<float> a, Vector<float> b, Vector<float> c) {
  return Vector<float>(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
}
HRTA_INLINE Vector<double> multiply_add_vector(Vector<double> a, Vector<double> b, Vector<double> c) {
  return Vector<double>(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
}
#else
template <typename V>
HRTA_INLINE V multiply_add_vector(V a, V b, V c) {
  return a * b + c;
}
#endif

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
