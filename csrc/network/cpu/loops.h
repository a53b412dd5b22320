// The table of the two-layer network's loops, one per SIMD level (simd/levels.h), and their longest block. plan.h has
// the other cuts of the work.
#pragma once

#include "network/network.h"

namespace hrta {
namespace cpu {

constexpr int kNeuronPadding = 64;  // a multiple of every level's tile

// Neurons that one call of a loop takes at most: their weights and gradients stay in L1 or L2.
HRTA_INLINE int block_neurons(int64_t features) {
  return features <= 16 ? 512 : kNeuronPadding;
}

// Elements of scratch that a loop needs: weights and gradients of a block, one array per feature, and a's.
HRTA_INLINE int64_t block_scratch(int64_t features) {
  return 2 * block_neurons(features) * (features + 1);
}

// Neurons and samples [begin, end) of one network.
struct TwoLayerRange {
  int64_t network;
  int64_t first_neuron, last_neuron;
  int64_t first_sample, last_sample;
};

struct TwoLayerLoops {
  // Adds the range's sums over neurons to f (samples) and df_dx (samples, D), either of which may be null.
  // scratch: block_scratch(D) elements of the call's dtype, aligned to 64 bytes; as in backward.
  void (*forward)(const TwoLayerCall& call, Quantity quantity, const TwoLayerRange& range, double* f, double* df_dx,
                  void* scratch);
  // Writes the gradients of the range's neurons; the range must hold every sample.
  void (*backward)(const TwoLayerCall& call, const TwoLayerGradients& gradients, const TwoLayerRange& range,
                   void* scratch);
};

const TwoLayerLoops& two_layer_loops();

}  // namespace cpu
}  // namespace hrta
