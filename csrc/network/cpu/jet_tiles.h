// The inner loops of the jet: a block of neurons against samples, by tiles of pre-activations in L1, as in tiles.h.
// Beside its weights a block holds V, the quadratic features of its neurons (network/jet.h), as R more arrays.
#pragma once

#include "math/jets.h"
#include "network/cpu/block.h"
#include "network/cpu/tiles.h"
#include "network/jet.h"
#include "simd/lanes.h"
#include "simd/vector.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

// A tile of 4 KiB at every level and in both types: five of them lie in L1.
constexpr int kJetSamples = kVectorBytes == 64 ? 16 : 32;

template <typename T>
struct alignas(kVectorBytes) JetTile {
  T values[kJetSamples * kTile<T>];  // (samples, kTile)
};

template <typename T>
struct JetTiles {
  JetTile<T> z, value, slope, curvature, third;
};

// Lanes have a fused multiply-add alone; the sine's quadrants are scalars.
template <typename Base>
constexpr bool kJetInLanes = kHasFusedMultiplyAdd<double>;
template <bool kFast>
constexpr bool kJetInLanes<SinBase<kFast>> = false;

// The base's derivatives at every z.
template <typename Base, bool kWithThird, typename T>
void evaluate_jet(JetTiles<T>& tiles, int n) {
  const T* z = tiles.z.values;
  T *value = tiles.value.values, *slope = tiles.slope.values;
  T *curvature = tiles.curvature.values, *third = tiles.third.values;
  if constexpr (Base::kGrowth == Growth::kOscillating) {
    if (all_within(z, n, fast_turn_limit<T>())) return evaluate_jet<FastSin, kWithThird>(tiles, n);
  }
  if constexpr (kJetInLanes<Base>) {
    for (int i = 0; i < n; i += kTile<T>) {
      const auto jet = BaseJet<Base>::at(load_lanes<kTileVectors>(z + i));
      store(value + i, jet.value);
      store(slope + i, jet.slope);
      store(curvature + i, jet.curvature);
      if constexpr (kWithThird) store(third + i, jet.third);
    }
  } else {
#pragma GCC ivdep
    for (int i = 0; i < n; ++i) {
      const JetOf<T> jet = BaseJet<Base>::at(z[i]);
      value[i] = jet.value;
      slope[i] = jet.slope;
      curvature[i] = jet.curvature;
      if constexpr (kWithThird) third[i] = jet.third;
    }
  }
}

// sigma(z) - z and sigma'(z) - 1, the derivatives in s, in place of sigma and sigma'.
template <typename Base, typename T>
void evaluate_excess(JetTiles<T>& tiles, int n) {
  const T* z = tiles.z.values;
  if constexpr (Base::kGrowth == Growth::kOscillating) {
    if (all_within(z, n, fast_turn_limit<T>())) return evaluate_excess<FastSin>(tiles, n);
  }
  T *value = tiles.value.values, *slope = tiles.slope.values;
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) {
    value[i] = homotopy_parameter_gradient<Base>(z[i]);
    slope[i] = homotopy_slope_parameter_gradient<Base>(z[i]);
  }
}

template <typename T>
struct JetBlock {
  TwoLayerBlock<T> neurons;
  const T* quadratic;  // (R, count), rows as far apart as those of the weights
  int count;           // R
  int there;           // neurons without what pads the last tile
};

// What pads a tile is no neuron: an infinite sample makes NaN of its zeros, and a = 0 would keep it.
template <typename T>
void clear_padding(JetTiles<T>& tiles, int samples, int there) {
  for (int at = 0; at < samples * kTile<T>; at += kTile<T>) {
    if (tiles.z.values[at + kTile<T> - 1] == T(0)) continue;  // a finite sample
    for (int j = there; j < kTile<T>; ++j) {
      tiles.value.values[at + j] = tiles.slope.values[at + j] = T(0);
      tiles.curvature.values[at + j] = tiles.third.values[at + j] = T(0);
    }
  }
}

// sum += the products of a tile's row with an array of the block's.
template <typename T>
HRTA_INLINE void add_products(const Vector<T>* factors, const T* row, Vector<T>& sum) {
  Vector<T> total = sum;
  for (int v = 0; v < kTileVectors; ++v) total = fused(factors[v], load(row + v * kLanes<T>), total);
  sum = total;
}

// Adds sum_k a_k (sigma, sigma' w_k, sigma'' V_k) to sums (samples, K). `partial`: kJetSamples K vectors.
template <typename Base, typename T>
void jet_forward(const TwoLayerSamples<T>& samples, const JetBlock<T>& block, double* sums, Vector<T>* partial) {
  const int features = samples.features, outputs = 1 + features + block.count;
  const int64_t stride = block.neurons.stride;
  JetTiles<T> tiles;
  for (int64_t first = 0; first < samples.n; first += kJetSamples) {
    const int count = int(samples.n - first < kJetSamples ? samples.n - first : kJetSamples);
    for (int at = 0; at < count * outputs; ++at) partial[at] = Vector<T>{};
    for (int j = 0; j < block.neurons.count; j += kTile<T>) {
      products(samples.x + first * features, count, features, block.neurons.weight + j, stride, tiles.z.values);
      evaluate_jet<Base, false>(tiles, count * kTile<T>);
      if (block.there - j < kTile<T>) clear_padding(tiles, count, block.there - j);
      Vector<T> a[kTileVectors];
      for (int v = 0; v < kTileVectors; ++v) a[v] = load(block.neurons.output_weight + j + v * kLanes<T>);
      for (int i = 0; i < count; ++i) {
        const int at = i * kTile<T>;
        Vector<T>* sum = partial + i * outputs;
        add_products(a, tiles.value.values + at, *sum++);
        Vector<T> factors[kTileVectors];
        for (int v = 0; v < kTileVectors; ++v) factors[v] = a[v] * load(tiles.slope.values + at + v * kLanes<T>);
        for (int d = 0; d < features; ++d) add_products(factors, block.neurons.weight + d * stride + j, *sum++);
        for (int v = 0; v < kTileVectors; ++v) factors[v] = a[v] * load(tiles.curvature.values + at + v * kLanes<T>);
        for (int r = 0; r < block.count; ++r) add_products(factors, block.quadratic + r * stride + j, *sum++);
      }
    }
    for (int at = 0; at < count * outputs; ++at) sums[first * outputs + at] += sum_of_lanes(partial[at]);
  }
}

// One network's, any of them null.
template <typename T>
struct JetSampleGradients {
  const T *f, *df_dx, *second;
};

// The products of a sample's numbers with the tile's arrays, `stride` apart.
template <typename T>
HRTA_INLINE void products_along(const T* numbers, int count, const T* arrays, int64_t stride, Vector<T>* along) {
  for (int v = 0; v < kTileVectors; ++v) along[v] = Vector<T>{};
  for (int d = 0; d < count; ++d) {
    const Vector<T> number = broadcast(numbers[d]);
    for (int v = 0; v < kTileVectors; ++v) {
      along[v] = fused(number, load(arrays + d * stride + v * kLanes<T>), along[v]);
    }
  }
}

// e_ik = g sigma' + p sigma'' + q sigma''' in place of z; adds sum_i g sigma + p sigma' + q sigma'' to grad_a.
template <typename T>
void with_sample_terms(const JetSampleGradients<T>& given, int64_t first, int count, int features,
                       const JetBlock<T>& block, int j, JetTiles<T>& tiles, T* grad_a) {
  const int64_t stride = block.neurons.stride;
  Vector<T> sums[kTileVectors] = {};
  for (int i = 0; i < count; ++i) {
    const int at = i * kTile<T>;
    Vector<T> lower[kTileVectors] = {}, upper[kTileVectors] = {}, along[kTileVectors];
    auto add = [&](const Vector<T>* factors, const T* of_lower, const T* of_upper) {
      for (int v = 0; v < kTileVectors; ++v) {
        lower[v] = fused(factors[v], load(of_lower + at + v * kLanes<T>), lower[v]);
        upper[v] = fused(factors[v], load(of_upper + at + v * kLanes<T>), upper[v]);
      }
    };
    if (given.f != nullptr) {
      for (int v = 0; v < kTileVectors; ++v) along[v] = broadcast(given.f[first + i]);
      add(along, tiles.value.values, tiles.slope.values);
    }
    if (given.df_dx != nullptr) {
      products_along(given.df_dx + (first + i) * features, features, block.neurons.weight + j, stride, along);
      add(along, tiles.slope.values, tiles.curvature.values);
    }
    if (given.second != nullptr) {
      products_along(given.second + (first + i) * block.count, block.count, block.quadratic + j, stride, along);
      add(along, tiles.curvature.values, tiles.third.values);
    }
    for (int v = 0; v < kTileVectors; ++v) {
      sums[v] = sums[v] + lower[v];
      store(tiles.z.values + at + v * kLanes<T>, upper[v]);
    }
  }
  for (int v = 0; v < kTileVectors; ++v) store(grad_a + v * kLanes<T>, load(grad_a + v * kLanes<T>) + sums[v]);
}

// The sums over samples of what network/jet.h says of two_layer_jet_backward, of sigma in place of sigma_s and without
// a_k; those in V go to `quadratic` (R, count). With kExcess those of the derivatives in s, to the gradient in a alone.
// Sums are in T: a tile of samples at a time, then the tiles.
template <typename Base, bool kExcess, typename T>
void jet_backward(const TwoLayerSamples<T>& samples, const JetBlock<T>& block, const JetSampleGradients<T>& given,
                  const TwoLayerBlockGradients<T>& gradients, T* quadratic) {
  const int features = samples.features;
  const int64_t stride = block.neurons.stride;
  JetTiles<T> tiles;
  for (int j = 0; j < block.neurons.count; j += kTile<T>) {
    for (int64_t first = 0; first < samples.n; first += kJetSamples) {
      const int count = int(samples.n - first < kJetSamples ? samples.n - first : kJetSamples);
      const T* x = samples.x + first * features;
      products(x, count, features, block.neurons.weight + j, stride, tiles.z.values);
      evaluate_jet<Base, true>(tiles, count * kTile<T>);
      if constexpr (kExcess) evaluate_excess<Base>(tiles, count * kTile<T>);
      with_sample_terms(given, first, count, features, block, j, tiles, gradients.output_weight + j);
      if (!gradients.with_weight) continue;
      add_outer(tiles.z.values, count, x, features, gradients.weight + j, gradients.stride);
      if (given.df_dx != nullptr) {
        add_outer(tiles.slope.values, count, given.df_dx + first * features, features, gradients.weight + j,
                  gradients.stride);
      }
      if (given.second != nullptr) {
        add_outer(tiles.curvature.values, count, given.second + first * block.count, block.count, quadratic + j,
                  stride);
      }
    }
  }
}

// Adds sum_k a_k e_ik w_k, e of sigma, to sums (samples, D). `partial`: kJetSamples D vectors; `unused`: as a's
// gradient.
template <typename Base, typename T>
void jet_input_gradient(const TwoLayerSamples<T>& samples, const JetBlock<T>& block, const JetSampleGradients<T>& given,
                        double* sums, Vector<T>* partial, T* unused) {
  const int features = samples.features;
  const int64_t stride = block.neurons.stride;
  JetTiles<T> tiles;
  for (int64_t first = 0; first < samples.n; first += kJetSamples) {
    const int count = int(samples.n - first < kJetSamples ? samples.n - first : kJetSamples);
    for (int at = 0; at < count * features; ++at) partial[at] = Vector<T>{};
    for (int j = 0; j < block.neurons.count; j += kTile<T>) {
      products(samples.x + first * features, count, features, block.neurons.weight + j, stride, tiles.z.values);
      evaluate_jet<Base, true>(tiles, count * kTile<T>);
      if (block.there - j < kTile<T>) clear_padding(tiles, count, block.there - j);
      with_sample_terms(given, first, count, features, block, j, tiles, unused + j);
      for (int i = 0; i < count; ++i) {
        Vector<T> factors[kTileVectors];
        for (int v = 0; v < kTileVectors; ++v) {
          factors[v] = load(block.neurons.output_weight + j + v * kLanes<T>) *
                       load(tiles.z.values + i * kTile<T> + v * kLanes<T>);
        }
        for (int d = 0; d < features; ++d) {
          add_products(factors, block.neurons.weight + d * stride + j, partial[i * features + d]);
        }
      }
    }
    for (int at = 0; at < count * features; ++at) sums[first * features + at] += sum_of_lanes(partial[at]);
  }
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
