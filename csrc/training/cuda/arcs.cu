#include <cuda_runtime.h>

#include "circle/cuda/search.cuh"
#include "training/cuda/arcs.h"
#include "training/cuda/ways.h"

namespace hrta {
namespace cuda {
namespace arcs {

// Every number of samples and neurons: also where they are few the other ways' kernels are no shorter (which of them
// goes first is said in trainer.cu). A loss of gradients is another way's: fit refuses it for ReLU, whose second
// derivative is 0.
bool serves(const TwoLayerTraining& t, const Device& device) {
  const bool shapes = t.base == kRelu && t.features == 2 && t.n >= 1 && t.n <= kMostSamples && t.width >= 1;
  return shapes && t.gradient_target == nullptr &&
         (training::persistent::serves(t, device) || training::sweep::serves(t, device));
}

int64_t scratch(const TwoLayerTraining& training, int64_t steps, const Device& device) {
  return training::persistent::serves(training, device) ? training::persistent::scratch(training, steps)
                                                        : training::sweep::scratch(training);
}

void train(const TwoLayerMember& member, int64_t steps, void* scratch, const Device& device, void* stream) {
  cudaMemsetAsync(member.done, 0, sizeof(*member.done), static_cast<cudaStream_t>(stream));
  if (training::persistent::serves(*member.training, device))
    return training::persistent::train(member, steps, scratch, stream);
  training::sweep::train(member, steps, scratch, device, stream);
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
