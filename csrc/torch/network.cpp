// The two-layer network on tensors: dispatcher ops through the LibTorch stable ABI, and raw addresses for eager calls
// (hrta_ext/native_two_layer.py checks the tensors). hrta_ext/two_layer_ops.py adds fake kernels and autograd.
#include "network/network.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "torch/addresses.h"
#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Contiguous copies, where needed, that outlive the call.
struct Arguments {
  Tensor x, weight, output_weight;
  TwoLayerCall call{};

  // x (n, D); weight (..., m, D); output_weight (..., m); s () float64.
  Arguments(const Tensor& x_, const Tensor& weight_, const Tensor& output_weight_, const Tensor& s, int64_t base)
      : x(torch::stable::contiguous(x_)),
        weight(torch::stable::contiguous(weight_)),
        output_weight(torch::stable::contiguous(output_weight_)) {
    const ScalarType dtype = x.scalar_type();
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "hrta_ext: two_layer: x must be float32 or float64");
    STD_TORCH_CHECK(weight.scalar_type() == dtype && output_weight.scalar_type() == dtype,
                    "hrta_ext: two_layer: weight and output_weight must have x's dtype");
    STD_TORCH_CHECK(base >= 0 && base < kBaseCount, "hrta_ext: base must be in [0, ", int(kBaseCount), "), got ", base);
    STD_TORCH_CHECK(s.numel() == 1 && s.scalar_type() == ScalarType::Double && s.is_cpu(),
                    "hrta_ext: two_layer: s must be one float64 number on the CPU");
    STD_TORCH_CHECK(x.dim() == 2 && weight.dim() >= 2 && weight.size(weight.dim() - 1) == x.size(1) && x.size(1) > 0,
                    "hrta_ext: two_layer: x must have shape (n, D) and weight (..., m, D) with the same D > 0");
    bool fits = output_weight.dim() == weight.dim() - 1 && weight.size(weight.dim() - 2) > 0;
    for (int64_t d = 0; fits && d < output_weight.dim(); ++d) fits = output_weight.size(d) == weight.size(d);
    STD_TORCH_CHECK(fits,
                    "hrta_ext: two_layer: output_weight must have weight's shape without the last dimension, m > 0");
    call.dtype = dtype == ScalarType::Float ? ScalarKind::kFloat32 : ScalarKind::kFloat64;
    call.base = static_cast<int>(base);
    call.n = x.size(0);
    call.features = x.size(1);
    call.width = weight.size(weight.dim() - 2);
    call.networks = output_weight.numel() / call.width;
    call.x = x.data_ptr();
    call.weight = weight.data_ptr();
    call.output_weight = output_weight.data_ptr();
    call.s = *static_cast<const double*>(s.data_ptr());
  }
};

// f (..., n)
Tensor forward_op(const Tensor& x, const Tensor& weight, const Tensor& output_weight, const Tensor& s, int64_t base) {
  const Arguments arguments(x, weight, output_weight, s, base);
  std::vector<int64_t> shape;
  for (int64_t d = 0; d + 2 < weight.dim(); ++d) shape.push_back(weight.size(d));
  shape.push_back(x.size(0));
  Tensor f = torch::stable::new_empty(x, shape);
  cpu::two_layer_forward(arguments.call, f.data_ptr(), nullptr, torch_pool_parallel_for);
  return f;
}

// The gradients in x, weight, output_weight and s () of sum_i grad_i f_i, grad (..., n); empty where not needed.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward_op(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                       const Tensor& output_weight, const Tensor& s, int64_t base,
                                                       bool need_x, bool need_weight, bool need_output_weight,
                                                       bool need_s) {
  const Arguments arguments(x, weight, output_weight, s, base);
  const TwoLayerCall& call = arguments.call;
  const Tensor grad_f = torch::stable::contiguous(grad);
  STD_TORCH_CHECK(grad_f.scalar_type() == x.scalar_type() && grad_f.numel() == call.networks * call.n,
                  "hrta_ext: two_layer_backward: grad must have the shape (..., n) and dtype of the result");
  const std::vector<int64_t> none{0};
  Tensor grad_x = need_x ? torch::stable::empty_like(arguments.x) : torch::stable::new_empty(x, none);
  Tensor grad_weight = need_weight ? torch::stable::empty_like(arguments.weight) : torch::stable::new_empty(x, none);
  Tensor grad_output_weight =
      need_output_weight ? torch::stable::empty_like(arguments.output_weight) : torch::stable::new_empty(x, none);
  Tensor grad_s = need_s ? torch::stable::empty_like(s) : torch::stable::new_empty(s, none);
  if (need_x) cpu::two_layer_input_gradient(call, grad_f.data_ptr(), grad_x.data_ptr(), torch_pool_parallel_for);
  if (need_weight || need_output_weight) {
    TwoLayerGradients gradients{};
    gradients.grad_f = grad_f.data_ptr();
    gradients.grad_weight = need_weight ? grad_weight.data_ptr() : nullptr;
    gradients.grad_output_weight = need_output_weight ? grad_output_weight.data_ptr() : nullptr;
    cpu::two_layer_backward(call, gradients, torch_pool_parallel_for);
  }
  if (need_s) {
    *static_cast<double*>(grad_s.data_ptr()) =
        cpu::two_layer_parameter_gradient(call, grad_f.data_ptr(), torch_pool_parallel_for);
  }
  return {grad_x, grad_weight, grad_output_weight, grad_s};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(hrta_ext, m) {
  m.def("two_layer(Tensor x, Tensor weight, Tensor output_weight, Tensor s, int base) -> Tensor");
  m.def(
      "two_layer_backward(Tensor grad, Tensor x, Tensor weight, Tensor output_weight, Tensor s, int base, "
      "bool need_x, bool need_weight, bool need_output_weight, bool need_s) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(hrta_ext, CPU, m) {
  m.impl("two_layer", TORCH_BOX(&forward_op));
  m.impl("two_layer_backward", TORCH_BOX(&backward_op));
}

void bind_two_layer(py::module_& m) {
  using Problem = TwoLayerProblem;
  py::class_<Problem>(m, "TwoLayerProblem")
      .def(py::init<Address, Address, Address, int64_t, int64_t, int64_t, int64_t, int, int, double, Address>());
  m.def("two_layer_takes_arcs", [](const Problem& problem) { return cpu::arcs_win(problem.call()); });
  m.def("two_layer_forward", [](const Problem& problem, Address f, Address df_dx) {
    py::gil_scoped_release release;
    cpu::two_layer_forward(problem.call(), pointer(f), pointer(df_dx), torch_pool_parallel_for);
  });
  m.def("two_layer_backward", [](const Problem& problem, Address grad_f, Address grad_df_dx, Address grad_weight,
                                 Address grad_output_weight) {
    const TwoLayerGradients gradients{pointer(grad_f), pointer(grad_df_dx), pointer(grad_weight),
                                      pointer(grad_output_weight)};
    py::gil_scoped_release release;
    cpu::two_layer_backward(problem.call(), gradients, torch_pool_parallel_for);
  });
  m.def("two_layer_input_gradient", [](const Problem& problem, Address grad_f, Address grad_x) {
    py::gil_scoped_release release;
    cpu::two_layer_input_gradient(problem.call(), pointer(grad_f), pointer(grad_x), torch_pool_parallel_for);
  });
  m.def("two_layer_parameter_gradient", [](const Problem& problem, Address grad_f, Address grad_s) {
    py::gil_scoped_release release;
    *static_cast<double*>(pointer(grad_s)) =
        cpu::two_layer_parameter_gradient(problem.call(), pointer(grad_f), torch_pool_parallel_for);
  });
}

}  // namespace hrta
