// The two-layer network's kernels. Every warp works by itself: forward a lane holds samples and the neurons of a chunk
// stream through shared memory, backward a lane holds neurons and the samples stream. What streams is read by all lanes
// at once, so a pair of sample and neuron costs its arithmetic.
//
// sigma_s(z) = q z + s sigma(z) with q = 1 - s, so the loops see the base alone, and the linear part comes from sums of
// size D. With V = sum_k a_k w_k and R = sum_i g_i x_i + G_i (g = grad_f, G = grad_df_dx), without the factor m^(-1/2):
//   f_i = q x_i . V + s S_i,        S_i = sum_k a_k sigma(z_ik)
//   df_dx_i = q V + s U_i,          U_i = sum_k a_k sigma'(z_ik) w_k
//   grad_w_k = a_k (q R + s H_k),   H_k = sum_i (g_i sigma' + (G_i . w_k) sigma'') x_i + sigma' G_i
//   grad_a_k = q w_k . R + s A_k,   A_k = sum_i g_i sigma + (G_i . w_k) sigma'
// ReLU and ReLU^2 / 2 are homogeneous of degree p = 1, 2: S_i = x_i . U_i / p and A_k = w_k . H_k / p are free.
//
// Sums are in T over a tile of 16 to 64 and in double beyond; their order depends on the shapes alone.
#pragma once

#include "network/cuda/units.cuh"
#include "training/update.h"

namespace hrta {
namespace cuda {

// --- forward ------------------------------------------------------------------------------------------------------

// Samples of a lane: fewer where there are many features to hold, or sums of as many.
HRTA_INLINE constexpr int lane_samples(int wanted, int features, bool with_gradient) {
  const int held = with_gradient ? 2 * features : features;
  return held <= 6 ? wanted : held <= 10 ? (wanted + 1) / 2 : 1;
}

// Sums per sample and neuron chunk: S, or U with S before it unless the base is homogeneous.
HRTA_INLINE constexpr int sums_per_sample(int degree, int features, bool with_gradient) {
  return with_gradient ? features + (degree == 0) : 1;
}

struct ForwardWork {
  TwoLayerCall call;
  int64_t groups;         // of samples, each one warp's
  int64_t chunks;         // of neurons
  int64_t chunk_neurons;  // a multiple of 64
  double* sums;           // (networks, n, sums, chunks), sums over the true features
  double* linear;         // (networks, D, chunks): V of each chunk
  const int64_t* done;    // () on the device or null: nothing is done where it is not 0

  __host__ __device__ int64_t items() const { return call.networks * chunks * groups; }
};

template <typename Unit, int D, bool kWithGradient, typename T>
__global__ void __launch_bounds__(kWarps* kLanes) forward_kernel(const __grid_constant__ ForwardWork work) {
  constexpr int kCount = lane_samples(Unit::kSamples, D, kWithGradient);
  constexpr int kSums = sums_per_sample(Unit::kDegree, D, kWithGradient);
  constexpr int kSlopes = kSums - D;  // where U begins among the sums
  constexpr bool kNarrow = sizeof(T) == 4;
  using Neuron = Row<T, D + 1>;  // w, a
  __shared__ Neuron tiles[kWarps][kTileRows<Neuron>];
  const TwoLayerCall& call = work.call;
  const int lane = threadIdx.x % kLanes;
  Neuron* tile = tiles[threadIdx.x / kLanes];
  const int64_t item = int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (item >= work.items() || stopped(work.done)) return;
  const int64_t group = item % work.groups, chunk = item / work.groups % work.chunks;
  const int64_t network = item / (work.groups * work.chunks);
  const int64_t first_sample = group * kLanes * kCount + lane;

  T x[kCount][D];
#pragma unroll
  for (int r = 0; r < kCount; ++r) {
    const int64_t sample = first_sample + r * kLanes;
    load_features(static_cast<const T*>(call.x), sample, sample < call.n ? call.features : 0, x[r]);
  }
  const T* weight = static_cast<const T*>(call.weight) + network * call.width * call.features;
  const T* output_weight = static_cast<const T*>(call.output_weight) + network * call.width;
  const int64_t begin = chunk * work.chunk_neurons;
  const int64_t end = begin + work.chunk_neurons < call.width ? begin + work.chunk_neurons : call.width;
  T sums[kCount][kSums] = {};
  double totals[kCount][kSums] = {}, linear[D] = {};
  for (int64_t first = begin; first < end; first += kTileRows<Neuron>) {
    const int count = end - first < kTileRows<Neuron> ? int(end - first) : kTileRows<Neuron>;
    __syncwarp();
    for (int j = lane; j < count; j += kLanes) {
      T w[D];
      load_features(weight, first + j, call.features, w);
      const T a = output_weight[first + j];
#pragma unroll
      for (int d = 0; d < D; ++d) {
        tile[j].at[d] = w[d];
        if (group == 0) linear[d] += double(a) * double(w[d]);
      }
      tile[j].at[D] = a;
    }
    __syncwarp();
#pragma unroll 2
    for (int j = 0; j < count; ++j) {
      const Neuron neuron = read_row(tile[j]);
      const T a = neuron.at[D];
      T z[kCount], value[kCount], slope[kCount];
#pragma unroll
      for (int r = 0; r < kCount; ++r) z[r] = dot(neuron.at, x[r]);
      constexpr bool kValue = kSlopes != 0 || !kWithGradient;
      Unit::template evaluate<kCount, T>(call.base, z, kValue ? value : nullptr, kWithGradient ? slope : nullptr,
                                         nullptr);
#pragma unroll
      for (int r = 0; r < kCount; ++r) {
        if constexpr (kValue) sums[r][0] = multiply_add(a, value[r], sums[r][0]);
        if constexpr (kWithGradient) {
          const T e = a * slope[r];
#pragma unroll
          for (int d = 0; d < D; ++d) sums[r][kSlopes + d] = multiply_add(e, neuron.at[d], sums[r][kSlopes + d]);
        }
      }
    }
    if constexpr (kNarrow) {
#pragma unroll
      for (int r = 0; r < kCount; ++r) {
#pragma unroll
        for (int c = 0; c < kSums; ++c) {
          totals[r][c] += double(sums[r][c]);
          sums[r][c] = T(0);
        }
      }
    }
  }
  const int stored = sums_per_sample(Unit::kDegree, int(call.features), kWithGradient);
#pragma unroll
  for (int r = 0; r < kCount; ++r) {
    const int64_t sample = first_sample + r * kLanes;
    if (sample >= call.n) continue;
    double* target = work.sums + (network * call.n + sample) * stored * work.chunks + chunk;
#pragma unroll
    for (int c = 0; c < kSums; ++c) {
      if (c < stored) target[c * work.chunks] = kNarrow ? totals[r][c] : double(sums[r][c]);
    }
  }
  if (group != 0) return;
#pragma unroll
  for (int d = 0; d < D; ++d) {
    const double sum = sum_over_warp(linear[d]);
    if (lane == 0 && d < call.features) {
      work.linear[(network * call.features + d) * work.chunks + chunk] = sum;
    }
  }
}

// --- backward -----------------------------------------------------------------------------------------------------

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
  const int64_t* done;  // as in ForwardWork
  bool training;        // whether what follows is used
  UpdateNumbers numbers;
  void *weight_first, *weight_second;  // (m, D)
  void *output_first, *output_second;  // (m)

  __host__ __device__ int64_t items() const { return call.networks * splits * groups; }
};

HRTA_INLINE constexpr int lane_neurons(int wanted, int features) {
  return features <= 5 ? wanted : 1;
}

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

// The gradients of neuron k, counted over all networks, from its sums H and A; A is not used for homogeneous bases.
template <int kDegree, int D, typename T>
__device__ void finish_neuron(const BackwardWork& work, int64_t k, const double (&H)[D], double A) {
  const TwoLayerCall& call = work.call;
  const double s = parameter(call), q = 1.0 - s, scale = 1.0 / sqrt(double(call.width));
  const double* R = work.everywhere + k / call.width * call.features;
  const T* weight = static_cast<const T*>(call.weight) + k * call.features;
  const double a = double(static_cast<const T*>(call.output_weight)[k]);
  double of_r = 0, of_h = 0;
#pragma unroll
  for (int d = 0; d < D; ++d) {
    if (d >= call.features) break;
    const double w = double(weight[d]);
    of_r += w * R[d];
    of_h += w * H[d];
  }
  if constexpr (kDegree != 0) A = of_h / kDegree;
  const T grad_a = T(scale * combine(q, of_r, s, A));
  const int64_t row = k * call.features;
#pragma unroll
  for (int d = 0; d < D; ++d) {
    if (d >= call.features) break;
    const T grad_w = T(scale * a * combine(q, R[d], s, H[d]));
    if (work.training) {
      update_element(work.numbers, grad_w, const_cast<void*>(call.weight), work.weight_first, work.weight_second,
                     row + d);
    } else if (work.gradients.grad_weight != nullptr) {
      static_cast<T*>(work.gradients.grad_weight)[row + d] = grad_w;
    }
  }
  if (work.training) {
    update_element(work.numbers, grad_a, const_cast<void*>(call.output_weight), work.output_first, work.output_second,
                   k);
  } else if (work.gradients.grad_output_weight != nullptr) {
    static_cast<T*>(work.gradients.grad_output_weight)[k] = grad_a;
  }
}

template <typename Unit, int D, bool kWithGradient, typename T>
__global__ void __launch_bounds__(kWarps* kLanes) backward_kernel(const __grid_constant__ BackwardWork work) {
  constexpr int kCount = lane_neurons(Unit::kNeurons, D);
  constexpr bool kRamp = Unit::kDegree == 1;  // then x and r = g x + G are all that is needed
  constexpr bool kNarrow = sizeof(T) == 4;
  using Sample = Row<T, kRamp ? 2 * D : D + 1 + (kWithGradient ? D : 0)>;  // x, r or x, g, G
  __shared__ Sample tiles[kWarps][kTileRows<Sample>];
  const TwoLayerCall& call = work.call;
  const int lane = threadIdx.x % kLanes;
  Sample* tile = tiles[threadIdx.x / kLanes];
  const int64_t item = int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (item >= work.items() || stopped(work.done)) return;
  const int64_t group = item % work.groups, split = item / work.groups % work.splits;
  const int64_t network = item / (work.groups * work.splits);
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
  T H[kCount][D] = {}, A[kCount] = {};
  double H_total[kCount][D] = {}, A_total[kCount] = {};
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
    }
    __syncwarp();
#pragma unroll 2
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
        T value[kCount], slope[kCount], curvature[kCount];
        constexpr bool kValue = Unit::kDegree == 0;
        Unit::template evaluate<kCount, T>(call.base, z, kValue ? value : nullptr, slope,
                                           kWithGradient ? curvature : nullptr);
        const T g = sample.at[D];
#pragma unroll
        for (int v = 0; v < kCount; ++v) {
          T factor = g * slope[v], along = T(0);
          if constexpr (kWithGradient) {
            along = dot(sample.at + D + 1, w[v]);
            factor = multiply_add(along, curvature[v], factor);
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
      }
    }
  }
#pragma unroll
  for (int v = 0; v < kCount; ++v) {
    const int64_t neuron = first_neuron + v * kLanes;
    if (neuron >= call.width) continue;
    const int64_t k = network * call.width + neuron;
    double sums[D];
#pragma unroll
    for (int d = 0; d < D; ++d) sums[d] = kNarrow ? H_total[v][d] : double(H[v][d]);
    const double of_a = kNarrow ? A_total[v] : double(A[v]);
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

// --- choosing a kernel --------------------------------------------------------------------------------------------

// One translation unit per Unit and type, which the build compiles side by side: two_layer_*.cu define them.
template <typename Unit, typename T>
struct TwoLayerKernels {
  static void forward(const ForwardWork& work, bool with_gradient, void* stream);
  static void backward(const BackwardWork& work, void* stream);
};

// Calls body(number of features as a constant) with the least compiled one that holds `features`.
template <int kIndex = 0, typename Body>
void with_padded_features(int64_t features, const Body& body) {
  constexpr int kFeatures = kFeatureCounts[kIndex];
  if constexpr (kFeatures < kMostFeatures) {
    if (features > kFeatures) return with_padded_features<kIndex + 1>(features, body);
  }
  body(std::integral_constant<int, kFeatures>{});
}

}  // namespace cuda
}  // namespace hrta
