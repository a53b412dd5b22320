// Pre-activations on matrix tiles: rows of numbers, samples and weights, are cut into kRowDigits digits as wide as
// their largest one needs, and x . w is the sum of the digit products i + j < kRowDigits, exact in int32 over all
// features.
#include "ntk/cpu/direct.h"

#if defined(__AMX_INT8__) && defined(__linux__)

#include "ntk/cpu/amx.h"

namespace hrta {
namespace cpu {

namespace {

constexpr int64_t kStep = kTileNeurons;                  // features of a tile
constexpr int64_t kStepBytes = kRowDigits * kTileBytes;  // of 16 rows
constexpr int64_t kSlab = 4;  // steps: the digits of 16 weights' rows stay in the first cache

// The mask of the numbers from `from` on, of `length`.
__mmask16 mask_of(int64_t from, int64_t length) {
  const int64_t count = length - from;
  return count >= 16 ? __mmask16(0xffff) : count <= 0 ? __mmask16(0) : __mmask16((1u << count) - 1);
}

// One row of a tile of each digit: up to kStep features, in an order of its own, the same for every row.
HRTA_INLINE void cut(const float* from, int64_t length, __m512 scale, int8_t* to) {
  const __m512i bias = _mm512_set1_epi32(0x808080);
  const __m512i by_digit = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m512i word[4];
  for (int q = 0; q < 4; ++q) {
    const __m512 values = length >= kStep ? _mm512_loadu_ps(from + 16 * q)
                                          : _mm512_maskz_loadu_ps(mask_of(16 * q, length), from + 16 * q);
    const __m512i integer = _mm512_cvtps_epi32(_mm512_mul_ps(values, scale));
    word[q] = _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_add_epi32(integer, bias), bias), by_digit);
  }
  const __m512i low[2] = {_mm512_unpacklo_epi32(word[0], word[1]), _mm512_unpacklo_epi32(word[2], word[3])};
  const __m512i high[2] = {_mm512_unpackhi_epi32(word[0], word[1]), _mm512_unpackhi_epi32(word[2], word[3])};
  _mm512_store_si512(to, _mm512_unpackhi_epi64(high[0], high[1]));
  _mm512_store_si512(to + kTileBytes, _mm512_unpacklo_epi64(high[0], high[1]));
  _mm512_store_si512(to + 2 * kTileBytes, _mm512_unpackhi_epi64(low[0], low[1]));
  _mm512_store_si512(to + 3 * kTileBytes, _mm512_unpacklo_epi64(low[0], low[1]));
}

// By which a row is multiplied, and which its digits stand for.
struct Scale {
  float in = 0.0f;
  double out = 0.0;

  Scale() = default;
  explicit Scale(float largest) {
    const int shift = shift_for<kRowDigits>(double(largest));
    in = float(power(shift));
    out = power(-shift) * double(1 << (8 * (kRowDigits - 1)));
  }
};

// digits (steps, kRowDigits, kTileBytes) of the features [begin, end) of up to 16 rows.
void cut_rows(const float* rows, int64_t D, int count, int64_t begin, int64_t end, const Scale* scales,
              int8_t* digits) {
  for (int k = 0; k < kGroup; ++k) {
    const __m512 scale = _mm512_set1_ps(k < count ? scales[k].in : 0.0f);
    for (int64_t d = begin; d < end; d += kStep) {
      cut(rows + k * D + d, k < count ? end - d : 0, scale, digits + (d - begin) / kStep * kStepBytes + 64 * k);
    }
  }
}

// levels (kRowDigits, kGroup, kGroup) = or += the digit products i + j = level of 16 rows with 16 samples. In this
// order eight loads do for ten products.
void multiply(const int8_t* left, const int8_t* right, int64_t steps, bool first, int32_t* levels) {
  constexpr int kLevel = kGroup * kGroup;
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, levels, 64);
    _tile_loadd(1, levels + kLevel, 64);
    _tile_loadd(2, levels + 2 * kLevel, 64);
    _tile_loadd(3, levels + 3 * kLevel, 64);
  }
  for (int64_t t = 0; t < steps; ++t) {
    const int8_t *l = left + t * kStepBytes, *r = right + t * kStepBytes;
    _tile_loadd(4, l, 64);
    _tile_loadd(5, r, 64);
    _tile_dpbssd(0, 4, 5);
    _tile_loadd(6, r + kTileBytes, 64);
    _tile_loadd(7, l + 2 * kTileBytes, 64);
    _tile_dpbssd(3, 7, 6);
    _tile_dpbssd(2, 7, 5);
    _tile_dpbssd(1, 4, 6);
    _tile_loadd(7, l + kTileBytes, 64);
    _tile_dpbssd(2, 7, 6);
    _tile_dpbssd(1, 7, 5);
    _tile_loadd(6, r + 2 * kTileBytes, 64);
    _tile_dpbssd(3, 7, 6);
    _tile_dpbssd(2, 4, 6);
    _tile_loadd(6, r + 3 * kTileBytes, 64);
    _tile_dpbssd(3, 4, 6);
    _tile_loadd(7, l + 3 * kTileBytes, 64);
    _tile_dpbssd(3, 7, 5);
  }
  _tile_stored(0, levels, 64);
  _tile_stored(1, levels + kLevel, 64);
  _tile_stored(2, levels + 2 * kLevel, 64);
  _tile_stored(3, levels + 3 * kLevel, 64);
}

// z (kGroup, kGroup) = scales_i sample_scale_j sum_d 256^-d levels_d.
void combine(const int32_t* levels, const Scale* scales, const double* sample_scale, double* z) {
  const __m512d down = _mm512_set1_pd(0x1p-8);
  const __m512d columns[2] = {_mm512_loadu_pd(sample_scale), _mm512_loadu_pd(sample_scale + 8)};
  for (int i = 0; i < kGroup; ++i) {
    const __m512d row = _mm512_set1_pd(scales[i].out);
    for (int h = 0; h < 2; ++h) {
      const int at = i * kGroup + 8 * h;
      __m512d sum = _mm512_setzero_pd();
      for (int d = kRowDigits - 1; d >= 0; --d) {
        const auto* level = reinterpret_cast<const __m256i*>(levels + d * kGroup * kGroup + at);
        sum = _mm512_fmadd_pd(sum, down, _mm512_cvtepi32_pd(_mm256_load_si256(level)));
      }
      _mm512_storeu_pd(z + at, _mm512_mul_pd(sum, _mm512_mul_pd(row, columns[h])));
    }
  }
}

}  // namespace

void largest_of(const float* rows, int64_t D, int64_t count, float* largest) {
  const __m512i size = _mm512_set1_epi32(0x7fffffff);  // NaN and Inf are the largest as integers too
  for (int64_t k = 0; k < count; ++k) {
    const float* row = rows + k * D;
    __m512i most = _mm512_setzero_si512();
    for (int64_t d = 0; d < D; d += 16) {
      most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_maskz_loadu_epi32(mask_of(d, D), row + d), size));
    }
    const float found = bit_cast<float>(_mm512_reduce_max_epu32(most));
    largest[k] = found > 0.0f && found < kLeastLargest ? kLeastLargest : found;
  }
}

void pack_samples(const float* rows, int64_t D, int count, int8_t* digits, double* scale, float* largest) {
  alignas(64) int8_t left[kStepBytes];
  Scale scales[kGroup];
  largest_of(rows, D, count, largest);
  for (int k = 0; k < kGroup; ++k) {
    if (k < count) scales[k] = Scale(largest[k]);
    scale[k] = scales[k].out;
  }
  for (int64_t d = 0; d < D; d += kStep) {
    cut_rows(rows, D, count, d, d + kStep < D ? d + kStep : D, scales, left);
    for (int i = 0; i < kRowDigits; ++i)
      transpose(left + i * kTileBytes, digits + d / kStep * kStepBytes + i * kTileBytes);
  }
}

void tile_preactivations(const DigitSamples& samples, const float* rows, int count, int z_rows, double* z,
                         float* largest, int32_t* levels) {
  constexpr int64_t kLevels = kRowDigits * kGroup * kGroup;
  const int64_t D = samples.D, steps = (D + kStep - 1) / kStep;
  const int tiles = (count + kGroup - 1) / kGroup;
  alignas(64) int8_t left[kSlab * kStepBytes];
  Scale scales[kMostRows];
  largest_of(rows, D, count, largest);
  for (int k = 0; k < count; ++k) scales[k] = Scale(largest[k]);
  begin();
  for (int64_t slab = 0; slab < steps; slab += kSlab) {
    const int64_t some = steps - slab < kSlab ? steps - slab : kSlab;
    const bool last = slab + some == steps;
    for (int tile = 0; tile < tiles; ++tile) {
      const int row = tile * kGroup;
      cut_rows(rows + row * D, D, count - row, slab * kStep, last ? D : (slab + some) * kStep, scales + row, left);
      for (int g = 0; g < samples.groups; ++g) {
        int32_t* at = levels + (steps > kSlab ? tile * samples.groups + g : 0) * kLevels;
        multiply(left, samples.digits + (g * steps + slab) * kStepBytes, some, slab == 0, at);
        if (last) combine(at, scales + row, samples.scale + g * kGroup, z + (g * z_rows + row) * kGroup);
      }
    }
  }
  end();
}

}  // namespace cpu
}  // namespace hrta

#endif
