// hrta_ext._C: the two-layer network's passes on raw addresses. hrta_ext/network/native.py checks the tensors and gives
// the scratch memory of a device.
#include "network/network.h"

#include <pybind11/pybind11.h>

#include "network/jet.h"
#include "torch/addresses.h"
#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {

namespace {

using cuda::TwoLayerPass;

void require_memory_of(const TwoLayerCall& call) {
  require_memory(call.n * call.features, {address_of(call.x)});
  require_memory(call.networks * call.width, {address_of(call.weight), address_of(call.output_weight)});
}

int64_t scratch(const TwoLayerCall& call, TwoLayerPass pass, int device) {
  return scratch_on(device, [&](auto device) { return cuda::two_layer_scratch(call, pass, device); });
}

void forward(const TwoLayerCall& call, Address f, Address df_dx, Address scratch, int device) {
  require_memory_of(call);
  run_on(
      device, "two_layer",
      [&] {
        py::gil_scoped_release release;
        cpu::two_layer_forward(call, pointer(f), pointer(df_dx), torch_pool_parallel_for);
      },
      [&](auto stream) {
        return cuda::two_layer_forward(call, pointer(f), pointer(df_dx), pointer(scratch), device, stream);
      });
}

void input_gradient(const TwoLayerCall& call, Address grad_f, Address grad_x, Address scratch, int device) {
  require_memory_of(call);
  run_on(
      device, "two_layer",
      [&] {
        py::gil_scoped_release release;
        cpu::two_layer_input_gradient(call, pointer(grad_f), pointer(grad_x), torch_pool_parallel_for);
      },
      [&](auto stream) {
        return cuda::two_layer_input_gradient(call, pointer(grad_f), pointer(grad_x), pointer(scratch), device, stream);
      });
}

void parameter_gradient(const TwoLayerCall& call, Address grad_f, Address grad_s, Address scratch, int device) {
  require_memory_of(call);
  run_on(
      device, "two_layer",
      [&] {
        py::gil_scoped_release release;
        *pointer<double>(grad_s) = cpu::two_layer_parameter_gradient(call, pointer(grad_f), torch_pool_parallel_for);
      },
      [&](auto stream) {
        return cuda::two_layer_parameter_gradient(call, pointer(grad_f), pointer<double>(grad_s), pointer(scratch),
                                                  device, stream);
      });
}

void backward(const TwoLayerCall& call, Address grad_f, Address grad_df_dx, Address grad_weight,
              Address grad_output_weight, Address scratch, int device) {
  require_memory_of(call);
  const TwoLayerGradients gradients{pointer(grad_f), pointer(grad_df_dx), pointer(grad_weight),
                                    pointer(grad_output_weight)};
  run_on(
      device, "two_layer",
      [&] {
        py::gil_scoped_release release;
        cpu::two_layer_backward(call, gradients, torch_pool_parallel_for);
      },
      [&](auto stream) { return cuda::two_layer_backward(call, gradients, pointer(scratch), device, stream); });
}

int64_t jet_scratch(const TwoLayerCall& call, int form, uint64_t columns, bool backward, int device) {
  const SecondDerivatives second{SecondForm(form), columns};
  return scratch_on(device, [&](auto) { return cuda::two_layer_jet_scratch(call, second, backward); });
}

void jet_forward(const TwoLayerCall& call, int form, uint64_t columns, Address f, Address df_dx, Address second,
                 Address scratch, int device) {
  require_memory_of(call);
  const SecondDerivatives derivatives{SecondForm(form), columns};
  const TwoLayerJet jet{pointer(f), pointer(df_dx), pointer(second)};
  run_on(
      device, "two_layer_jet",
      [&] {
        py::gil_scoped_release release;
        cpu::two_layer_jet_forward(call, derivatives, jet, torch_pool_parallel_for);
      },
      [&](auto stream) {
        return cuda::two_layer_jet_forward(call, derivatives, jet, pointer(scratch), device, stream);
      });
}

void jet_backward(const TwoLayerCall& call, int form, uint64_t columns, Address grad_f, Address grad_df_dx,
                  Address grad_second, Address grad_weight, Address grad_output_weight, Address scratch, int device) {
  require_memory_of(call);
  const TwoLayerJetGradients gradients{pointer(grad_f), pointer(grad_df_dx), pointer(grad_second), pointer(grad_weight),
                                       pointer(grad_output_weight)};
  const SecondDerivatives derivatives{SecondForm(form), columns};
  run_on(
      device, "two_layer_jet",
      [&] {
        py::gil_scoped_release release;
        cpu::two_layer_jet_backward(call, derivatives, gradients, torch_pool_parallel_for);
      },
      [&](auto stream) {
        return cuda::two_layer_jet_backward(call, derivatives, gradients, pointer(scratch), device, stream);
      });
}

void jet_input_gradient(const TwoLayerCall& call, int form, uint64_t columns, Address grad_f, Address grad_df_dx,
                        Address grad_second, Address grad_x) {
  require_memory_of(call);
  const TwoLayerJetGradients gradients{pointer(grad_f), pointer(grad_df_dx), pointer(grad_second), nullptr, nullptr};
  py::gil_scoped_release release;
  cpu::two_layer_jet_input_gradient(call, {SecondForm(form), columns}, gradients, pointer(grad_x),
                                    torch_pool_parallel_for);
}

double jet_parameter_gradient(const TwoLayerCall& call, int form, uint64_t columns, Address grad_f, Address grad_df_dx,
                              Address grad_second) {
  require_memory_of(call);
  const TwoLayerJetGradients gradients{pointer(grad_f), pointer(grad_df_dx), pointer(grad_second), nullptr, nullptr};
  py::gil_scoped_release release;
  return cpu::two_layer_jet_parameter_gradient(call, {SecondForm(form), columns}, gradients, torch_pool_parallel_for);
}

// On a GPU alone: the CPU has no such limit of features.
void sum_neurons(const TwoLayerCall& call, double scale, Address z, Address sums, bool replace, bool excess,
                 int device) {
  require_memory(call.networks * call.n * call.width, {z, sums, address_of(call.output_weight)});
  run_on(
      device, "two_layer", [] { throw std::runtime_error("two_layer_sum_neurons: device must be a GPU's index"); },
      [&](auto stream) {
        return cuda::two_layer_sum_neurons(call, scale, pointer<double>(z), pointer<double>(sums), replace, excess,
                                           device, stream);
      });
}

void sum_samples(const TwoLayerCall& call, double scale, Address grad_f, Address z, Address y, Address sums,
                 int device) {
  require_memory(call.networks * call.n * call.width, {z, sums, address_of(call.output_weight)});
  run_on(
      device, "two_layer", [] { throw std::runtime_error("two_layer_sum_samples: device must be a GPU's index"); },
      [&](auto stream) {
        return cuda::two_layer_sum_samples(call, scale, pointer(grad_f), pointer<double>(z), pointer<double>(y),
                                           pointer<double>(sums), device, stream);
      });
}

}  // namespace

void bind_network(py::module_& m) {
  Named<TwoLayerCall>(m, "TwoLayerCall")
      .number("dtype", &TwoLayerCall::dtype)
      .member("base", &TwoLayerCall::base)
      .member("networks", &TwoLayerCall::networks)
      .member("n", &TwoLayerCall::n)
      .member("features", &TwoLayerCall::features)
      .member("width", &TwoLayerCall::width)
      .memory("x", &TwoLayerCall::x)
      .memory("weight", &TwoLayerCall::weight)
      .memory("output_weight", &TwoLayerCall::output_weight)
      .member("s", &TwoLayerCall::s)
      .memory("s_value", &TwoLayerCall::s_value)
      .bound()
      .def_property_readonly("takes_arcs", &cpu::arcs_win);
  py::enum_<TwoLayerPass>(m, "TwoLayerPass")
      .value("forward", TwoLayerPass::kForward)
      .value("forward_with_gradient", TwoLayerPass::kForwardWithGradient)
      .value("input_gradient", TwoLayerPass::kInputGradient)
      .value("parameter_gradient", TwoLayerPass::kParameterGradient)
      .value("backward", TwoLayerPass::kBackward);
  m.attr("TWO_LAYER_CUDA_FEATURES") = cuda::kMostFeatures;
  m.attr("TWO_LAYER_PIECES") = py::make_tuple(cuda::kPieceNeurons, cuda::kPieceSamples);
  const py::arg call("call"), grad_f("grad_f"), scratch_memory("scratch"), device("device");
  m.def("two_layer_scratch", &scratch, call, py::arg("which"), device);
  m.def("two_layer_forward", &forward, call, py::arg("f"), py::arg("df_dx"), scratch_memory, device);
  m.def("two_layer_input_gradient", &input_gradient, call, grad_f, py::arg("grad_x"), scratch_memory, device);
  m.def("two_layer_parameter_gradient", &parameter_gradient, call, grad_f, py::arg("grad_s"), scratch_memory, device);
  m.def("two_layer_backward", &backward, call, grad_f, py::arg("grad_df_dx"), py::arg("grad_weight"),
        py::arg("grad_output_weight"), scratch_memory, device);
  m.attr("TWO_LAYER_JET") = py::make_tuple(kMostJetFeatures, kMostQuadratic);
  m.attr("TWO_LAYER_JET_CUDA") = py::make_tuple(cuda::kMostFeatures, cuda::kMostQuadratic);
  const py::arg form("form"), columns("columns"), grad_df_dx("grad_df_dx"), grad_second("grad_second");
  m.def("two_layer_jet_scratch", &jet_scratch, call, form, columns, py::arg("backward"), device);
  m.def("two_layer_jet_forward", &jet_forward, call, form, columns, py::arg("f"), py::arg("df_dx"), py::arg("second"),
        scratch_memory, device);
  m.def("two_layer_jet_backward", &jet_backward, call, form, columns, grad_f, grad_df_dx, grad_second,
        py::arg("grad_weight"), py::arg("grad_output_weight"), scratch_memory, device);
  m.def("two_layer_jet_input_gradient", &jet_input_gradient, call, form, columns, grad_f, grad_df_dx, grad_second,
        py::arg("grad_x"));
  m.def("two_layer_jet_parameter_gradient", &jet_parameter_gradient, call, form, columns, grad_f, grad_df_dx,
        grad_second);
  m.def("two_layer_sum_neurons", &sum_neurons, call, py::arg("scale"), py::arg("z"), py::arg("sums"),
        py::arg("replace"), py::arg("excess"), device);
  m.def("two_layer_sum_samples", &sum_samples, call, py::arg("scale"), grad_f, py::arg("z"), py::arg("y"),
        py::arg("sums"), device);
}

}  // namespace hrta
