// The jet on the GPU, as jet.h names it: lanes or tiles with one more output (units.cuh).
#include "gpu/launch.cuh"
#include "network/cuda/ways.h"
#include "network/jet.h"

namespace hrta {
namespace cuda {

namespace {

Outputs outputs_of(const SecondDerivatives& second, const TwoLayerJet& jet) {
  Outputs outputs;
  outputs.f = jet.f, outputs.df_dx = jet.df_dx;
  outputs.second = jet.second, outputs.derivatives = second;
  return outputs;
}

Targets targets_of(const SecondDerivatives& second, const TwoLayerJetGradients& gradients) {
  Targets targets;
  targets.gradients = {gradients.grad_f, gradients.grad_df_dx, gradients.grad_weight, gradients.grad_output_weight};
  targets.grad_second = gradients.grad_second, targets.derivatives = second;
  return targets;
}

}  // namespace

int64_t two_layer_jet_scratch(const TwoLayerCall& call, const SecondDerivatives& second, bool backward) {
  static char here;  // only whether a pointer is null matters
  if (!backward) return lanes::forward_scratch(call, outputs_of(second, {&here, &here, &here}));
  return lanes::backward_scratch(call, targets_of(second, {&here, &here, &here, &here, &here}));
}

const char* two_layer_jet_forward(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJet& jet,
                                  void* scratch, int device, void* stream) {
  if (call.networks * call.n == 0) return nullptr;
  DeviceGuard guard(device);
  lanes::forward(call, outputs_of(second, jet), scratch, stream);
  return launch_error();
}

const char* two_layer_jet_backward(const TwoLayerCall& call, const SecondDerivatives& second,
                                   const TwoLayerJetGradients& gradients, void* scratch, int device, void* stream) {
  if (call.networks == 0) return nullptr;
  DeviceGuard guard(device);
  lanes::backward(call, targets_of(second, gradients), scratch, stream);
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
