// hrta_ext._C.two_layer_train on raw addresses; hrta_ext/training/native.py gives it the tensors' memory.
#include "training/training.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "torch/addresses.h"
#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {

namespace {

void require_memory_of(const TwoLayerTraining& training) {
  if (training.gradient_features < 0 || training.gradient_features > training.features) {
    throw py::value_error("TwoLayerTraining: gradient_features must be in [0, features]");
  }
  require_memory(training.n, {address_of(training.x), address_of(training.y), address_of(training.f)});
  require_memory(training.width, {address_of(training.weight), address_of(training.output_weight)});
  if (training.rule == UpdateRule::kAdam) {
    require_memory(training.width, {address_of(training.weight_first), address_of(training.output_first),
                                    address_of(training.weight_second), address_of(training.output_second)});
  }
}

// The members of an ensemble, one entry of each list per network: the rates lr and the homotopy parameters s (one
// more), on the host, and losses, addresses of `steps` doubles; done, of the number of losses written; whether f holds
// the outputs on entry.
std::vector<TwoLayerMember> members_of(const std::vector<const TwoLayerTraining*>& trainings, int64_t steps,
                                       const std::vector<Address>& lr, const std::vector<Address>& s,
                                       const std::vector<Address>& loss, const std::vector<Address>& done,
                                       const std::vector<bool>& outputs_on_entry, bool outputs_on_return) {
  const size_t count = trainings.size();
  for (size_t size : {lr.size(), s.size(), loss.size(), done.size(), outputs_on_entry.size()}) {
    if (size != count) throw py::value_error("two_layer_train takes as many of everything as networks");
  }
  std::vector<TwoLayerMember> members;
  for (size_t i = 0; i < count; ++i) {
    require_memory_of(*trainings[i]);
    require_memory(steps, {lr[i], s[i], loss[i], done[i]});
    members.push_back({trainings[i],
                       pointer<double>(lr[i]),
                       pointer<double>(s[i]),
                       pointer<double>(loss[i]),
                       {outputs_on_entry[i], outputs_on_return},
                       pointer<int64_t>(done[i])});
  }
  return members;
}

// Bytes of scratch that these trainings want for `steps` steps.
int64_t scratch(const std::vector<const TwoLayerTraining*>& trainings, int64_t steps, int device) {
  return scratch_on(device, [&](auto device) {
    std::vector<TwoLayerMember> members;
    for (const TwoLayerTraining* training : trainings)
      members.push_back({training, nullptr, nullptr, nullptr, {}, nullptr});
    return cuda::two_layer_training_scratch(members.data(), static_cast<int64_t>(members.size()), steps, device);
  });
}

// Trains every network for `steps` steps. On a device, where everything but lr, s and the trainings lies on it, it
// queues the steps and returns.
void train(const std::vector<const TwoLayerTraining*>& trainings, int64_t steps, const std::vector<Address>& lr,
           const std::vector<Address>& s, const std::vector<Address>& loss, const std::vector<Address>& done,
           const std::vector<bool>& outputs_on_entry, bool outputs_on_return, Address scratch, int device) {
  const std::vector<TwoLayerMember> members =
      members_of(trainings, steps, lr, s, loss, done, outputs_on_entry, outputs_on_return);
  const auto count = static_cast<int64_t>(members.size());
  run_on(
      device, "two_layer_train",
      [&] {
        py::gil_scoped_release release;
        cpu::two_layer_train_ensemble(members.data(), count, steps, torch_pool_parallel_for);
      },
      [&](auto stream) {
        py::gil_scoped_release release;
        return cuda::two_layer_train_ensemble(members.data(), count, steps, pointer(scratch), device, stream);
      });
}

}  // namespace

void bind_training(py::module_& m) {
  py::enum_<UpdateRule>(m, "UpdateRule").value("descent", UpdateRule::kDescent).value("adam", UpdateRule::kAdam);
  Named<TwoLayerTraining>(m, "TwoLayerTraining")
      .number("dtype", &TwoLayerTraining::dtype)
      .member("base", &TwoLayerTraining::base)
      .member("n", &TwoLayerTraining::n)
      .member("features", &TwoLayerTraining::features)
      .member("width", &TwoLayerTraining::width)
      .memory("x", &TwoLayerTraining::x)
      .memory("y", &TwoLayerTraining::y)
      .memory("sample_weight", &TwoLayerTraining::sample_weight)
      .memory("gradient_target", &TwoLayerTraining::gradient_target)
      .member("gradient_features", &TwoLayerTraining::gradient_features)
      .memory("weight", &TwoLayerTraining::weight)
      .memory("output_weight", &TwoLayerTraining::output_weight)
      .member("rule", &TwoLayerTraining::rule)
      .memory("weight_first", &TwoLayerTraining::weight_first)
      .memory("weight_second", &TwoLayerTraining::weight_second)
      .memory("output_first", &TwoLayerTraining::output_first)
      .memory("output_second", &TwoLayerTraining::output_second)
      .member("beta1", &TwoLayerTraining::beta1)
      .member("beta2", &TwoLayerTraining::beta2)
      .member("epsilon", &TwoLayerTraining::epsilon)
      .member("updates", &TwoLayerTraining::updates)
      .memory("f", &TwoLayerTraining::f)
      .member("total_width", &TwoLayerTraining::total_width)
      .bound()
      .def_property_readonly("by_arcs", &cpu::trains_by_arcs);
  m.def("two_layer_training_scratch", &scratch, py::arg("trainings"), py::arg("steps"), py::arg("device"));
  m.def("two_layer_train", &train, py::arg("trainings"), py::arg("steps"), py::arg("lr"), py::arg("s"), py::arg("loss"),
        py::arg("done"), py::arg("outputs_on_entry"), py::arg("outputs_on_return"), py::arg("scratch"),
        py::arg("device"));
}

}  // namespace hrta
