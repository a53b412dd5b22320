// The inner loops of the jet: a block of neurons against samples, by tiles of pre-activations in L1, as in tiles.h.
// Beside its weights a block holds V, the quadratic features of its neurons (network/jet.h), as R more arrays.
#pragma once

#include "math/homotopy.h"
#include "network/cpu/block.h"
#include "network/cpu/tiles.h"
#include "network/jet.h"
#include "simd/vector.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

// A tile of 4 KiB at every level and in both types: six of them lie in L1.
constexpr int kJetSamples = kVectorBytes == 64 ? 16 : 32;

template <typename T>
struct alignas(kVectorBytes) JetTile {
  T values[kJetSamples * kTile<T>];  // (samples, kTile)
};

template <typename T>
struct JetTiles {
  JetTile<T> z, value, slope, curvature, third, along;
};

template <typename Base, bool kWithThird, typename T>
void evaluate_jet(JetTiles<T>& tiles, int n, Homotopy<T> h) {
  const T* z = tiles.z.values;
  T *value = tiles.value.values, *slope = tiles.slope.values;
  T *curvature = tiles.curvature.values, *third = tiles.third.values;
  if constexpr (Base::kGrowth == Growth::kOscillating) {
    if (all_within(z, n, fast_turn_limit<T>())) return evaluate_jet<FastSin, kWithThird>(tiles, n, h);
  }
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) {  // in one loop: they share their exponential
    const T at = z[i];
    value[i] = homotopy_value<Base>(at, h);
    slope[i] = homotopy_slope<Base>(at, h);
    curvature[i] = homotopy_curvature<Base>(at, h);
    if constexpr (kWithThird) third[i] = homotopy_third<Base>(at, h);
  }
}

template <typename T>
struct JetBlock {
  TwoLayerBlock<T> neurons;
  const T* quadratic;  // (R, count), rows as far apart as those of the weights
  int count;           // R
};

// sum += the products of a tile's row with an array of the block's.
template <typename T>
HRTA_INLINE void add_products(const Vector<T>* factors, const T* row, Vector<T>& sum) {
  Vector<T> total = sum;
  for (int v = 0; v < kTileVectors; ++v) total = fused(factors[v], load(row + v * kLanes<T>), total);
  sum = total;
}

// Adds to sums (samples, K). `partial`: kJetSamples K vectors.
template <typename Base, typename T>
void jet_forward(const TwoLayerSamples<T>& samples, const JetBlock<T>& block, Homotopy<T> h, double* sums,
                 Vector<T>* partial) {
  const int features = samples.features, outputs = 1 + features + block.count;
  const int64_t stride = block.neurons.stride;
  JetTiles<T> tiles;
  for (int64_t first = 0; first < samples.n; first += kJetSamples) {
    const int count = int(samples.n - first < kJetSamples ? samples.n - first : kJetSamples);
    for (int at = 0; at < count * outputs; ++at) partial[at] = Vector<T>{};
    for (int j = 0; j < block.neurons.count; j += kTile<T>) {
      products(samples.x + first * features, count, features, block.neurons.weight + j, stride, tiles.z.values);
      evaluate_jet<Base, false>(tiles, count * kTile<T>, h);
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

// What network/jet.h says of two_layer_jet_backward but for the factor m^(-1/2). `quadratic` (R, count) is scratch for
// the gradients in V. Sums over samples are in T: a tile of samples at a time, then the tiles.
template <typename Base, typename T>
void jet_backward(const TwoLayerSamples<T>& samples, const SecondDerivatives& second, const JetBlock<T>& block,
                  Homotopy<T> h, const JetSampleGradients<T>& given, const TwoLayerBlockGradients<T>& gradients,
                  T* quadratic) {
  const int features = samples.features;
  const int64_t stride = block.neurons.stride;
  JetTiles<T> tiles;
  T *value = tiles.value.values, *slope = tiles.slope.values, *factor = tiles.z.values;
  for (int j = 0; j < block.neurons.count; j += kTile<T>) {
    const T* weight = block.neurons.weight + j;
    T* grad_a = gradients.output_weight + j;
    for (int64_t first = 0; first < samples.n; first += kJetSamples) {
      const int count = int(samples.n - first < kJetSamples ? samples.n - first : kJetSamples);
      const int n = count * kTile<T>;
      const T* x = samples.x + first * features;
      products(x, count, features, weight, stride, tiles.z.values);
      evaluate_jet<Base, true>(tiles, n, h);
      // e = g sigma' + p sigma'' + q sigma''' in place of z, and what a_k gets in place of sigma.
      for (int i = 0; i < count; ++i) {
        const bool without = given.f == nullptr;  // not as 0, since 0 inf is no number
        const T g = without ? T(0) : given.f[first + i];
#pragma GCC ivdep
        for (int at = i * kTile<T>; at < (i + 1) * kTile<T>; ++at) {
          factor[at] = without ? T(0) : g * slope[at];
          value[at] = without ? T(0) : g * value[at];
        }
      }
      auto add_along = [&](const T* rows, int row_size, const T* arrays, const T* lower, const T* upper) {
        T* along = tiles.along.values;
        products(rows + first * row_size, count, row_size, arrays + j, stride, along);
#pragma GCC ivdep
        for (int at = 0; at < n; ++at) {
          value[at] = multiply_add(along[at], lower[at], value[at]);
          factor[at] = multiply_add(along[at], upper[at], factor[at]);
        }
      };
      const T *curvature = tiles.curvature.values, *third = tiles.third.values;
      if (given.df_dx != nullptr) add_along(given.df_dx, features, block.neurons.weight, slope, curvature);
      if (given.second != nullptr) add_along(given.second, block.count, block.quadratic, curvature, third);
      Vector<T> sums[kTileVectors] = {};
      for (int i = 0; i < count; ++i) {
        for (int v = 0; v < kTileVectors; ++v) sums[v] = sums[v] + load(value + i * kTile<T> + v * kLanes<T>);
      }
      for (int v = 0; v < kTileVectors; ++v) {
        store(grad_a + v * kLanes<T>, load(grad_a + v * kLanes<T>) + sums[v]);
      }
      if (!gradients.with_weight) continue;
      add_outer(factor, count, x, features, gradients.weight + j, gradients.stride);
      if (given.df_dx != nullptr) {
        add_outer(slope, count, given.df_dx + first * features, features, gradients.weight + j, gradients.stride);
      }
      if (given.second != nullptr) {
        add_outer(curvature, count, given.second + first * block.count, block.count, quadratic + j, stride);
      }
    }
    if (!gradients.with_weight) continue;
    auto add_product = [&](int to, int other, int r) {
      T* target = gradients.weight + to * gradients.stride + j;
      for (int k = 0; k < kTile<T>; ++k) {
        target[k] = multiply_add(weight[other * stride + k], quadratic[r * stride + j + k], target[k]);
      }
    };
    if (given.second != nullptr) {
      over_products(second, [&](int r, int c, int other) {
        add_product(c, other, r);
        add_product(other, c, r);
      });
    }
    for (int d = 0; d < features; ++d) {
      T* target = gradients.weight + d * gradients.stride + j;
      for (int k = 0; k < kTile<T>; ++k) target[k] *= block.neurons.output_weight[j + k];
    }
  }
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
