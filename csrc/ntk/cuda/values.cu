// P_ij = sum_k v_ik v_jk in steps: products of digits by levels, each in int32 on the tensor cores, added in int64.
#include "ntk/cuda/products.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

template <int S>
struct ValueStage {
  static constexpr int kStages = S == 2 ? 6 : 4;
  static constexpr int kOperand = S * kPlane;
  unsigned char data[kStages][2][kOperand];  // 8 KB planes: on the 128-byte grid as the stage is
  uint64_t full[kStages], empty[kStages];
};

#if defined(HRTA_HOPPER)

// One operand block: 64 rows (left) times 128 columns (right). high = a a', middle = a b' + b a', low = b b' (+ a c' +
// c a'). On the diagonal a b' alone: its transpose comes in at the end.
template <int S, bool kDiagonal>
__device__ __forceinline__ void multiply(int (&high)[64], int (&middle)[64], int (&low)[64], uint32_t left,
                                         uint32_t right) {
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kBlock / 32; ++step) {
    const uint32_t l = left + step * 2 * kRows * 16, r = right + step * 2 * kRows * 16;
    const uint64_t la = plane_descriptor(l), lb = plane_descriptor(l + kPlane);
    const uint64_t ra = plane_descriptor(r), rb = plane_descriptor(r + kPlane);
    wgmma_ss_u8_u8(high, la, ra);
    wgmma_ss_u8_s8(middle, la, rb);
    wgmma_ss_s8_s8(low, lb, rb);
    if constexpr (!kDiagonal) wgmma_ss_s8_u8(middle, lb, ra);
    if constexpr (S == 3) {
      wgmma_ss_u8_s8(low, la, plane_descriptor(r + 2 * kPlane));
      wgmma_ss_s8_u8(low, plane_descriptor(l + 2 * kPlane), ra);
    }
  }
  wgmma_commit();
}

template <int S, bool kDiagonal, typename Stage, typename Position>
__device__ __forceinline__ void multiply_all(Stage& stage, Position& ring, int count, uint32_t offset, bool elected,
                                             int (&high)[64], int (&middle)[64], int (&low)[64]) {
  int previous = -1;
  for (int i = 0; i < count; ++i) {
    barrier_wait(shared_address(&stage.full[ring.at]), ring.phase);
    const uint32_t left = shared_address(stage.data[ring.at][0]);
    const uint32_t right = kDiagonal ? left : shared_address(stage.data[ring.at][1]);
    multiply<S, kDiagonal>(high, middle, low, left + offset, right);
    wgmma_wait<1>();
    if (previous >= 0 && elected) barrier_arrive(shared_address(&stage.empty[previous]));
    previous = ring.at;
    ring.next();
  }
  wgmma_wait<0>();
  if (previous >= 0 && elected) barrier_arrive(shared_address(&stage.empty[previous]));
}

#endif

template <int S>
__global__ void __launch_bounds__(kProductThreads, 1)
    value_kernel([[maybe_unused]] const unsigned char* values, [[maybe_unused]] const __grid_constant__ Tasks tasks,
                 [[maybe_unused]] const __grid_constant__ Target target) {
#if defined(HRTA_HOPPER)
  using Stage = ValueStage<S>;
  Stage& stage = *reinterpret_cast<Stage*>(shared_memory());
  start_barriers(stage);
  const int warpgroup = int(threadIdx.x) >> 7, total = tasks.tile_count * tasks.shares * tasks.parts;
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5 & 3;
  Ring<Stage::kStages> ring;
  if (warpgroup == 2) {
    fewer_registers<24>();
    if (warp != 0) return;
    feed<Stage::kOperand, 0>(stage, tasks, total, values, Stage::kOperand, [](int, int, uint32_t) {});
  } else {
    more_registers<240>();
    const int row = warpgroup * 64 + warp * 16 + (lane >> 2), t = lane & 3;
    const uint32_t offset = uint32_t(warpgroup) * 64 * 16;
    const bool elected = lane == 0;
    for (int index = int(blockIdx.x); index < total; index += int(gridDim.x)) {
      const Task task = task_at(tasks, index);
      const int count = task.end - task.begin;
      int high[64], middle[64], low[64];
#pragma unroll
      for (int i = 0; i < 64; ++i) high[i] = middle[i] = low[i] = 0;
      if (task.row == task.column) {
        multiply_all<S, true>(stage, ring, count, offset, elected, high, middle, low);
      } else {
        multiply_all<S, false>(stage, ring, count, offset, elected, high, middle, low);
      }
      leave_values<S>(target, task, row, t, high, middle, low);
    }
  }
#endif
}

template <int S>
void launch_for(const Layout& layout, const Tasks& tasks, const Target& target, int blocks, void* stream) {
  Shape shape{dim3(unsigned(blocks)), kProductThreads};
  shape.shared = sizeof(ValueStage<S>);
  launch(value_kernel<S>, shape, stream, layout.values, tasks, target);
}

}  // namespace

void launch_value_products(int digits, const Layout& layout, const Tasks& tasks, const Target& target, int blocks,
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
