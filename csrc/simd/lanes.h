// Some SIMD registers of T as one number, for which csrc/math's formulas are good as they stand: every lane gets the
// scalar's bits. Several registers in flight hide the latency of each operation, and minimum, maximum and selection are
// single instructions, which GCC 12 does not make of a loop over scalars: a third off the time of gelu.
#pragma once

#include "math/bases.h"
#include "math/pieces.h"
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
HRTA_OF_LANES(Lanes, with_sign(HRTA_LANES x, HRTA_LANES y), signed_as(x.v[k], y.v[k]))
HRTA_OF_LANES(Lanes, power_of_two(HRTA_LANES shifted, BitsOf<T> biased_exponent),
              with_bits<T>((bits_of<T>(shifted.v[k]) + biased_exponent) << (sizeof(T) == 4 ? 23 : 52)))
#if defined(__AVX512F__)
// 2^n as in math/elementary.h.
HRTA_OF_LANES(Lanes, scale_of(HRTA_LANES, HRTA_LANES n), n.v[k])
HRTA_OF_LANES(Lanes, scaled(HRTA_LANES x, HRTA_LANES n), times_power_of_two(x.v[k], n.v[k]))
#endif
#undef HRTA_LANES
#undef HRTA_OF_LANES

// Whether some functions of T have tables in registers below.
template <typename T>
constexpr bool kTablesOf = kVectorBytes == 64 && sizeof(T) == 4;

// Of numbers, which the functions above would hide.
using hrta::absolute;
using hrta::divided;
using hrta::multiply_add;

// coefficient[0] + coefficient[1] x + ..., even and odd powers of all but the first side by side: half the latency of
// one chain, and no more rounding at the end.
template <typename T, int kRegisters, int kCount>
HRTA_INLINE Lanes<T, kRegisters> polynomial(const T (&coefficient)[kCount], Lanes<T, kRegisters> x) {
  using V = Lanes<T, kRegisters>;
  const V square = x * x;
  V last(coefficient[kCount - 1]), before(coefficient[kCount - 2]);
  for (int d = kCount - 3; d >= 2; d -= 2) {
    last = multiply_add(last, square, V(coefficient[d]));
    before = multiply_add(before, square, V(coefficient[d - 1]));
  }
  const V rest = kCount % 2 != 0 ? multiply_add(last, x, before)
                                 : multiply_add(before, x, multiply_add(last, square, V(coefficient[1])));
  return multiply_add(rest, x, V(coefficient[0]));
}

#if defined(__AVX512F__)
// Functions of math/elementary.h for float, where a register holds a table: no division, which takes as long as eight
// to sixteen other instructions.
#define HRTA_FLOATS Lanes<float, kRegisters>

template <int kRegisters>
HRTA_INLINE HRTA_FLOATS reciprocal(HRTA_FLOATS d) {
  HRTA_FLOATS result;
  for (int k = 0; k < kRegisters; ++k) result.v[k] = reciprocal(d.v[k]);
  return result;
}

template <int kRegisters>
HRTA_INLINE HRTA_FLOATS divided(HRTA_FLOATS n, HRTA_FLOATS d) {
  HRTA_FLOATS result;
  for (int k = 0; k < kRegisters; ++k) result.v[k] = divided(n.v[k], d.v[k]);
  return result;
}

// Entry by entry; of an entry the last five bits count.
HRTA_INLINE Vector<float> entry_of(const float (&table)[32], __m512i entry) {
  return Vector<float>(_mm512_permutex2var_ps(_mm512_load_ps(table), entry, _mm512_load_ps(table + 16)));
}

// The polynomial of each lane's entry, a row for each power of u.
template <int kRows>
HRTA_INLINE Vector<float> piece_at(const float (&rows)[kRows][32], __m512i entry, Vector<float> u) {
  Vector<float> sum = entry_of(rows[kRows - 1], entry);
  for (int d = kRows - 2; d >= 0; --d) sum = fused(sum, u, entry_of(rows[d], entry));
  return sum;
}

// Phi(x) for x > pieces.first.
template <int kDegree>
HRTA_INLINE Vector<float> near_normal(const NormalPieces<kDegree>& pieces, Vector<float> x) {
  constexpr float kMagic = FloatTraits<float>::kRoundingMagic;
  const Vector<float> at = least(broadcast(pieces.last), x);
  const Vector<float> shifted = fused(at, broadcast(1.0f / pieces.width), broadcast(kMagic));
  const Vector<float> u = fused(shifted - kMagic, broadcast(-pieces.width), at);
  return piece_at(pieces.coefficient, __m512i(shifted), u);
}

// Of 0 <= a < 15, or NaN; beyond it a number.
template <int kRegisters>
HRTA_INLINE HRTA_FLOATS piecewise(const Pieces& pieces, HRTA_FLOATS a) {
  constexpr int kDegree = sizeof(pieces.coefficient) / sizeof(pieces.coefficient[0]) - 1;
  HRTA_FLOATS result;
  for (int k = 0; k < kRegisters; ++k) {
    const __m512i entry = _mm512_srli_epi32(__m512i(a.v[k] + 1.0f), 21);  // its last four bits count
    const auto of = [entry](const float* table) __attribute__((always_inline)) {
      return Vector<float>(_mm512_permutexvar_ps(entry, _mm512_load_ps(table)));
    };
    const Vector<float> u = a.v[k] - of(kPieceCentres);
    Vector<float> sum = of(pieces.coefficient[kDegree]);
    for (int d = kDegree - 1; d >= 0; --d) sum = fused(sum, u, of(pieces.coefficient[d]));
    result.v[k] = sum;
  }
  return result;
}

// Of any x; odd, |tanh| <= 1.
HRTA_INLINE Vector<float> piecewise_tanh(Vector<float> x) {
  const Vector<float> a = least(broadcast(kTanhLast), with_bits<float>(bits_of<float>(x) & ~kSignBit<float>));
  const __m512i entry = _mm512_srli_epi32(__m512i(a + kTanhShift), 20);
  return signed_as(piece_at(kTanhPieces, entry, a - entry_of(kTanhCentres, entry)), x);
}

template <int kRegisters>
HRTA_INLINE Pair<HRTA_FLOATS> tanh_of(HRTA_FLOATS x) {
  HRTA_FLOATS result;
  for (int k = 0; k < kRegisters; ++k) result.v[k] = piecewise_tanh(x.v[k]);
  return {result, HRTA_FLOATS(-0.0f)};  // which adds nothing even to -0
}

// With exp(-x) = p 2^-n, p of the reduced argument: 1 + exp(-x) = 2^-n d. Nothing overflows; x bounded by where the
// logistic function is 1, and where x times it is 0.
template <int kRegisters>
struct LogisticParts {
  HRTA_FLOATS p, d, n;
};

template <int kRegisters>
HRTA_INLINE LogisticParts<kRegisters> logistic_parts(HRTA_FLOATS bounded) {
  using Traits = FloatTraits<float>;
  const HRTA_FLOATS magic(Traits::kRoundingMagic);
  const HRTA_FLOATS n = multiply_add(bounded, HRTA_FLOATS(Traits::kLog2E), magic) - magic;
  const HRTA_FLOATS p = polynomial(kExpOfMinus, multiply_add(n, HRTA_FLOATS(-Traits::kLn2Low),
                                                             multiply_add(n, HRTA_FLOATS(-Traits::kLn2High), bounded)));
  return {p, p + scaled(HRTA_FLOATS(1.0f), n), n};
}

constexpr float kLogisticOne = 20.0f;

// x / (1 + exp(-x))
template <int kRegisters>
HRTA_INLINE HRTA_FLOATS plain_silu(HRTA_FLOATS x) {
  const HRTA_FLOATS above = at_least(x, HRTA_FLOATS(FloatTraits<float>::kExpLowest));
  const LogisticParts<kRegisters> parts = logistic_parts(at_most(above, HRTA_FLOATS(kLogisticOne)));
  return scaled(above * reciprocal(parts.d), parts.n);  // infinite x rules out divided()
}

// l (1 + x (1 - l)), l = 1 / (1 + exp(-x))
template <int kRegisters>
HRTA_INLINE HRTA_FLOATS silu_slope(HRTA_FLOATS x) {
  const HRTA_FLOATS bounded =
      at_most(at_least(x, HRTA_FLOATS(FloatTraits<float>::kExpLowest)), HRTA_FLOATS(kLogisticOne));
  const LogisticParts<kRegisters> parts = logistic_parts(bounded);
  const HRTA_FLOATS inverse = reciprocal(parts.d);
  return scaled(multiply_add(inverse, bounded * (parts.p * inverse), inverse), parts.n);
}

template <int kRegisters>
HRTA_INLINE HRTA_FLOATS scaled_normal_tail(HRTA_FLOATS a) {
  return piecewise(kNormalTailPieces, a);
}

template <int kRegisters>
HRTA_INLINE HRTA_FLOATS plain_weighted_normal_tail(HRTA_FLOATS a) {
  return times_exp(a * scaled_normal_tail(a), exp_of_minus_square<false>(a, HRTA_FLOATS(0.5f)));
}

template <int kRegisters>
HRTA_INLINE Pair<HRTA_FLOATS> weighted_normal_tail(HRTA_FLOATS a) {
  const HRTA_FLOATS tail = scaled_normal_tail(a), q = a * tail;
  const ExpParts<HRTA_FLOATS> e = exp_of_minus_square(a, HRTA_FLOATS(0.5f));
  const HRTA_FLOATS rest = multiply_add(q, e.reduced, multiply_add(a, tail, -q)), sum = q + rest;
  return {scaled(sum, e.scale), scaled(rest - (sum - q), e.scale)};
}

// By Phi itself where all of a register is far from the tail, whose digits need an exponential. Other lanes do not
// change a lane's bits.
template <int kRegisters>
HRTA_INLINE HRTA_FLOATS plain_gelu(HRTA_FLOATS x, HRTA_FLOATS bounded) {
  HRTA_FLOATS result;
  bool all = true;
  for (int k = 0; k < kRegisters; ++k) {
    result.v[k] = x.v[k] * near_normal(kNormalPieces, x.v[k]);
    all = all && _mm512_cmp_ps_mask(__m512(x.v[k]), _mm512_set1_ps(kNormalPieces.first), _CMP_NGT_UQ) == 0;
  }
  if (all) return result;
  return where(x > HRTA_FLOATS(kNormalPieces.first), result,
               at_least(x, HRTA_FLOATS(0.0f)) - plain_weighted_normal_tail(bounded));
}
#undef HRTA_FLOATS
#endif

// 4 e / (1 + e)^2 = E / (1 + E/2 + E^2/16), e = exp(-2 |x|), E = 4 e: half the operations of the scalar form. A
// denormal result is rounded once, since there the divisor is 1.
template <typename T, int kRegisters>
HRTA_INLINE Lanes<T, kRegisters> tanh_slope(Lanes<T, kRegisters> x) {
  using Traits = FloatTraits<T>;
  using V = Lanes<T, kRegisters>;
  const V a = at_most(absolute(x), V(T(-0.5) * Traits::kExpLowest)), magic(Traits::kRoundingMagic);
  const V shifted = multiply_add(a, V(T(-2) * Traits::kLog2E), magic), n = shifted - magic;
  const V r = multiply_add(n, V(T(0.5) * Traits::kLn2Low), multiply_add(n, V(T(0.5) * Traits::kLn2High), a));
  const V e = scaled(polynomial(FourExpOfMinusTwice<T>::coefficient, r), scale_of(shifted, n));
  return divided(e, multiply_add(e, multiply_add(e, V(T(0.0625)), V(T(0.5))), V(T(1))));
}

// Whether the base's formulas are for lanes, and lanes wide enough to be worth it. Sine has none: its reduction crosses
// from float to double and to integers.
template <typename Base>
constexpr bool kInLanes = kVectorBytes > 16 && Base::kGrowth != Growth::kOscillating && !std::is_same_v<Base, FastSin>;

// For i = 0, step, ... < n, n a multiple of a register, and x the numbers from at + i on: body(i, x). x is a number or
// lanes, as suits the base.
template <typename Base, typename T, typename Body>
HRTA_INLINE void for_each_in_lanes(const T* at, int n, const Body& body) {
  int i = 0;
  if constexpr (kInLanes<Base>) {
    for (; i + 2 * kLanes<T> <= n; i += 2 * kLanes<T>) body(i, load_lanes<2>(at + i));
    for (; i < n; i += kLanes<T>) body(i, load_lanes<1>(at + i));
  } else {
#pragma GCC ivdep
    for (; i < n; ++i) body(i, at[i]);
  }
}

// As a function of lanes, for the body above.
template <typename T>
HRTA_INLINE void store(T* memory, T value) {
  *memory = value;
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu

inline namespace HRTA_SIMD_LEVEL {
template <typename T, int kRegisters>
struct ScalarOf<cpu::Lanes<T, kRegisters>> {
  using type = T;
};
}  // namespace HRTA_SIMD_LEVEL

}  // namespace hrta
