// out_r = sum_c 1[v_r . u_c > 0] p_c over a tile in shared memory (wide_pieces.cuh), by either instruction.
#pragma once

#include "gpu/wgmma.cuh"
#include "network/cuda/wide_pieces.cuh"

namespace hrta {
namespace cuda {
namespace wide {

__device__ __forceinline__ uint32_t mask_of(float z0, float z1) {
  return positive(halves(z0, z1));
}

// mma.sync: sm_80 and later. A warp by itself, 16 columns at a time.
template <int kFeatures>
struct Mma {
  static constexpr int D = kFeatures;
  using L = Layout<D>;
  static constexpr bool kCompiled = true;

  // Words of a block lie in groups of 4, 16 bytes a lane, then of 2.
  static __device__ __forceinline__ int word_at(int b, int w, int lane) {
    const int base = b * L::kWords * 32;
    if (w < L::kWords / 4 * 4) return base + (w / 4 * 32 + lane) * 4 + w % 4;
    return base + L::kWords / 4 * 128 + lane * 2 + w % 4;
  }
  static __device__ __forceinline__ void written() {}

  // `blocks`: those that hold columns.
  template <int Q>
  static __device__ __forceinline__ void multiply_tile(const uint32_t* tile, int blocks,
                                                       const uint32_t (&a)[Q][L::kRow], float (&out)[Q][L::kOut * 4],
                                                       int lane) {
#pragma unroll
    for (int q = 0; q < Q; ++q) {
#pragma unroll
      for (int e = 0; e < L::kOut * 4; ++e) out[q][e] = 0;
    }
#pragma unroll 1
    for (int b = 0; b < blocks; ++b) {
      const uint32_t* source = tile + b * L::kWords * 32;
      const uint4* fours = reinterpret_cast<const uint4*>(source) + lane;
      if constexpr (D == 4) {
        const uint4 u = fours[0];
        const uint2 p = reinterpret_cast<const uint2*>(source + 128)[lane];
#pragma unroll
        for (int q = 0; q < Q; ++q) {
          uint32_t z[4];
          multiply_to_halves(z, a[q][0], a[q][1], a[q][2], a[q][3], u.x, u.y);
          multiply_to_halves(z + 2, a[q][0], a[q][1], a[q][2], a[q][3], u.z, u.w);
          multiply(out[q], positive(z[0]), positive(z[1]), positive(z[2]), positive(z[3]), p.x, p.y);
        }
      } else {
        float z[Q][2][4] = {};
        if constexpr (D == 8) {
          const uint4 u = fours[0];  // hi, lo of columns g and of columns g + 8
#pragma unroll
          for (int q = 0; q < Q; ++q) {  // a: hi, hi, lo, lo, so both halves of the rows of b are the same
            multiply(z[q][0], a[q][0], a[q][1], a[q][2], a[q][3], u.y, u.y);
            multiply(z[q][1], a[q][0], a[q][1], a[q][2], a[q][3], u.w, u.w);
            multiply(z[q][0], a[q][0], a[q][1], a[q][2], a[q][3], u.x, u.x);
            multiply(z[q][1], a[q][0], a[q][1], a[q][2], a[q][3], u.z, u.z);
          }
        } else {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int k = 0; k < D / 16; ++k) {
              const uint4 u = fours[(h * (D / 16) + k) * 32];  // hi, hi, lo, lo of 16 features
#pragma unroll
              for (int q = 0; q < Q; ++q) {
                const uint32_t* r = a[q] + 8 * k;
                multiply(z[q][h], r[4], r[5], r[6], r[7], u.x, u.y);
                multiply(z[q][h], r[0], r[1], r[2], r[3], u.z, u.w);
                multiply(z[q][h], r[0], r[1], r[2], r[3], u.x, u.y);
              }
            }
          }
        }
        uint32_t m[Q][4];
#pragma unroll
        for (int q = 0; q < Q; ++q) {
#pragma unroll
          for (int e = 0; e < 4; ++e) m[q][e] = mask_of(z[q][e / 2][e % 2 * 2], z[q][e / 2][e % 2 * 2 + 1]);
        }
#pragma unroll
        for (int j = 0; j < L::kOut; j += 2) {
          const uint4 p = fours[(L::kColumn / 2 + j / 2) * 32];
#pragma unroll
          for (int q = 0; q < Q; ++q) {
            multiply(out[q] + 4 * j, m[q][0], m[q][1], m[q][2], m[q][3], p.x, p.y);
            multiply(out[q] + 4 * j + 4, m[q][0], m[q][1], m[q][2], m[q][3], p.z, p.w);
          }
        }
      }
    }
  }
};

// wgmma: sm_90a. A warp group, kColumns columns at a time.
template <int kFeatures, int kColumns>
struct Wgmma {
  static constexpr int D = kFeatures;
  using L = Layout<D>;
  static constexpr bool kCompiled = kHasWgmma;
  static constexpr int kColumnBytes = L::kColumn * 16;  // for z
  static constexpr bool kHalves = D == 4;               // z is one product, so it may be rounded to float16
  using Word = std::conditional_t<kHalves, uint32_t, float>;
  static constexpr int kResults = kHalves ? kColumns / 4 : kColumns / 2;

  // Word w of a lane is in a plane of 32, which is an 8 x 16-byte core matrix: first z's, by 8 columns, then out's,
  // by 16.
  static __device__ __forceinline__ int word_at(int b, int w, int lane) {
    if (w < 2 * L::kColumn) return (b * 2 * L::kColumn + w) * 32 + lane;
    return (kBlocks * 2 * L::kColumn + b * 2 * L::kOut + w - 2 * L::kColumn) * 32 + lane;
  }
  static __device__ __forceinline__ void written() { fence_for_wgmma(); }

  static __device__ __forceinline__ void begin(Word (&z)[kResults], const uint32_t (&a)[L::kRow], uint64_t columns) {
    if constexpr (D == 4) {
      wgmma(z, a[0], a[1], a[2], a[3], columns, false);
    } else if constexpr (D == 8) {  // a: hi, hi, lo, lo; both halves of the rows of b are the same core matrix
      wgmma(z, a[0], a[1], a[2], a[3], columns + (128 >> 4), false);
      wgmma(z, a[0], a[1], a[2], a[3], columns, true);
    } else {  // small products first
#pragma unroll
      for (int k = 0; k < D / 16; ++k) {
        wgmma(z, a[8 * k + 4], a[8 * k + 5], a[8 * k + 6], a[8 * k + 7], columns + (k * 512 >> 4), k > 0);
        wgmma(z, a[8 * k], a[8 * k + 1], a[8 * k + 2], a[8 * k + 3], columns + ((k * 512 + 256) >> 4), true);
      }
#pragma unroll
      for (int k = 0; k < D / 16; ++k) {
        wgmma(z, a[8 * k], a[8 * k + 1], a[8 * k + 2], a[8 * k + 3], columns + (k * 512 >> 4), true);
      }
    }
  }

  // An item is kColumns columns of one of the Q times 64 rows. Two are with the tensor cores while the masks of a third
  // are made, so an item needs one fence, one commit and one wait. Group i + 2 holds the product of item i and the z of
  // item i + 2; before the masks of item i all groups but the last are done, so z of item i is there, and the product
  // of item i - 2 no longer reads its masks.
  template <int Q>
  static __device__ __forceinline__ void multiply_tile(const uint32_t* tile, int, const uint32_t (&a)[Q][L::kRow],
                                                       float (&out)[Q][L::kOut * 4], int) {
    constexpr int kItems = kTile / kColumns * Q;
    const uint32_t address = shared_address(tile);
    const uint64_t columns = wgmma_matrix(address, D == 8 ? 0 : 128, L::kColumn * 128);
    const uint64_t pieces = wgmma_matrix(address + kTile * kColumnBytes, 128, 256);
    Word z[2][kResults];
    uint32_t m[2][kColumns / 4];
    wgmma_fence();
#pragma unroll
    for (int item = 0; item < 2; ++item) {
      begin(z[item], a[item % Q], columns + (item / Q * kColumns * kColumnBytes >> 4));
      wgmma_commit();
    }
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const int q = item % Q, column = item / Q * kColumns;
      wgmma_wait<1>();
#pragma unroll
      for (int k = 0; k < kColumns / 4; ++k) {
        if constexpr (kHalves) {
          m[item & 1][k] = positive(z[item & 1][k]);
        } else {
          m[item & 1][k] = mask_of(z[item & 1][2 * k], z[item & 1][2 * k + 1]);
        }
      }
      wgmma_fence();
      const uint32_t* mask = m[item & 1];
#pragma unroll
      for (int b = 0; b < kColumns / 16; ++b) {
        wgmma(out[q], mask[4 * b], mask[4 * b + 1], mask[4 * b + 2], mask[4 * b + 3],
              pieces + ((column / 16 + b) * (2 * L::kOut * 128) >> 4), column + b > 0);
      }
      if (item + 2 < kItems) {
        const int next = item + 2;
        begin(z[item & 1], a[next % Q], columns + (next / Q * kColumns * kColumnBytes >> 4));
      }
      wgmma_commit();
    }
    wgmma_wait<0>();
  }
};

}  // namespace wide
}  // namespace cuda
}  // namespace hrta
