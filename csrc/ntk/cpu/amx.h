// What the files with matrix tiles share: cutting numbers into digits, and single tiles. For those files alone, which
// are compiled for AVX-512 and AMX.
#pragma once

#include <immintrin.h>

#include "math/host_device.h"
#include "ntk/cpu/loops.h"

namespace hrta {
namespace cpu {
namespace {

// The greatest p for which |x| 2^p < 2^(8 S - 1) / 1.01 for every |x| <= largest: the top digit stays below 128.
template <int S>
int shift_for(double largest) {
  if (!(largest > 0.0)) return 0;
  const uint64_t bits = __builtin_bit_cast(uint64_t, 1.01 * largest);
  const int64_t exponent = int64_t((bits >> 52) & 0x7ff) - 1022;  // 1.01 largest < 2^exponent
  const int64_t shift = 8 * S - 1 - exponent;
  return int(shift > 1020 ? 1020 : shift);  // numbers that small are zero beside any sum that counts
}

inline double power(int exponent) {
  return __builtin_bit_cast(double, uint64_t(1023 + exponent) << 52);
}

// 16 x 16 matrix of 32-bit words, transposed.
inline void transpose(const int8_t* from, int8_t* to) {
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_load_si512(from + 64 * i);
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  // r[4 i + j] holds column 4 q + j of rows 4 i .. 4 i + 3 in its quarter q.
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x44), b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x44);
    const __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xee), d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xee);
    _mm512_store_si512(to + 64 * j, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_store_si512(to + 64 * (4 + j), _mm512_shuffle_i32x4(a, b, 0xdd));
    _mm512_store_si512(to + 64 * (8 + j), _mm512_shuffle_i32x4(c, d, 0x88));
    _mm512_store_si512(to + 64 * (12 + j), _mm512_shuffle_i32x4(c, d, 0xdd));
  }
}

// Before and after a thread's work with tiles.
inline void begin() {
  struct alignas(64) Configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
  } configuration = {};
  configuration.palette = 1;
  for (int i = 0; i < 8; ++i) {
    configuration.bytes_per_row[i] = 64;
    configuration.rows[i] = 16;
  }
  asm volatile("" : : "r"(&configuration) : "memory");  // GCC 12's intrinsic claims to read the first 8 bytes alone
  _tile_loadconfig(&configuration);
}

inline void end() {
  _tile_release();
}

}  // namespace

// Of AmxLoops (amx_rows.cpp).
void largest_of(const float* rows, int64_t D, int64_t count, float* largest);
void pack_samples(const float* rows, int64_t D, int count, int8_t* digits, double* scale, float* largest);
void tile_preactivations(const DigitSamples& samples, const float* rows, int count, int z_rows, double* z,
                         float* largest, int32_t* levels);

}  // namespace cpu
}  // namespace hrta
