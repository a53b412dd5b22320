// One table of loops per SIMD level; the best one that this processor runs is chosen once.
#pragma once

#include "activation/activation.h"

namespace hrta {
namespace cpu {

struct TwoLayerLoops;  // two_layer_loops.h
struct Update;         // update_loops.h
struct ArcSearch;      // arc_loops.h
inline namespace HRTA_SIMD_LEVEL {
extern const TwoLayerLoops kTwoLayerLoops;
void update(const Update& update);
void find_arcs(const ArcSearch& search);
}  // namespace HRTA_SIMD_LEVEL

constexpr int kBlock = 1024;  // elements: what a loop keeps in L1; ranges start at a multiple of it

struct Loops {
  const char* level;
  // Elements [begin, end).
  void (*transform)(const ActivationCall& call, int64_t begin, int64_t end);
  void (*relu_mask_forward)(const ReluMaskCall& call, int64_t begin, int64_t end);
  void (*relu_mask_backward)(const ReluMaskCall& call, int64_t begin, int64_t end);
  // Adds grad times the parameter gradient of elements [begin, end) to sums[i % n_features], or to sums[0].
  void (*parameter_gradient)(const ActivationCall& call, int64_t begin, int64_t end, double* sums);
  const TwoLayerLoops* two_layer;
  void (*update)(const Update& update);
  void (*find_arcs)(const ArcSearch& search);
};

const Loops& loops();

// Names of the compiled levels, best last, separated by spaces.
const char* compiled_levels();

}  // namespace cpu
}  // namespace hrta
