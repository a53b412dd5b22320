// Standard normals from a counter: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011) and the Box-Muller transform.
//
// Neuron k of a stream has normals 0, 1, 2, ...: its output weight, then its weights. Normals 4 j .. 4 j + 3 come from
// the counter (k mod 2^32, k div 2^32, j, 0) under the key `seed`. Only additions, products, quotients, square roots
// and roundings of IEEE doubles are used, each written out (no fused multiply-add), so every machine gets the same
// bits; hrta_ext/ntk/normals.py does the same in torch. |normal| <= 6.8.
#pragma once

#include <math.h>

#include "math/host_device.h"

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {

struct Philox {
  uint32_t word[4];
};

HRTA_INLINE Philox philox(uint64_t neuron, uint32_t block, uint64_t seed) {
  uint32_t c0 = uint32_t(neuron), c1 = uint32_t(neuron >> 32), c2 = block, c3 = 0;
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    const uint32_t next0 = uint32_t(p1 >> 32) ^ c1 ^ k0, next2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    c0 = next0;
    c2 = next2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// CUDA would contract products and sums; the host code is compiled with -ffp-contract=off.
#if defined(__CUDA_ARCH__)
HRTA_INLINE double times(double a, double b) {
  return __dmul_rn(a, b);
}
HRTA_INLINE double plus(double a, double b) {
  return __dadd_rn(a, b);
}
#else
HRTA_INLINE double times(double a, double b) {
  return a * b;
}
HRTA_INLINE double plus(double a, double b) {
  return a + b;
}
#endif

// An integer below 2^32 as a double, by its bits: a conversion of unsigned integers would not vectorise everywhere.
HRTA_INLINE double from_word(uint32_t word) {
  return bit_cast<double>(0x4330000000000000ull | word) - 0x1p52;
}

// -log(u) for u = (word + 1/2) / 2^32: 2 atanh(t) with t = (f - 1) / (f + 1), f the mantissa in [0.71, 1.42).
HRTA_INLINE double minus_log(uint32_t word) {
  const double u = times(plus(from_word(word), 0.5), 0x1p-32);
  const uint64_t bits = bit_cast<uint64_t>(u);
  const uint64_t shifted = bits + (0x3ff0000000000000ull - 0x3fe6a09e667f3bcdull);
  const double exponent = bit_cast<double>(0x4330000000000000ull | (shifted >> 52)) - (0x1p52 + 1023.0);
  const double f = bit_cast<double>((shifted & 0x000fffffffffffffull) + 0x3fe6a09e667f3bcdull);
  const double t = (f - 1.0) / (f + 1.0);
  const double q = times(t, t);
  double p = 1.0 / 13.0;
  p = plus(times(p, q), 1.0 / 11.0);
  p = plus(times(p, q), 1.0 / 9.0);
  p = plus(times(p, q), 1.0 / 7.0);
  p = plus(times(p, q), 1.0 / 5.0);
  p = plus(times(p, q), 1.0 / 3.0);
  p = plus(times(p, q), 1.0);
  return -plus(times(exponent, 0x1.62e42fefa39efp-1), times(plus(t, t), p));
}

// Two normals: sqrt(-2 log u) times the cosine and the sine of 2 pi word / 2^32.
HRTA_INLINE void normal_pair(uint32_t radius_word, uint32_t angle_word, float& first, float& second) {
  const double minus = minus_log(radius_word);
  const double radius = sqrt(plus(minus, minus));
  // The nearest quarter turn, and the rest in [-1/8, 1/8] of a turn.
  const uint32_t quarter = (angle_word + 0x20000000u) >> 30;
  const double rest = from_word(angle_word - (quarter << 30) + 0x80000000u) - 0x1p31;
  const double y = times(rest, 0x1.921fb54442d18p2 * 0x1p-32);
  const double q = times(y, y);
  double sine = -1.0 / 39916800.0;
  sine = plus(times(sine, q), 1.0 / 362880.0);
  sine = plus(times(sine, q), -1.0 / 5040.0);
  sine = plus(times(sine, q), 1.0 / 120.0);
  sine = plus(times(sine, q), -1.0 / 6.0);
  sine = plus(times(times(sine, q), y), y);
  double cosine = 1.0 / 479001600.0;
  cosine = plus(times(cosine, q), -1.0 / 3628800.0);
  cosine = plus(times(cosine, q), 1.0 / 40320.0);
  cosine = plus(times(cosine, q), -1.0 / 720.0);
  cosine = plus(times(cosine, q), 1.0 / 24.0);
  cosine = plus(times(cosine, q), -0.5);
  cosine = plus(times(cosine, q), 1.0);
  const double horizontal = (quarter & 1u) != 0 ? sine : cosine, vertical = (quarter & 1u) != 0 ? cosine : sine;
  const double x = times(radius, horizontal), y_out = times(radius, vertical);
  first = float(quarter == 1u || quarter == 2u ? -x : x);
  second = float((quarter & 2u) != 0 ? -y_out : y_out);
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
