// One optimizer update of a run of parameters; the loop is compiled per SIMD level (simd.h).
#pragma once

#include "../two_layer_training.h"

namespace hrta {
namespace cpu {

struct Update {
  ScalarKind dtype;
  UpdateRule rule;
  double rate;  // lr; kAdam: lr / (1 - beta1^t)
  double root;  // kAdam: sqrt(1 - beta2^t)
  double beta1, beta2, epsilon;
  int64_t count;
  const void* grad;  // (count)
  void* parameter;   // (count)
  void* first;       // (count) or null, as in TwoLayerTraining
  void* second;      // (count)
};

}  // namespace cpu
}  // namespace hrta
