// Pairs of float16 and products of fragments for the emulation: what csrc/gpu/mma.cuh and wgmma.cuh give under nvcc. A
// product is summed in double, and cut to float as the hardware cuts, or rounded once to float16. Every lane computes
// its own results from what the warp's lanes hold, and wgmma's right factor from shared memory through its descriptor.
#pragma once

#include "math/half.h"
#include "warps.h"

namespace emulation {

inline float cut_to_float(double value) {
  const float f = float(value);
  return std::isfinite(f) && std::fabs(double(f)) > std::fabs(value) ? std::nextafterf(f, 0.0f) : f;
}

inline float of_half(uint32_t bits) {
  return hrta::widen(hrta::Float16{uint16_t(bits)});
}
inline uint32_t to_half(float value) {
  hrta::Float16 half;
  hrta::narrow(value, half);
  return half.bits;
}

struct Left {
  float at[16][16];
};
struct Right {
  float at[8][16];  // by column
};

// The warp's left factor, from all its lanes.
inline const Left& left_factor(const uint32_t (&a)[4]) {
  static thread_local Left of_warp[kMostWarps];
  Left& left = of_warp[threadIdx.x / kWarp];
  const int g = lane() / 4, t = lane() % 4;
  for (int r = 0; r < 4; ++r) {
    for (int e = 0; e < 2; ++e) left.at[g + r % 2 * 8][2 * t + r / 2 * 8 + e] = of_half(a[r] >> 16 * e);
  }
  return left;
}

inline double product(const float* row, const float* column) {
  double sum = 0;
  for (int k = 0; k < 16; ++k) sum += double(row[k]) * double(column[k]);
  return sum;
}

// The four results of this lane for 8 columns.
template <typename Store>
void multiply_columns(const Left& left, const Right& right, const Store& store) {
  const int g = lane() / 4, t = lane() % 4;
  for (int e = 0; e < 4; ++e) store(e, product(left.at[g + e / 2 * 8], right.at[2 * t + e % 2]));
}

template <typename Store>
void multiply_by_warp(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Store& store) {
  static thread_local Right of_warp[kMostWarps];
  Right& right = of_warp[threadIdx.x / kWarp];
  const Left& left = left_factor(a);
  const int g = lane() / 4, t = lane() % 4;
  for (int e = 0; e < 2; ++e) {
    right.at[g][2 * t + e] = of_half(b0 >> 16 * e);
    right.at[g][2 * t + 8 + e] = of_half(b1 >> 16 * e);
  }
  __syncwarp();
  multiply_columns(left, right, store);
  __syncwarp();
}

// Bytes: every lane gives its six registers, and computes its four sums from those of eight lanes.
template <typename A, typename B>
void multiply_bytes(int* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static thread_local uint32_t of_warp[kMostWarps][kWarp][6];
  auto& registers = of_warp[threadIdx.x / kWarp];
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  memcpy(registers[lane()], mine, sizeof(mine));
  __syncwarp();
  const int g = lane() / 4, t = lane() % 4;
  for (int e = 0; e < 4; ++e) {
    int sum = 0;
    for (int k = 0; k < 32; ++k) {  // of lane (., k / 4 % 4), the second half in registers of their own
      const int shift = k % 4 * 8, of = k / 4 % 4, second = k / 16;
      const uint32_t left = registers[4 * g + of][2 * second + e / 2],
                     right = registers[4 * (2 * t + e % 2) + of][4 + second];
      sum += int(A(left >> shift & 255u)) * int(B(right >> shift & 255u));
    }
    d[e] += sum;
  }
  __syncwarp();
}

// Results of wgmma for `columns`, e of each four.
template <typename Store>
void multiply_by_descriptor(const uint32_t (&a)[4], uint64_t matrix, int columns, const Store& store) {
  const unsigned char* shared = hrta::cuda::shared_memory() + (matrix & 0x3FFF) * 16;
  const uint32_t along_rows = uint32_t(matrix >> 16 & 0x3FFF) * 16,
                 along_columns = uint32_t(matrix >> 32 & 0x3FFF) * 16;
  const Left& left = left_factor(a);
  __syncwarp();
  Right right;
  for (int j = 0; j < columns / 8; ++j) {
    for (int c = 2 * (lane() % 4); c < 2 * (lane() % 4) + 2; ++c) {
      for (int k = 0; k < 16; ++k) {
        uint16_t bits;
        memcpy(&bits,
               shared + uint32_t(j) * along_columns + uint32_t(k / 8) * along_rows + uint32_t(c * 16 + k % 8 * 2), 2);
        right.at[c][k] = of_half(bits);
      }
    }
    multiply_columns(left, right, [&](int e, double value) { store(4 * j + e, value); });
  }
  __syncwarp();
}

// Puts a result into a pair; e counts elements.
inline void put_half(uint32_t* d, int e, double value) {
  const int shift = 16 * (e % 2);
  d[e / 2] = (d[e / 2] & ~(0xffffu << shift)) | to_half(float(value)) << shift;
}

}  // namespace emulation

namespace hrta {
namespace cuda {

inline uint32_t halves(float low, float high) {
  return emulation::to_half(low) | emulation::to_half(high) << 16;
}
inline float low_half(uint32_t pair) {
  return emulation::of_half(pair);
}
inline float high_half(uint32_t pair) {
  return emulation::of_half(pair >> 16);
}
inline uint32_t same_halves(uint32_t first, uint32_t second, bool high) {
  return high ? first >> 16 | (second & 0xffff0000u) : (first & 0xffffu) | second << 16;
}
inline uint32_t own_register(uint32_t value, uint32_t) {
  return value;
}
inline uint32_t positive(uint32_t z) {
  const auto one = [](float value) { return value > 0 ? std::min(value * 57344.0f, 1.0f) : 0.0f; };
  return halves(one(low_half(z)), one(high_half(z)));
}
inline void multiply(float* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  emulation::multiply_by_warp({a0, a1, a2, a3}, b0, b1,
                              [&](int e, double value) { d[e] = emulation::cut_to_float(double(d[e]) + value); });
}
inline void multiply_to_halves(uint32_t* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                               uint32_t b1) {
  emulation::multiply_by_warp({a0, a1, a2, a3}, b0, b1, [&](int e, double value) { emulation::put_half(d, e, value); });
}

inline void multiply_u8_u8(int* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::multiply_bytes<uint8_t, uint8_t>(d, a, b0, b1);
}
inline void multiply_u8_s8(int* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::multiply_bytes<uint8_t, int8_t>(d, a, b0, b1);
}
inline void multiply_s8_u8(int* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::multiply_bytes<int8_t, uint8_t>(d, a, b0, b1);
}
inline void multiply_s8_s8(int* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::multiply_bytes<int8_t, int8_t>(d, a, b0, b1);
}

inline void load_matrices(uint32_t (&to)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulation::fail("a matrix beside the 16-byte grid");
  emulation::exchanged(row, [&](auto of) {
    for (int i = 0; i < 4; ++i) {
      memcpy(&to[i], static_cast<const unsigned char*>(of(8 * i + emulation::lane() / 4)) + emulation::lane() % 4 * 4,
             4);
    }
    return 0;
  });
}

inline uint32_t shared_address(const void* at) {
  return uint32_t(static_cast<const unsigned char*>(at) - shared_memory());
}
inline void copy_16_bytes(void* shared, const void* source) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(source) % 16 != 0) {
    emulation::fail("a copy beside the 16-byte grid");
  }
  memcpy(shared, source, 16);
}
inline void wait_for_copies() {}
inline void commit_copies() {}
template <int>
void wait_for_groups() {}
inline void prefetch(const void*) {}

inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int>
void wgmma_wait() {}
inline void fence_for_wgmma() {}
inline uint64_t wgmma_matrix(uint32_t address, uint32_t along_rows, uint32_t along_columns) {
  return uint64_t((address & 0x3FFFF) >> 4) | uint64_t(along_rows >> 4) << 16 | uint64_t(along_columns >> 4) << 32;
}
template <int kCount>
void wgmma(float (&d)[kCount], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t matrix, bool to_d) {
  emulation::multiply_by_descriptor({a0, a1, a2, a3}, matrix, 2 * kCount, [&](int e, double value) {
    d[e] = emulation::cut_to_float((to_d ? double(d[e]) : 0.0) + value);
  });
}
template <int kCount>
void wgmma(uint32_t (&d)[kCount], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t matrix, bool) {
  emulation::multiply_by_descriptor({a0, a1, a2, a3}, matrix, 4 * kCount,
                                    [&](int e, double value) { emulation::put_half(d, e, value); });
}

}  // namespace cuda
}  // namespace hrta
