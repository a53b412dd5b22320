// The launches of forward.cuh and backward.cuh for one Unit; relu.cu, relu2.cu and smooth_*.cu instantiate them.
#pragma once

#include "network/cuda/plan.cuh"

namespace hrta {
namespace cuda {

template <typename Unit, typename T>
void TwoLayerKernels<Unit, T>::forward(const ForwardWork& work, bool with_gradient, void* stream) {
  const int64_t blocks = ceil_div(work.items(), kWarps);
  with_padded_features(work.call.features, [&](auto features) {
    constexpr int D = decltype(features)::value;
    if (with_gradient) return launch(forward_kernel<Unit, D, true, T>, blocks, kWarps * kLanes, stream, work);
    launch(forward_kernel<Unit, D, false, T>, blocks, kWarps * kLanes, stream, work);
  });
}

// Sums over the samples' splits, in their order, a thread per neuron.
template <int kDegree, int D, typename T>
__global__ void __launch_bounds__(kThreads) finish_splits_kernel(const __grid_constant__ BackwardWork work) {
  const TwoLayerCall& call = work.call;
  const int64_t neurons = call.networks * call.width, k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= neurons || stopped(work.done)) return;
  double H[D] = {}, A = 0;
  for (int64_t split = 0; split < work.splits; ++split) {
    const double* source = work.partial + (split * neurons + k) * (call.features + 1);
#pragma unroll
    for (int d = 0; d < D; ++d) {
      if (d < call.features) H[d] += source[d];
    }
    A += source[call.features];
  }
  finish_neuron<kDegree, D, T>(work, k, H, A);
}

template <typename Unit, typename T>
void TwoLayerKernels<Unit, T>::backward(const BackwardWork& work, void* stream) {
  const int64_t blocks = ceil_div(work.items(), kWarps);
  with_padded_features(work.call.features, [&](auto features) {
    constexpr int D = decltype(features)::value;
    if (Unit::kDegree == 1 || work.gradients.grad_df_dx == nullptr) {
      launch(backward_kernel<Unit, D, false, T>, blocks, kWarps * kLanes, stream, work);
    } else if constexpr (Unit::kDegree != 1) {
      launch(backward_kernel<Unit, D, true, T>, blocks, kWarps * kLanes, stream, work);
    }
    if (work.splits == 1) return;
    const int64_t neurons = work.call.networks * work.call.width;
    launch(finish_splits_kernel<Unit::kDegree, D, T>, ceil_div(neurons, kThreads), kThreads, stream, work);
  });
}

}  // namespace cuda
}  // namespace hrta
