// The two-layer network's loops for ReLU^2 / 2 and few features, all in registers. With p = max(z, 0), q = 1 - s,
// sigma_s(z) = q z + s p^2 / 2 is a sum of homogeneous parts, so sums over p alone give everything:
//   U_i = sum_k a_k p_ik w_k,  V = sum_k a_k w_k:  df_dx_i = q V + s U_i,  f_i = x_i . (q V + (s/2) U_i);
//   H_k = sum_i (g_i p_ik + [z_ik > 0] G_i . w_k) x_i + p_ik G_i,  R = sum_i g_i x_i + G_i,  g = grad_f, G =
//   grad_df_dx: grad_w_k = a_k (q R + s H_k),  grad_a_k = w_k . (q R + (s/2) H_k).
// Two to three times the speed of tiles.h, and the base of the Sobolev losses.
#pragma once

#include "network/cpu/relu.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

// V of a block.
template <int D, typename T>
HRTA_INLINE void all_neurons(const TwoLayerBlock<T>& block, double (&sum)[D]) {
  for (int d = 0; d < D; ++d) {
    Vector<T> lanes{};
    for (int j = 0; j < block.count; j += kLanes<T>) {
      lanes = fused(load(block.output_weight + j), load(block.weight + d * block.stride + j), lanes);
    }
    sum[d] = sum_of_lanes(lanes);
  }
}

// f_i += q x_i . V + s sum_k a_k p_ik^2 / 2.
template <int D, typename T>
void relu2_values(const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, double q, double s, double* f) {
  double all[D];
  all_neurons<D>(block, all);
  for (int64_t i = 0; i < samples.n; ++i) {
    Vector<T> x[D], sums[kTileVectors] = {};
    for (int d = 0; d < D; ++d) x[d] = broadcast(samples.x[i * D + d]);
    for (int j = 0; j < block.count; j += kTile<T>) {
      for (int v = 0; v < kTileVectors; ++v) {
        const int at = j + v * kLanes<T>;
        Vector<T> w[D];
        for (int d = 0; d < D; ++d) w[d] = load(block.weight + d * block.stride + at);
        const Vector<T> p = zero_where_negative(preactivation<D, T>(x, w));
        sums[v] = fused(load(block.output_weight + at) * p, p, sums[v]);
      }
    }
    double value = 0.5 * s * sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (int d = 0; d < D && q != 0; ++d) value += q * double(samples.x[i * D + d]) * all[d];
    f[i] += value;
  }
}

// df_dx_i += q V + s U_i and, where f is wanted, f_i += x_i . (q V + (s/2) U_i).
template <int D, typename T>
void relu2_slopes(const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, double q, double s, double* f,
                  double* df_dx) {
  constexpr int kVectors = D <= 5 ? 2 : 1;
  double all[D];
  all_neurons<D>(block, all);
  for (int64_t i = 0; i < samples.n; ++i) {
    Vector<T> x[D], sums[kVectors][D] = {};
    for (int d = 0; d < D; ++d) x[d] = broadcast(samples.x[i * D + d]);
    for (int j = 0; j < block.count; j += kVectors * kLanes<T>) {
      for (int v = 0; v < kVectors; ++v) {
        const int at = j + v * kLanes<T>;
        Vector<T> w[D];
        for (int d = 0; d < D; ++d) w[d] = load(block.weight + d * block.stride + at);
        const Vector<T> e = load(block.output_weight + at) * zero_where_negative(preactivation<D, T>(x, w));
        for (int d = 0; d < D; ++d) sums[v][d] = fused(e, w[d], sums[v][d]);
      }
    }
    double value = 0;
    for (int d = 0; d < D; ++d) {
      Vector<T> sum = sums[0][d];
      for (int v = 1; v < kVectors; ++v) sum += sums[v][d];
      const double curved = s * sum_of_lanes(sum), linear = q == 0 ? 0 : q * all[d];
      df_dx[i * D + d] += linear + curved;
      value += double(samples.x[i * D + d]) * (linear + 0.5 * curved);
    }
    if (f != nullptr) f[i] += value;
  }
}

// sums (D, count) += H over `n` samples; G is null or (n, D).
template <int D, bool kWithGradient, typename T>
void relu2_active_sums(const T* samples, const T* g, const T* G, int n, const TwoLayerBlock<T>& block, T* sums,
                       int64_t stride) {
  constexpr int kVectors = backward_vectors(D) < 2 ? 1 : 2;
  for (int j = 0; j < block.count; j += kVectors * kLanes<T>) {
    Vector<T> w[kVectors][D], total[kVectors][D] = {};
    for (int v = 0; v < kVectors; ++v) {
      for (int d = 0; d < D; ++d) w[v][d] = load(block.weight + d * block.stride + j + v * kLanes<T>);
    }
    for (int i = 0; i < n; ++i) {
      Vector<T> x[D], G_i[D];
      for (int d = 0; d < D; ++d) x[d] = broadcast(samples[i * D + d]);
      for (int d = 0; d < D && kWithGradient; ++d) G_i[d] = broadcast(G[i * D + d]);
      for (int v = 0; v < kVectors; ++v) {
        const Vector<T> z = preactivation<D, T>(x, w[v]), p = zero_where_negative(z);
        Vector<T> factor = broadcast(g[i]) * p;
        if constexpr (kWithGradient) factor = add_where_active(z, factor, preactivation<D, T>(G_i, w[v]));
        for (int d = 0; d < D; ++d) {
          total[v][d] = fused(factor, x[d], total[v][d]);
          if constexpr (kWithGradient) total[v][d] = fused(p, G_i[d], total[v][d]);
        }
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      for (int d = 0; d < D; ++d) {
        T* target = sums + d * stride + j + v * kLanes<T>;
        store(target, load(target) + total[v][d]);
      }
    }
  }
}

template <int D, typename T>
void relu2_backward_features(double s, const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block,
                             const T* grad_f, const T* grad_df_dx, const TwoLayerBlockGradients<T>& gradients) {
  const T zeros[kReluSamples] = {};
  double everywhere[D] = {};
  for (int64_t first = 0; first < samples.n; first += kReluSamples) {
    const int count = int(samples.n - first < kReluSamples ? samples.n - first : kReluSamples);
    const T* x = samples.x + first * D;
    const T* g = grad_f == nullptr ? zeros : grad_f + first;
    const T* G = grad_df_dx == nullptr ? nullptr : grad_df_dx + first * D;
    for (int i = 0; i < count; ++i) {
      for (int d = 0; d < D; ++d) {
        everywhere[d] += double(g[i]) * double(x[i * D + d]) + (G == nullptr ? 0.0 : double(G[i * D + d]));
      }
    }
    if (G == nullptr) {
      relu2_active_sums<D, false>(x, g, G, count, block, gradients.weight, gradients.stride);
    } else {
      relu2_active_sums<D, true>(x, g, G, count, block, gradients.weight, gradients.stride);
    }
  }
  const T curved = T(s), half = T(0.5 * s);
  T linear[D];
  for (int d = 0; d < D; ++d) linear[d] = s == 1.0 ? T(0) : T((1.0 - s) * everywhere[d]);
#pragma GCC ivdep
  for (int j = 0; j < block.count; ++j) {
    T grad_a = T(0);
    for (int d = 0; d < D; ++d) {
      T* target = gradients.weight + d * gradients.stride + j;
      grad_a = multiply_add(block.weight[d * block.stride + j], multiply_add(half, *target, linear[d]), grad_a);
      *target = block.output_weight[j] * multiply_add(curved, *target, linear[d]);
    }
    gradients.output_weight[j] = grad_a;
  }
}

// forward_block and backward_block of tiles.h for ReLU^2 / 2; false if there is no loop for this many
// features.
template <typename T>
bool relu2_forward(Quantity quantity, double s, const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block,
                   double* f, double* df_dx) {
  return with_feature_count(samples.features, [&](auto tag) {
    constexpr int D = decltype(tag)::kValue;
    // sigma(z) - z = p^2 / 2 - z.
    if (quantity == Quantity::kParameterGradient) return relu2_values<D>(samples, block, -1.0, 1.0, f);
    if (df_dx != nullptr) return relu2_slopes<D>(samples, block, 1.0 - s, s, f, df_dx);
    relu2_values<D>(samples, block, 1.0 - s, s, f);
  });
}

template <typename T>
bool relu2_backward(double s, const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, const T* grad_f,
                    const T* grad_df_dx, const TwoLayerBlockGradients<T>& gradients) {
  return with_feature_count(samples.features, [&](auto tag) {
    relu2_backward_features<decltype(tag)::kValue>(s, samples, block, grad_f, grad_df_dx, gradients);
  });
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
