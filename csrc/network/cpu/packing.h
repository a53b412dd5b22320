// Weights as one array per feature, a block of neurons at a time, and gradients back, for the loops of a SIMD level.
#pragma once

#include "network/cpu/block.h"
#include "network/cpu/loops.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

// source (count, D) as (D, count), padded with zeros to `padded`.
template <int kFeatures, typename T>
void to_columns(const T* source, int64_t features, int count, int padded, T* columns, int64_t stride) {
  if constexpr (kFeatures > 0) features = kFeatures;
  for (int j = 0; j < count; ++j) {
    for (int64_t d = 0; d < features; ++d) columns[d * stride + j] = source[j * features + d];
  }
  for (int64_t d = 0; d < features; ++d) {
    for (int j = count; j < padded; ++j) columns[d * stride + j] = T(0);
  }
}

// target (count, D) = factor times columns (D, count).
template <int kFeatures, typename T>
void to_rows(const T* columns, int64_t stride, int64_t features, int count, T factor, T* target) {
  if constexpr (kFeatures > 0) features = kFeatures;
#pragma GCC ivdep
  for (int j = 0; j < count; ++j) {
    for (int64_t d = 0; d < features; ++d) target[j * features + d] = factor * columns[d * stride + j];
  }
}

// Known small numbers of features let the compiler interleave whole registers.
template <typename Body>
void with_small_features(int64_t features, const Body& body) {
  switch (features) {
    case 2: return body(FeatureCount<2>{});
    case 3: return body(FeatureCount<3>{});
    case 4: return body(FeatureCount<4>{});
    default: return body(FeatureCount<0>{});
  }
}

// Calls body(first neuron counted over all networks, count) for the range's blocks of at most `longest` neurons.
template <typename Body>
void over_blocks(const TwoLayerCall& call, const TwoLayerRange& range, int64_t longest, const Body& body) {
  for (int64_t first = range.first_neuron; first < range.last_neuron; first += longest) {
    const int64_t rest = range.last_neuron - first;
    body(range.network * call.width + first, int(rest < longest ? rest : longest));
  }
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
