// The Python bindings of the two-layer network's kernels.
#pragma once

#include <pybind11/pybind11.h>

namespace hrta {

void bind_two_layer(pybind11::module_& m);
void bind_two_layer_training(pybind11::module_& m);

}  // namespace hrta
