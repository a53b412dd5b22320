// The products of slopes.cu by warps (mma.sync), for cards without wgmma: the same integers.
#include "ntk/cuda/warps.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

template <int S>
struct Stages {
  static constexpr int kCount = 6;
  unsigned char data[kCount][2][kPlane];
  alignas(16) unsigned char squares[kCount][S * kBlock];
};
static_assert(sizeof(Stages<3>) <= kMmaShared);

template <int S>
__global__ void __launch_bounds__(kMmaThreads, 1)
    slope_mma_kernel([[maybe_unused]] const unsigned char* active, [[maybe_unused]] const unsigned char* squares,
                     [[maybe_unused]] const __grid_constant__ Tasks tasks,
                     [[maybe_unused]] const __grid_constant__ Target target) {
#if defined(HRTA_BY_WARPS)
  constexpr int kStages = Stages<S>::kCount;
  Stages<S>& stages = *reinterpret_cast<Stages<S>*>(shared_memory());
  const int tid = int(threadIdx.x), lane = tid & 31, row = tid / 32 * 16, t = lane & 3;
  auto copy = [&](const Task& task, int step) {
    const int to = step % kStages;
    const int64_t block = task.begin + step;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side == 1 && task.row == task.column) break;
      const unsigned char* from =
          active + (int64_t(side == 0 ? task.row : task.column) * tasks.blocks + block) * kPlane;
#pragma unroll
      for (int at = 0; at < kPlane; at += 16 * kMmaThreads) {
        copy_16_bytes(stages.data[to][side] + at + tid * 16, from + at + tid * 16);
      }
    }
    if (tid < S * kBlock / 16) copy_16_bytes(stages.squares[to] + tid * 16, squares + block * S * kBlock + tid * 16);
  };
  by_tasks<kStages>(tasks, 1, copy, [&](const Task& task, const auto& all_steps) {
    const int side = task.row == task.column ? 0 : 1;
    int sum[S][64];
#pragma unroll
    for (int i = 0; i < 64; ++i) {
#pragma unroll
      for (int s = 0; s < S; ++s) sum[s][i] = 0;
    }
    all_steps([&](int at) {
#pragma unroll 1
      for (int half = 0; half < kBlock / kMmaNeurons; ++half) {
        const uint32_t* square = reinterpret_cast<const uint32_t*>(stages.squares[at]) + half * 8 + t;
        uint32_t mask[4], left[S][4];
        load_rows(mask, stages.data[at][0] + half * kMmaPlane, row);
#pragma unroll
        for (int s = 0; s < S; ++s) {
#pragma unroll
          for (int i = 0; i < 4; ++i) left[s][i] = mask[i] & square[s * 16 + i / 2 * 4];
        }
#pragma unroll
        for (int j = 0; j < kRows; j += 16) {
          uint32_t right[4];
          load_columns(right, stages.data[at][side] + half * kMmaPlane, j);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int s = 0; s < S; ++s) multiply_u8_s8(sum[s] + j / 2 + 4 * h, left[s], right[2 * h], right[2 * h + 1]);
          }
        }
      }
    });
    leave_slopes<S>(target, task, row + (lane >> 2), t, sum);
  });
#endif
}

template <int S>
void launch_for(const Layout& layout, const Tasks& tasks, const Target& target, int blocks, void* stream) {
  Shape shape{dim3(unsigned(blocks)), kMmaThreads};
  shape.shared = sizeof(Stages<S>);
  launch(slope_mma_kernel<S>, shape, stream, layout.active, layout.squares, tasks, target);
}

}  // namespace

void launch_slope_products_mma(int digits, const Layout& layout, const Tasks& tasks, const Target& target, int blocks,
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
