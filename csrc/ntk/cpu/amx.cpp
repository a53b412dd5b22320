// Products on the matrix tiles of AMX (int8, 64 times the multiplications of an AVX-512 float instruction): numbers are
// cut into 8-bit digits, and the digit products are summed exactly in int32. Compiled where the compiler knows AMX,
// used where the processor and the kernel allow it.
#include "ntk/cpu/loops.h"

#if defined(__AMX_INT8__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "ntk/cpu/amx.h"

namespace hrta {
namespace cpu {

namespace {

// --- cutting into digits ---------------------------------------------------------------------------------------------

// Byte `digit` of four words side by side.
__m512i gather_bytes(const __m512i* word, int digit) {
  const __m512i byte = _mm512_set1_epi32(0xff);
  __m512i result = _mm512_and_si512(_mm512_srli_epi32(word[0], 8 * digit), byte);
  for (int q = 1; q < 4; ++q) {
    const __m512i one = _mm512_and_si512(_mm512_srli_epi32(word[q], 8 * digit), byte);
    result = _mm512_or_si512(result, _mm512_slli_epi32(one, 8 * q));
  }
  return result;
}

// 0x80 in every byte but the top one.
template <int S>
constexpr int64_t kBias = S == 3   ? 0x808080
                          : S == 5 ? 0x8080808080
                                   : 0x80808080808080;

// Digits of four neurons for 16 samples each: adding 0x80 to every byte and flipping the top bits back makes bytes that
// stand for [-128, 127] of an integer in two's complement.
void cut(const float* values, __m512 scale, __m512i* digits) {
  const __m512i bias = _mm512_set1_epi32(0x808080);
  __m512i word[4];
  for (int q = 0; q < 4; ++q) {
    const __m512i integer = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values + q * kGroup), scale));
    word[q] = _mm512_xor_si512(_mm512_add_epi32(integer, bias), bias);
  }
  for (int i = 0; i < 3; ++i) digits[i] = gather_bytes(word, 2 - i);
}

template <int S>
void cut(const double* values, const __m512d* scale, __m512i* digits) {
  const __m512i bias = _mm512_set1_epi64(kBias<S>);
  __m512i low[4], high[4];  // the lower and upper 32 bits of the 16 integers of each neuron
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  for (int q = 0; q < 4; ++q) {
    __m512i half[2];
    for (int h = 0; h < 2; ++h) {
      const __m512d value = _mm512_loadu_pd(values + q * kGroup + 8 * h);
      const __m512i integer = _mm512_cvtpd_epi64(_mm512_mul_pd(value, scale[h]));
      half[h] = _mm512_xor_si512(_mm512_add_epi64(integer, bias), bias);
    }
    low[q] = _mm512_permutex2var_epi32(half[0], even, half[1]);
    high[q] = _mm512_permutex2var_epi32(half[0], odd, half[1]);
  }
  for (int i = 0; i < S; ++i) {
    const int digit = S - 1 - i;
    digits[i] = digit < 4 ? gather_bytes(low, digit) : gather_bytes(high, digit - 4);
  }
}

template <int S, typename T>
void pack_values_in(const T* values, int count, int8_t* left, int8_t* right, double* scale) {
  T largest[kGroup] = {};
  for (int k = 0; k < count; ++k) {
    for (int l = 0; l < kGroup; ++l) {
      const T size = absolute(values[k * kGroup + l]);
      largest[l] = size > largest[l] ? size : largest[l];
    }
  }
  alignas(64) T inverse[kGroup];
  for (int l = 0; l < kGroup; ++l) {
    int shift = shift_for<S>(double(largest[l]));
    if (sizeof(T) == 4 && shift > 126) shift = 126;
    inverse[l] = T(power(shift));
    scale[l] = power(-shift) * double(uint64_t(1) << (8 * (S - 1)));
  }
  const int tiles = (count + kTileNeurons - 1) / kTileNeurons;
  alignas(64) T last[4 * kGroup];
  for (int tile = 0; tile < tiles; ++tile) {
    for (int quad = 0; quad < 16; ++quad) {
      const int k = tile * kTileNeurons + 4 * quad;
      const T* from = values + int64_t(k) * kGroup;
      if (k + 4 > count) {
        memset(last, 0, sizeof(last));
        if (k < count) memcpy(last, from, size_t(count - k) * kGroup * sizeof(T));
        from = last;
      }
      __m512i digits[S];
      if constexpr (sizeof(T) == 4) {
        cut(from, _mm512_load_ps(inverse), digits);
      } else {
        const __m512d wide[2] = {_mm512_load_pd(inverse), _mm512_load_pd(inverse + 8)};
        cut<S>(from, wide, digits);
      }
      for (int i = 0; i < S; ++i) {
        _mm512_store_si512(right + (int64_t(i) * tiles + tile) * kTileBytes + 64 * quad, digits[i]);
      }
    }
    for (int i = 0; i < S; ++i) {
      const int64_t at = (int64_t(i) * tiles + tile) * kTileBytes;
      transpose(right + at, left + at);
    }
  }
}

void pack_values(int S, const void* values, int count, int8_t* left, int8_t* right, double* scale) {
  switch (S) {
    case kDigitsFloat: return pack_values_in<3>(static_cast<const float*>(values), count, left, right, scale);
    case kDigitsSmooth: return pack_values_in<5>(static_cast<const double*>(values), count, left, right, scale);
    default: return pack_values_in<7>(static_cast<const double*>(values), count, left, right, scale);
  }
}

template <int S>
double cut_squares_in(const double* a, int count, int8_t* digits) {
  double largest = 0.0;
  for (int k = 0; k < count; ++k) largest = a[k] * a[k] > largest ? a[k] * a[k] : largest;
  const int shift = shift_for<S>(largest);
  const double scale = power(shift);
  for (int k = 0; k < kNeuronBlock; ++k) {
    const double square = k < count ? a[k] * a[k] : 0.0;
    const int64_t q = (_mm_cvtsd_si64(_mm_set_sd(square * scale)) + kBias<S>)^kBias<S>;
    for (int i = 0; i < S; ++i) digits[i * kNeuronBlock + k] = int8_t(q >> (8 * (S - 1 - i)));
  }
  return power(-shift) * double(uint64_t(1) << (8 * (S - 1)));
}

double cut_squares(int S, const double* a, int count, int8_t* digits) {
  return S == kDigitsFloat ? cut_squares_in<3>(a, count, digits) : cut_squares_in<7>(a, count, digits);
}

template <int S, typename T>
void pack_binary_in(const T* slopes, const int8_t* digits, int count, int8_t* left, int8_t* right) {
  const int tiles = (count + kTileNeurons - 1) / kTileNeurons;
  for (int tile = 0; tile < tiles; ++tile) {
    alignas(64) int8_t set[kTileBytes];
    for (int quad = 0; quad < 16; ++quad) {
      const int k = tile * kTileNeurons + 4 * quad;
      __m512i mask = _mm512_setzero_si512();
      for (int q = 0; q < 4 && k + q < count; ++q) {
        const T* row = slopes + int64_t(k + q) * kGroup;
        __mmask16 active;
        if constexpr (sizeof(T) == 4) {
          active = _mm512_cmp_ps_mask(_mm512_loadu_ps(row), _mm512_setzero_ps(), _CMP_NEQ_UQ);
        } else {
          const __m512d zero = _mm512_setzero_pd();
          active = __mmask16(_mm512_cmp_pd_mask(_mm512_loadu_pd(row), zero, _CMP_NEQ_UQ) |
                             (_mm512_cmp_pd_mask(_mm512_loadu_pd(row + 8), zero, _CMP_NEQ_UQ) << 8));
        }
        mask = _mm512_or_si512(mask, _mm512_maskz_set1_epi32(active, int(0xffu << (8 * q))));
      }
      _mm512_store_si512(set + 64 * quad, _mm512_and_si512(mask, _mm512_set1_epi8(1)));
      for (int i = 0; i < S; ++i) {
        int four;
        memcpy(&four, digits + i * kNeuronBlock + k, 4);
        _mm512_store_si512(right + (int64_t(i) * tiles + tile) * kTileBytes + 64 * quad,
                           _mm512_and_si512(mask, _mm512_set1_epi32(four)));
      }
    }
    transpose(set, left + int64_t(tile) * kTileBytes);
  }
}

void pack_binary(int S, const void* slopes, const int8_t* digits, int count, int8_t* left, int8_t* right) {
  if (S == kDigitsFloat) {
    pack_binary_in<3>(static_cast<const float*>(slopes), digits, count, left, right);
  } else {
    pack_binary_in<7>(static_cast<const double*>(slopes), digits, count, left, right);
  }
}

// --- products --------------------------------------------------------------------------------------------------------

// Tiles 0..3 collect two by two blocks; 4, 5 hold the left operands of two groups, 6, 7 the right ones.
HRTA_INLINE void add_digit_product(const int8_t* left0, const int8_t* left1, const int8_t* right0,
                                   const int8_t* right1) {
  _tile_loadd(4, left0, 64);
  _tile_loadd(6, right0, 64);
  _tile_loadd(5, left1, 64);
  _tile_loadd(7, right1, 64);
  _tile_dpbssd(0, 4, 6);
  _tile_dpbssd(1, 4, 7);
  _tile_dpbssd(2, 5, 6);
  _tile_dpbssd(3, 5, 7);
}

// entries += left_scale right_scale sum_d 256^-d C_d, C_d the digit products i + j = d: what the products beyond d = S
// - 1 would add is below the rounding of the digits themselves.
template <int S>
void product_in(bool binary, const int8_t* const* left, const int8_t* const* right, int count, const double* left_scale,
                const double* right_scale, Entries entries) {
  const int tiles = (count + kTileNeurons - 1) / kTileNeurons;
  const int64_t digit = int64_t(tiles) * kTileBytes;
  alignas(64) int32_t levels[S][4][kGroup * kGroup];
  for (int d = 0; d < S; ++d) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i <= (binary ? 0 : d); ++i) {
      for (int t = 0; t < tiles; ++t) {
        const int64_t left_at = i * digit + t * kTileBytes, right_at = (d - i) * digit + t * kTileBytes;
        add_digit_product(left[0] + left_at, left[1] + left_at, right[0] + right_at, right[1] + right_at);
      }
    }
    _tile_stored(0, levels[d][0], 64);
    _tile_stored(1, levels[d][1], 64);
    _tile_stored(2, levels[d][2], 64);
    _tile_stored(3, levels[d][3], 64);
  }
  const __m512d down = _mm512_set1_pd(0x1p-8);
  for (int i = 0; i < entries.rows; ++i) {
    const __m512d scale = _mm512_set1_pd(left_scale[i]);
    for (int j = entries.triangle ? i & ~7 : 0; j < entries.columns; j += 8) {
      const int block = 2 * (i / kGroup) + j / kGroup, at = (i % kGroup) * kGroup + j % kGroup;
      __m512d sum = _mm512_cvtepi32_pd(_mm256_load_si256(reinterpret_cast<const __m256i*>(levels[S - 1][block] + at)));
      for (int d = S - 2; d >= 0; --d) {
        const __m256i level = _mm256_load_si256(reinterpret_cast<const __m256i*>(levels[d][block] + at));
        sum = _mm512_fmadd_pd(sum, down, _mm512_cvtepi32_pd(level));
      }
      uint32_t wanted = entries.columns - j >= 8 ? 0xffu : 0xffu >> (8 - (entries.columns - j));
      if (entries.triangle && j < i) wanted &= 0xffu << (i - j);
      const __mmask8 mask = __mmask8(wanted);
      double* out = entries.at + i * entries.stride + j;
      const __m512d both = _mm512_mul_pd(scale, _mm512_loadu_pd(right_scale + j));
      const __m512d old = _mm512_maskz_loadu_pd(mask, out);
      _mm512_mask_storeu_pd(out, mask, _mm512_fmadd_pd(sum, both, old));
    }
  }
}

void product(int S, bool binary, const int8_t* const* left, const int8_t* const* right, int count,
             const double* left_scale, const double* right_scale, Entries entries) {
  switch (S) {
    case kDigitsFloat: return product_in<3>(binary, left, right, count, left_scale, right_scale, entries);
    case kDigitsSmooth: return product_in<5>(binary, left, right, count, left_scale, right_scale, entries);
    default: return product_in<7>(binary, left, right, count, left_scale, right_scale, entries);
  }
}

// The kernel hands out the tile registers on request, once per process (Linux 5.16 and later).
bool allowed() {
  constexpr int kArchReqXcompPerm = 0x1023, kTileData = 18;
  return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("amx-int8") &&
         syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) == 0;
}

const AmxLoops kAmxLoops = {pack_values, cut_squares,  pack_binary,        product, begin, end,
                            largest_of,  pack_samples, tile_preactivations};

}  // namespace

const AmxLoops* amx_loops() {
  static const bool usable = std::getenv("HRTA_EXT_SIMD") == nullptr && allowed();
  return usable ? &kAmxLoops : nullptr;
}

}  // namespace cpu
}  // namespace hrta

#else

namespace hrta {
namespace cpu {

const AmxLoops* amx_loops() {
  return nullptr;
}

}  // namespace cpu
}  // namespace hrta

#endif
