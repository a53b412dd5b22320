// What both products share: tasks, and how a task's sums leave; for wgmma a ring of stages in shared memory that one
// warp fills and two warpgroups read. A persistent grid; a tile of 128 by 128 samples; a warpgroup has 64 rows of it.
#pragma once

#include "ntk/cuda/hopper.cuh"
#include "ntk/cuda/plan.cuh"

namespace hrta {
namespace cuda {
namespace digits {

constexpr int kProductThreads = 384;  // two warpgroups multiply, a warp of the third copies
constexpr int kConsumerWarps = 8;

struct Task {
  int row, column, share, begin, end;
};

__device__ __forceinline__ Task task_at(const Tasks& tasks, int index) {
  const int of_tiles = index / tasks.tile_count, share = of_tiles % tasks.shares, part = of_tiles / tasks.shares;
  const uint32_t tile = tasks.tiles[index - of_tiles * tasks.tile_count];
  const int64_t cut = int64_t(tasks.shares) * tasks.parts, at = int64_t(share) * tasks.parts + part;
  return {int(tile & 0xffffu), int(tile >> 16), share, int(tasks.blocks * at / cut),
          int(tasks.blocks * (at + 1) / cut)};
}

// The sums of a thread are columns 2 t and 2 t + 1 of eight, t its place among four threads. Afterwards they are
// columns t and t + 4: a warp then touches whole sectors of 32 bytes.
__device__ __forceinline__ void spread(long long& first, long long& second, int t) {
  const long long sent1 = (t & 1) != 0 ? first : second;
  const long long got1 = __shfl_xor_sync(~0u, sent1, 1);
  ((t & 1) != 0 ? first : second) = got1;
  const long long sent2 = (t & 2) != 0 ? first : second;
  const long long got2 = __shfl_xor_sync(~0u, sent2, 2);
  ((t & 2) != 0 ? first : second) = got2;
}

// The same value, of which the compiler knows nothing before this point: all sums widened ahead would cost more
// registers than there are.
__device__ __forceinline__ int not_before(int value) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// A thread's 64 sums of a task, e -> row 8 ((e >> 1) & 1), column 8 (e >> 2) + (e & 1) from its first ones on, to the
// target. combine(e, i, j) gives the integer for entry (i, j) of the tile; `lower`: entries below the diagonal too.
template <typename Combine>
__device__ __forceinline__ void leave(const Target& target, const Task& task, int row, int t, bool lower,
                                      const Combine& combine) {
  long long* to = target.integers + target.plane * task.share;
  const bool diagonal = task.row == task.column && !lower;
#pragma unroll
  for (int e = 0; e < 64; e += 2) {
    const int i = row + 8 * ((e >> 1) & 1), j = 8 * (e >> 2);
    long long sums[2] = {combine(e, i, j + 2 * t), combine(e + 1, i, j + 2 * t + 1)};
    spread(sums[0], sums[1], t);
    const int64_t sample = int64_t(task.row) * kRows + i;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int column = j + t + 4 * h;
      const int64_t other = int64_t(task.column) * kRows + column;
      if (sample >= target.n || other >= target.n || (diagonal && i > column)) continue;
      long long* at = to + sample * target.n + other;
      if (target.shared) {
        add_to(at, sums[h]);
      } else {
        *at += sums[h];
      }
    }
  }
  __syncwarp();  // whole warps for the barriers that follow
}

// The same for low words, which go mirrored: there the eight rows of a warp lie side by side without `spread`.
template <typename Combine>
__device__ __forceinline__ void leave_low(const Target& target, const Task& task, int row, int t,
                                          const Combine& combine) {
  long long* to = target.integers + target.plane * task.share;
  long long* diagonal = target.diagonal + (target.plane > 0 ? int64_t(task.share) * target.n : 0);
#pragma unroll
  for (int e = 0; e < 64; ++e) {
    const int i = row + 8 * ((e >> 1) & 1), j = 8 * (e >> 2) + 2 * t + (e & 1);
    const int64_t sample = int64_t(task.row) * kRows + i, other = int64_t(task.column) * kRows + j;
    if (other >= target.n || sample > other) continue;
    long long* at = sample < other ? to + other * target.n + sample : diagonal + sample;
    const long long sum = combine(e, i, j) << target.shift;
    if (target.shared) {
      add_to(at, sum);
    } else {
      *at += sum;
    }
  }
  __syncwarp();  // what follows takes whole warps
}

// The levels of P's products of S digits. Below the diagonal only what launch_finish adds above it.
template <int S>
__device__ __forceinline__ void leave_values(const Target& target, const Task& task, int row, int t,
                                             const int (&high)[64], const int (&middle)[64], const int (&low)[64]) {
  constexpr int kBits = S == 2 ? 8 : 7;
  const bool diagonal = task.row == task.column;
  leave(target, task, row, t, true, [&](int e, int i, int j) {
    const long long once = (long long)not_before(middle[e]) << kBits;
    const long long rest = ((long long)not_before(high[e]) << 2 * kBits) + not_before(low[e]);
    return !diagonal || i < j ? rest + once : i > j ? once : rest + 2 * once;
  });
}

// The digits of Q's sums: low words from the second pass for levels on.
template <int S>
__device__ __forceinline__ void leave_slopes(const Target& target, const Task& task, int row, int t,
                                             const int (&sum)[S][64]) {
  const auto combine = [&](int e, int, int) {
    long long q = 0;
#pragma unroll
    for (int s = 0; s < S; ++s) q = q * 256 - not_before(sum[s][e]);
    return q;
  };
  if (target.low) {
    leave_low(target, task, row, t, combine);
  } else {
    leave(target, task, row, t, false, combine);
  }
}

#if defined(HRTA_HOPPER)

// Position in the ring of stages.
template <int kStages>
struct Ring {
  int at = 0, phase = 0;
  __device__ __forceinline__ void next() {
    if (++at == kStages) at = 0, phase ^= 1;
  }
};

template <typename Stage>
__device__ __forceinline__ void start_barriers(Stage& stage) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < Stage::kStages; ++i) {
      barrier_init(shared_address(&stage.full[i]), 1);
      barrier_init(shared_address(&stage.empty[i]), kConsumerWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
}

// The copying warp: kOperand bytes of both operands of every task's blocks, block_bytes apart, go to the ring, on the
// diagonal those of one; and kMore bytes besides, which more(place in the ring, block, barrier) copies.
template <int kOperand, int kMore, typename Stage, typename More>
__device__ __forceinline__ void feed(Stage& stage, const Tasks& tasks, int total, const unsigned char* operands,
                                     int block_bytes, const More& more) {
  Ring<Stage::kStages> ring;
  for (int index = int(blockIdx.x); index < total; index += int(gridDim.x)) {
    const Task task = task_at(tasks, index);
    const bool diagonal = task.row == task.column;
    const unsigned char* left = operands + int64_t(task.row) * tasks.blocks * block_bytes;
    const unsigned char* right = operands + int64_t(task.column) * tasks.blocks * block_bytes;
    for (int block = task.begin; block < task.end; ++block, ring.next()) {
      const uint32_t full = shared_address(&stage.full[ring.at]);
      const int64_t at = int64_t(block) * block_bytes;
      barrier_wait(shared_address(&stage.empty[ring.at]), ring.phase ^ 1);
      if (threadIdx.x % 32 == 0) {
        barrier_expect(full, uint32_t((diagonal ? kOperand : 2 * kOperand) + kMore));
        bulk_copy(shared_address(stage.data[ring.at][0]), left + at, kOperand, full);
        if (!diagonal) bulk_copy(shared_address(stage.data[ring.at][1]), right + at, kOperand, full);
        more(ring.at, block, full);
      }
      __syncwarp();
    }
  }
}

// Core matrices of 8 rows by 16 bytes, no swizzle: 2048 bytes to the next 16 neurons, 128 to the next 8 samples.
__device__ __forceinline__ uint64_t plane_descriptor(uint32_t address) {
  return wgmma_matrix(address, kRows * 16, 128);
}

#endif

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
