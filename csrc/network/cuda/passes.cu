// The two-layer network on the GPU: the way that serves a call, and the passes that network.h names.
#include <algorithm>

#include "network/cuda/units.cuh"
#include "network/cuda/ways.h"

namespace hrta {
namespace cuda {

int64_t forward_scratch(const TwoLayerCall& call, const Outputs& outputs, const Device& device) {
  if (arcs::serves(call)) return arcs::forward_scratch(call, outputs, device);
  if (wide::serves_forward(call, device)) return wide::forward_scratch(call, device);
  return lanes::forward_scratch(call, outputs);
}

void launch_forward(const TwoLayerCall& call, const Outputs& outputs, void* scratch, const Device& device,
                    void* stream) {
  if (arcs::serves(call)) return arcs::forward(call, outputs, scratch, device, stream);
  if (wide::serves_forward(call, device)) return wide::forward(call, outputs, scratch, device, stream);
  lanes::forward(call, outputs, scratch, stream);
}

int64_t backward_scratch(const TwoLayerCall& call, const Targets& targets, const Device& device) {
  if (targets.update == nullptr && arcs::serves(call)) return arcs::backward_scratch(call);
  if (wide::serves_backward(call, device)) return wide::backward_scratch(call, device);
  return lanes::backward_scratch(call, targets);
}

void launch_backward(const TwoLayerCall& call, const Targets& targets, void* scratch, const Device& device,
                     void* stream) {
  if (targets.update == nullptr && arcs::serves(call)) return arcs::backward(call, targets, scratch, device, stream);
  if (wide::serves_backward(call, device)) return wide::backward(call, targets, scratch, device, stream);
  lanes::backward(call, targets, scratch, stream);
}

namespace {

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

// What the passes ask of launch_forward. Only whether a pointer is null matters for the scratch memory.
Outputs outputs_of(TwoLayerPass pass, void* f, void* df_dx) {
  Outputs outputs;
  outputs.f = f, outputs.df_dx = df_dx;
  outputs.in_double = pass == TwoLayerPass::kInputGradient || pass == TwoLayerPass::kParameterGradient;
  outputs.parameter_gradient = pass == TwoLayerPass::kParameterGradient;
  return outputs;
}

// The results of the inner forward pass lie before its scratch memory.
int64_t inner_results(const TwoLayerCall& call, TwoLayerPass pass) {
  const int64_t outputs = call.networks * call.n;
  return 8 * (pass == TwoLayerPass::kInputGradient       ? outputs * call.features
              : pass == TwoLayerPass::kParameterGradient ? outputs
                                                         : 0);
}

}  // namespace

int64_t two_layer_scratch(const TwoLayerCall& call, TwoLayerPass pass, int device) {
  const Device card = device_of(device);
  static char here;
  if (pass == TwoLayerPass::kBackward) {
    Targets with_gradient;
    with_gradient.gradients.grad_df_dx = &here;
    return std::max(backward_scratch(call, {}, card), backward_scratch(call, with_gradient, card));
  }
  const bool with_gradient = pass == TwoLayerPass::kForwardWithGradient || pass == TwoLayerPass::kInputGradient;
  return inner_results(call, pass) +
         forward_scratch(call, outputs_of(pass, &here, with_gradient ? &here : nullptr), card);
}

const char* two_layer_forward(const TwoLayerCall& call, void* f, void* df_dx, void* scratch, int device, void* stream) {
  if (call.networks * call.n == 0) return nullptr;
  DeviceGuard guard(device);
  launch_forward(call, outputs_of(TwoLayerPass::kForward, f, df_dx), scratch, device_of(device), stream);
  return launch_error();
}

const char* two_layer_input_gradient(const TwoLayerCall& call, const void* grad_f, void* grad_x, void* scratch,
                                     int device, void* stream) {
  const int64_t count = call.n * call.features;
  if (count == 0) return nullptr;
  DeviceGuard guard(device);
  double* df_dx = static_cast<double*>(scratch);
  if (call.networks > 0) {
    launch_forward(call, outputs_of(TwoLayerPass::kInputGradient, nullptr, df_dx), df_dx + call.networks * count,
                   device_of(device), stream);
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
  double* df_ds = static_cast<double*>(scratch);
  if (count > 0) {
    launch_forward(call, outputs_of(TwoLayerPass::kParameterGradient, df_ds, nullptr), df_ds + count, device_of(device),
                   stream);
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
  launch_backward(call, {gradients}, scratch, device_of(device), stream);
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
