// hrta_ext._C.two_layer_train on raw addresses; hrta_ext/fused_engine.py checks the tensors.
#include "../two_layer_training.h"

#include <pybind11/stl.h>

#include <vector>

#include "runtime.h"
#include "two_layer.h"

namespace py = pybind11;

namespace hrta {
namespace {

using Address = uintptr_t;

void* pointer(Address address) {
  return reinterpret_cast<void*>(address);
}

}  // namespace

void bind_two_layer_training(py::module_& m) {
  py::class_<TwoLayerTraining>(m, "TwoLayerTraining")
      // Addresses: x, y, weight, output_weight, weight's and output_weight's first moments, their second ones, f.
      .def(py::init([](int dtype, int base, int64_t n, int64_t features, int64_t width,
                       const std::vector<Address>& addresses, bool adam, double beta1, double beta2, double epsilon) {
        if (addresses.size() != 9) throw py::value_error("TwoLayerTraining takes 9 addresses");
        TwoLayerTraining training{};
        training.dtype = static_cast<ScalarKind>(dtype);
        training.base = base;
        training.n = n, training.features = features, training.width = width;
        training.x = pointer(addresses[0]), training.y = pointer(addresses[1]);
        training.weight = pointer(addresses[2]), training.output_weight = pointer(addresses[3]);
        training.weight_first = pointer(addresses[4]), training.output_first = pointer(addresses[5]);
        training.weight_second = pointer(addresses[6]), training.output_second = pointer(addresses[7]);
        training.f = static_cast<double*>(pointer(addresses[8]));
        training.rule = adam ? UpdateRule::kAdam : UpdateRule::kDescent;
        training.beta1 = beta1, training.beta2 = beta2, training.epsilon = epsilon;
        return training;
      }))
      .def_readwrite("s", &TwoLayerTraining::s)
      .def_readwrite("updates", &TwoLayerTraining::updates);

  // lr and loss: addresses of `steps` doubles. Returns the number of losses written.
  m.def("two_layer_train", [](const TwoLayerTraining& training, int64_t steps, Address lr, Address loss,
                              bool outputs_on_entry, bool outputs_on_return) {
    py::gil_scoped_release release;
    return cpu::two_layer_train(training, steps, static_cast<const double*>(pointer(lr)),
                                static_cast<double*>(pointer(loss)), {outputs_on_entry, outputs_on_return},
                                torch_pool_parallel_for);
  });
}

}  // namespace hrta
