// Ranks by counting: exact comparisons and integer sums, so the order is the same on every run. Few bounds are compared
// with all others, in one launch; many with those that lie in the same part of the turn or in the next one, all parts
// before being before for certain: linear in n where the samples' directions are spread.
#include <algorithm>

#include "circle/cuda/plan.cuh"
#include "circle/cuda/scan.cuh"
#include "gpu/launch.cuh"

namespace hrta {
namespace cuda {
namespace arcs {

namespace {

constexpr int kFewSamples = 2048;

// A block compares 256 bounds with a share of the others.
template <typename T>
__global__ void __launch_bounds__(kPlanThreads) rank_kernel(const __grid_constant__ Plan<T> plan) {
  __shared__ double2 tile[kPlanThreads];
  int* const count = plan.rank + 2 * plan.n;
  const int bounds = 2 * plan.n, thread = int(threadIdx.x), b = int(blockIdx.x) * kPlanThreads + thread;
  const double2 own = b < bounds ? direction_of(plan.x, plan.n, b) : make_double2(0.0, 0.0);
  const bool present = has_direction(own.x, own.y);
  const int share = (bounds + int(gridDim.y) - 1) / int(gridDim.y);
  const int begin = at_most(int(blockIdx.y) * share, bounds), end = at_most(begin + share, bounds);
  int before = 0;
  for (int first = begin; first < end; first += kPlanThreads) {
    const int tile_count = at_most(end - first, kPlanThreads);
    __syncthreads();
    if (thread < tile_count) tile[thread] = direction_of(plan.x, plan.n, first + thread);
    __syncthreads();
    for (int j = 0; j < tile_count; ++j) {
      const double2 other = tile[j];
      before += has_direction(other.x, other.y) && is_before(other, first + j, own, b, plan.n);
    }
  }
  if (blockIdx.y == 0 && !(finite(own.x) && finite(own.y))) count[1] = 1;
  if (!present) return;
  if (before != 0) atomicAdd(plan.rank + b, before);
  if (blockIdx.y == 0) atomicAdd(count, 1);
}

// Of bound b: where in the turn it lies, by rounded numbers, or -1 where it has no direction.
template <typename T>
__device__ __forceinline__ int part_of_bound(const Plan<T>& plan, int b) {
  const double2 own = direction_of(plan.x, plan.n, b);
  if (!has_direction(own.x, own.y)) return -1;
  return at_most(int(turn_of(0.5 * own.x, 0.5 * own.y) * (0.25 * double(plan.parts))), plan.parts - 1);
}

// While the ranks of many bounds are found, `table` counts the bounds of each part and `owner` lists them by part.
template <typename T>
__global__ void __launch_bounds__(kPlanThreads) count_kernel(const __grid_constant__ Plan<T> plan) {
  const int b = int(blockIdx.x) * kPlanThreads + int(threadIdx.x);
  if (b >= 2 * plan.n) return;
  int* const count = plan.rank + 2 * plan.n;
  const double2 own = direction_of(plan.x, plan.n, b);
  if (!(finite(own.x) && finite(own.y))) count[1] = 1;
  const int part = part_of_bound(plan, b);
  if (part < 0) return;
  atomicAdd(count, 1);
  atomicAdd(plan.table + part, 1u);
}

// One block: the counts of the parts before.
template <typename T>
__global__ void __launch_bounds__(1024, 1) starts_kernel(const __grid_constant__ Plan<T> plan) {
  __shared__ Two<int> shared[kWarp];
  const int range = (plan.parts + 1023) / 1024, first = int(threadIdx.x) * range;
  const int last = at_most(first + range, plan.parts);
  Two<int> own{0, 0}, all;
#pragma unroll 8
  for (int part = first; part < last; ++part) own.x += int(plan.table[part]);
  int sum = exclusive_scan(own, 32, shared, &all).x;
#pragma unroll 8
  for (int part = first; part < last; ++part) {
    const int here = int(plan.table[part]);
    plan.table[part] = uint32_t(sum);
    sum += here;
  }
}

// In any order within a part. Afterwards the table says where each part ends.
template <typename T>
__global__ void __launch_bounds__(kPlanThreads) list_kernel(const __grid_constant__ Plan<T> plan) {
  const int b = int(blockIdx.x) * kPlanThreads + int(threadIdx.x);
  if (b >= 2 * plan.n) return;
  const int part = part_of_bound(plan, b);
  if (part >= 0) plan.owner[atomicAdd(plan.table + part, 1u)] = b;
}

template <typename T>
__global__ void __launch_bounds__(kPlanThreads) near_rank_kernel(const __grid_constant__ Plan<T> plan) {
  const int b = int(blockIdx.x) * kPlanThreads + int(threadIdx.x);
  if (b >= 2 * plan.n) return;
  const int part = part_of_bound(plan, b);
  if (part < 0) return;
  const double2 own = direction_of(plan.x, plan.n, b);
  const int first = part < 2 ? 0 : int(plan.table[part - 2]), last = int(plan.table[at_most(part + 1, plan.parts - 1)]);
  int rank = first;
  for (int k = first; k < last; ++k) {
    const int other = plan.owner[k];
    rank += is_before(direction_of(plan.x, plan.n, other), other, own, b, plan.n);
  }
  plan.rank[b] = rank;
}

template <typename T>
__global__ void __launch_bounds__(kPlanThreads) place_kernel(const __grid_constant__ Plan<T> plan) {
  const int b = int(blockIdx.x) * kPlanThreads + int(threadIdx.x);
  if (b == 0) *plan.finite = plan.rank[2 * plan.n + 1] == 0;
  if (b >= 2 * plan.n) return;
  const bool begins = b < plan.n;
  const int i = begins ? b : b - plan.n;
  const double2 direction = direction_of(plan.x, plan.n, b);
  const bool present = has_direction(direction.x, direction.y);
  const int place = present ? plan.rank[b] : -1;
  (begins ? plan.begin : plan.end)[i] = place;
  if (!present) return;
  const T x0 = plan.x[2 * i], x1 = plan.x[2 * i + 1];
  plan.bound[place] = begins ? Point<T>{x0, x1} : Point<T>{-x0, -x1};
  plan.owner[place] = begins ? i : ~i;
  plan.turn[place] = turn_of(direction.x, direction.y);
}

__device__ inline int first_from(const double* turn, int count, double least) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) >> 1;
    if (turn[middle] < least) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

constexpr int kPlanWarps = kPlanThreads / kWarp;

// The first blocks fill the table, a thread per part; in the others a warp counts the samples active on an arc.
template <typename T>
__global__ void __launch_bounds__(kPlanThreads) table_kernel(const __grid_constant__ Plan<T> plan) {
  const int table_blocks = plan.parts / kPlanThreads + 1, count = plan.rank[2 * plan.n];
  if (int(blockIdx.x) < table_blocks) {
    const int part = int(blockIdx.x) * kPlanThreads + int(threadIdx.x);
    if (part == plan.parts) plan.table[part] = uint32_t(plan.arcs - 1);
    if (part >= plan.parts) return;
    const double width = 4.0 / double(plan.parts), from = part * width - kTurnError, to = from + width + 2 * kTurnError;
    const int start = part == 0 ? 0 : first_from(plan.turn, count, from);
    const int stop = part == plan.parts - 1 ? count : first_from(plan.turn, count, to);
    plan.table[part] = uint32_t(start) | uint32_t(stop - start) << 16;
    return;
  }
  const int lane = int(threadIdx.x) % kWarp;
  const int arc = (int(blockIdx.x) - table_blocks) * kPlanWarps + int(threadIdx.x) / kWarp;
  if (arc >= plan.arcs) return;  // the whole warp
  int active = 0;
  for (int i = lane; i < plan.n; i += kWarp) {
    const int begin = plan.begin[i], end = plan.end[i];
    const bool past_begin = arc > begin, past_end = arc > end;
    active += begin >= 0 && (begin < end ? past_begin && !past_end : past_begin || !past_end);
  }
  active = __reduce_add_sync(~0u, active);
  if (lane == 0) plan.active[arc] = arc == plan.arcs - 1 ? 0 : active;
}

template <typename T>
void build(const Plan<T>& plan, void* stream) {
  const int bounds = 2 * plan.n, blocks = (bounds + kPlanThreads - 1) / kPlanThreads;
  const int splits = std::min((bounds + kWarp - 1) / kWarp, 64);
  cudaMemsetAsync(plan.rank, 0, sizeof(int) * (size_t(bounds) + 2), static_cast<cudaStream_t>(stream));
  if (plan.n <= kFewSamples) {
    launch(rank_kernel<T>, dim3(unsigned(blocks), unsigned(splits)), kPlanThreads, stream, plan);
  } else {
    cudaMemsetAsync(plan.table, 0, sizeof(uint32_t) * size_t(plan.parts), static_cast<cudaStream_t>(stream));
    launch(count_kernel<T>, dim3(unsigned(blocks)), kPlanThreads, stream, plan);
    launch(starts_kernel<T>, dim3(1), 1024, stream, plan);
    launch(list_kernel<T>, dim3(unsigned(blocks)), kPlanThreads, stream, plan);
    launch(near_rank_kernel<T>, dim3(unsigned(blocks)), kPlanThreads, stream, plan);
  }
  launch(place_kernel<T>, dim3(unsigned(blocks)), kPlanThreads, stream, plan);
  const int of_arcs = plan.active == nullptr ? 0 : (plan.arcs + kPlanWarps - 1) / kPlanWarps;
  launch(table_kernel<T>, dim3(unsigned(plan.parts / kPlanThreads + 1 + of_arcs)), kPlanThreads, stream, plan);
}

}  // namespace

void build_plan(const Plan<float>& plan, void* stream) {
  build(plan, stream);
}
void build_plan(const Plan<double>& plan, void* stream) {
  build(plan, stream);
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
