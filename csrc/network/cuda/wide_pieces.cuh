// The wide ReLU network on tensor cores: forward and backward are one product,
//
//   out_r = sum_c 1[v_r . u_c > 0] p_c          rows r in registers, columns c streamed through shared memory
//
//   forward   rows: samples x_i, columns: neurons w_k, p_k = a_k w_k:          out = U_i of units.cuh
//   backward  rows: neurons w_k, columns: samples x_i, p_i = g_i x_i + G_i:    out = H_k
//
// Every row and column is 2^e (hi + lo) in float16, with a power of two of its own: 22 to 24 bits whatever its size,
// and no sign of z = v . u depends on it. Up to 4 features all four products of pieces fit one instruction, whose
// result may be rounded to float16: rounding once keeps the sign. Up to 8 there are four products too, beyond hi hi +
// hi lo + lo hi, summed in float32. The mask 1[z > 0] is made in z's registers, which have the layout of the next
// product's left factor. p = 2^e (hi + lo) with e of a tile of 128 columns; mask times piece is exact, so only sums
// round. Sums: in the tensor cores over a tile, in float over 32 tiles, in double beyond, all in an order of the shapes
// alone.
//
// z is thus wrong by up to some 2^-22 |v| |u|, as a sum in float32 is: signs closer to zero than that are either's
// guess. NaN in a row shows in that row alone; NaN in p, in its feature's sums over all rows, as 0 NaN is NaN.
//
// Here is how rows and columns become pieces.
#pragma once

#include "gpu/cooperation.cuh"
#include "gpu/mma.cuh"
#include "network/cuda/units.cuh"

namespace hrta {
namespace cuda {
namespace wide {

constexpr int kTile = 128;                     // columns, in blocks of 16, one a warp
constexpr int kBlocks = 8;                     // also warps of a thread block
constexpr int kFlush = 32;                     // tiles summed in float
constexpr int kMostWide = int(kMostFeatures);  // features
constexpr float kInfinity = __builtin_inff();

// Features are padded to D = 4, 8, 16, 32 or 64; lane (g, t) = (lane / 4, lane % 4) owns a quarter of a row's.
template <int D>
struct Layout {
  static constexpr int kOwn = D / 4;                     // features of a lane
  static constexpr int kRow = D == 4 ? 4 : D / 2;        // registers of 16 rows
  static constexpr int kColumn = D == 4 ? 2 : D / 4;     // registers of 8 columns for z
  static constexpr int kOut = D / 4;                     // (16 x 8) of out: hi and lo of a feature side by side
  static constexpr int kWords = 2 * kColumn + 2 * kOut;  // registers of 16 columns, for z and then for out
  static constexpr int kTileWords = kBlocks * kWords * 32;
  static __device__ __forceinline__ int feature(int t, int j) {
    return D <= 16 ? t * kOwn + j : j / 4 * 16 + t * 4 + j % 4;
  }
};

// The lane's features of a row of v (rows, features), zeros where there are none.
template <int D>
__device__ __forceinline__ void load_own(const float* v, int64_t row, int64_t rows, int features, int t,
                                         float (&own)[D / 4]) {
  const float* source = v + row * features;
  if constexpr (D >= 16) {
    if (row < rows && features == D && reinterpret_cast<uintptr_t>(v) % 16 == 0) {
#pragma unroll
      for (int j = 0; j < D / 4; j += 4) {
        const float4 four = *reinterpret_cast<const float4*>(source + Layout<D>::feature(t, j));
        own[j] = four.x, own[j + 1] = four.y, own[j + 2] = four.z, own[j + 3] = four.w;
      }
      return;
    }
  }
#pragma unroll
  for (int j = 0; j < D / 4; ++j) {
    const int f = Layout<D>::feature(t, j);
    own[j] = row < rows && f < features ? source[f] : 0.0f;
  }
}

// The power of two that brings `largest` to [2^kTo, 2^(kTo + 1)), and for kTo = 12 the way back. Below 2^-111 there is
// none among the floats; what is so small keeps fewer bits.
__device__ __forceinline__ int exponent_of(float largest) {
  const int e = int(bit_cast<uint32_t>(largest) >> 23 & 255);
  return e < 16 ? 16 : e;
}
template <int kTo = 12>
__device__ __forceinline__ float scale_for(float largest) {
  return bit_cast<float>(uint32_t(254 + kTo - exponent_of(largest)) << 23);
}
__device__ __forceinline__ float scale_back(float largest) {
  return bit_cast<float>(uint32_t(exponent_of(largest) - 12) << 23);
}

__device__ __forceinline__ float larger(float m, float v) {  // of m and |v|; m where v is NaN
  return fmaxf(m, fabsf(v));
}

// The pieces of one row, or of one column, in registers as mma.cuh has them. `zero` is 0.
template <int D, bool kIsRow>
__device__ __forceinline__ void make_pieces(const float (&given)[D / 4], uint32_t* words, uint32_t zero = 0) {
  float own[D / 4], largest = 0;
#pragma unroll
  for (int j = 0; j < D / 4; ++j) own[j] = given[j], largest = larger(largest, own[j]);
  largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
  if (largest == kInfinity) {  // an infinite element outweighs all others, and its pieces would have no sum
#pragma unroll
    for (int j = 0; j < D / 4; ++j) {
      if (own[j] == own[j]) own[j] = own[j] == kInfinity ? 1.0f : own[j] == -kInfinity ? -1.0f : 0.0f;
    }
    largest = 1;
  }
  const float scale = scale_for<D == 4 ? 6 : 12>(largest);  // D = 4: z stays within float16
#pragma unroll
  for (int j = 0; j < D / 4; ++j) own[j] *= scale;
  if constexpr (D == 4) {
    const uint32_t hi = halves(own[0], own[0]);
    const float lo = own[0] - low_half(hi);
    if constexpr (kIsRow) {
      words[0] = halves(own[0], lo), words[1] = own_register(words[0], zero);
    } else {
      words[0] = hi, words[1] = halves(lo, lo);
    }
  } else {
    // D = 8: hi, lo of two features; else for every 16 features hi, hi, lo, lo.
    constexpr int kPairs = D == 8 ? 1 : 2;
#pragma unroll
    for (int pair = 0; pair < D / 8; ++pair) {
      const int at = pair / kPairs * 2 * kPairs + pair % kPairs;
      const float v0 = own[2 * pair], v1 = own[2 * pair + 1];
      words[at] = halves(v0, v1);
      words[at + kPairs] = halves(v0 - low_half(words[at]), v1 - high_half(words[at]));
    }
  }
}

// 16 columns of a tile on their way from memory to pieces, by a warp. kWithAddend: p = factor own + addend.
template <int D, bool kWithAddend>
struct Columns {
  using L = Layout<D>;
  float own[2][L::kOwn], factor[2], addend[2][kWithAddend ? L::kOwn : 1];

  // Columns `first` on of u (count, features), their factors (count) and addends (count, features); null: zeros.
  __device__ __forceinline__ void load(const float* u, const float* factors, const float* addends, int64_t first,
                                       int64_t count, int features, int lane) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t c = first + 8 * h + lane / 4;
      load_own<D>(u, c, count, features, lane % 4, own[h]);
      factor[h] = c < count && factors != nullptr ? factors[c] : 0.0f;
      if constexpr (kWithAddend) load_own<D>(addends, c, addends == nullptr ? 0 : count, features, lane % 4, addend[h]);
    }
  }
  __device__ __forceinline__ float p(int h, int j) const {
    if constexpr (kWithAddend) return multiply_add(factor[h], own[h][j], addend[h][j]);
    return own[h][j] * factor[h];
  }
  // The largest finite |p|.
  __device__ __forceinline__ float largest() const {
    float m = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < L::kOwn; ++j) m = larger(m, p(h, j));
    }
    m = bit_cast<float>(__reduce_max_sync(~0u, bit_cast<uint32_t>(m)));
    if (m < kInfinity) return m;
    m = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < L::kOwn; ++j) {
        if (fabsf(p(h, j)) < kInfinity) m = larger(m, p(h, j));
      }
    }
    return bit_cast<float>(__reduce_max_sync(~0u, bit_cast<uint32_t>(m)));
  }
  // Block b of a tile. The right factor of out has columns where z's has rows, so p goes through the warp: lane (g, t)
  // wants columns 2t, 2t + 1, 2t + 8, 2t + 9 and piece g % 2 of the feature that lane g / 2 of a column's four owns.
  template <typename Product>
  __device__ __forceinline__ void store(uint32_t* tile, int b, float scale, int lane) const {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint32_t words[L::kColumn];
      make_pieces<D, false>(own[h], words);
#pragma unroll
      for (int w = 0; w < L::kColumn; ++w) tile[Product::word_at(b, h * L::kColumn + w, lane)] = words[w];
    }
#pragma unroll
    for (int j = 0; j < L::kOut; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float scaled = p(h, j) * scale;
        const uint32_t both = halves(scaled, scaled - low_half(halves(scaled, scaled)));
        const uint32_t even = __shfl_sync(~0u, both, 8 * t + g / 2), odd = __shfl_sync(~0u, both, 8 * t + 4 + g / 2);
        tile[Product::word_at(b, 2 * L::kColumn + 2 * j + h, lane)] = same_halves(even, odd, g % 2 != 0);
      }
    }
  }
};

// The warp's first row of the 128 Q rows of a group: Q times 16 rows, 64 apart.
template <int Q>
__device__ __forceinline__ int64_t first_row(int64_t group, int warp) {
  return (group * 2 + warp / 4) * 64 * Q + warp % 4 * 16;
}

template <int D, int Q>
__device__ __forceinline__ void load_rows(const float* v, int64_t first, int64_t rows, int features, int lane,
                                          uint32_t (&a)[Q][Layout<D>::kRow], uint32_t zero) {
  using L = Layout<D>;
#pragma unroll
  for (int q = 0; q < Q; ++q) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float own[L::kOwn];
      load_own<D>(v, first + 64 * q + 8 * h + lane / 4, rows, features, lane % 4, own);
      uint32_t words[L::kRow / 2];  // of one row; registers alternate row g, row g + 8
      make_pieces<D, true>(own, words, zero);
#pragma unroll
      for (int w = 0; w < L::kRow / 2; ++w) a[q][2 * w + h] = words[w];
    }
  }
}

}  // namespace wide
}  // namespace cuda
}  // namespace hrta
