// The two-layer network's kernels. What a thread holds are samples (forward) or neurons (backward), and what streams
// past them are neurons or samples: up to kMostLaneFeatures in the lanes of a warp (forward.cuh, backward.cuh), and up
// to kMostFeatures in the tiles of a block (tiles.cuh).
//
// sigma_s(z) = q z + s sigma(z) with q = 1 - s, so the loops see the base alone, and the linear part comes from sums of
// size D. With V = sum_k a_k w_k and R = sum_i g_i x_i + G_i (g = grad_f, G = grad_df_dx), without the factor m^(-1/2):
//   f_i = q x_i . V + s S_i,        S_i = sum_k a_k sigma(z_ik)
//   df_dx_i = q V + s U_i,          U_i = sum_k a_k sigma'(z_ik) w_k
//   grad_w_k = a_k (q R + s H_k),   H_k = sum_i (g_i sigma' + (G_i . w_k) sigma'') x_i + sigma' G_i
//   grad_a_k = q w_k . R + s A_k,   A_k = sum_i g_i sigma + (G_i . w_k) sigma'
// A jet (network/jet.h) has beside these, with h = grad_second and V_k now the quadratic features of w_k,
//   second_i = s T_i,               T_i = sum_k a_k sigma''(z_ik) V_k
// and backward (h_i . V_k) sigma''' joins the factor of x_i, (h_i . V_k) sigma'' joins A_k, and H_k has the derivative
// of V_k . sum_i sigma'' h_i in w_k. ReLU and ReLU^2 / 2 are homogeneous of degree p = 1, 2: S_i = x_i . U_i / p and
// A_k = w_k . H_k / p are free.
//
// Sums are in T over a tile of 16 to 64 and in double beyond; their order depends on the shapes alone. float32 knows
// the bases by fast_bases.cuh, float64 exactly.
//
// Here is what they are made of: the bases, and what all of them share.
#pragma once

#include <type_traits>

#include "gpu/launch.cuh"
#include "math/jets.h"
#include "network/cuda/fast_bases.cuh"
#include "network/jet.h"

namespace hrta {
namespace cuda {

constexpr int kLanes = 32;
constexpr int kWarps = 4;  // of a block, for nothing but scheduling

// Numbers of features that the lanes are compiled for; others are padded with zeros to the next.
constexpr int kLaneFeatures[] = {2, 3, 4, 5, 8};
constexpr int kMostLaneFeatures = 8;

// Calls body(number of features as a constant) with the least compiled one that holds `features`.
template <int kIndex = 0, typename Body>
void with_padded_features(int64_t features, const Body& body) {
  constexpr int kFeatures = kLaneFeatures[kIndex];
  if constexpr (kFeatures < kMostLaneFeatures) {
    if (features > kFeatures) return with_padded_features<kIndex + 1>(features, body);
  }
  body(std::integral_constant<int, kFeatures>{});
}

// --- the bases ----------------------------------------------------------------------------------------------------

// sigma, sigma' and sigma'' of z; what is null is not wanted.
template <typename Base, int kCount, typename T>
__device__ __forceinline__ void evaluate_base(const T (&z)[kCount], T* value, T* slope, T* curvature) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if constexpr (sizeof(T) == 4) {
      FastBase<Base>::evaluate(z[j], value == nullptr ? nullptr : value + j, slope == nullptr ? nullptr : slope + j,
                               curvature == nullptr ? nullptr : curvature + j);
    } else {
      if (value != nullptr) value[j] = base_value<Base>(z[j]);
      if (slope != nullptr) slope[j] = Base::slope(z[j]);
      if (curvature != nullptr) curvature[j] = Base::curvature(z[j]);
    }
  }
}

// With sigma''', which may be null, from one exponential.
template <typename Base, int kCount, typename T>
__device__ __forceinline__ void evaluate_jet(const T (&z)[kCount], T* value, T* slope, T* curvature, T* third) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if constexpr (sizeof(T) == 4) {
      FastBase<Base>::evaluate(z[j], value + j, slope + j, curvature + j, third == nullptr ? nullptr : third + j);
    } else {
      const JetOf<T> jet = BaseJet<Base>::at(z[j]);
      value[j] = jet.value, slope[j] = jet.slope, curvature[j] = jet.curvature;
      if (third != nullptr) third[j] = jet.third;
    }
  }
}

// The degree of a homogeneous base, 0 of the others.
HRTA_INLINE constexpr int degree_of(int base) {
  return base == kRelu ? 1 : base == kRelu2 ? 2 : 0;
}

// A base that kernels are compiled for. kSecond: the numbers of `second` that they give beside f and df/dx.
template <typename Base>
struct OneBase {
  static constexpr int kSecond = 0;
  static constexpr int kDegree = std::is_same_v<Base, Relu> ? 1 : std::is_same_v<Base, Relu2> ? 2 : 0;
  template <int kCount, typename T>
  static __device__ __forceinline__ void evaluate(int, const T (&z)[kCount], T* value, T* slope, T* curvature) {
    evaluate_base<Base>(z, value, slope, curvature);
  }
};

// One that is not homogeneous, chosen at run time: the same branch for the whole grid, little beside functions that are
// exact in float64.
struct SmoothBase {
  static constexpr int kSecond = 0;
  static constexpr int kDegree = 0;
  template <int kCount, typename T>
  static __device__ __forceinline__ void evaluate(int base, const T (&z)[kCount], T* value, T* slope, T* curvature) {
    with_base(base, [&](auto tag) {
      using Base = decltype(tag);
      if constexpr (OneBase<Base>::kDegree == 0) evaluate_base<Base>(z, value, slope, curvature);
    });
  }
};

// Any, likewise, for jets with one number of `second`: a Laplacian over some columns.
struct JetBase {
  static constexpr int kDegree = 0, kSecond = 1;
  template <int kCount, typename T>
  static __device__ __forceinline__ void evaluate(int base, const T (&z)[kCount], T* value, T* slope, T* curvature,
                                                  T* third = nullptr) {
    with_base(base, [&](auto tag) { evaluate_jet<decltype(tag)>(z, value, slope, curvature, third); });
  }
};

template <typename Base, typename T>
using UnitOf = std::conditional_t<sizeof(T) == 8 && OneBase<Base>::kDegree == 0, SmoothBase, OneBase<Base>>;

// Samples of a lane, forward, and neurons, backward: as many as registers allow, since what streams is read once for
// all.
HRTA_INLINE constexpr int lane_samples(int degree, size_t element, int features, bool with_gradient) {
  if (element == 4) return features <= 5 ? 4 : 2;
  const int held = with_gradient ? 2 * features : features, wanted = degree != 0 ? 4 : 2;
  return held <= 6 ? wanted : held <= 10 ? wanted / 2 : 1;
}

HRTA_INLINE constexpr int lane_neurons(int degree, size_t element, int features) {
  if (element == 4) return features <= 5 ? 4 : 2;
  return degree != 0 && features <= 5 ? 2 : 1;
}

// Blocks that a multiprocessor is to hold, so that a thread may have 128 or 168 registers, where `held` are its own for
// what it holds and sums (of float32, for a lane holds less of float64).
template <typename T>
HRTA_INLINE constexpr int resident_blocks(int held) {
  return sizeof(T) == 8 ? 1 : held < 70 ? 4 : 3;
}

// --- what both directions share -----------------------------------------------------------------------------------

__device__ __forceinline__ bool stopped(const int64_t* done) {
  return done != nullptr && *done != 0;
}

// Where a warp stands among the items of a work: rows that its lanes hold (a group) by rows that stream (a part).
struct Place {
  int lane, warp;  // of the block
  int64_t group, part, network;
  bool idle;  // beyond the last item, or the work was stopped
};

template <typename Work>
__device__ __forceinline__ Place place_of(const Work& work) {
  Place place;
  place.lane = threadIdx.x % kLanes;
  place.warp = threadIdx.x / kLanes;
  const int64_t item = int64_t(blockIdx.x) * kWarps + place.warp;
  place.idle = item >= work.items() || stopped(work.done);
  place.group = item % work.groups;
  place.part = item / work.groups % work.parts();
  place.network = item / (work.groups * work.parts());
  return place;
}

// A row of `count` elements in shared memory, in whole 16-byte words.
template <typename T, int count>
struct alignas(16) Row {
  static constexpr int kWords = (count * int(sizeof(T)) + 15) / 16;
  T at[kWords * 16 / int(sizeof(T))];
};

// Rows of a warp's tile: what fits a quarter of the 48 KB of static shared memory.
template <typename R>
constexpr int kTileRows = sizeof(R) <= 192   ? 64
                          : sizeof(R) <= 384 ? 32
                                             : 16;

template <typename R>
__device__ __forceinline__ R read_row(const R& source) {
  R row;
  const uint4* from = reinterpret_cast<const uint4*>(&source);
#pragma unroll
  for (int k = 0; k < R::kWords; ++k) reinterpret_cast<uint4*>(&row)[k] = from[k];
  return row;
}

// Row `row` of a (.., features) array, padded with zeros.
template <int D, typename T>
__device__ __forceinline__ void load_features(const T* source, int64_t row, int64_t features, T (&target)[D]) {
#pragma unroll
  for (int d = 0; d < D; ++d) target[d] = d < features ? source[row * features + d] : T(0);
}

template <int D, typename T>
__device__ __forceinline__ T dot(const T* x, const T (&w)[D]) {
  T z = x[0] * w[0];
#pragma unroll
  for (int d = 1; d < D; ++d) z = multiply_add(x[d], w[d], z);
  return z;
}

// The one number of `second` that a Laplacian over `columns` makes of a neuron.
template <int D, typename T>
__device__ __forceinline__ T squares(const T (&w)[D], uint64_t columns) {
  T sum = T(0);
#pragma unroll
  for (int d = 0; d < D; ++d) {
    if ((columns >> d & 1) != 0) sum = multiply_add(w[d], w[d], sum);
  }
  return sum;
}

__device__ __forceinline__ double sum_over_warp(double value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

__device__ __forceinline__ double parameter(const TwoLayerCall& call) {
  return call.s_value != nullptr ? *call.s_value : call.s;
}

// q linear + s curved, where a factor of 0 beats an infinite sum.
__device__ __forceinline__ double combine(double q, double linear, double s, double curved) {
  return (q == 0 ? 0.0 : q * linear) + (s == 0 ? 0.0 : s * curved);
}

HRTA_INLINE constexpr int64_t ceil_div(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

}  // namespace cuda
}  // namespace hrta
