// From the scalar type as a number to the type.
#pragma once

#include "activation/activation.h"

namespace hrta {
namespace cpu {

// body(zero of the type), kFloat32 or kFloat64.
template <typename Body>
auto with_type(ScalarKind dtype, const Body& body) {
  return dtype == ScalarKind::kFloat32 ? body(0.0f) : body(0.0);
}

}  // namespace cpu
}  // namespace hrta
