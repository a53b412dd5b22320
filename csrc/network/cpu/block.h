// What the two-layer loops work on: samples, a block of neurons, and the block's gradients.
#pragma once

#include <cstdint>

#include "simd/vector.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

// Neurons that are handled together: four registers, so that enough independent sums hide the latency.
constexpr int kTileVectors = 4;

template <typename T>
constexpr int kTile = kTileVectors * kLanes<T>;

// A number of features as a type.
template <int D>
struct FeatureCount {
  static constexpr int kValue = D;
};

template <typename T>
struct TwoLayerSamples {
  const T* x;  // (n, D)
  int64_t n;
  int features;  // D
};

// Arrays aligned to kVectorBytes are the fastest. Neurons beyond the true ones have zero weights.
template <typename T>
struct TwoLayerBlock {
  const T* weight;         // (D, count), rows `stride` apart
  const T* output_weight;  // (count)
  int64_t stride;
  int count;  // a multiple of kTile<T>
};

template <typename T>
struct TwoLayerBlockGradients {
  T* weight;         // (D, count), rows `stride` apart
  T* output_weight;  // (count)
  int64_t stride;
  bool with_weight, with_output_weight;  // which of the two are wanted; the arrays must be there either way
};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
