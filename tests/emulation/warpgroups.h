// What csrc/ntk/cuda/hopper.cuh takes from sm_90a, for the emulation (cuda_runtime.h): barriers in shared memory with
// bytes on their way, bulk copies, and products of a warpgroup, done when they are issued. Addresses of shared memory
// count from its start.
#pragma once

#include "blocks.h"
#include "warps.h"

using std::max;
using std::min;

inline long long __double2ll_rn(double x) {
  return llrint(x);
}

namespace hrta {
namespace cuda {
namespace digits {

inline uint32_t shared_address(const void* p) {
  return uint32_t(static_cast<const unsigned char*>(p) - shared_memory());
}

struct EmulatedBarrier {
  uint16_t expected, pending;
  int32_t bytes : 31;
  uint32_t phase : 1;
};
static_assert(sizeof(EmulatedBarrier) == 8);

inline EmulatedBarrier& barrier_at(uint32_t barrier) {
  return *reinterpret_cast<EmulatedBarrier*>(shared_memory() + barrier);
}
inline void settle(EmulatedBarrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  b.phase ^= 1u, b.pending = b.expected;
}
inline void barrier_init(uint32_t barrier, int count) {
  barrier_at(barrier) = {uint16_t(count), uint16_t(count), 0, 0};
}
inline void barrier_init_fence() {}
inline void barrier_arrive(uint32_t barrier) {
  EmulatedBarrier& b = barrier_at(barrier);
  if (b.pending == 0) emulation::fail("more arrivals than a barrier expects");
  --b.pending;
  settle(b);
}
inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  barrier_at(barrier).bytes += int32_t(bytes);
  barrier_arrive(barrier);
}
inline void barrier_wait(uint32_t barrier, int parity) {
  for (;;) {  // the lanes look between two barriers of the warp, so all see the same
    __syncwarp();
    const bool over = int(barrier_at(barrier).phase) != parity;
    __syncwarp();
    if (over) return;
  }
}
inline void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes % 16 != 0) {
    emulation::fail("a bulk copy off the 16-byte grid");
  }
  memcpy(shared_memory() + to, from, bytes);
  EmulatedBarrier& b = barrier_at(barrier);
  b.bytes -= int32_t(bytes);
  settle(b);
}

template <int kRegisters>
void fewer_registers() {}
template <int kRegisters>
void more_registers() {}

// Elements (row, 16 q) .. + 15 of an operand without swizzle.
template <typename T>
const T* elements(uint64_t descriptor, int row, int q) {
  const auto field = [&](int at) { return uint32_t(descriptor >> at & 0x3fffu) << 4; };
  const uint32_t address = field(0) + uint32_t(q) * field(16) + uint32_t(row / 8) * field(32);
  return reinterpret_cast<const T*>(shared_memory()) + address + row % 8 * 16;
}

// The 64 sums of a thread, rows and columns as the hardware deals them out; left[h]: its row lane / 4 + 8 h.
template <typename Right>
__attribute__((optimize("O3"))) void multiply_rows(int (&d)[64], uint64_t b, const int16_t (&left)[2][32]) {
  for (int j = 0; j < 128; j += 8) {
    for (int c = 0; c < 2; ++c) {
      int16_t column[32];
      for (int q = 0; q < 2; ++q) {
        const Right* from = elements<Right>(b, j + 2 * (emulation::lane() & 3) + c, q);
        for (int k = 0; k < 16; ++k) column[16 * q + k] = from[k];
      }
      for (int h = 0; h < 2; ++h) {
        int sum = 0;
        for (int k = 0; k < 32; ++k) sum += left[h][k] * column[k];
        d[j / 2 + 2 * h + c] += sum;
      }
    }
  }
}

template <typename Left, typename Right>
void emulated_ss(int (&d)[64], uint64_t a, uint64_t b) {
  int16_t left[2][32];
  for (int h = 0; h < 2; ++h) {
    const int row = int(threadIdx.x / 32 % 4) * 16 + (emulation::lane() >> 2) + 8 * h;
    for (int k = 0; k < 32; ++k) left[h][k] = elements<Left>(a, row, k / 16)[k % 16];
  }
  multiply_rows<Right>(d, b, left);
}
inline void wgmma_ss_u8_u8(int (&d)[64], uint64_t a, uint64_t b) {
  emulated_ss<uint8_t, uint8_t>(d, a, b);
}
inline void wgmma_ss_u8_s8(int (&d)[64], uint64_t a, uint64_t b) {
  emulated_ss<uint8_t, int8_t>(d, a, b);
}
inline void wgmma_ss_s8_u8(int (&d)[64], uint64_t a, uint64_t b) {
  emulated_ss<int8_t, uint8_t>(d, a, b);
}
inline void wgmma_ss_s8_s8(int (&d)[64], uint64_t a, uint64_t b) {
  emulated_ss<int8_t, int8_t>(d, a, b);
}

// Four lanes hold a row: register 2 q + h of lane t has elements 16 q + 4 t .. + 3 of row lane / 4 + 8 h.
inline void wgmma_rs_u8_s8(int (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  struct Quad {
    uint64_t of[4];
  };
  const auto quad = [](auto of) {
    const int first = emulation::lane() & ~3;
    return Quad{{of(first), of(first + 1), of(first + 2), of(first + 3)}};
  };
  const Quad low = emulation::exchanged(uint64_t(a[1]) << 32 | a[0], quad);
  const Quad high = emulation::exchanged(uint64_t(a[3]) << 32 | a[2], quad);
  int16_t left[2][32];
  for (int h = 0; h < 2; ++h) {
    for (int k = 0; k < 32; ++k) {
      left[h][k] = int16_t((k < 16 ? low : high).of[k % 16 / 4] >> (32 * h + 8 * (k % 4)) & 255u);
    }
  }
  multiply_rows<int8_t>(d, b, left);
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
