// The table of the activation's loops, one per SIMD level (simd/levels.h).
#pragma once

#include "activation/activation.h"

namespace hrta {
namespace cpu {

constexpr int kBlock = 1024;  // elements: what a loop keeps in L1; ranges start at a multiple of it

struct ActivationLoops {
  // Elements [begin, end).
  void (*transform)(const ActivationCall& call, int64_t begin, int64_t end);
  // float32 and float64; the half types' are in half_loops.h.
  void (*relu_mask_forward)(const ReluMaskCall& call, int64_t begin, int64_t end);
  void (*relu_mask_backward)(const ReluMaskCall& call, int64_t begin, int64_t end);
  // Adds grad times the parameter gradient of elements [begin, end) to sums[i % n_features], or to sums[0].
  void (*parameter_gradient)(const ActivationCall& call, int64_t begin, int64_t end, double* sums);
};

}  // namespace cpu
}  // namespace hrta
