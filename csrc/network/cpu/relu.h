// The two-layer network's loops for ReLU and few features, all in registers. sigma_s'(z) is 1 where z > 0 and q = 1 - s
// elsewhere, and sigma_s(z) = sigma_s'(z) z. Hence, with r_i = grad_f_i x_i + grad_df_dx_i,
//   h_k = sum_i sigma_s'(w_k . x_i) r_i = q sum_i r_i + (1 - q) sum_{i: w_k . x_i > 0} r_i,
//   grad_w_k = a_k h_k,   grad_a_k = w_k . h_k:
// backward needs one masked addition per feature and no activation.
#pragma once

#include "math/homotopy.h"
#include "network/cpu/block.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

template <int D, typename T>
HRTA_INLINE Vector<T> preactivation(const Vector<T> (&x)[D], const Vector<T> (&w)[D]) {
  Vector<T> z = x[0] * w[0];
  for (int d = 1; d < D; ++d) z = fused(x[d], w[d], z);
  return z;
}

// f_i += sum_k a_k sigma_s(sign w_k . x_i). kPlain: q is 0.
template <int D, bool kPlain, typename T>
void relu_values(const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, T sign, T q, double* f) {
  const Vector<T> below = broadcast(q);
  for (int64_t i = 0; i < samples.n; ++i) {
    Vector<T> x[D], sums[kTileVectors] = {};
    for (int d = 0; d < D; ++d) x[d] = broadcast(sign * samples.x[i * D + d]);
    for (int j = 0; j < block.count; j += kTile<T>) {
      for (int v = 0; v < kTileVectors; ++v) {
        const int at = j + v * kLanes<T>;
        Vector<T> w[D];
        for (int d = 0; d < D; ++d) w[d] = load(block.weight + d * block.stride + at);
        const Vector<T> z = preactivation<D, T>(x, w);
        const Vector<T> value = kPlain ? zero_where_negative(z) : scale_where_not_positive(z, z, below);
        sums[v] = fused(load(block.output_weight + at), value, sums[v]);
      }
    }
    f[i] += sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}

// df_dx_i += sum_k a_k sigma_s'(w_k . x_i) w_k and, where f is wanted, f_i += x_i . that.
template <int D, typename T>
void relu_slopes(const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, T q, double* f, double* df_dx) {
  constexpr int kVectors = D <= 5 ? 2 : 1;
  const Vector<T> below = broadcast(q);
  for (int64_t i = 0; i < samples.n; ++i) {
    Vector<T> x[D], sums[kVectors][D] = {};
    for (int d = 0; d < D; ++d) x[d] = broadcast(samples.x[i * D + d]);
    for (int j = 0; j < block.count; j += kVectors * kLanes<T>) {
      for (int v = 0; v < kVectors; ++v) {
        const int at = j + v * kLanes<T>;
        Vector<T> w[D];
        for (int d = 0; d < D; ++d) w[d] = load(block.weight + d * block.stride + at);
        const Vector<T> z = preactivation<D, T>(x, w);
        const Vector<T> e = scale_where_not_positive(z, load(block.output_weight + at), below);
        for (int d = 0; d < D; ++d) sums[v][d] = fused(e, w[d], sums[v][d]);
      }
    }
    double value = 0;
    for (int d = 0; d < D; ++d) {
      Vector<T> sum = sums[0][d];
      for (int v = 1; v < kVectors; ++v) sum += sums[v][d];
      const double total = sum_of_lanes(sum);
      df_dx[i * D + d] += total;
      value += double(samples.x[i * D + d]) * total;
    }
    if (f != nullptr) f[i] += value;
  }
}

// Registers of neurons that fit beside their 2 D arrays.
constexpr int backward_vectors(int features) {
  constexpr int kBudget = kVectorRegisters * 3 / 4;
  return 8 * features <= kBudget ? 4 : 4 * features <= kBudget ? 2 : 1;
}

constexpr int kReluSamples = 256;

// sums (D, count) += sum of r_i (n, D) over the samples with w_k . x_i > 0.
template <int D, typename T>
void relu_active_sums(const T* samples, const T* r, int n, const TwoLayerBlock<T>& block, T* sums, int64_t stride) {
  constexpr int kVectors = backward_vectors(D);
  for (int j = 0; j < block.count; j += kVectors * kLanes<T>) {
    Vector<T> w[kVectors][D], total[kVectors][D] = {};
    for (int v = 0; v < kVectors; ++v) {
      for (int d = 0; d < D; ++d) w[v][d] = load(block.weight + d * block.stride + j + v * kLanes<T>);
    }
    for (int i = 0; i < n; ++i) {
      Vector<T> x[D];
      for (int d = 0; d < D; ++d) x[d] = broadcast(samples[i * D + d]);
      for (int v = 0; v < kVectors; ++v) {
        const Vector<T> z = preactivation<D, T>(x, w[v]);
        for (int d = 0; d < D; ++d) total[v][d] = add_where_active(z, total[v][d], broadcast(r[i * D + d]));
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
void relu_backward_features(double s, const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, const T* grad_f,
                            const T* grad_df_dx, const TwoLayerBlockGradients<T>& gradients) {
  alignas(kVectorBytes) T r[kReluSamples * D];
  double everywhere[D] = {};
  for (int64_t first = 0; first < samples.n; first += kReluSamples) {
    const int count = int(samples.n - first < kReluSamples ? samples.n - first : kReluSamples);
    for (int i = 0; i < count; ++i) {
      const int64_t row = (first + i) * D;
      for (int d = 0; d < D; ++d) {
        T term = grad_f == nullptr ? T(0) : grad_f[first + i] * samples.x[row + d];
        if (grad_df_dx != nullptr) term += grad_df_dx[row + d];
        r[i * D + d] = term;
        everywhere[d] += double(term);
      }
    }
    relu_active_sums<D>(samples.x + first * D, r, count, block, gradients.weight, gradients.stride);
  }
  const T active = T(s), q = T(1.0 - s);
  T offset[D];
  for (int d = 0; d < D; ++d) offset[d] = q == T(0) ? T(0) : T((1.0 - s) * everywhere[d]);
#pragma GCC ivdep
  for (int j = 0; j < block.count; ++j) {
    T grad_a = T(0);
    for (int d = 0; d < D; ++d) {
      T* target = gradients.weight + d * gradients.stride + j;
      const T h = multiply_add(active, *target, offset[d]);
      grad_a = multiply_add(block.weight[d * block.stride + j], h, grad_a);
      *target = block.output_weight[j] * h;
    }
    gradients.output_weight[j] = grad_a;
  }
}

// Calls body(FeatureCount) for the numbers of features that have loops of their own; false for others.
template <typename Body>
bool with_feature_count(int features, const Body& body) {
  switch (features) {
    case 1: body(FeatureCount<1>{}); return true;
    case 2: body(FeatureCount<2>{}); return true;
    case 3: body(FeatureCount<3>{}); return true;
    case 4: body(FeatureCount<4>{}); return true;
    case 5: body(FeatureCount<5>{}); return true;
    case 9: body(FeatureCount<9>{}); return true;
    default: return false;
  }
}

// forward_block and backward_block of tiles.h for ReLU; false if there is no loop for this many features.
template <typename T>
bool relu_forward(Quantity quantity, double s, const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block,
                  double* f, double* df_dx) {
  return with_feature_count(samples.features, [&](auto tag) {
    constexpr int D = decltype(tag)::kValue;
    // sigma(z) - z = max(-z, 0).
    if (quantity == Quantity::kParameterGradient) return relu_values<D, true>(samples, block, T(-1), T(0), f);
    if (df_dx != nullptr) return relu_slopes<D>(samples, block, T(1.0 - s), f, df_dx);
    if (s == 1.0) return relu_values<D, true>(samples, block, T(1), T(0), f);
    relu_values<D, false>(samples, block, T(1), T(1.0 - s), f);
  });
}

template <typename T>
bool relu_backward(double s, const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, const T* grad_f,
                   const T* grad_df_dx, const TwoLayerBlockGradients<T>& gradients) {
  return with_feature_count(samples.features, [&](auto tag) {
    relu_backward_features<decltype(tag)::kValue>(s, samples, block, grad_f, grad_df_dx, gradients);
  });
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
