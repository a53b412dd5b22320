// The products of values.cu by warps (mma.sync), for cards without wgmma: the same tasks and operands, the same
// integers. A warp has 16 rows of the tile and all its columns, so that its sums lie as wgmma's do; the digits of eight
// columns that it loads serve four or six products.
#include "ntk/cuda/warps.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

template <int S>
struct Stages {
  static constexpr int kCount = S == 2 ? 6 : 4;
  unsigned char data[kCount][2][S][kMmaPlane];
};
static_assert(sizeof(Stages<2>) <= kMmaShared && sizeof(Stages<3>) <= kMmaShared);

#if defined(HRTA_BY_WARPS)

// high, middle and low as in values.cu.
template <int S, bool kDiagonal>
__device__ __forceinline__ void multiply(int (&high)[64], int (&middle)[64], int (&low)[64],
                                         const unsigned char (&left)[S][kMmaPlane],
                                         const unsigned char (&right)[S][kMmaPlane], int row) {
  uint32_t l[S][4];
#pragma unroll
  for (int s = 0; s < S; ++s) load_rows(l[s], left[s], row);
#pragma unroll
  for (int j = 0; j < kRows; j += 16) {
    // One digit of the right side after the other, so that few registers hold them.
    uint32_t r[4];
    load_columns(r, right[0], j);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int e = j / 2 + 4 * h;
      multiply_u8_u8(high + e, l[0], r[2 * h], r[2 * h + 1]);
      if constexpr (!kDiagonal) multiply_s8_u8(middle + e, l[1], r[2 * h], r[2 * h + 1]);
      if constexpr (S == 3) multiply_s8_u8(low + e, l[2], r[2 * h], r[2 * h + 1]);
    }
    load_columns(r, right[1], j);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int e = j / 2 + 4 * h;
      multiply_u8_s8(middle + e, l[0], r[2 * h], r[2 * h + 1]);
      multiply_s8_s8(low + e, l[1], r[2 * h], r[2 * h + 1]);
    }
    if constexpr (S == 3) {
      load_columns(r, right[2], j);
#pragma unroll
      for (int h = 0; h < 2; ++h) multiply_u8_s8(low + j / 2 + 4 * h, l[0], r[2 * h], r[2 * h + 1]);
    }
  }
}

#endif

template <int S>
__global__ void __launch_bounds__(kMmaThreads, 1)
    value_mma_kernel([[maybe_unused]] const unsigned char* values, [[maybe_unused]] const __grid_constant__ Tasks tasks,
                     [[maybe_unused]] const __grid_constant__ Target target) {
#if defined(HRTA_BY_WARPS)
  constexpr int kStages = Stages<S>::kCount;
  Stages<S>& stages = *reinterpret_cast<Stages<S>*>(shared_memory());
  const int lane = int(threadIdx.x) & 31, row = int(threadIdx.x) / 32 * 16, t = lane & 3;
  auto copy = [&](const Task& task, int step) {
    auto& to = stages.data[step % kStages];
    const int64_t block = task.begin + step / 2;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side == 1 && task.row == task.column) break;
      const int64_t at = int64_t(side == 0 ? task.row : task.column) * tasks.blocks + block;
      const unsigned char* from = values + at * S * kPlane + step % 2 * kMmaPlane + threadIdx.x * 16;
#pragma unroll
      for (int s = 0; s < S; ++s) copy_16_bytes(to[side][s] + threadIdx.x * 16, from + s * kPlane);
    }
  };
  by_tasks<kStages>(tasks, 2, copy, [&](const Task& task, const auto& all_steps) {
    int high[64], middle[64], low[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) high[i] = middle[i] = low[i] = 0;
    if (task.row == task.column) {
      all_steps([&](int at) { multiply<S, true>(high, middle, low, stages.data[at][0], stages.data[at][0], row); });
    } else {
      all_steps([&](int at) { multiply<S, false>(high, middle, low, stages.data[at][0], stages.data[at][1], row); });
    }
    leave_values<S>(target, task, row + (lane >> 2), t, high, middle, low);
  });
#endif
}

template <int S>
void launch_for(const Layout& layout, const Tasks& tasks, const Target& target, int blocks, void* stream) {
  Shape shape{dim3(unsigned(blocks)), kMmaThreads};
  shape.shared = sizeof(Stages<S>);
  launch(value_mma_kernel<S>, shape, stream, layout.values, tasks, target);
}

}  // namespace

void launch_value_products_mma(int digits, const Layout& layout, const Tasks& tasks, const Target& target, int blocks,
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
