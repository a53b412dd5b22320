// The ways in which training goes on a GPU; which one serves a training is a matter of its shapes, base, dtype and rule
// and of what the device offers, never of time, of the steps of a call or of what the call holds besides. A way's bits
// depend on the shapes alone, not on how the steps are cut into calls.
#pragma once

#include "gpu/device.h"
#include "training/training.h"

namespace hrta {
namespace cuda {

// Small networks: all steps in one launch, networks that are alike side by side.
namespace small {
bool alike(const TwoLayerTraining& a, const TwoLayerTraining& b);  // what serves one serves the other, in one launch
bool serves(const TwoLayerTraining& training, const Device& device);
int64_t scratch(const TwoLayerMember* members, int64_t count, int64_t steps, const Device& device);
void train(const TwoLayerMember* members, int64_t count, int64_t steps, void* scratch, const Device& device,
           void* stream);
}  // namespace small

// A few launches a step, by the passes of network/cuda/ways.h: everything.
namespace launches {
int64_t scratch(const TwoLayerTraining& training, const Device& device);
void train(const TwoLayerMember& member, int64_t steps, void* scratch, const Device& device, void* stream);
}  // namespace launches

// ReLU and two features by arcs of directions, O(n + m) a step (arcs.h).
namespace arcs {
bool serves(const TwoLayerTraining& training, const Device& device);
int64_t scratch(const TwoLayerTraining& training, int64_t steps, const Device& device);
void train(const TwoLayerMember& member, int64_t steps, void* scratch, const Device& device, void* stream);
}  // namespace arcs

}  // namespace cuda
}  // namespace hrta
