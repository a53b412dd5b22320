// The forward pass by arcs: sums over the neurons of each arc, then outputs.
#include "circle/cuda/scan.cuh"
#include "network/cuda/arcs.cuh"

namespace hrta {
namespace cuda {
namespace arcs {

namespace {

template <typename T>
struct SweepWork {
  TwoLayerCall call;
  Search<T> search;  // in global memory
  int shares, tiles, n, arcs, bits;
  int shift;                    // of Bins
  int parts;                    // blocks of a share, without shared memory
  uint32_t* most;               // (networks, shares), without shared memory: the largest magnitude of a w
  unsigned long long* partial;  // (networks, shares, 2, arcs) integers in units of
  double* unit;                 // (networks, shares)
  int64_t* finite;
  const int64_t* done;
};

// The same for all threads of the block, though another block may clear `finite` meanwhile. Has a barrier.
__device__ __forceinline__ bool goes_on(const int64_t* finite, const int64_t* done) {
  __shared__ int go;
  if (threadIdx.x == 0) go = *static_cast<const volatile int64_t*>(finite) != 0 && !stopped(done);
  __syncthreads();
  return go != 0;
}

template <typename T>
__device__ __forceinline__ uint32_t larger_magnitude(uint32_t most, T a, T w0, T w1) {
  return at_least(most, at_least(magnitude(a * w0), magnitude(a * w1)));
}

// A block per share. It judges the magnitudes by its first tile; where they turn out to exceed what that promised, it
// takes its sums again.
template <typename T>
__global__ void __launch_bounds__(kSweepThreads, 1) sweep_kernel(const __grid_constant__ SweepWork<T> work) {
  __shared__ uint32_t shared_most;
  if (threadIdx.x == 0) shared_most = 0;
  if (!goes_on(work.finite, work.done)) return;
  Point<T>* const bound = reinterpret_cast<Point<T>*>(shared_memory());
  uint32_t* const table = reinterpret_cast<uint32_t*>(bound + work.arcs);
  const Bins bins(table + work.search.parts + 1, work.arcs, work.shift);
  copy_to_shared(bound, work.search.bound, 2 * work.n);
  copy_to_shared(table, work.search.table, work.search.parts + 1);
  const Search<T> search{bound, table, work.search.owner, work.search.parts};

  const SharePlace place = share_of_block(work.shares, 1);
  const Neurons<T> neurons(work.call, place.network);
  uint32_t most = 0;
  {
    int count;
    const int64_t first = own_in_tile<T>(place.share, work.call.width, &count);
    T w[2 * kPer<T>], a[kPer<T>];
    load(neurons.weight + 2 * first, 2 * count, neurons.aligned, w);
    load(neurons.output + first, count, neurons.aligned, a);
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) most = larger_magnitude(most, a[j], w[2 * j], w[2 * j + 1]);
  }
  int exponent = first_exponent<T>(block_most(most, &shared_most));
  for (;;) {
    __syncthreads();  // everybody has read shared_most and, the second time, left the sums
    for (int k = int(threadIdx.x); k < 4 * bins.plane; k += kSweepThreads) bins.words[k] = 0;
    if (threadIdx.x == 0) shared_most = 0;
    __syncthreads();
    const double scale = power_of_two(work.bits - exponent);
    most = 0;
    for (int tile = place.share; tile < work.tiles; tile += work.shares) {
      int count, arc[kPer<T>];
      const int64_t first = own_in_tile<T>(tile, work.call.width, &count);
      T w[2 * kPer<T>], a[kPer<T>];
      load(neurons.weight + 2 * first, 2 * count, neurons.aligned, w);
      load(neurons.output + first, count, neurons.aligned, a);
      arcs_of<kPer<T>>(search, w, arc);
#pragma unroll
      for (int j = 0; j < kPer<T>; ++j) {
        if (j >= count) break;
        bins.add(0, arc[j], scaled_product(a[j], w[2 * j], scale));
        bins.add(1, arc[j], scaled_product(a[j], w[2 * j + 1], scale));
        most = larger_magnitude(most, a[j], w[2 * j], w[2 * j + 1]);
      }
    }
    most = block_most(most, &shared_most);  // a barrier: the sums are complete
    if (!is_finite<T>(most) || exponent_of<T>(most) <= exponent) break;
    exponent = exponent_of<T>(most);
  }
  unsigned long long* const partial = work.partial + int64_t(blockIdx.x) * 2 * work.arcs;
  for (int k = int(threadIdx.x); k < 2 * work.arcs; k += kSweepThreads) {
    const int value = k >= work.arcs;
    partial[k] = static_cast<unsigned long long>(bins.sum(value, k - value * work.arcs));
  }
  if (threadIdx.x != 0) return;
  work.unit[blockIdx.x] = power_of_two(exponent - work.bits);
  if (!is_finite<T>(most)) *work.finite = 0;
}

// Beyond shared memory: two passes over the neurons, one for each share's magnitudes, one for its sums in global
// memory, which adds 64 bits by itself.
template <typename T, typename Body>
__device__ __forceinline__ void for_own_tiles(const SweepWork<T>& work, const SharePlace& place, const Body& body) {
  const Neurons<T> neurons(work.call, place.network);
  const int stride = work.shares * work.parts;
  for (int tile = place.share + work.shares * place.part; tile < work.tiles; tile += stride) {
    int count;
    const int64_t first = own_in_tile<T>(tile, work.call.width, &count);
    T w[2 * kPer<T>], a[kPer<T>];
    load(neurons.weight + 2 * first, 2 * count, neurons.aligned, w);
    load(neurons.output + first, count, neurons.aligned, a);
    body(count, w, a);
  }
}

template <typename T>
__global__ void __launch_bounds__(kSweepThreads, 1) most_kernel(const __grid_constant__ SweepWork<T> work) {
  __shared__ uint32_t shared_most;
  if (threadIdx.x == 0) shared_most = 0;
  if (!goes_on(work.finite, work.done)) return;
  const SharePlace place = share_of_block(work.shares, work.parts);
  uint32_t most = 0;
  for_own_tiles(work, place, [&](int, const auto& w, const auto& a) {
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) most = larger_magnitude(most, a[j], w[2 * j], w[2 * j + 1]);
  });
  most = block_most(most, &shared_most);
  if (threadIdx.x != 0) return;
  atomicMax(work.most + place.network * work.shares + place.share, most);
  if (!is_finite<T>(most)) *work.finite = 0;
}

template <typename T>
__global__ void __launch_bounds__(kSweepThreads, 1) global_sweep_kernel(const __grid_constant__ SweepWork<T> work) {
  if (*work.finite == 0 || stopped(work.done)) return;  // nobody changes them now
  const SharePlace place = share_of_block(work.shares, work.parts);
  const int64_t share = place.network * work.shares + place.share;
  const int exponent = exponent_of<T>(work.most[share]);
  const double scale = power_of_two(work.bits - exponent);
  if (place.part == 0 && threadIdx.x == 0) work.unit[share] = power_of_two(exponent - work.bits);
  unsigned long long* const sums = work.partial + share * 2 * work.arcs;
  for_own_tiles(work, place, [&](int count, const auto& w, const auto& a) {
    int arc[kPer<T>];
    arcs_of<kPer<T>>(work.search, w, arc);
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) {
      if (j >= count) break;
#pragma unroll
      for (int d = 0; d < 2; ++d) {
        const int64_t value = integer_in(scaled_product(a[j], w[2 * j + d], scale));
        atomicAdd(sums + d * work.arcs + arc[j], static_cast<unsigned long long>(value));
      }
    }
  });
}

struct OutputsWork {
  TwoLayerCall call;
  Outputs outputs;
  int shares, n, arcs;
  const unsigned long long* partial;
  const double* unit;
  const int *begin, *end;  // of the plan
  double* bins;            // (networks, 2, arcs)
  Two<long long>* prefix;  // (networks, arcs): sums over the arcs before
  int64_t* finite;
};

// bins = sum of unit times partial over the shares, in a fixed order: 32 columns by 8 ranges of shares a block.
__global__ void __launch_bounds__(kThreads) reduce_kernel(const __grid_constant__ OutputsWork work) {
  constexpr int kRows = kThreads / kWarp;
  __shared__ double shared[kRows][kWarp];
  if (*work.finite == 0 || stopped(work.outputs.done)) return;
  const int lane = int(threadIdx.x) % kWarp, row = int(threadIdx.x) / kWarp, columns = 2 * work.arcs;
  const int groups = (columns + kWarp - 1) / kWarp, at = int(blockIdx.x) % groups * kWarp + lane;
  const int range = (work.shares + kRows - 1) / kRows;
  const int64_t network = int(blockIdx.x) / groups;
  const double* const unit = work.unit + network * work.shares;
  const unsigned long long* const partial = work.partial + network * work.shares * columns + at;
  double sum = 0;
  if (at < columns) {
    const int last = at_most((row + 1) * range, work.shares);
#pragma unroll 8
    for (int share = row * range; share < last; ++share) {
      sum += unit[share] * double(static_cast<long long>(partial[int64_t(share) * columns]));
    }
  }
  shared[row][lane] = sum;
  __syncthreads();
  if (row != 0 || at >= columns) return;
#pragma unroll
  for (int r = 1; r < kRows; ++r) sum += shared[r][lane];
  work.bins[network * columns + at] = sum;
}

// A block per network: the sums around the circle, and outputs from them.
template <typename T, typename Result>
__global__ void __launch_bounds__(1024, 1) outputs_kernel(const __grid_constant__ OutputsWork work) {
  __shared__ Two<double> of_doubles[kWarp];
  __shared__ Two<long long> of_integers[kWarp];
  if (!goes_on(work.finite, work.outputs.done)) return;
  const int thread = int(threadIdx.x), threads = int(blockDim.x), warps = threads / kWarp;
  const int64_t network = blockIdx.x;
  const int range = (work.arcs + threads - 1) / threads;
  const int first = at_most(thread * range, work.arcs), last = at_most(first + range, work.arcs);
  const double *const bins0 = work.bins + network * 2 * work.arcs, *const bins1 = bins0 + work.arcs;
  Two<double> absolutes{0.0, 0.0}, sizes;
  for (int k = first; k < last; ++k) absolutes.x += absolute(bins0[k]), absolutes.y += absolute(bins1[k]);
  exclusive_scan(absolutes, warps, of_doubles, &sizes);
  const double size = at_least(sizes.x, sizes.y);
  if (!finite(sizes.x) || !finite(sizes.y)) {  // they overflow
    if (thread == 0) *work.finite = 0;
    return;
  }
  // Every running sum is below 2^61 units, and what rounding to units takes is below that of as many sums in double.
  const int exponent = exponent_of<double>(magnitude(size));
  const double scale = power_of_two(61 - exponent), unit = power_of_two(exponent - 61);
  Two<long long>* const prefix = work.prefix + network * work.arcs;
  Two<long long> own{0, 0}, all;
  for (int k = first; k < last; ++k) own.x += llrint(scale * bins0[k]), own.y += llrint(scale * bins1[k]);
  Two<long long> sum = exclusive_scan(own, warps, of_integers, &all);
  for (int k = first; k < last; ++k) {
    prefix[k] = sum;
    sum.x += llrint(scale * bins0[k]), sum.y += llrint(scale * bins1[k]);
  }
  __syncthreads();

  const Outputs& outputs = work.outputs;
  const double s = outputs.parameter_gradient ? 1.0 : parameter(work.call);
  const double q = outputs.parameter_gradient ? -1.0 : 1.0 - s, factor = output_scale(work.call.width);
  const T* const x = static_cast<const T*>(work.call.x);
  for (int i = thread; i < work.n; i += threads) {
    const int begin = work.begin[i], end = work.end[i];
    Two<long long> u{0, 0};
    if (begin >= 0) {
      const Two<long long> from = prefix[begin + 1], to = prefix[end + 1];
      u = {to.x - from.x, to.y - from.y};
      if (end < begin) u.x += all.x, u.y += all.y;
    }
    const double slope0 = factor * combine(q, unit * double(all.x), s, unit * double(u.x));
    const double slope1 = factor * combine(q, unit * double(all.y), s, unit * double(u.y));
    const int64_t row = network * work.n + i;
    if (outputs.f != nullptr) {
      static_cast<Result*>(outputs.f)[row] = Result(double(x[2 * i]) * slope0 + double(x[2 * i + 1]) * slope1);
    }
    if (outputs.df_dx == nullptr) continue;
    static_cast<Result*>(outputs.df_dx)[2 * row] = Result(slope0);
    static_cast<Result*>(outputs.df_dx)[2 * row + 1] = Result(slope1);
  }
}

// Where everything lies in scratch memory, behind which the lanes have theirs: they begin when it is no longer needed,
// but for `finite`.
template <typename T>
struct ForwardMemory {
  Plan<T> plan;
  void* of_lanes;
  SweepWork<T> sweep{};
  OutputsWork outputs{};
  size_t zeros;  // bytes from sweep.partial on that are to be zero, without shared memory
  size_t shared;
  int64_t bytes;

  ForwardMemory(const TwoLayerCall& call, const Outputs& wanted, void* scratch, const Device& device) {
    const Cut cut(call);
    const int64_t arcs = 2 * call.n + 2, shares = call.networks * cut.shares;
    Memory memory(scratch);
    int64_t* const finite = memory.take<int64_t>(1);
    Memory behind = memory;
    of_lanes = behind.take<char>(lanes::forward_scratch(call, wanted));
    plan = plan_in<T>(memory, call.x, call.n);
    plan.finite = finite;
    sweep.call = call, sweep.search = plan.search();
    sweep.shares = cut.shares, sweep.tiles = cut.tiles;
    sweep.n = plan.n, sweep.arcs = plan.arcs, sweep.bits = bits_for(cut.neurons);
    sweep.parts = int(std::min(ceil_div(2 * kShares, shares), ceil_div(cut.tiles, cut.shares)));
    sweep.partial = memory.take<unsigned long long>(2 * arcs * shares);
    sweep.most = memory.take<uint32_t>(shares);
    zeros = size_t(reinterpret_cast<char*>(sweep.most + shares) - reinterpret_cast<char*>(sweep.partial));
    sweep.unit = memory.take<double>(shares);
    sweep.finite = finite, sweep.done = wanted.done;
    outputs = {call,       wanted,     cut.shares, plan.n,  plan.arcs, sweep.partial,
               sweep.unit, plan.begin, plan.end,   nullptr, nullptr,   finite};
    outputs.bins = memory.take<double>(2 * arcs * call.networks);
    outputs.prefix = memory.take<Two<long long>>(arcs * call.networks);
    bytes = std::max(memory.bytes(), behind.bytes());
    sweep.shift = 4;
    while (sweep.shift >= 0 && (shared = shared_bytes()) > room_of(device)) --sweep.shift;
  }

  // Of the sweep with this many copies of the sums.
  size_t shared_bytes() const {
    return sizeof(Point<T>) * size_t(sweep.arcs) + 4 * (size_t(plan.parts) + 1) +
           Bins::bytes(2, sweep.arcs, sweep.shift);
  }
};

template <typename T>
void run_forward(const TwoLayerCall& call, const Outputs& wanted, void* scratch, const Device& device, void* stream) {
  ForwardMemory<T> memory(call, wanted, scratch, device);
  SweepWork<T>& sweep = memory.sweep;
  const OutputsWork& outputs = memory.outputs;
  const int64_t blocks = call.networks * sweep.shares;
  build_plan(memory.plan, stream);
  if (sweep.shift >= 0) {
    launch(sweep_kernel<T>, Shape{dim3(unsigned(blocks)), kSweepThreads, memory.shared}, stream, sweep);
  } else {
    cudaMemsetAsync(sweep.partial, 0, memory.zeros, static_cast<cudaStream_t>(stream));
    launch(most_kernel<T>, blocks * sweep.parts, kSweepThreads, stream, sweep);
    launch(global_sweep_kernel<T>, blocks * sweep.parts, kSweepThreads, stream, sweep);
  }
  launch(reduce_kernel, call.networks * ceil_div(2 * sweep.arcs, kWarp), kThreads, stream, outputs);
  if (wanted.in_double) {
    launch(outputs_kernel<T, double>, call.networks, threads_around(call.n), stream, outputs);
  } else {
    launch(outputs_kernel<T, T>, call.networks, threads_around(call.n), stream, outputs);
  }
  Outputs otherwise = wanted;
  otherwise.done = memory.plan.finite;
  lanes::forward(call, otherwise, memory.of_lanes, stream);
}

}  // namespace

int64_t forward_scratch(const TwoLayerCall& call, const Outputs& wanted, const Device& device) {
  return with_type(call.dtype,
                   [&](auto zero) { return ForwardMemory<decltype(zero)>(call, wanted, nullptr, device).bytes; });
}

void forward(const TwoLayerCall& call, const Outputs& wanted, void* scratch, const Device& device, void* stream) {
  with_type(call.dtype, [&](auto zero) { run_forward<decltype(zero)>(call, wanted, scratch, device, stream); });
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
