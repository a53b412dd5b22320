// The launches of forward.cuh and backward.cuh for one base; relu.cu, bounded.cu and their likes instantiate them.
#pragma once

#include "network/cuda/plan.cuh"

namespace hrta {
namespace cuda {

// Jets of one feature or two have zeros more: not worth kernels of their own.
template <typename Unit>
constexpr int kFirst = Unit::kSecond == 0 ? 0 : 1;

template <typename Unit, typename T>
void LaneKernels<Unit, T>::forward(const ForwardWork& work, bool with_gradient, void* stream) {
  const int64_t blocks = ceil_div(work.items(), kWarps);
  with_padded_features<kFirst<Unit>>(work.call.features, [&](auto features) {
    constexpr int D = decltype(features)::value;
    if constexpr (Unit::kSecond == 0) {  // a jet has all of them
      if (!with_gradient) return launch(forward_kernel<Unit, D, false, T>, blocks, kWarps * kLanes, stream, work);
    }
    launch(forward_kernel<Unit, D, true, T>, blocks, kWarps * kLanes, stream, work);
  });
}

template <typename Unit, typename T>
void LaneKernels<Unit, T>::backward(const BackwardWork& work, void* stream) {
  const int64_t blocks = ceil_div(work.items(), kWarps);
  with_padded_features<kFirst<Unit>>(work.call.features, [&](auto features) {
    constexpr int D = decltype(features)::value;
    if constexpr (Unit::kSecond == 0 || sizeof(T) == 4) {  // zeros cost little beside three exact derivatives
      if (Unit::kDegree == 1 || work.gradients.grad_df_dx == nullptr) {
        return launch(backward_kernel<Unit, D, false, T>, blocks, kWarps * kLanes, stream, work);
      }
    }
    if constexpr (Unit::kDegree != 1) {
      launch(backward_kernel<Unit, D, true, T>, blocks, kWarps * kLanes, stream, work);
    }
  });
}

}  // namespace cuda
}  // namespace hrta
