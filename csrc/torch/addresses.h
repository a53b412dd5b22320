// The Python bindings of the two-layer network's kernels.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "network/network.h"

namespace hrta {

using Address = uintptr_t;

inline void* pointer(Address address) {
  return reinterpret_cast<void*>(address);
}

// What identifies a call, as the bound functions take it. s_value: of a number on the device, or 0 for s.
struct TwoLayerProblem {
  Address x, weight, output_weight;
  int64_t networks, n, features, width;
  int dtype, base;
  double s;
  Address s_value;

  TwoLayerCall call() const {
    return {static_cast<ScalarKind>(dtype),
            base,
            networks,
            n,
            features,
            width,
            pointer(x),
            pointer(weight),
            pointer(output_weight),
            s,
            static_cast<const double*>(pointer(s_value))};
  }
};

void bind_two_layer(pybind11::module_& m);
void bind_two_layer_training(pybind11::module_& m);
// In a build with CUDA.
void bind_two_layer_cuda(pybind11::module_& m);

}  // namespace hrta
