// One optimizer update of a run of parameters, and the table of its loop, one per SIMD level (simd/levels.h).
#pragma once

#include "math/update.h"
#include "types.h"

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

struct UpdateLoops {
  void (*update)(const Update& update);
};

}  // namespace cpu
}  // namespace hrta
