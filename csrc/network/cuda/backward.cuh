// The backward kernel (units.cuh has the formulas): a lane holds neurons, the samples of a split stream.
#pragma once

#include "network/cuda/units.cuh"
#include "network/cuda/ways.h"

namespace hrta {
namespace cuda {

// Where the gradients of a network's neurons go: to memory, into partial sums over samples, or into an update of the
// weights.
struct BackwardWork {
  TwoLayerCall call;
  TwoLayerGradients gradients;
  const double* everywhere;  // (networks, D): R
  int64_t groups;            // of neurons, each one warp's
  int64_t splits;            // of the samples
  int64_t split_samples;
  double* partial;      // (splits, networks m, D + 1): H and A, where splits > 1
  const int64_t* done;  // () on the device or null: nothing is done where it is not 0
  bool training;        // whether `update` is used
  Update update;
  const void* grad_second;        // (networks, n, R) or null, of a jet
  SecondDerivatives derivatives;  // which

  __host__ __device__ int64_t parts() const { return splits; }
  __host__ __device__ int64_t items() const { return call.networks * splits * groups; }
};

template <typename T>
__device__ __forceinline__ void update_element(const UpdateNumbers& numbers, T grad, void* parameter, void* first,
                                               void* second, int64_t at) {
  T& target = static_cast<T*>(parameter)[at];
  if (numbers.rule == UpdateRule::kAdam) {
    Adam<T>{numbers}(grad, target, static_cast<T*>(first)[at], static_cast<T*>(second)[at]);
  } else if (first != nullptr) {
    Descent<T>{numbers}(grad, target, static_cast<T*>(first)[at]);
  } else {
    Descent<T>{numbers}(grad, target);
  }
}

// The gradients of neuron k, counted over all networks, from its sums, element by element.
struct Finish {
  double s, q, scale;
  explicit __device__ Finish(const TwoLayerCall& call)
      : s(parameter(call)), q(1.0 - s), scale(output_scale(call.width)) {}

  // In w_kd. `a` is the output weight as it was before any update.
  template <typename T>
  __device__ __forceinline__ void weight(const BackwardWork& work, int64_t k, int64_t d, double a, double R,
                                         double H) const {
    const int64_t at = k * work.call.features + d;
    const T grad = T(scale * a * combine(q, R, s, H));
    if (work.training) {
      update_element(work.update.numbers, grad, const_cast<void*>(work.call.weight), work.update.weight_first,
                     work.update.weight_second, at);
    } else if (work.gradients.grad_weight != nullptr) {
      static_cast<T*>(work.gradients.grad_weight)[at] = grad;
    }
  }

  // In a_k. of_R = w_k . R.
  template <typename T>
  __device__ __forceinline__ void output_weight(const BackwardWork& work, int64_t k, double of_R, double A) const {
    const T grad = T(scale * combine(q, of_R, s, A));
    if (work.training) {
      update_element(work.update.numbers, grad, const_cast<void*>(work.call.output_weight), work.update.output_first,
                     work.update.output_second, k);
    } else if (work.gradients.grad_output_weight != nullptr) {
      static_cast<T*>(work.gradients.grad_output_weight)[k] = grad;
    }
  }
};

// All of them, from its sums H and A; A is not used for homogeneous bases.
template <int kDegree, int D, typename T>
__device__ void finish_neuron(const BackwardWork& work, int64_t k, const double (&H)[D], double A) {
  const TwoLayerCall& call = work.call;
  const Finish finish(call);
  const double* R = work.everywhere + k / call.width * call.features;
  const T* weight = static_cast<const T*>(call.weight) + k * call.features;
  const double a = double(static_cast<const T*>(call.output_weight)[k]);
  double of_R = 0, of_H = 0;
#pragma unroll
  for (int d = 0; d < D; ++d) {
    if (d >= call.features) break;
    const double w = double(weight[d]);
    of_R += w * R[d];
    of_H += w * H[d];
  }
  if constexpr (kDegree != 0) A = of_H / kDegree;
  finish.output_weight<T>(work, k, of_R, A);
#pragma unroll
  for (int d = 0; d < D; ++d) {
    if (d < call.features) finish.weight<T>(work, k, d, a, R[d], H[d]);
  }
}

template <typename Unit, int D, bool kWithGradient, typename T>
__global__ void __launch_bounds__(kWarps* kLanes, resident_blocks<T>(lane_neurons(Unit::kDegree, sizeof(T), D) * 4 *
                                                                     (D + Unit::kSecond)))
    backward_kernel(const __grid_constant__ BackwardWork work) {
  constexpr int kCount = lane_neurons(Unit::kDegree, sizeof(T), D);
  constexpr bool kRamp = Unit::kDegree == 1;  // then x and r = g x + G are all that is needed
  constexpr bool kNarrow = sizeof(T) == 4, kJet = Unit::kSecond != 0;
  constexpr int kOfSecond = D + 1 + (kWithGradient ? D : 0);
  using Sample = Row<T, kRamp ? 2 * D : kOfSecond + Unit::kSecond>;  // x, r or x, g, G, h
  __shared__ Sample tiles[kWarps][kTileRows<Sample>];
  const TwoLayerCall& call = work.call;
  const Place place = place_of(work);
  if (place.idle) return;
  const int lane = place.lane;
  const int64_t group = place.group, split = place.part, network = place.network;
  Sample* tile = tiles[place.warp];
  const int64_t first_neuron = group * kLanes * kCount + lane;

  T w[kCount][D];
#pragma unroll
  for (int v = 0; v < kCount; ++v) {
    const int64_t k = first_neuron + v * kLanes;
    load_features(static_cast<const T*>(call.weight), network * call.width + k, k < call.width ? call.features : 0,
                  w[v]);
  }
  const T* x = static_cast<const T*>(call.x);
  const T* grad_f = static_cast<const T*>(work.gradients.grad_f);
  const T* grad_df_dx = static_cast<const T*>(work.gradients.grad_df_dx);
  T V[kCount];
  if constexpr (kJet) {
#pragma unroll
    for (int v = 0; v < kCount; ++v) V[v] = squares(w[v], work.derivatives.columns);
  }
  T H[kCount][D] = {}, A[kCount] = {}, Q[kCount] = {};  // Q = sum_i sigma'' h_i
  double H_total[kCount][D] = {}, A_total[kCount] = {}, Q_total[kCount] = {};
  const int64_t begin = split * work.split_samples;
  const int64_t end = begin + work.split_samples < call.n ? begin + work.split_samples : call.n;
  for (int64_t first = begin; first < end; first += kTileRows<Sample>) {
    const int count = end - first < kTileRows<Sample> ? int(end - first) : kTileRows<Sample>;
    __syncwarp();
    for (int j = lane; j < count; j += kLanes) {
      const int64_t row = network * call.n + first + j;
      T sample[D], G[D] = {};
      load_features(x, first + j, call.features, sample);
      const T g = grad_f != nullptr ? grad_f[row] : T(0);
      if (grad_df_dx != nullptr) load_features(grad_df_dx, row, call.features, G);
#pragma unroll
      for (int d = 0; d < D; ++d) {
        tile[j].at[d] = sample[d];
        if constexpr (kRamp) tile[j].at[D + d] = multiply_add(g, sample[d], G[d]);
        if constexpr (!kRamp && kWithGradient) tile[j].at[D + 1 + d] = G[d];
      }
      if constexpr (!kRamp) tile[j].at[D] = g;
      if constexpr (kJet) tile[j].at[kOfSecond] = static_cast<const T*>(work.grad_second)[row];
    }
    __syncwarp();
#pragma unroll 1
    for (int j = 0; j < count; ++j) {
      const Sample sample = read_row(tile[j]);
      T z[kCount];
#pragma unroll
      for (int v = 0; v < kCount; ++v) z[v] = dot(sample.at, w[v]);
      if constexpr (kRamp) {
#pragma unroll
        for (int v = 0; v < kCount; ++v) {
#pragma unroll
          for (int d = 0; d < D; ++d) H[v][d] = z[v] > T(0) ? H[v][d] + sample.at[D + d] : H[v][d];
        }
      } else {
        T value[kCount], slope[kCount], curvature[kCount], third[kCount];
        constexpr bool kValue = Unit::kDegree == 0;
        if constexpr (kJet) {
          Unit::template evaluate<kCount, T>(call.base, z, value, slope, curvature, third);
        } else {
          Unit::template evaluate<kCount, T>(call.base, z, kValue ? value : nullptr, slope,
                                             kWithGradient ? curvature : nullptr);
        }
        const T g = sample.at[D];
#pragma unroll
        for (int v = 0; v < kCount; ++v) {
          T factor = g * slope[v], along = T(0);
          if constexpr (kWithGradient) {
            along = dot(sample.at + D + 1, w[v]);
            factor = multiply_add(along, curvature[v], factor);
          }
          if constexpr (kJet) {
            const T h = sample.at[kOfSecond], of_second = h * V[v];
            factor = multiply_add(of_second, third[v], factor);
            A[v] = multiply_add(of_second, curvature[v], A[v]);
            Q[v] = multiply_add(h, curvature[v], Q[v]);
          }
#pragma unroll
          for (int d = 0; d < D; ++d) {
            H[v][d] = multiply_add(factor, sample.at[d], H[v][d]);
            if constexpr (kWithGradient) H[v][d] = multiply_add(slope[v], sample.at[D + 1 + d], H[v][d]);
          }
          if constexpr (kValue) {
            A[v] = multiply_add(g, value[v], A[v]);
            if constexpr (kWithGradient) A[v] = multiply_add(along, slope[v], A[v]);
          }
        }
      }
    }
    if constexpr (kNarrow) {
#pragma unroll
      for (int v = 0; v < kCount; ++v) {
#pragma unroll
        for (int d = 0; d < D; ++d) {
          H_total[v][d] += double(H[v][d]);
          H[v][d] = T(0);
        }
        A_total[v] += double(A[v]);
        A[v] = T(0);
        Q_total[v] += double(Q[v]);
        Q[v] = T(0);
      }
    }
  }
#pragma unroll 1
  for (int v = 0; v < kCount; ++v) {  // one copy of the update's code, which is longer than all the rest
    const int64_t neuron = first_neuron + v * kLanes;
    if (neuron >= call.width) continue;
    const int64_t k = network * call.width + neuron;
    double sums[D], of_a = 0;
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      if (u != v) continue;
#pragma unroll
      for (int d = 0; d < D; ++d) {
        sums[d] = kNarrow ? H_total[u][d] : double(H[u][d]);
        if constexpr (kJet) {
          const double of_second = 2.0 * (kNarrow ? Q_total[u] : double(Q[u]));
          if ((work.derivatives.columns >> d & 1) != 0) sums[d] += of_second * double(w[u][d]);
        }
      }
      of_a = kNarrow ? A_total[u] : double(A[u]);
    }
    if (work.splits == 1) {
      finish_neuron<Unit::kDegree, D, T>(work, k, sums, of_a);
      continue;
    }
    double* target = work.partial + (split * call.networks * call.width + k) * (call.features + 1);
#pragma unroll
    for (int d = 0; d < D; ++d) {
      if (d < call.features) target[d] = sums[d];
    }
    target[call.features] = of_a;
  }
}

}  // namespace cuda
}  // namespace hrta
