// The table of the half types' own loops, one per SIMD level (simd/levels.h). What they do not serve, loops.h does.
#pragma once

#include "activation/activation.h"

namespace hrta {
namespace cpu {

struct HalfLoops {
  // Elements [begin, end) of float16 or bfloat16; ranges start at multiples of kBlock. False: not served, nothing done.
  bool (*transform)(const ActivationCall& call, int64_t begin, int64_t end);
  void (*relu_mask_forward)(const ReluMaskCall& call, int64_t begin, int64_t end);
  void (*relu_mask_backward)(const ReluMaskCall& call, int64_t begin, int64_t end);
};

}  // namespace cpu
}  // namespace hrta
