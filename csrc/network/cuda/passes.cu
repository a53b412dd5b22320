// The two-layer network on the GPU: how the work is cut, what is done to the kernels' partial sums, and the passes.
#include "network/cuda/plan.cuh"

namespace hrta {
namespace cuda {

namespace {

constexpr int64_t kWarpItems = 8192;  // a few times what a large GPU holds at a time
constexpr int64_t kLeastSplit = 256;  // samples

}  // namespace

ForwardPlan::ForwardPlan(const TwoLayerCall& call, bool with_gradient) {
  const int degree = degree_of(call.base);
  const int lane =
      lane_samples(degree != 0 ? ReluUnit::kSamples : SmoothUnit::kSamples, padded(call.features), with_gradient);
  groups = ceil_div(call.n, kLanes * lane);
  const int64_t wanted = ceil_div(kWarpItems, std::max<int64_t>(call.networks * groups, 1));
  const int64_t tiles = ceil_div(call.width, kChunkTile);
  chunk_neurons = ceil_div(tiles, std::min(wanted, tiles)) * kChunkTile;
  chunks = ceil_div(call.width, chunk_neurons);
  sums = sums_per_sample(degree, int(call.features), with_gradient);
  linear = call.networks * call.n * sums * chunks;
  doubles = linear + call.networks * call.features * chunks;
}

BackwardPlan::BackwardPlan(const TwoLayerCall& call) {
  const int lane =
      lane_neurons(degree_of(call.base) != 0 ? ReluUnit::kNeurons : SmoothUnit::kNeurons, padded(call.features));
  groups = ceil_div(call.width, kLanes * lane);
  const int64_t wanted = kWarpItems / 2 / std::max<int64_t>(call.networks * groups, 1);
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
  const bool has_value = !work.with_gradient || degree == 0;
  double S = has_value ? total(0) : 0.0, of_x = 0.0;
  for (int64_t d = 0; d < call.features; ++d) {
    const double V = linear_sum(work, network, d);
    of_x += double(x[d]) * V;
    if (!work.with_gradient) continue;
    const double U = total(has_value ? 1 + d : d);
    if (!has_value) S += double(x[d]) * U / degree;
    if (lane == 0 && work.df_dx != nullptr) {
      static_cast<Result*>(work.df_dx)[row * call.features + d] = Result(scale * combine(q, V, s, U));
    }
  }
  if (lane == 0 && work.f != nullptr) static_cast<Result*>(work.f)[row] = Result(scale * combine(q, of_x, s, S));
}

// grad_x (n, D) = sum over the networks of grad_f times df_dx (networks, n, D).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    input_gradient_kernel(const __grid_constant__ TwoLayerCall call, const T* grad_f, const double* df_dx, T* grad_x) {
  const int64_t count = call.n * call.features, at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  double sum = 0;
  for (int64_t network = 0; network < call.networks; ++network) {
    sum += double(grad_f[network * call.n + at / call.features]) * df_dx[network * count + at];
  }
  grad_x[at] = T(sum);
}

// grad_s = sum of grad_f times df/ds (count), by one block.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    parameter_gradient_kernel(int64_t count, const T* grad_f, const double* df_ds, double* grad_s) {
  double sum = 0;
  for (int64_t at = threadIdx.x; at < count; at += kThreads) sum += double(grad_f[at]) * df_ds[at];
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) *grad_s = sum;
}

// R (networks, D) of units.cuh, a block per network.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    everywhere_kernel(const __grid_constant__ TwoLayerCall call, const T* grad_f, const T* grad_df_dx, double* result) {
  const int64_t network = blockIdx.x;
  const T* x = static_cast<const T*>(call.x);
  for (int64_t d = 0; d < call.features; ++d) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < call.n; i += kThreads) {
      const int64_t row = network * call.n + i;
      if (grad_f != nullptr) sum += double(grad_f[row]) * double(x[i * call.features + d]);
      if (grad_df_dx != nullptr) sum += double(grad_df_dx[row * call.features + d]);
    }
    sum = sum_over_block(sum);
    if (threadIdx.x == 0) result[network * call.features + d] = sum;
  }
}

// Calls body with the TwoLayerKernels of the call's base and type.
template <typename Body>
void with_kernels(const TwoLayerCall& call, const Body& body) {
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_base(call.base, [&](auto base) { body(TwoLayerKernels<UnitOf<decltype(base)>, T>{}); });
  });
}

}  // namespace

void launch_forward(const TwoLayerCall& call, const Outputs& outputs, double* scratch, void* stream) {
  const ForwardPlan plan(call, outputs.with_gradient());
  OutputsWork work{};
  work.forward = {call, plan.groups, plan.chunks, plan.chunk_neurons, scratch, scratch + plan.linear, outputs.done};
  work.sums = plan.sums;
  work.with_gradient = outputs.with_gradient();
  work.parameter_gradient = outputs.parameter_gradient;
  work.f = outputs.f, work.df_dx = outputs.df_dx;
  if (outputs.parameter_gradient && degree_of(call.base) == 0) work.forward.call.base += kBaseCount;
  const int64_t blocks = ceil_div(call.networks * call.n, kThreads / kLanes);
  with_kernels(call, [&](auto kernels) { kernels.forward(work.forward, work.with_gradient, stream); });
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (outputs.in_double) return launch(outputs_kernel<T, double>, blocks, kThreads, stream, work);
    launch(outputs_kernel<T, T>, blocks, kThreads, stream, work);
  });
}

void launch_backward(const BackwardWork& work, void* stream) {
  with_kernels(work.call, [&](auto kernels) { kernels.backward(work, stream); });
}

int64_t two_layer_scratch(const TwoLayerCall& call, TwoLayerPass pass) {
  const int64_t outputs = call.networks * call.n;
  switch (pass) {
    case TwoLayerPass::kForward: return 8 * ForwardPlan(call, false).doubles;
    case TwoLayerPass::kForwardWithGradient: return 8 * ForwardPlan(call, true).doubles;
    case TwoLayerPass::kInputGradient: return 8 * (ForwardPlan(call, true).doubles + outputs * call.features);
    case TwoLayerPass::kParameterGradient: return 8 * (ForwardPlan(call, false).doubles + outputs);
    default: return 8 * BackwardPlan(call).doubles;
  }
}

const char* two_layer_forward(const TwoLayerCall& call, void* f, void* df_dx, void* scratch, int device, void* stream) {
  if (call.networks * call.n == 0) return nullptr;
  DeviceGuard guard(device);
  Outputs outputs;
  outputs.f = f, outputs.df_dx = df_dx;
  launch_forward(call, outputs, static_cast<double*>(scratch), stream);
  return launch_error();
}

const char* two_layer_input_gradient(const TwoLayerCall& call, const void* grad_f, void* grad_x, void* scratch,
                                     int device, void* stream) {
  const int64_t count = call.n * call.features;
  if (count == 0) return nullptr;
  DeviceGuard guard(device);
  double* df_dx = static_cast<double*>(scratch) + ForwardPlan(call, true).doubles;
  if (call.networks > 0) {
    Outputs outputs;
    outputs.df_dx = df_dx;
    outputs.in_double = true;
    launch_forward(call, outputs, static_cast<double*>(scratch), stream);
  }
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(input_gradient_kernel<T>, ceil_div(count, kThreads), kThreads, stream, call, static_cast<const T*>(grad_f),
           static_cast<const double*>(df_dx), static_cast<T*>(grad_x));
  });
  return launch_error();
}

const char* two_layer_parameter_gradient(const TwoLayerCall& call, const void* grad_f, double* grad_s, void* scratch,
                                         int device, void* stream) {
  const int64_t count = call.networks * call.n;
  DeviceGuard guard(device);
  double* df_ds = static_cast<double*>(scratch) + ForwardPlan(call, false).doubles;
  if (count > 0) {
    Outputs outputs;
    outputs.f = df_ds;
    outputs.in_double = outputs.parameter_gradient = true;
    launch_forward(call, outputs, static_cast<double*>(scratch), stream);
  }
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(parameter_gradient_kernel<T>, 1, kThreads, stream, count, static_cast<const T*>(grad_f),
           static_cast<const double*>(df_ds), grad_s);
  });
  return launch_error();
}

const char* two_layer_backward(const TwoLayerCall& call, const TwoLayerGradients& gradients, void* scratch, int device,
                               void* stream) {
  if (call.networks == 0) return nullptr;
  DeviceGuard guard(device);
  const BackwardPlan plan(call);
  double* everywhere = static_cast<double*>(scratch);
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(everywhere_kernel<T>, call.networks, kThreads, stream, call, static_cast<const T*>(gradients.grad_f),
           static_cast<const T*>(gradients.grad_df_dx), everywhere);
  });
  launch_backward(plan.work(call, gradients, everywhere), stream);
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
