// The ways in which the two-layer network's passes go on a GPU, and which one serves a call: a matter of its shapes,
// base and dtype and of what the device offers, never of time. Cards that take the same way give the same bits.
#pragma once

#include "gpu/device.h"
#include "math/update.h"
#include "network/jet.h"
#include "network/network.h"

namespace hrta {
namespace cuda {

// Which outputs are wanted, and where.
struct Outputs {
  void* f = nullptr;                // (networks, n)
  void* df_dx = nullptr;            // (networks, n, D)
  bool in_double = false;           // f and df_dx are double, not of the call's dtype
  bool parameter_gradient = false;  // f is to be df/ds; never with df_dx
  const int64_t* done = nullptr;    // () on the device or null: nothing is done where it is not 0
  void* second = nullptr;           // (networks, n, R): a jet, with f and df_dx
  SecondDerivatives derivatives{};  // which

  bool with_gradient() const { return df_dx != nullptr; }
  int seconds() const { return second != nullptr ? quadratic_features(derivatives) : 0; }  // R
};

// Training: backward updates the weights of one network, which it may write to, instead of storing gradients.
struct Update {
  UpdateNumbers numbers;
  void *weight_first, *weight_second;  // (m, D)
  void *output_first, *output_second;  // (m)
  const int64_t* done;                 // as in Outputs
};

// Where backward's results go. `update` null: to `gradients`. `everywhere` null or (networks, D), double, on the
// device: R of units.cuh where it is known already.
struct Targets {
  TwoLayerGradients gradients;
  const Update* update = nullptr;
  const double* everywhere = nullptr;
  const void* grad_second = nullptr;  // (networks, n, R): of a jet, where gradients has what goes with it
  SecondDerivatives derivatives{};    // which

  int seconds() const { return grad_second != nullptr ? quadratic_features(derivatives) : 0; }  // R
};

// Lanes or tiles hold samples or neurons (units.cuh): every call of at most kMostFeatures features, and every jet.
namespace lanes {
int64_t forward_scratch(const TwoLayerCall& call, const Outputs& outputs);  // bytes, as everywhere
void forward(const TwoLayerCall& call, const Outputs& outputs, void* scratch, void* stream);
int64_t backward_scratch(const TwoLayerCall& call, const Targets& targets);
void backward(const TwoLayerCall& call, const Targets& targets, void* scratch, void* stream);
}  // namespace lanes

// Sums over arcs of directions (arcs.cuh): ReLU and two features, where the shapes make it the faster way. Every card;
// what does not fit its shared memory stays in global memory. backward stores gradients, it makes no updates.
namespace arcs {
bool serves(const TwoLayerCall& call);
int64_t forward_scratch(const TwoLayerCall& call, const Outputs& outputs, const Device& device);
void forward(const TwoLayerCall& call, const Outputs& outputs, void* scratch, const Device& device, void* stream);
int64_t backward_scratch(const TwoLayerCall& call);
void backward(const TwoLayerCall& call, const Targets& targets, void* scratch, const Device& device, void* stream);
}  // namespace arcs

// ReLU in float32 on tensor cores (wide_pieces.cuh): up to 64 features, where there are neurons and samples enough.
namespace wide {
bool serves_forward(const TwoLayerCall& call, const Device& device);
bool serves_backward(const TwoLayerCall& call, const Device& device);
int64_t forward_scratch(const TwoLayerCall& call, const Device& device);
void forward(const TwoLayerCall& call, const Outputs& outputs, void* scratch, const Device& device, void* stream);
int64_t backward_scratch(const TwoLayerCall& call, const Device& device);
void backward(const TwoLayerCall& call, const Targets& targets, void* scratch, const Device& device, void* stream);
}  // namespace wide

// The way that serves the call.
int64_t forward_scratch(const TwoLayerCall& call, const Outputs& outputs, const Device& device);
void launch_forward(const TwoLayerCall& call, const Outputs& outputs, void* scratch, const Device& device,
                    void* stream);
int64_t backward_scratch(const TwoLayerCall& call, const Targets& targets, const Device& device);
void launch_backward(const TwoLayerCall& call, const Targets& targets, void* scratch, const Device& device,
                     void* stream);

}  // namespace cuda
}  // namespace hrta
