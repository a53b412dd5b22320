// Some SIMD registers of T as one number, for which csrc/math's formulas are good as they stand: every lane gets the
// scalar's bits. Several registers in flight hide the latency of each operation, and minimum, maximum and selection are
// single instructions, which GCC 12 does not make of a loop over scalars: a third off the time of gelu.
#pragma once

#include "simd/vector.h"

namespace hrta {

namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

template <typename T, int kRegisters>
struct Lanes {
  static constexpr int kCount = kRegisters * kLanes<T>;
  Vector<T> v[kRegisters];

  Lanes() = default;
  HRTA_INLINE explicit Lanes(T value) {
    for (int k = 0; k < kRegisters; ++k) v[k] = broadcast(value);
  }
};

// What a comparison of lanes gives.
template <typename T, int kRegisters>
struct LanesMask {
  decltype(Vector<T>{} < Vector<T>{}) v[kRegisters];
};

template <int kRegisters, typename T>
HRTA_INLINE Lanes<T, kRegisters> load_lanes(const T* memory) {
  Lanes<T, kRegisters> result;
  for (int k = 0; k < kRegisters; ++k) result.v[k] = load(memory + k * kLanes<T>);
  return result;
}

template <typename T, int kRegisters>
HRTA_INLINE void store(T* memory, Lanes<T, kRegisters> lanes) {
  for (int k = 0; k < kRegisters; ++k) store(memory + k * kLanes<T>, lanes.v[k]);
}

// Defines a function of lanes by what it does with register k.
#define HRTA_OF_LANES(Result, signature, register_k)                 \
  template <typename T, int kRegisters>                              \
  HRTA_INLINE Result<T, kRegisters> signature {                      \
    Result<T, kRegisters> result;                                    \
    for (int k = 0; k < kRegisters; ++k) result.v[k] = (register_k); \
    return result;                                                   \
  }
#define HRTA_LANES Lanes<T, kRegisters>

HRTA_OF_LANES(Lanes, operator+(HRTA_LANES a, HRTA_LANES b), a.v[k] + b.v[k])
HRTA_OF_LANES(Lanes, operator-(HRTA_LANES a, HRTA_LANES b), a.v[k] - b.v[k])
HRTA_OF_LANES(Lanes, operator*(HRTA_LANES a, HRTA_LANES b), a.v[k] * b.v[k])
HRTA_OF_LANES(Lanes, operator/(HRTA_LANES a, HRTA_LANES b), a.v[k] / b.v[k])
HRTA_OF_LANES(Lanes, operator-(HRTA_LANES a), -a.v[k])
HRTA_OF_LANES(LanesMask, operator<(HRTA_LANES a, HRTA_LANES b), a.v[k] < b.v[k])
HRTA_OF_LANES(LanesMask, operator>(HRTA_LANES a, HRTA_LANES b), a.v[k] > b.v[k])
HRTA_OF_LANES(LanesMask, operator==(HRTA_LANES a, HRTA_LANES b), a.v[k] == b.v[k])

// The functions of math/host_device.h.
HRTA_OF_LANES(Lanes, where(LanesMask<T, kRegisters> c, HRTA_LANES a, HRTA_LANES b), c.v[k] ? a.v[k] : b.v[k])
HRTA_OF_LANES(Lanes, multiply_add(HRTA_LANES a, HRTA_LANES b, HRTA_LANES c), fused(a.v[k], b.v[k], c.v[k]))
HRTA_OF_LANES(Lanes, at_most(HRTA_LANES x, HRTA_LANES bound), least(bound.v[k], x.v[k]))
HRTA_OF_LANES(Lanes, at_least(HRTA_LANES x, HRTA_LANES bound), greatest(bound.v[k], x.v[k]))
HRTA_OF_LANES(Lanes, absolute(HRTA_LANES x), with_bits<T>(bits_of<T>(x.v[k]) & ~kSignBit<T>))
HRTA_OF_LANES(Lanes, with_sign(HRTA_LANES x, HRTA_LANES y),
              with_bits<T>((bits_of<T>(x.v[k]) & ~kSignBit<T>) | (bits_of<T>(y.v[k]) & kSignBit<T>)))
HRTA_OF_LANES(Lanes, power_of_two(HRTA_LANES shifted, BitsOf<T> biased_exponent),
              with_bits<T>((bits_of<T>(shifted.v[k]) + biased_exponent) << (sizeof(T) == 4 ? 23 : 52)))
#if defined(__AVX512F__)
// 2^n as in math/elementary.h.
HRTA_OF_LANES(Lanes, scale_of(HRTA_LANES, HRTA_LANES n), n.v[k])
HRTA_OF_LANES(Lanes, scaled(HRTA_LANES x, HRTA_LANES n), times_power_of_two(x.v[k], n.v[k]))
#endif
#undef HRTA_LANES
#undef HRTA_OF_LANES

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu

inline namespace HRTA_SIMD_LEVEL {
template <typename T, int kRegisters>
struct ScalarOf<cpu::Lanes<T, kRegisters>> {
  using type = T;
};
}  // namespace HRTA_SIMD_LEVEL

}  // namespace hrta
