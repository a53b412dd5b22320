// The backward pass by arcs: the pull of each arc, then the gradients of its neurons.
#include "circle/cuda/scan.cuh"
#include "network/cuda/arcs.cuh"

namespace hrta {
namespace cuda {
namespace arcs {

namespace {

template <typename T>
struct GradientWork {
  TwoLayerCall call;
  TwoLayerGradients gradients;
  Plan<T> plan;
  Point<T>* pull;     // (networks, arcs)
  int blocks, tiles;  // of a network
};

// r of sample i, and with it whether it has to be counted on arc 0.
template <typename T>
__device__ __forceinline__ Two<double> residual(const GradientWork<T>& work, int64_t network, int i) {
  const T* const grad_f = static_cast<const T*>(work.gradients.grad_f);
  const T* const grad_df_dx = static_cast<const T*>(work.gradients.grad_df_dx);
  const T* const x = work.plan.x;
  const int64_t row = network * work.call.n + i;
  const double g = grad_f != nullptr ? double(grad_f[row]) : 0.0;
  Two<double> r{g * double(x[2 * i]), g * double(x[2 * i + 1])};
  if (grad_df_dx != nullptr) r.x += double(grad_df_dx[2 * row]), r.y += double(grad_df_dx[2 * row + 1]);
  return r;
}

// A block per network.
template <typename T>
__global__ void __launch_bounds__(1024, 1) pull_kernel(const __grid_constant__ GradientWork<T> work) {
  __shared__ Two<double> shared[3][kWarp];
  const Plan<T>& plan = work.plan;
  const int thread = int(threadIdx.x), threads = int(blockDim.x), warps = threads / kWarp;
  const int64_t network = blockIdx.x;
  Two<double> everywhere{0.0, 0.0}, on_first{0.0, 0.0}, R, start, unused;
  for (int i = thread; i < plan.n; i += threads) {
    const Two<double> r = residual(work, network, i);
    everywhere.x += r.x, everywhere.y += r.y;
    if (plan.end[i] < plan.begin[i]) on_first.x += r.x, on_first.y += r.y;
  }
  exclusive_scan(everywhere, warps, shared[0], &R);
  exclusive_scan(on_first, warps, shared[1], &start);
  if (thread == 0 && !(finite(R.x) && finite(R.y))) *plan.finite = 0;

  const auto step = [&](int bound) {
    const int owner = plan.owner[bound];
    const Two<double> r = residual(work, network, owner < 0 ? ~owner : owner);
    return owner < 0 ? Two<double>{-r.x, -r.y} : r;
  };
  const int bounds = plan.rank[2 * plan.n], range = (bounds + threads) / threads;  // of arcs 0 .. bounds
  const int first = at_most(thread * range, bounds + 1), last = at_most(first + range, bounds + 1);
  Two<double> own{0.0, 0.0};
  for (int k = first; k < at_most(last, bounds); ++k) {
    const Two<double> r = step(k);
    own.x += r.x, own.y += r.y;
  }
  Two<double> sum = exclusive_scan(own, warps, shared[2], &unused);
  sum.x += start.x, sum.y += start.y;
  const double s = parameter(work.call), q = 1.0 - s, factor = output_scale(work.call.width);
  Point<T>* const pull = work.pull + network * plan.arcs;
  for (int k = first; k < last; ++k) {
    // Nothing active: exactly 0, not what rounding leaves, lest Adam make steps of it and move silent neurons.
    const double keep = plan.active[k] == 0 ? 0.0 : s;
    pull[k] = {T(factor * combine(q, R.x, keep, sum.x)), T(factor * combine(q, R.y, keep, sum.y))};
    if (k == bounds) break;
    const Two<double> r = step(k);
    sum.x += r.x, sum.y += r.y;
  }
  if (thread == 0) pull[plan.arcs - 1] = {T(factor * combine(q, R.x, 0.0, 0.0)), T(factor * combine(q, R.y, 0.0, 0.0))};
}

// Where something is not finite: the samples one by one, with what NaN and infinity make of them, for those of the
// `count` neurons from `first` on that arcs cannot serve.
template <typename T>
__device__ __noinline__ void go_through_samples(const GradientWork<T>& work, int64_t network, int64_t first,
                                                int count) {
  const double s = parameter(work.call), q = 1.0 - s, factor = output_scale(work.call.width);
  for (int64_t k = network * work.call.width + first; count > 0; --count, ++k) {
    const T* const weight = static_cast<const T*>(work.call.weight) + 2 * k;
    const double w0 = double(weight[0]), w1 = double(weight[1]);
    if (*work.plan.finite != 0 && finite(w0) && finite(w1)) continue;
    double R[2] = {}, H[2] = {};
    for (int i = 0; i < work.plan.n; ++i) {
      const Two<double> r = residual(work, network, i);
      R[0] += r.x, R[1] += r.y;
      const double z = fused(double(work.plan.x[2 * i]), w0, double(work.plan.x[2 * i + 1]) * w1);
      if (z > 0.0) H[0] += r.x, H[1] += r.y;
    }
    const double a = double(static_cast<const T*>(work.call.output_weight)[k]);
    T* const grad_weight = static_cast<T*>(work.gradients.grad_weight);
    T* const grad_output = static_cast<T*>(work.gradients.grad_output_weight);
    if (grad_weight != nullptr) {
      grad_weight[2 * k] = T(factor * a * combine(q, R[0], s, H[0]));
      grad_weight[2 * k + 1] = T(factor * a * combine(q, R[1], s, H[1]));
    }
    if (grad_output != nullptr) {
      grad_output[k] = T(factor * combine(q, w0 * R[0] + w1 * R[1], s, w0 * H[0] + w1 * H[1]));
    }
  }
}

// kShared: bounds, pulls and table are copied to shared memory, else they stay in the L2 cache.
template <typename T, bool kShared>
__global__ void __launch_bounds__(kSweepThreads, 1) gradients_kernel(const __grid_constant__ GradientWork<T> work) {
  const Plan<T>& plan = work.plan;
  const SharePlace place = share_of_block(work.blocks, 1);
  const Point<T>* pull = work.pull + place.network * plan.arcs;
  Search<T> search = plan.search();
  if constexpr (kShared) {
    Point<T>* const bound = reinterpret_cast<Point<T>*>(shared_memory());
    Point<T>* const own_pull = bound + plan.arcs;
    uint32_t* const table = reinterpret_cast<uint32_t*>(own_pull + plan.arcs);
    copy_to_shared(bound, search.bound, 2 * plan.n);
    copy_to_shared(own_pull, pull, plan.arcs);
    copy_to_shared(table, search.table, plan.parts + 1);
    search.bound = bound, search.table = table, pull = own_pull;
    __syncthreads();
  }
  const Neurons<T> neurons(work.call, place.network);
  const int64_t before = place.network * work.call.width;
  T* const grad_weight = static_cast<T*>(work.gradients.grad_weight) + 2 * before;
  T* const grad_output = static_cast<T*>(work.gradients.grad_output_weight) + before;
  const bool aligned_grads =
      (reinterpret_cast<uintptr_t>(grad_weight) | reinterpret_cast<uintptr_t>(grad_output)) % 16 == 0;
  const bool all_finite = *plan.finite != 0;
  for (int tile = place.share; tile < work.tiles; tile += work.blocks) {
    int count, arc[kPer<T>];
    const int64_t first = own_in_tile<T>(tile, work.call.width, &count);
    T w[2 * kPer<T>], a[kPer<T>];
    load(neurons.weight + 2 * first, 2 * count, neurons.aligned, w);
    load(neurons.output + first, count, neurons.aligned, a);
    arcs_of<kPer<T>>(search, w, arc);
    bool fine = all_finite;
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) {
      const Point<T> h = pull[arc[j]];
      const T grad_a = multiply_add(w[2 * j], h.x, w[2 * j + 1] * h.y);
      fine &= is_finite<T>(at_least(magnitude(w[2 * j]), magnitude(w[2 * j + 1])));
      w[2 * j] = a[j] * h.x, w[2 * j + 1] = a[j] * h.y, a[j] = grad_a;
    }
    if (work.gradients.grad_weight != nullptr) store(w, 2 * count, aligned_grads, grad_weight + 2 * first);
    if (work.gradients.grad_output_weight != nullptr) store(a, count, aligned_grads, grad_output + first);
    if (!fine) go_through_samples(work, place.network, first, count);
  }
}

template <typename T>
struct BackwardMemory {
  GradientWork<T> work{};
  size_t shared;
  int64_t bytes;

  BackwardMemory(const TwoLayerCall& call, const TwoLayerGradients& gradients, void* scratch) {
    Memory memory(scratch);
    work.call = call, work.gradients = gradients;
    work.plan = plan_in<T>(memory, call.x, call.n);
    work.pull = memory.take<Point<T>>(work.plan.arcs * call.networks);
    work.tiles = int(ceil_div(call.width, kTile<T>));
    work.blocks = int(std::min<int64_t>(ceil_div(kShares, call.networks), work.tiles));
    shared = 2 * sizeof(Point<T>) * size_t(work.plan.arcs) + 4 * (size_t(work.plan.parts) + 1);
    bytes = memory.bytes();
  }
};

template <typename T>
void run_backward(const TwoLayerCall& call, const TwoLayerGradients& gradients, void* scratch, const Device& device,
                  void* stream) {
  const BackwardMemory<T> memory(call, gradients, scratch);
  const dim3 blocks(unsigned(call.networks * memory.work.blocks));
  build_plan(memory.work.plan, stream);
  launch(pull_kernel<T>, dim3(unsigned(call.networks)), threads_around(call.n), stream, memory.work);
  if (memory.shared <= room_of(device)) {
    launch(gradients_kernel<T, true>, Shape{blocks, kSweepThreads, memory.shared}, stream, memory.work);
  } else {
    launch(gradients_kernel<T, false>, blocks, kSweepThreads, stream, memory.work);
  }
}

}  // namespace

// The plan and the launches cost some 30 us, counting the bounds grows with n^2, and a block a network wants neurons to
// do; the lanes hold 128 samples of a warp and do 1.4e11 pairs a second on an H200, forward and backward.
bool serves(const TwoLayerCall& call) {
  const int64_t neurons = call.networks * call.width;
  return call.base == kRelu && call.features == 2 && call.n >= 1 && call.n <= kMostSamples && call.width >= 4096 &&
         neurons >= 8 * call.n && neurons * std::max<int64_t>(call.n, 64) >= int64_t(1) << 27;
}

int64_t backward_scratch(const TwoLayerCall& call) {
  return with_type(call.dtype, [&](auto zero) { return BackwardMemory<decltype(zero)>(call, {}, nullptr).bytes; });
}

void backward(const TwoLayerCall& call, const Targets& targets, void* scratch, const Device& device, void* stream) {
  with_type(call.dtype,
            [&](auto zero) { run_backward<decltype(zero)>(call, targets.gradients, scratch, device, stream); });
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
