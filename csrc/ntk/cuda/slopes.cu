// Q_ij = sum_k a_k^2 [z_ik > 0] [z_jk > 0] in steps: digits of a_k^2 where row i is active times -1 where j is. The
// left operand is made in registers from the masks, so a number costs one byte of traffic whatever the digits.
#include "ntk/cuda/products.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

template <int S>
struct SlopeStage {
  static constexpr int kStages = 12;
  unsigned char data[kStages][2][kPlane];
  alignas(16) unsigned char squares[kStages][S * kBlock];
  uint64_t full[kStages], empty[kStages];
};

template <int S>
__global__ void __launch_bounds__(kProductThreads, 1)
    slope_kernel([[maybe_unused]] const unsigned char* active, [[maybe_unused]] const unsigned char* squares,
                 [[maybe_unused]] const __grid_constant__ Tasks tasks,
                 [[maybe_unused]] const __grid_constant__ Target target) {
#if defined(HRTA_HOPPER)
  using Stage = SlopeStage<S>;
  Stage& stage = *reinterpret_cast<Stage*>(shared_memory());
  start_barriers(stage);
  const int warpgroup = int(threadIdx.x) >> 7, total = tasks.tile_count * tasks.shares * tasks.parts;
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5 & 3;
  Ring<Stage::kStages> ring;
  if (warpgroup == 2) {
    fewer_registers<24>();
    if (warp != 0) return;
    feed<kPlane, S * kBlock>(stage, tasks, total, active, kPlane, [&](int at, int block, uint32_t full) {
      bulk_copy(shared_address(stage.squares[at]), squares + int64_t(block) * S * kBlock, S * kBlock, full);
    });
  } else {
    more_registers<240>();
    const int row = warpgroup * 64 + warp * 16 + (lane >> 2), t = lane & 3;
    for (int index = int(blockIdx.x); index < total; index += int(gridDim.x)) {
      const Task task = task_at(tasks, index);
      const int side = task.row == task.column ? 0 : 1;
      int sum[S][64];
#pragma unroll
      for (int i = 0; i < 64; ++i) {
#pragma unroll
        for (int s = 0; s < S; ++s) sum[s][i] = 0;
      }
      // Registers hold the left operand of half an operand block; meanwhile the other warpgroup multiplies.
      uint32_t left[S][4];
      auto multiply = [&](int at, int step) {
        const uint32_t* m = reinterpret_cast<const uint32_t*>(stage.data[at][0]) + step * 2 * kRows * 4 + row * 4 + t;
        const uint32_t* square = reinterpret_cast<const uint32_t*>(stage.squares[at]) + step * 8 + t;
        const uint32_t m0 = m[0], m1 = m[8 * 4], m2 = m[kRows * 4], m3 = m[kRows * 4 + 8 * 4];
#pragma unroll
        for (int s = 0; s < S; ++s) {
          left[s][0] = m0 & square[s * 16];
          left[s][1] = m1 & square[s * 16];
          left[s][2] = m2 & square[s * 16 + 4];
          left[s][3] = m3 & square[s * 16 + 4];
        }
        wgmma_fence();
        const uint64_t right = plane_descriptor(shared_address(stage.data[at][side]) + step * 2 * kRows * 16);
#pragma unroll
        for (int s = 0; s < S; ++s) wgmma_rs_u8_s8(sum[s], left[s], right);
        wgmma_commit();
        wgmma_wait<0>();
      };
      for (int block = task.begin; block < task.end; ++block) {
        barrier_wait(shared_address(&stage.full[ring.at]), ring.phase);
        multiply(ring.at, 0);
        multiply(ring.at, 1);
        if (lane == 0) barrier_arrive(shared_address(&stage.empty[ring.at]));
        ring.next();
      }
      leave_slopes<S>(target, task, row, t, sum);
    }
  }
#endif
}

template <int S>
void launch_for(const Layout& layout, const Tasks& tasks, const Target& target, int blocks, void* stream) {
  Shape shape{dim3(unsigned(blocks)), kProductThreads};
  shape.shared = sizeof(SlopeStage<S>);
  launch(slope_kernel<S>, shape, stream, layout.active, layout.squares, tasks, target);
}

}  // namespace

void launch_slope_products(int digits, const Layout& layout, const Tasks& tasks, const Target& target, int blocks,
                           void* stream) {
  if (digits == 2) {
    launch_for<2>(layout, tasks, target, blocks, stream);
  } else {
    launch_for<3>(layout, tasks, target, blocks, stream);
  }
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
