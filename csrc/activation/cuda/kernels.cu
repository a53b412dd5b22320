// The activation on the GPU: which kernel serves a call, and the one for an s per feature, where the stored type is a
// run-time choice (gpu/launch.cuh).
#include "activation/activation.h"
#include "gpu/launch.cuh"

namespace hrta {
namespace cuda {

template <typename Stored>
void pointwise(const ActivationCall& call, void* stream);  // pointwise.cuh, one s

namespace {

template <typename Base, Quantity kQuantity, bool kWithSlope, typename T>
__global__ void __launch_bounds__(kThreads) per_feature_kernel(const __grid_constant__ ActivationCall call) {
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kPerThread;
  if (i >= call.n) return;
  const int count = call.n - i < kPerThread ? int(call.n - i) : kPerThread;
  T x[kPerThread], y[kPerThread], slope[kPerThread];
  load_as(call.dtype, call.x, i, count, x);
  int64_t feature = i % call.n_features;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const Homotopy<T> h = Homotopy<T>::from(call.s_values[feature]);
    feature = feature + 1 == call.n_features ? 0 : feature + 1;
    y[j] = homotopy_quantity<Base, kQuantity>(x[j], h);
    if constexpr (kWithSlope) slope[j] = homotopy_slope<Base>(x[j], h);
  }
  if (call.grad != nullptr) {
    T grad[kPerThread];
    load_as(call.dtype, call.grad, i, count, grad);
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) y[j] *= grad[j];
  }
  store_as(call.dtype, y, count, call.y, i);
  if constexpr (kWithSlope) store_as(call.dtype, slope, count, call.slope, i);
}

template <typename Base, typename T>
void launch_per_feature(const ActivationCall& call, void* stream) {
  const unsigned blocks = blocks_for(call.n);
  if (call.quantity == Quantity::kValue && call.slope != nullptr) {
    launch(per_feature_kernel<Base, Quantity::kValue, true, T>, blocks, kThreads, stream, call);
  } else if (call.quantity == Quantity::kValue) {
    launch(per_feature_kernel<Base, Quantity::kValue, false, T>, blocks, kThreads, stream, call);
  } else if (call.quantity == Quantity::kSlope) {
    launch(per_feature_kernel<Base, Quantity::kSlope, false, T>, blocks, kThreads, stream, call);
  } else {
    launch(per_feature_kernel<Base, Quantity::kCurvature, false, T>, blocks, kThreads, stream, call);
  }
}

}  // namespace

const char* transform(const ActivationCall& call, int device, void* stream) {
  if (call.n == 0) return nullptr;
  DeviceGuard guard(device);
  if (call.n_features > 1) {
    with_base(call.base, [&](auto base) {
      if (call.dtype == ScalarKind::kFloat64) return launch_per_feature<decltype(base), double>(call, stream);
      launch_per_feature<decltype(base), float>(call, stream);
    });
  } else {
    switch (call.dtype) {
      case ScalarKind::kFloat16: pointwise<Float16>(call, stream); break;
      case ScalarKind::kBFloat16: pointwise<BFloat16>(call, stream); break;
      case ScalarKind::kFloat32: pointwise<float>(call, stream); break;
      case ScalarKind::kFloat64: pointwise<double>(call, stream); break;
    }
  }
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
