// The passes by lanes and tiles: how the work is cut, and what is done to the kernels' partial sums.
#include "network/cuda/plan.cuh"

namespace hrta {
namespace cuda {

namespace {

constexpr int64_t kWarpItems = 8192;    // a few times what a large GPU holds at a time
constexpr int64_t kBlockItems = 1024;   // the same in tiles
constexpr int64_t kLeastSplit = 64;     // samples
constexpr int64_t kMostSums = 1 << 22;  // 32 MiB, or one chunk

int tile_rows(const TwoLayerCall& call, int seconds) {
  if (seconds != 0) return kJetRows;
  return call.dtype == ScalarKind::kFloat32 ? kBlockRows<float> : kBlockRows<double>;
}

int padded(int64_t features) {
  int count = 0;
  with_padded_features(features, [&](auto constant) { count = decltype(constant)::value; });
  return count;
}

size_t element_size(const TwoLayerCall& call) {
  return call.dtype == ScalarKind::kFloat32 ? 4 : 8;
}

}  // namespace

ForwardPlan::ForwardPlan(const TwoLayerCall& call, const Outputs& outputs) {
  const int seconds = outputs.seconds(), degree = degree_in(call, seconds);
  const bool by_tiles = tiled(call, outputs.parameter_gradient, seconds), with_gradient = outputs.with_gradient();
  value = !with_gradient || by_tiles || degree == 0;
  sums = (with_gradient ? call.features : 0) + value + seconds;
  const int64_t rows = by_tiles
                           ? tile_rows(call, seconds)
                           : kLanes * lane_samples(degree, element_size(call), padded(call.features), with_gradient);
  groups = ceil_div(call.n, rows);
  int64_t wanted = ceil_div(by_tiles ? kBlockItems : kWarpItems, std::max<int64_t>(call.networks * groups, 1));
  wanted = std::min(wanted, std::max<int64_t>(kMostSums / std::max<int64_t>(call.networks * call.n * sums, 1), 1));
  const int64_t tiles = ceil_div(call.width, kChunkTile);
  chunk_neurons = ceil_div(tiles, std::min(wanted, tiles)) * kChunkTile;
  chunks = ceil_div(call.width, chunk_neurons);
  linear = call.networks * call.n * sums * chunks;
  doubles = linear + call.networks * call.features * chunks;
}

BackwardPlan::BackwardPlan(const TwoLayerCall& call, int seconds) {
  const bool by_tiles = tiled(call, false, seconds);
  const int degree = degree_in(call, seconds);
  const int64_t rows =
      by_tiles ? tile_rows(call, seconds) : kLanes * lane_neurons(degree, element_size(call), padded(call.features));
  groups = ceil_div(call.width, rows);
  const int64_t wanted = (by_tiles ? kBlockItems : kWarpItems / 4) / std::max<int64_t>(call.networks * groups, 1);
  splits = std::clamp<int64_t>(ceil_div(call.n, kLeastSplit), 1, std::max<int64_t>(wanted, 1));
  split_samples = std::max<int64_t>(ceil_div(call.n, splits), 1);
  splits = std::max<int64_t>(ceil_div(call.n, split_samples), 1);
  partial = call.networks * call.features;
  doubles = partial + (splits == 1 ? 0 : splits * call.networks * call.width * (call.features + 1));
}

namespace {

// V_d of a network, the same in every lane.
__device__ double linear_sum(const OutputsWork& work, int64_t network, int64_t d) {
  const ForwardWork& forward = work.forward;
  const double* source = forward.linear + (network * forward.call.features + d) * forward.chunks;
  double sum = 0;
  for (int64_t chunk = threadIdx.x % kLanes; chunk < forward.chunks; chunk += kLanes) sum += source[chunk];
  return sum_over_warp(sum);
}

// A warp per network and sample adds the chunks and puts q V and s S together.
template <typename T, typename Result>
__global__ void __launch_bounds__(kThreads) outputs_kernel(const __grid_constant__ OutputsWork work) {
  const ForwardWork& forward = work.forward;
  const TwoLayerCall& call = forward.call;
  const int lane = threadIdx.x % kLanes;
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  if (row >= call.networks * call.n || stopped(forward.done)) return;
  const int64_t network = row / call.n;
  const int degree = degree_of(call.base);
  const double s = work.parameter_gradient ? 1.0 : parameter(call);
  const double q = !work.parameter_gradient ? 1.0 - s : degree == 0 ? 0.0 : -1.0;  // 0: S is of sigma(z) - z
  const double scale = output_scale(call.width);
  const T* x = static_cast<const T*>(call.x) + row % call.n * call.features;
  const double* sums = forward.sums + row * work.sums * forward.chunks;
  auto total = [&](int64_t c) {
    double sum = 0;
    for (int64_t chunk = lane; chunk < forward.chunks; chunk += kLanes) sum += sums[c * forward.chunks + chunk];
    return sum_over_warp(sum);
  };
  double S = work.value ? total(0) : 0.0, of_x = 0.0;
  for (int64_t d = 0; d < call.features; ++d) {
    const double V = linear_sum(work, network, d);
    of_x += double(x[d]) * V;
    if (!work.with_gradient) continue;
    const double U = total((work.value ? 1 + d : d) + work.seconds);
    if (!work.value) S += double(x[d]) * U / degree;
    if (lane == 0 && work.df_dx != nullptr) {
      static_cast<Result*>(work.df_dx)[row * call.features + d] = Result(scale * combine(q, V, s, U));
    }
  }
  for (int r = 0; r < work.seconds; ++r) {
    const double T_r = total(1 + r);
    if (lane == 0) static_cast<Result*>(work.second)[row * work.seconds + r] = Result(scale * combine(0, 0, s, T_r));
  }
  if (lane == 0 && work.f != nullptr) static_cast<Result*>(work.f)[row] = Result(scale * combine(q, of_x, s, S));
}

// R (networks, D) of units.cuh, a block for each.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    everywhere_kernel(const __grid_constant__ TwoLayerCall call, const T* grad_f, const T* grad_df_dx, double* result) {
  const int64_t network = blockIdx.x / call.features, d = blockIdx.x % call.features;
  const T* x = static_cast<const T*>(call.x);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < call.n; i += kThreads) {
    const int64_t row = network * call.n + i;
    if (grad_f != nullptr) sum += double(grad_f[row]) * double(x[i * call.features + d]);
    if (grad_df_dx != nullptr) sum += double(grad_df_dx[row * call.features + d]);
  }
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) result[blockIdx.x] = sum;
}

// Sums over the samples' splits, in their order, a thread per neuron. degree: 0 where A is among the sums.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    finish_splits_kernel(const __grid_constant__ BackwardWork work, int degree) {
  const TwoLayerCall& call = work.call;
  const int64_t neurons = call.networks * call.width, k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= neurons || stopped(work.done)) return;
  const Finish finish(call);
  auto total = [&](int64_t at) {
    double sum = 0;
    for (int64_t split = 0; split < work.splits; ++split) {
      sum += work.partial[(split * neurons + k) * (call.features + 1) + at];
    }
    return sum;
  };
  const double* R = work.everywhere + k / call.width * call.features;
  const double a = double(static_cast<const T*>(call.output_weight)[k]);
  double of_R = 0, of_H = 0;
  for (int64_t d = 0; d < call.features; ++d) {
    const double w = double(static_cast<const T*>(call.weight)[k * call.features + d]), H = total(d);
    of_R += w * R[d];
    of_H += w * H;
    finish.weight<T>(work, k, d, a, R[d], H);
  }
  finish.output_weight<T>(work, k, of_R, degree != 0 ? of_H / degree : total(call.features));
}

// Calls body with the kernels that serve the call.
template <typename Body>
void with_kernels(const TwoLayerCall& call, bool by_tiles, int seconds, const Body& body) {
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (seconds != 0) return by_tiles ? body(JetTileKernels<T>{}) : body(LaneKernels<JetBase, T>{});
    if (by_tiles) return body(TileKernels<T>{});
    with_base(call.base, [&](auto base) { body(LaneKernels<UnitOf<decltype(base), T>, T>{}); });
  });
}

}  // namespace

namespace lanes {

int64_t forward_scratch(const TwoLayerCall& call, const Outputs& outputs) {
  return 8 * ForwardPlan(call, outputs).doubles;
}

void forward(const TwoLayerCall& call, const Outputs& outputs, void* scratch, void* stream) {
  const ForwardPlan plan(call, outputs);
  const int seconds = outputs.seconds();
  const bool by_tiles = tiled(call, outputs.parameter_gradient, seconds);
  double* sums = static_cast<double*>(scratch);
  OutputsWork work{};
  work.forward = {call, plan.groups, plan.chunks, plan.chunk_neurons, sums, sums + plan.linear, outputs.done, false};
  work.forward.excess = outputs.parameter_gradient && degree_of(call.base) == 0;
  work.forward.derivatives = outputs.derivatives;
  work.sums = plan.sums, work.value = plan.value, work.seconds = seconds;
  work.with_gradient = outputs.with_gradient();
  work.parameter_gradient = outputs.parameter_gradient;
  work.f = outputs.f, work.df_dx = outputs.df_dx, work.second = outputs.second;
  const int64_t blocks = ceil_div(call.networks * call.n, kThreads / kLanes);
  with_kernels(call, by_tiles, seconds,
               [&](auto kernels) { kernels.forward(work.forward, work.with_gradient, stream); });
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (outputs.in_double) return launch(outputs_kernel<T, double>, blocks, kThreads, stream, work);
    launch(outputs_kernel<T, T>, blocks, kThreads, stream, work);
  });
}

int64_t backward_scratch(const TwoLayerCall& call, const Targets& targets) {
  return 8 * BackwardPlan(call, targets.seconds()).doubles;
}

void backward(const TwoLayerCall& call, const Targets& targets, void* scratch, void* stream) {
  const int seconds = targets.seconds();
  const BackwardPlan plan(call, seconds);
  double* memory = static_cast<double*>(scratch);
  BackwardWork work{};
  work.call = call;
  work.gradients = targets.gradients;
  work.everywhere = targets.everywhere;
  work.groups = plan.groups, work.splits = plan.splits, work.split_samples = plan.split_samples;
  work.partial = memory + plan.partial;
  work.grad_second = targets.grad_second, work.derivatives = targets.derivatives;
  work.training = targets.update != nullptr;
  if (work.training) work.update = *targets.update, work.done = targets.update->done;
  if (work.everywhere == nullptr) {
    work.everywhere = memory;
    with_type(call.dtype, [&](auto zero) {
      using T = decltype(zero);
      launch(everywhere_kernel<T>, call.networks * call.features, kThreads, stream, call,
             static_cast<const T*>(targets.gradients.grad_f), static_cast<const T*>(targets.gradients.grad_df_dx),
             memory);
    });
  }
  const bool by_tiles = tiled(call, false, seconds);
  with_kernels(call, by_tiles, seconds, [&](auto kernels) { kernels.backward(work, stream); });
  if (plan.splits == 1) return;
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(finish_splits_kernel<T>, ceil_div(call.networks * call.width, kThreads), kThreads, stream, work,
           by_tiles ? 0 : degree_in(call, seconds));
  });
}

}  // namespace lanes

}  // namespace cuda
}  // namespace hrta
