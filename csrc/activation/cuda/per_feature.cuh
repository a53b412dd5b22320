// One s per feature of the last dimension: element i has s_values[i % F]. Vectors that lie a multiple of F vectors
// apart have the same features, lane by lane, wherever rows begin. So a thread takes vectors a fixed stride apart,
// makes its parameters once, in registers, and reuses them: conversions from double, of which a multiprocessor does 16
// a cycle, would take longer than the memory if every element had its own.
#pragma once

#include <numeric>

#include "activation/cuda/pointwise.cuh"

namespace hrta {
namespace cuda {

// As min_blocks of pointwise.cuh: beyond it a vector's parameters would spill.
template <typename Base, typename Stored, Output kOutput>
constexpr int feature_blocks() {
  if (sizeof(Stored) == 8) return 2;
  const bool many = Base::kGrowth == Growth::kQuadratic || (std::is_same_v<Base, Sin> && sizeof(Stored) == 2);
  return kOutput == Output::kBoth || many ? 3 : 4;
}

template <typename Base, typename Stored, Output kOutput>
__global__ void __launch_bounds__(kThreads, (feature_blocks<Base, Stored, kOutput>()))
    per_feature_kernel(const __grid_constant__ ActivationCall call, int64_t stride, bool aligned) {
  using S = Storage<Stored>;
  using T = typename S::Computed;
  constexpr int kLanes = S::kLanes, kVectors = kOutput == Output::kBoth ? 1 : 2;  // loaded before the first is used
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (thread >= stride || thread * kLanes >= call.n) return;
  const Stored* x = static_cast<const Stored*>(call.x);
  const Stored* grad = static_cast<const Stored*>(call.grad);
  Parameter<T> h[kLanes];
  int64_t feature = thread * kLanes % call.n_features;
#pragma unroll
  for (int j = 0; j < kLanes; ++j) {
    h[j] = Parameter<T>::from(call.s_values[feature]);
    feature = feature + 1 == call.n_features ? 0 : feature + 1;
  }
#pragma unroll 1
  for (int64_t first = thread * kLanes; first < call.n; first += kVectors * stride * kLanes) {
    uint4 raw[kVectors], raw_grad[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = first + v * stride * kLanes, left = call.n - i;
      if (left <= 0) continue;
      raw[v] = load_vector(x + i, aligned && left >= kLanes, int(left < kLanes ? left : kLanes));
      if (grad != nullptr) {
        raw_grad[v] = load_vector(grad + i, aligned && left >= kLanes, int(left < kLanes ? left : kLanes));
      }
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = first + v * stride * kLanes, left = call.n - i;
      if (left <= 0) continue;
      const bool whole = aligned && left >= kLanes;
      const int count = int(left < kLanes ? left : kLanes);
      T in[kLanes], out[kLanes], beside[kLanes];
      S::unpack(raw[v], in);
      evaluate<Base, Stored, kOutput>(h, in, out, beside);
      if (grad != nullptr) {
        T factor[kLanes];
        S::unpack(raw_grad[v], factor);
#pragma unroll
        for (int j = 0; j < kLanes; ++j) out[j] *= factor[j];
      }
      store_vector(S::pack(out), whole, count, static_cast<Stored*>(call.y) + i);
      if constexpr (kOutput == Output::kBoth) {
        store_vector(S::pack(beside), whole, count, static_cast<Stored*>(call.slope) + i);
      }
    }
  }
}

template <typename Base, typename Stored, Output kOutput>
void launch_per_feature(const ActivationCall& call, void* stream) {
  constexpr int64_t kLanes = Storage<Stored>::kLanes;
  constexpr int64_t kMostThreads = 1 << 17, kMostVectors = 8;
  const int64_t vectors = (call.n + kLanes - 1) / kLanes, period = call.n_features / std::gcd(call.n_features, kLanes);
  const int64_t some = vectors / kMostThreads, each = some < 1 ? 1 : some < kMostVectors ? some : kMostVectors;
  const int64_t stride = ((vectors + each - 1) / each + period - 1) / period * period;
  const int64_t threads = stride < vectors ? stride : vectors;
  launch(per_feature_kernel<Base, Stored, kOutput>, unsigned((threads + kThreads - 1) / kThreads), kThreads, stream,
         call, stride, on_grid(call.x, call.grad, call.y, call.slope));
}

// As pointwise() of pointwise.cuh.
template <typename Stored>
void per_feature(const ActivationCall& call, void* stream) {
  with_base(call.base, [&](auto tag) {
    using Base = decltype(tag);
    if (call.quantity == Quantity::kValue && call.slope != nullptr) {
      launch_per_feature<Base, Stored, Output::kBoth>(call, stream);
    } else if (call.quantity == Quantity::kValue) {
      launch_per_feature<Base, Stored, Output::kValue>(call, stream);
    } else if (call.quantity == Quantity::kSlope) {
      launch_per_feature<Base, Stored, Output::kSlope>(call, stream);
    } else {
      launch_per_feature<Base, Stored, Output::kCurvature>(call, stream);
    }
  });
}

}  // namespace cuda
}  // namespace hrta
