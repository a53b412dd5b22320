// What both products by warps (mma.sync) share: fragments of the operands, and a ring of stages in shared memory that
// all threads fill by asynchronous copies and read. A persistent grid, as with wgmma.
#pragma once

#include "gpu/mma.cuh"
#include "ntk/cuda/products.cuh"

// Where wgmma serves, there are none of these kernels.
#if !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HRTA_BY_WARPS
#endif

namespace hrta {
namespace cuda {
namespace digits {

constexpr int kMmaThreads = 256;  // eight warps, each with 16 rows of the tile
constexpr int kMmaNeurons = 32;   // of a step of the tensor cores
constexpr int kMmaPlane = kRows * kMmaNeurons;

// Elements of 16 samples from `row` on and 32 neurons: a left factor.
__device__ __forceinline__ void load_rows(uint32_t (&to)[4], const unsigned char* plane, int row) {
  const int lane = int(threadIdx.x) & 31;
  load_matrices(to, plane + (lane >> 4) * kRows * 16 + (row + (lane & 15)) * 16);
}
// The same as two right factors of 8 columns, registers 2 h and 2 h + 1: side by side, as a product takes them.
__device__ __forceinline__ void load_columns(uint32_t (&to)[4], const unsigned char* plane, int column) {
  const int lane = int(threadIdx.x) & 31;
  load_matrices(to, plane + (lane >> 3 & 1) * kRows * 16 + (column + (lane >> 4) * 8 + (lane & 7)) * 16);
}

// body(task, all_steps) for each of this block's tasks; all_steps(multiply) calls multiply(stage) for each step of the
// task, whose operands copy(task, step) has brought there, `steps` an operand block. The next task's first operands are
// on their way before the body goes on.
template <int kStages, typename Copy, typename Body>
__device__ __forceinline__ void by_tasks(const Tasks& tasks, int steps, const Copy& copy, const Body& body) {
  const int total = tasks.tile_count * tasks.shares * tasks.parts;
  auto copy_step = [&](const Task& task, int step) {
    if (step < (task.end - task.begin) * steps) copy(task, step);
    commit_copies();  // empty ones too: they are counted
  };
  auto start = [&](const Task& task) {
    for (int step = 0; step < kStages - 1; ++step) copy_step(task, step);
  };
  if (int(blockIdx.x) < total) start(task_at(tasks, int(blockIdx.x)));
  for (int index = int(blockIdx.x); index < total; index += int(gridDim.x)) {
    const Task task = task_at(tasks, index);
    body(task, [&](const auto& multiply) {
      const int count = (task.end - task.begin) * steps;
      for (int step = 0; step < count; ++step) {
        wait_for_groups<kStages - 2>();
        __syncthreads();  // everybody's copies of this step are there, and nobody reads the stage before it any more
        copy_step(task, step + kStages - 1);
        __syncwarp();  // after copies of some lanes alone: what follows takes whole warps
        multiply(step % kStages);
      }
      __syncthreads();
      const int next = index + int(gridDim.x);
      if (next < total) start(task_at(tasks, next));
    });
  }
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
