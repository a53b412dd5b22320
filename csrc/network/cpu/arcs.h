// ReLU and two features by arcs (circle/arcs.h): O((m + n) log n) instead of O(n m) for everything, exact to rounding.
// With U the sum of a_k w_k over the neurons active on x, V over all, and r_i the pull of sample i (relu.h),
//   df_dx = (1 - s) V + s U,  f = x . df_dx,  df/ds = x . (U - V);
//   h_k = (1 - s) sum_i r_i + s sum over the samples active on k's arc,  dW_k = a_k h_k,  da_k = w_k . h_k.
#pragma once

#include <cstdint>
#include <vector>

#include "circle/arcs.h"
#include "network/cpu/loops.h"
#include "network/network.h"

namespace hrta {
namespace cpu {

// What follows returns false, with its results unspecified, if a number is not finite: running sums would carry it
// everywhere. Ranges are of neurons; their samples are not looked at.

// For one call: f (networks, n) and df_dx (networks, n, 2), either may be null, without the factor m^(-1/2).
bool arc_forward(const TwoLayerCall& call, Quantity quantity, double* f, double* df_dx, ParallelFor parallel_for);

// As two_layer_backward.
bool arc_backward(const TwoLayerCall& call, const TwoLayerGradients& gradients, ParallelFor parallel_for);

// The parts, for those who make many calls on the same samples.
Arcs arcs_of(const TwoLayerCall& call);

// Sums of a_k w_k on each arc, and V after them: what the forward pass keeps of neurons.
inline int64_t arc_sums(const Arcs& arcs) {
  return 2 * (arcs.count() + 1);
}

// Adds the range's neurons to sums (arc_sums).
void add_to_arcs(const Arcs& arcs, const TwoLayerCall& call, const TwoLayerRange& range, double* sums);

// Arrays that add_to_arcs has filled, `stride` doubles from one to the next.
struct ArcParts {
  double* first;
  int64_t count, stride;
};

// Adds the parts up, in their order, into the first, which turns into f (n) and df_dx (n, 2), either may be null, times
// factor.
bool arc_outputs(const Arcs& arcs, const TwoLayerCall& call, Quantity quantity, const ArcParts& parts, double factor,
                 double* f, double* df_dx, ParallelFor parallel_for);

// pull (arcs.count(), 2) = m^(-1/2) h of the neurons on each arc.
bool arc_pull(const Arcs& arcs, const TwoLayerCall& call, const void* grad_f, const void* grad_df_dx, double* pull);

// The gradients of the range's neurons.
bool arc_gradients(const Arcs& arcs, const TwoLayerCall& call, const double* pull, const TwoLayerRange& range,
                   const TwoLayerGradients& gradients);

}  // namespace cpu
}  // namespace hrta
