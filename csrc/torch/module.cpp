// hrta_ext._C: the kernels on raw addresses, what the binary is, and the numbers that both languages keep
// (tests/build/test_constants.py compares them).
#include <pybind11/pybind11.h>

#include "activation/activation.h"
#include "ntk/gram.h"
#include "simd/levels.h"
#include "torch/addresses.h"
#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {
namespace {

py::tuple names(std::initializer_list<const char*> list) {
  py::tuple result(list.size());
  size_t i = 0;
  for (const char* name : list) result[i++] = name;
  return result;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = HRTA_COMPILER;
  info["built_for_torch"] = HRTA_BUILT_FOR_TORCH;
  info["simd_levels"] = cpu::compiled_levels();
  info["simd"] = cpu::loops().level;
  info["gram"] = cpu::amx_loops() != nullptr ? "int8 tiles" : "vectors";
  info["cuda_architectures"] = cuda_architectures();
  return info;
}

// In the order of their enums.
void add_constants(py::module_& m) {
  static_assert(int(ScalarKind::kFloat64) == 3 && kBaseCount == 8 && int(Quantity::kParameterGradient1) == 4,
                "a new kind, base or quantity must be named below");
  m.attr("SCALAR_KINDS") = names({"float16", "bfloat16", "float32", "float64"});
  m.attr("BASES") = names({"relu", "relu2", "tanh", "gelu", "silu", "softplus", "erf", "sin"});
  m.attr("QUANTITIES") = names({"value", "slope", "curvature", "parameter_gradient", "parameter_gradient_of_slope"});
}

}  // namespace
}  // namespace hrta

PYBIND11_MODULE(_C, m) {
  using namespace hrta;
  m.doc() = "Compiled kernels of hrta_ext on raw addresses; private.";
  bind_activation(m);
  bind_gram(m);
  bind_network(m);
  bind_training(m);
  add_constants(m);
  m.def("build_info", &build_info);
}
