// Training of small networks: all steps of a call in one launch. A network's neurons are divided among a few blocks,
// and weights, moments and samples stay in shared memory for all steps; only sums over neurons travel, once a step:
// within a cluster by distributed shared memory, any number of networks side by side, or through L2 in a resident grid,
// one network at a time.
//
// Every bit follows from the Cut, which is a matter of the network's shape. How many blocks share the work (the Spread)
// is free of that: the card and the number of networks choose it. So a network gets the same bits alone and in an
// ensemble, and in calls of any length.
#pragma once

#include "gpu/cooperation.cuh"
#include "training/training.h"

namespace hrta {
namespace cuda {
namespace small {

constexpr int kBlockThreads = 512, kBlockWarps = kBlockThreads / 32;
constexpr int kMostShares = 16;

// A number of a mixed radix, counted up by another without divisions.
struct Digits {
  int low, middle, high;

  static HRTA_INLINE Digits of(int value, int lows, int middles) {
    return {value % lows, value / lows % middles, value / lows / middles};
  }
  HRTA_INLINE void add(const Digits& by, int lows, int middles) {
    low += by.low;
    middle += by.middle;
    high += by.high;
    if (low >= lows) low -= lows, ++middle;
    if (middle >= middles) middle -= middles, ++high;
  }
};
constexpr int kUnbounded = 1 << 30;

// The neurons are cut into pieces, each a chain of sums in float; the pieces of a share are added in float, the shares
// in double. To keep the warps of a block busy, a piece is cut into slices, and so are the samples that backward adds.
struct Cut {
  int n, features, width;
  int shares, pieces;                  // in all, powers of two
  int neurons;                         // of a piece, but for the last ones
  int forward_slices, slice_neurons;   // of a piece
  int backward_slices, slice_samples;  // of the samples

  HRTA_INLINE int of_share() const { return pieces / shares; }
};

// A network on `blocks` blocks: its cluster, or the whole grid. Places in shared memory are in floats.
struct Spread {
  int blocks;
  bool resident;
  int to_send;  // a block's sums that meet the others': of its shares or, resident, of its pieces
  int variant;  // which kernel
  int pieces;   // of a block
  int forward_in_turn, backward_in_turn;  // slices of a part
  int forward_parts, backward_parts;      // that different warps take: the number of slices, or 1
  int n4;                                 // n in whole 16-byte words
  int column;                             // floats from one sum over samples to the next
  int output_weight, moments, grad, terms, y, sample_weight, weight, sums, inbox;
  int floats;
  int sample_groups, neuron_groups;  // that a warp takes at a time
  Digits by_samples, by_neurons;     // from a warp's item to its next: group, part and piece
  Digits by_elements, by_sums;       // from a thread's item to its next, as in Block
};

// One network, in scratch memory. The arrays are those of TwoLayerTraining.
struct Network {
  const float *x, *y, *sample_weight;
  float *weight, *output_weight, *weight_first, *weight_second, *output_first, *output_second;
  double *f, *loss;  // f is null where it is not wanted
  int64_t* done;
  double beta1, beta2, epsilon;
  // (steps + 1) Adam's rate and scale (math/update.h), or the rate alone; then s and 1 - s, also of the outputs on
  // return
  const float4* numbers;
};

struct Work {
  Cut cut;
  Spread spread;
  int moments;  // of an element: 2 for Adam, 1 for momentum, or 0
  int64_t steps;
  double scale, inverse_n;  // m^(-1/2), 1 / n
  const Network* networks;
  float* partial;     // resident: (pieces, n4)
  double* f;          // resident: (n)
  uint32_t* barrier;  // resident: 0
};

// Floats of a row of D features in shared memory: whole words, in which neighbouring rows do not meet in a bank.
template <int D>
constexpr int kRow = D <= 4 ? D : D + 4;

HRTA_INLINE constexpr int padded_features(int features) {
  return features <= 2 ? 2 : features <= 4 ? 4 : features <= 8 ? 8 : 16;
}

// Samples of a lane forward, neurons of a lane backward.
struct Variant {
  int samples, neurons;
};
constexpr Variant kVariants[] = {{1, 1}, {2, 1}, {2, 2}};

// ReLU alone is so cheap that reading weights and samples shows beside it.
constexpr bool has_variants(int base, int features) {
  return base == kRelu && features <= 4;
}

using Kernel = void(Work);

// One translation unit per few bases, which the build compiles side by side.
template <typename Base>
Kernel* kernel_for(int features, int variant);

// The cheapest spread that the device can run; no blocks where there is none. Whether there is one does not depend on
// the number of networks.
Spread chosen(const TwoLayerTraining& training, int64_t networks, const Device& device);

}  // namespace small
}  // namespace cuda
}  // namespace hrta
