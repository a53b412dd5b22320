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

struct JetLoops {
  // Bytes of scratch that a loop needs, aligned to 64.
  int64_t (*scratch)(const TwoLayerCall& call, const SecondDerivatives& second);
  // Adds the range's sums over neurons, without the factor m^(-1/2), to sums (samples, K).
  void (*forward)(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerRange& range, double* sums,
                  void* scratch);
  // Writes the gradients of the range's neurons; the range must hold every sample.
  void (*backward)(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJetGradients& gradients,
                   const TwoLayerRange& range, void* scratch);
};

const JetLoops& jet_loops();

}  // namespace cpu
}  // namespace hrta
