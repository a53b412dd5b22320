// The table of the jet's loops, one per SIMD level (simd/levels.h). plan.h has the cuts of the work.
#pragma once

#include "network/cpu/loops.h"
#include "network/jet.h"

namespace hrta {
namespace cpu {

// K, a sample's sums over neurons: f, df/dx, the second derivatives.
HRTA_INLINE int jet_outputs(const TwoLayerCall& call, const SecondDerivatives& second) {
  return 1 + int(call.features) + quadratic_features(second);
}

// The sums are of sigma. What sigma_s = (1 - s) z + s sigma adds is linear in z: one direction for all samples, or for
// all neurons, which needs no pass (jet.cpp).
struct JetLoops {
  // Bytes of scratch that a loop needs, aligned to 64.
  int64_t (*scratch)(const TwoLayerCall& call, const SecondDerivatives& second);
  // Adds the range's sums over neurons of sigma, without the factor m^(-1/2), to sums (samples, K).
  void (*forward)(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerRange& range, double* sums,
                  void* scratch);
  // Writes the gradients of the range's neurons; the range must hold every sample. `along` (D): the network's
  // sum_i grad_f_i x_i + grad_df_dx_i, or null where s = 1. With `excess` the derivatives in s take the place of
  // sigma_s and sigma_s', and only the gradient in a is written.
  void (*backward)(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJetGradients& gradients,
                   const TwoLayerRange& range, const double* along, bool excess, void* scratch);
  // Adds sum_k a_k e_ik w_k, of sigma, to sums (samples, D).
  void (*input_gradient)(const TwoLayerCall& call, const SecondDerivatives& second,
                         const TwoLayerJetGradients& gradients, const TwoLayerRange& range, double* sums,
                         void* scratch);
};

const JetLoops& jet_loops();

}  // namespace cpu
}  // namespace hrta
