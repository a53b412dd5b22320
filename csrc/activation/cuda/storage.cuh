// Elements in memory and in registers: 16 bytes at a time where the address allows.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "math/half.h"
#include "types.h"

namespace hrta {
namespace cuda {

// The halves of a word, each rounded once: the first in the low bits.
template <typename Stored>
__device__ __forceinline__ uint32_t narrow_two(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  if constexpr (std::is_same_v<Stored, BFloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
#else
  Stored a, b;
  narrow(low, a);
  narrow(high, b);
  return uint32_t(a.bits) | uint32_t(b.bits) << 16;
#endif
}

__device__ __forceinline__ float widen_one(BFloat16 value) {
  return widen(value);
}

__device__ __forceinline__ float widen_one(Float16 value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  return widen(value);
#endif
}

// A stored type: what it is computed in, its elements in 16 bytes, and the way between.
template <typename Stored>
struct Storage {  // float16 and bfloat16
  using Computed = float;
  static constexpr int kLanes = 8;
  static __device__ __forceinline__ Computed load(const Stored& stored) { return widen_one(stored); }
  static __device__ __forceinline__ Stored store(Computed value) { return {uint16_t(narrow_two<Stored>(value, 0.0f))}; }
  static __device__ __forceinline__ void unpack(const uint4& raw, Computed (&values)[kLanes]) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      values[2 * k] = widen_one(Stored{uint16_t(words[k])});
      values[2 * k + 1] = widen_one(Stored{uint16_t(words[k] >> 16)});
    }
  }
  static __device__ __forceinline__ uint4 pack(const Computed (&v)[kLanes]) {
    return {narrow_two<Stored>(v[0], v[1]), narrow_two<Stored>(v[2], v[3]), narrow_two<Stored>(v[4], v[5]),
            narrow_two<Stored>(v[6], v[7])};
  }
};

template <typename T>
struct PlainStorage {
  using Computed = T;
  static constexpr int kLanes = 16 / int(sizeof(T));
  struct alignas(16) Vector {
    T values[kLanes];
  };
  static __device__ __forceinline__ T load(const T& stored) { return stored; }
  static __device__ __forceinline__ T store(T value) { return value; }
  static __device__ __forceinline__ void unpack(const uint4& raw, T (&values)[kLanes]) {
    const Vector vector = bit_cast<Vector>(raw);
#pragma unroll
    for (int j = 0; j < kLanes; ++j) values[j] = vector.values[j];
  }
  static __device__ __forceinline__ uint4 pack(const T (&values)[kLanes]) {
    Vector vector;
#pragma unroll
    for (int j = 0; j < kLanes; ++j) vector.values[j] = values[j];
    return bit_cast<uint4>(vector);
  }
};

template <>
struct Storage<float> : PlainStorage<float> {};
template <>
struct Storage<double> : PlainStorage<double> {};

template <typename Stored>
struct alignas(16) Elements {
  Stored values[Storage<Stored>::kLanes];
};

// The vector at `from`: in one access where it is `whole`, all there and on the 16-byte grid, else the `count` elements
// that are there, and zeros.
template <typename Stored>
__device__ __forceinline__ uint4 load_vector(const Stored* from, bool whole, int count) {
  if (whole) return *reinterpret_cast<const uint4*>(from);
  Elements<Stored> some{};
#pragma unroll
  for (int j = 0; j < Storage<Stored>::kLanes; ++j) {
    if (j < count) some.values[j] = from[j];
  }
  return bit_cast<uint4>(some);
}

template <typename Stored>
__device__ __forceinline__ void store_vector(const uint4& vector, bool whole, int count, Stored* to) {
  if (whole) {
    *reinterpret_cast<uint4*>(to) = vector;
    return;
  }
  const Elements<Stored> some = bit_cast<Elements<Stored>>(vector);
#pragma unroll
  for (int j = 0; j < Storage<Stored>::kLanes; ++j) {
    if (j < count) to[j] = some.values[j];
  }
}

// Calls body(a Stored) for the type's number.
template <typename Body>
void with_stored(ScalarKind dtype, const Body& body) {
  switch (dtype) {
    case ScalarKind::kFloat16: return body(Float16{});
    case ScalarKind::kBFloat16: return body(BFloat16{});
    case ScalarKind::kFloat32: return body(float{});
    case ScalarKind::kFloat64: return body(double{});
  }
}

// Whether all of the addresses allow accesses of 16 bytes; null does.
template <typename... Addresses>
bool on_grid(Addresses... addresses) {
  return ((reinterpret_cast<uintptr_t>(addresses) % 16 == 0) && ...);
}

}  // namespace cuda
}  // namespace hrta
