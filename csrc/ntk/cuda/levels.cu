// A pass of a product of numbers in levels: sum_k of the digits d_ik d'_jk of a few levels i + j, each level in int32
// on the tensor cores, put together in int64. It reads the leading digits that its levels have.
#include "ntk/cuda/products.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

template <int kLast>
struct LevelStage {
  static constexpr int kDigits = kLast < kMostDigits ? kLast + 1 : kMostDigits;
  static constexpr int kOperand = kDigits * kPlane;
  static constexpr int kStages = kDigits <= 3 ? 4 : 2;
  unsigned char data[kStages][2][kOperand];  // 8 KB planes: on the 128-byte grid as the stage is
  uint64_t full[kStages], empty[kStages];
};

#if defined(HRTA_HOPPER)

// One operand block: 64 rows (left) times 128 columns (right), every pair of digits of the levels.
template <int kFirst, int kLast>
__device__ __forceinline__ void multiply_levels(int (&sum)[kLast - kFirst + 1][64], uint32_t left, uint32_t right) {
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kBlock / 32; ++step) {
    const uint32_t l = left + step * 2 * kRows * 16, r = right + step * 2 * kRows * 16;
#pragma unroll
    for (int level = kFirst; level <= kLast; ++level) {
#pragma unroll
      for (int i = 0; i <= level; ++i) {
        if (i >= kMostDigits || level - i >= kMostDigits) continue;
        wgmma_ss_s8_s8(sum[level - kFirst], plane_descriptor(l + i * kPlane),
                       plane_descriptor(r + (level - i) * kPlane));
      }
    }
  }
  wgmma_commit();
}

#endif

// operands (row block, operand block, digit, ...) as responses.cu writes them, `block_bytes` an operand block.
template <int kFirst, int kLast>
__global__ void __launch_bounds__(kProductThreads, 1)
    level_kernel([[maybe_unused]] const unsigned char* operands, [[maybe_unused]] int block_bytes,
                 [[maybe_unused]] const __grid_constant__ Tasks tasks,
                 [[maybe_unused]] const __grid_constant__ Target target) {
#if defined(HRTA_HOPPER)
  using Stage = LevelStage<kLast>;
  constexpr int kLevels = kLast - kFirst + 1;
  Stage& stage = *reinterpret_cast<Stage*>(shared_memory());
  start_barriers(stage);
  const int warpgroup = int(threadIdx.x) >> 7, total = tasks.tile_count * tasks.shares * tasks.parts;
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5 & 3;
  Ring<Stage::kStages> ring;
  if (warpgroup == 2) {
    fewer_registers<24>();
    if (warp != 0) return;
    feed<Stage::kOperand, 0>(stage, tasks, total, operands, block_bytes, [](int, int, uint32_t) {});
  } else {
    more_registers<240>();
    const int row = warpgroup * 64 + warp * 16 + (lane >> 2), t = lane & 3;
    const uint32_t offset = uint32_t(warpgroup) * 64 * 16;
    for (int index = int(blockIdx.x); index < total; index += int(gridDim.x)) {
      const Task task = task_at(tasks, index);
      const int side = task.row == task.column ? 0 : 1;
      int sum[kLevels][64];
#pragma unroll
      for (int i = 0; i < 64; ++i) {
#pragma unroll
        for (int level = 0; level < kLevels; ++level) sum[level][i] = 0;
      }
      int previous = -1;
      for (int block = task.begin; block < task.end; ++block) {
        barrier_wait(shared_address(&stage.full[ring.at]), ring.phase);
        multiply_levels<kFirst, kLast>(sum, shared_address(stage.data[ring.at][0]) + offset,
                                       shared_address(stage.data[ring.at][side]));
        wgmma_wait<1>();
        if (previous >= 0 && lane == 0) barrier_arrive(shared_address(&stage.empty[previous]));
        previous = ring.at;
        ring.next();
      }
      wgmma_wait<0>();
      if (previous >= 0 && lane == 0) barrier_arrive(shared_address(&stage.empty[previous]));
      auto combine = [&](int e, int, int) {
        long long q = 0;
#pragma unroll
        for (int level = 0; level < kLevels; ++level) q = q * 256 + sum[level][e];
        return q;
      };
      if constexpr (kFirst == 0) {
        leave(target, task, row, t, false, combine);
      } else {
        leave_low(target, task, row, t, combine);
      }
    }
  }
#endif
}

template <int kFirst, int kLast>
void launch_for(int block_bytes, const unsigned char* operands, const Tasks& tasks, const Target& target, int blocks,
                void* stream) {
  Shape shape{dim3(unsigned(blocks)), kProductThreads};
  shape.shared = sizeof(LevelStage<kLast>);
  launch(level_kernel<kFirst, kLast>, shape, stream, operands, block_bytes, tasks, target);
}

}  // namespace

void launch_level_products(const GramCall& call, int pass, const unsigned char* operands, const Tasks& tasks,
                           const Target& target, int blocks, void* stream) {
  const int block_bytes = digits_of(call) * kPlane;
  switch (last_level(pass, call)) {
    case 2: return launch_for<0, 2>(block_bytes, operands, tasks, target, blocks, stream);
    case 4: return launch_for<3, 4>(block_bytes, operands, tasks, target, blocks, stream);
    case 6: return launch_for<5, 6>(block_bytes, operands, tasks, target, blocks, stream);
    default: return launch_for<5, 7>(block_bytes, operands, tasks, target, blocks, stream);
  }
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
