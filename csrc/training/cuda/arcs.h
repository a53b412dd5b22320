// The two forms of training by arcs (ways.h): ReLU and two features on the exact order of directions of circle/cuda/,
// so that a step costs O(n + m). A form serves where its shapes and the card allow; the first that does is taken.
#pragma once

#include "gpu/device.h"
#include "training/training.h"

namespace hrta {
namespace cuda {
namespace arcs {
namespace training {

// All steps in one launch, every neuron in a register: where all blocks are on the card at once.
namespace persistent {
bool serves(const TwoLayerTraining& training, const Device& device);
int64_t scratch(const TwoLayerTraining& training, int64_t steps);
void train(const TwoLayerMember& member, int64_t steps, void* scratch, void* stream);
}  // namespace persistent

// Three launches a step, one of them over the neurons.
namespace sweep {
bool serves(const TwoLayerTraining& training, const Device& device);
int64_t scratch(const TwoLayerTraining& training);
void train(const TwoLayerMember& member, int64_t steps, void* scratch, const Device& device, void* stream);
}  // namespace sweep

}  // namespace training
}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
