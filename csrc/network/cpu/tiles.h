// The inner loops of the two-layer network: a block of neurons against samples, forward and backward.
//
// Neurons lie along the vectors. A block holds its weights as one array per feature, padded with zeros to whole tiles
// of kTile neurons. ReLU and ReLU^2 / 2 with few features keep everything in registers (relu.h, relu2.h); the
// rest goes through tiles of pre-activations in L1, kTileSamples x kTile, over which the bases'
// scalar functions vectorise.
#pragma once

#include "math/homotopy.h"
#include "network/cpu/block.h"
#include "network/cpu/relu.h"
#include "network/cpu/relu2.h"
#include "simd/denormals.h"
#include "simd/lanes.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

constexpr int kTileSamples = 64;

template <typename T>
struct alignas(kVectorBytes) SampleTile {
  T values[kTileSamples * kTile<T>];  // (samples, kTile)
};

// z (count, kTile) = rows (count, D) times the tile's weights.
template <int kRows, typename T>
HRTA_INLINE void product_rows(const T* rows, int features, const T* weight, int64_t stride, T* z) {
  Vector<T> sums[kRows][kTileVectors] = {};
  for (int d = 0; d < features; ++d) {
    for (int v = 0; v < kTileVectors; ++v) {
      const Vector<T> w = load(weight + d * stride + v * kLanes<T>);
      for (int r = 0; r < kRows; ++r) sums[r][v] = fused(broadcast(rows[r * features + d]), w, sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kTileVectors; ++v) store(z + r * kTile<T> + v * kLanes<T>, sums[r][v]);
  }
}

template <typename T>
void products(const T* rows, int count, int features, const T* weight, int64_t stride, T* z) {
  constexpr int kRows = kVectorRegisters / 8;
  int i = 0;
  for (; i + kRows <= count; i += kRows) {
    product_rows<kRows>(rows + int64_t(i) * features, features, weight, stride, z + i * kTile<T>);
  }
  for (; i < count; ++i) product_rows<1>(rows + int64_t(i) * features, features, weight, stride, z + i * kTile<T>);
}

// sums (D, kTile) += factors^T (kTile, count) times rows (count, D).
template <int kFeatures, typename T>
HRTA_INLINE void add_outer_features(const T* factors, int count, const T* rows, int features, T* sums, int64_t stride) {
  Vector<T> total[kFeatures][kTileVectors] = {};
  for (int i = 0; i < count; ++i) {
    for (int v = 0; v < kTileVectors; ++v) {
      const Vector<T> e = load(factors + i * kTile<T> + v * kLanes<T>);
      for (int d = 0; d < kFeatures; ++d) {
        total[d][v] = fused(broadcast(rows[int64_t(i) * features + d]), e, total[d][v]);
      }
    }
  }
  for (int d = 0; d < kFeatures; ++d) {
    for (int v = 0; v < kTileVectors; ++v) {
      T* target = sums + d * stride + v * kLanes<T>;
      store(target, load(target) + total[d][v]);
    }
  }
}

template <typename T>
void add_outer(const T* factors, int count, const T* rows, int features, T* sums, int64_t stride) {
  constexpr int kFeatures = kVectorRegisters / 8;
  int d = 0;
  for (; d + kFeatures <= features; d += kFeatures) {
    add_outer_features<kFeatures>(factors, count, rows + d, features, sums + d * stride, stride);
  }
  for (; d < features; ++d) add_outer_features<1>(factors, count, rows + d, features, sums + d * stride, stride);
}

template <typename Base, Quantity kQuantity, typename T>
void evaluate(const T* z, T* y, int n, Homotopy<T> h) {
  const FlushDenormals flush;
  for_each_in_lanes<Base>(z, n, [=](int i, auto at) { store(y + i, homotopy_quantity<Base, kQuantity>(at, h)); });
}

// As homotopy_quantity; the sine takes its fast form where every |z| allows it.
template <typename Base, Quantity kQuantity, typename T>
void evaluate_tile(const T* z, T* y, int n, Homotopy<T> h) {
  if constexpr (Base::kGrowth == Growth::kOscillating) {
    if (all_within(z, n, fast_turn_limit<T>())) return evaluate<FastSin, kQuantity>(z, y, n, h);
  }
  evaluate<Base, kQuantity>(z, y, n, h);
}

// Value, slope and, if asked for, curvature in one loop: they share their exponential.
template <typename Base, bool kWithCurvature, typename T>
void evaluate_together(const T* z, T* value, T* slope, T* curvature, int n, Homotopy<T> h) {
  const FlushDenormals flush;
  for_each_in_lanes<Base>(z, n, [=](int i, auto at) {
    store(value + i, homotopy_value<Base>(at, h));
    store(slope + i, homotopy_slope<Base>(at, h));
    if constexpr (kWithCurvature) store(curvature + i, homotopy_curvature<Base>(at, h));
  });
}

// curvature may be null.
template <typename Base, typename T>
void evaluate_tile_together(const T* z, T* value, T* slope, T* curvature, int n, Homotopy<T> h) {
  if constexpr (Base::kGrowth == Growth::kOscillating) {
    if (all_within(z, n, fast_turn_limit<T>())) {
      return evaluate_tile_together<FastSin>(z, value, slope, curvature, n, h);
    }
  }
  if (curvature == nullptr) return evaluate_together<Base, false>(z, value, slope, curvature, n, h);
  evaluate_together<Base, true>(z, value, slope, curvature, n, h);
}

// f (count) += sum_k a_k quantity(w_k . x_i), df_dx (count, D) += sum_k a_k sigma_s'(w_k . x_i) w_k; either may be
// null.
template <typename Base, Quantity kQuantity, typename T>
void forward_tiles(const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, Homotopy<T> h, double* f,
                   double* df_dx) {
  const int features = samples.features;
  SampleTile<T> z, y, slope;
  for (int64_t first = 0; first < samples.n; first += kTileSamples) {
    const int count = int(samples.n - first < kTileSamples ? samples.n - first : kTileSamples);
    const T* x = samples.x + first * features;
    Vector<T> sums[kTileSamples] = {};
    for (int j = 0; j < block.count; j += kTile<T>) {
      products(x, count, features, block.weight + j, block.stride, z.values);
      const T* a = block.output_weight + j;
      if (f != nullptr && df_dx != nullptr) {
        evaluate_tile_together<Base, T>(z.values, y.values, slope.values, nullptr, count * kTile<T>, h);
      } else if (f != nullptr) {
        evaluate_tile<Base, kQuantity>(z.values, y.values, count * kTile<T>, h);
      } else {
        evaluate_tile<Base, Quantity::kSlope>(z.values, slope.values, count * kTile<T>, h);
      }
      if (f != nullptr) {
        for (int i = 0; i < count; ++i) {
          for (int v = 0; v < kTileVectors; ++v) {
            sums[i] = fused(load(a + v * kLanes<T>), load(y.values + i * kTile<T> + v * kLanes<T>), sums[i]);
          }
        }
      }
      if (df_dx != nullptr) {
        for (int i = 0; i < count; ++i) {
          Vector<T> e[kTileVectors];
          for (int v = 0; v < kTileVectors; ++v) {
            e[v] = load(a + v * kLanes<T>) * load(slope.values + i * kTile<T> + v * kLanes<T>);
          }
          for (int d = 0; d < features; ++d) {
            Vector<T> sum{};
            const T* w = block.weight + d * block.stride + j;
            for (int v = 0; v < kTileVectors; ++v) sum = fused(e[v], load(w + v * kLanes<T>), sum);
            df_dx[(first + i) * features + d] += sum_of_lanes(sum);
          }
        }
      }
    }
    if (f != nullptr) {
      for (int i = 0; i < count; ++i) f[first + i] += sum_of_lanes(sums[i]);
    }
  }
}

// The gradients in the weights, by tiles:
//   grad_w_k = a_k sum_i (g_i sigma' + (G_i . w_k) sigma'') x_i + sigma' G_i,   g = grad_f, G = grad_df_dx
//   grad_a_k = sum_i g_i sigma + (G_i . w_k) sigma'
// Both are sums over samples in T: a tile of samples at a time, then the tiles.
template <typename Base, typename T>
void backward_tiles(const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, Homotopy<T> h, const T* grad_f,
                    const T* grad_df_dx, const TwoLayerBlockGradients<T>& gradients) {
  const int features = samples.features;
  SampleTile<T> z, y, slope, curvature, along;
  for (int j = 0; j < block.count; j += kTile<T>) {
    T* grad_a = gradients.output_weight + j;
    for (int64_t first = 0; first < samples.n; first += kTileSamples) {
      const int count = int(samples.n - first < kTileSamples ? samples.n - first : kTileSamples);
      const T* x = samples.x + first * features;
      products(x, count, features, block.weight + j, block.stride, z.values);
      const int n = count * kTile<T>;
      if (grad_df_dx != nullptr) {
        evaluate_tile_together<Base>(z.values, y.values, slope.values, curvature.values, n, h);
      } else if (gradients.with_output_weight) {
        evaluate_tile_together<Base, T>(z.values, y.values, slope.values, nullptr, n, h);
      } else {
        evaluate_tile<Base, Quantity::kSlope>(z.values, slope.values, n, h);
      }
      if (grad_df_dx != nullptr) {
        products(grad_df_dx + first * features, count, features, block.weight + j, block.stride, along.values);
      }
      if (gradients.with_output_weight) {
        Vector<T> sums[kTileVectors] = {};
        for (int i = 0; i < count; ++i) {
          for (int v = 0; v < kTileVectors; ++v) {
            const int at = i * kTile<T> + v * kLanes<T>;
            if (grad_f != nullptr) sums[v] = fused(broadcast(grad_f[first + i]), load(y.values + at), sums[v]);
            if (grad_df_dx != nullptr) sums[v] = fused(load(along.values + at), load(slope.values + at), sums[v]);
          }
        }
        for (int v = 0; v < kTileVectors; ++v) {
          T* target = grad_a + v * kLanes<T>;
          store(target, load(target) + sums[v]);
        }
      }
      if (!gradients.with_weight) continue;
      if (grad_df_dx != nullptr) {
        add_outer(slope.values, count, grad_df_dx + first * features, features, gradients.weight + j, gradients.stride);
      }
      for (int i = 0; i < count; ++i) {
        const T g = grad_f == nullptr ? T(0) : grad_f[first + i];
        for (int v = 0; v < kTileVectors; ++v) {
          const int at = i * kTile<T> + v * kLanes<T>;
          Vector<T> factor = broadcast(g) * load(slope.values + at);
          if (grad_df_dx != nullptr) factor = fused(load(along.values + at), load(curvature.values + at), factor);
          store(slope.values + at, factor);
        }
      }
      add_outer(slope.values, count, x, features, gradients.weight + j, gradients.stride);
    }
    if (!gradients.with_weight) continue;
    for (int v = 0; v < kTileVectors; ++v) {
      const Vector<T> a = load(block.output_weight + j + v * kLanes<T>);
      for (int d = 0; d < features; ++d) {
        T* target = gradients.weight + d * gradients.stride + j + v * kLanes<T>;
        store(target, a * load(target));
      }
    }
  }
}

template <typename Base, typename T>
void forward_base(Quantity quantity, const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block, Homotopy<T> h,
                  double* f, double* df_dx) {
  if (quantity == Quantity::kValue) return forward_tiles<Base, Quantity::kValue>(samples, block, h, f, df_dx);
  forward_tiles<Base, Quantity::kParameterGradient>(samples, block, h, f, df_dx);
}

// Adds the block's share of the sums over neurons, without the factor m^(-1/2), to f (n) and df_dx (n, D); either may
// be null. `quantity` is kValue or kParameterGradient.
template <typename T>
void forward_block(int base, Quantity quantity, double s, const TwoLayerSamples<T>& samples,
                   const TwoLayerBlock<T>& block, double* f, double* df_dx) {
  const Homotopy<T> h = Homotopy<T>::from(s);
  if (base == kRelu && relu_forward(quantity, s, samples, block, f, df_dx)) return;
  if (base == kRelu2 && relu2_forward(quantity, s, samples, block, f, df_dx)) return;
  with_base(base, [&](auto tag) { forward_base<decltype(tag)>(quantity, samples, block, h, f, df_dx); });
}

// The gradients of sum_i grad_f_i f_i + grad_df_dx_i . df_dx_i (either gradient may be null) in the block's weights,
// without the factor m^(-1/2). Overwrites `gradients`.
template <typename T>
void backward_block(int base, double s, const TwoLayerSamples<T>& samples, const TwoLayerBlock<T>& block,
                    const T* grad_f, const T* grad_df_dx, const TwoLayerBlockGradients<T>& gradients) {
  for (int d = 0; d < samples.features; ++d) {
    for (int j = 0; j < block.count; ++j) gradients.weight[d * gradients.stride + j] = T(0);
  }
  for (int j = 0; j < block.count; ++j) gradients.output_weight[j] = T(0);
  const Homotopy<T> h = Homotopy<T>::from(s);
  if (base == kRelu && relu_backward(s, samples, block, grad_f, grad_df_dx, gradients)) return;
  if (base == kRelu2 && relu2_backward(s, samples, block, grad_f, grad_df_dx, gradients)) return;
  with_base(base, [&](auto tag) { backward_tiles<decltype(tag)>(samples, block, h, grad_f, grad_df_dx, gradients); });
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
