// One optimizer update of a run of parameters; the loop is compiled per SIMD level (simd.h).
#pragma once

#include "training/update.h"

namespace hrta {
namespace cpu {

struct Update {
  ScalarKind dtype;
  UpdateNumbers numbers;
  int64_t count;
  const void* grad;  // (count)
  void* parameter;   // (count)
  void* first;       // (count) or null, as in TwoLayerTraining
  void* second;      // (count)
};

}  // namespace cpu
}  // namespace hrta
