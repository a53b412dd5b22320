// The forward kernel (units.cuh has the formulas): a lane holds samples, the neurons of a chunk stream.
#pragma once

#include "network/cuda/units.cuh"

namespace hrta {
namespace cuda {

// Sums per sample and neuron chunk: S, or U with S before it unless the base is homogeneous, and a jet's T between.
HRTA_INLINE constexpr int lane_sums(int degree, int features, bool with_gradient, int second = 0) {
  return with_gradient ? features + (degree == 0) + second : 1;
}

struct ForwardWork {
  TwoLayerCall call;
  int64_t groups;                 // of samples, each one warp's
  int64_t chunks;                 // of neurons
  int64_t chunk_neurons;          // a multiple of 64
  double* sums;                   // (networks, n, sums, chunks), sums over the true features
  double* linear;                 // (networks, D, chunks): V of each chunk
  const int64_t* done;            // () on the device or null: nothing is done where it is not 0
  bool excess;                    // in tiles alone: S is of sigma(z) - z, whose sums do not cancel at small z
  SecondDerivatives derivatives;  // which, of a jet

  __host__ __device__ int64_t parts() const { return chunks; }
  __host__ __device__ int64_t items() const { return call.networks * chunks * groups; }
};

template <typename Unit, int D, bool kWithGradient, typename T>
constexpr int kForwardHeld = lane_samples(Unit::kDegree, sizeof(T), D, kWithGradient) *
                             (D + 3 * lane_sums(Unit::kDegree, D, kWithGradient, Unit::kSecond));

template <typename Unit, int D, bool kWithGradient, typename T>
__global__ void __launch_bounds__(kWarps* kLanes, resident_blocks<T>(kForwardHeld<Unit, D, kWithGradient, T>))
    forward_kernel(const __grid_constant__ ForwardWork work) {
  constexpr int kCount = lane_samples(Unit::kDegree, sizeof(T), D, kWithGradient);
  constexpr int kSums = lane_sums(Unit::kDegree, D, kWithGradient, Unit::kSecond);
  constexpr int kSlopes = kSums - D;  // where U begins among the sums
  constexpr bool kNarrow = sizeof(T) == 4;
  using Neuron = Row<T, D + 1 + Unit::kSecond>;  // w, a, a V
  __shared__ Neuron tiles[kWarps][kTileRows<Neuron>];
  const TwoLayerCall& call = work.call;
  const Place place = place_of(work);
  if (place.idle) return;
  const int lane = place.lane;
  const int64_t group = place.group, chunk = place.part, network = place.network;
  Neuron* tile = tiles[place.warp];
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
      if constexpr (Unit::kSecond != 0) tile[j].at[D + 1] = a * squares(w, work.derivatives.columns);
    }
    __syncwarp();
#pragma unroll 1
    for (int j = 0; j < count; ++j) {
      const Neuron neuron = read_row(tile[j]);
      const T a = neuron.at[D];
      T z[kCount], value[kCount], slope[kCount], curvature[kCount];
#pragma unroll
      for (int r = 0; r < kCount; ++r) z[r] = dot(neuron.at, x[r]);
      constexpr bool kValue = kSlopes != 0 || !kWithGradient;
      Unit::template evaluate<kCount, T>(call.base, z, kValue ? value : nullptr, kWithGradient ? slope : nullptr,
                                         Unit::kSecond != 0 ? curvature : nullptr);
#pragma unroll
      for (int r = 0; r < kCount; ++r) {
        if constexpr (kValue) sums[r][0] = multiply_add(a, value[r], sums[r][0]);
        if constexpr (Unit::kSecond != 0) sums[r][1] = multiply_add(neuron.at[D + 1], curvature[r], sums[r][1]);
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
  const int stored = lane_sums(Unit::kDegree, int(call.features), kWithGradient, Unit::kSecond);
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

}  // namespace cuda
}  // namespace hrta
