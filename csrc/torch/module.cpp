// hrta_ext._C: the kernels on raw addresses, what the binary is, and the numbers that both languages keep
// (tests/build/test_constants.py compares them).
#include <pybind11/pybind11.h>

#include "activation/activation.h"
#include "gpu/device.h"
#include "ntk/gram.h"
#include "simd/levels.h"
#include "torch/addresses.h"
#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {
namespace {

template <size_t kCount>
py::tuple names(const char* const (&list)[kCount]) {
  py::tuple result(kCount);
  for (size_t i = 0; i < kCount; ++i) result[i] = list[i];
  return result;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = HRTA_COMPILER;
  info["built_for_torch"] = HRTA_BUILT_FOR_TORCH;
  info["simd_levels"] = cpu::compiled_levels();
  info["simd"] = cpu::simd_level_name();
  info["gram"] = cpu::amx_loops() != nullptr ? "int8 tiles" : "vectors";
  info["cuda_architectures"] = cuda_architectures();
  return info;
}

// In the order of their enums.
void add_constants(py::module_& m) {
  static_assert(int(ScalarKind::kFloat64) == 3 && int(Quantity::kParameterGradient1) == 4,
                "a new kind or quantity must be named below");
  static constexpr const char* kKinds[] = {"float16", "bfloat16", "float32", "float64"};
  static constexpr const char* kQuantities[] = {"value", "slope", "curvature", "parameter_gradient",
                                                "parameter_gradient_of_slope"};
  m.attr("SCALAR_KINDS") = names(kKinds);
  m.attr("BASES") = names(kBaseNames);
  m.attr("QUANTITIES") = names(kQuantities);
}

}  // namespace
}  // namespace hrta

PYBIND11_MODULE(_C, m) {
  using namespace hrta;
  m.doc() = "Compiled kernels of hrta_ext on raw addresses; private.";
  bind_activation(m);
  bind_gram(m);
  bind_infinite(m);
  bind_network(m);
  bind_training(m);
  add_constants(m);
  m.def("build_info", &build_info);
#if defined(HRTA_WITH_CUDA)
  m.def("cuda_versions", [] { return py::make_tuple(cuda::driver_version(), cuda::runtime_version()); });
  // For tests: every device as if it were no larger, so that calls take the ways of smaller cards; 0 lifts a limit.
  m.def(
      "limit_cuda",
      [](int capability, int multiprocessors, int shared, int cluster) {
        cuda::limit_devices({capability, multiprocessors, shared, cluster});
      },
      py::kw_only(), py::arg("capability") = 0, py::arg("multiprocessors") = 0, py::arg("shared") = 0,
      py::arg("cluster") = 0);
#endif
}
