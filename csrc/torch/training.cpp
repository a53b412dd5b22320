// hrta_ext._C.two_layer_train on raw addresses; hrta_ext/fused_engine.py checks the tensors.
#include "training/training.h"

#include <pybind11/stl.h>

#include <vector>

#include "torch/addresses.h"
#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {

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
      // Addresses of c (n) and of G (n, d), 0 for none; f then holds n (1 + D) doubles.
      .def("set_loss",
           [](TwoLayerTraining& training, Address sample_weight, Address gradient_target, int64_t gradient_features) {
             if (gradient_features < 0 || gradient_features > training.features) {
               throw py::value_error("TwoLayerTraining.set_loss takes targets in at most as many features as x has");
             }
             training.sample_weight = pointer(sample_weight);
             training.gradient_target = pointer(gradient_target);
             training.gradient_features = gradient_features;
           })
      .def_property_readonly("by_arcs", &cpu::trains_by_arcs)
      .def_readwrite("s", &TwoLayerTraining::s)
      .def_readwrite("updates", &TwoLayerTraining::updates);

  // Trains every network for `steps` steps: one training each, lr and loss as addresses of `steps` doubles, and whether
  // f holds the outputs on entry and shall on return. Returns the number of losses written of each.
  m.def("two_layer_train",
        [](const std::vector<const TwoLayerTraining*>& trainings, int64_t steps, const std::vector<Address>& lr,
           const std::vector<Address>& loss, const std::vector<bool>& outputs_on_entry, bool outputs_on_return) {
          if (lr.size() != trainings.size() || loss.size() != lr.size() || outputs_on_entry.size() != lr.size()) {
            throw py::value_error("two_layer_train takes as many rates, losses and flags as networks");
          }
          std::vector<cpu::TwoLayerMember> members;
          for (size_t i = 0; i < trainings.size(); ++i) {
            members.push_back({trainings[i],
                               static_cast<const double*>(pointer(lr[i])),
                               static_cast<double*>(pointer(loss[i])),
                               {outputs_on_entry[i], outputs_on_return},
                               0});
          }
          {
            py::gil_scoped_release release;
            cpu::two_layer_train_ensemble(members.data(), static_cast<int64_t>(members.size()), steps,
                                          torch_pool_parallel_for);
          }
          std::vector<int64_t> done;
          for (const cpu::TwoLayerMember& member : members) done.push_back(member.done);
          return done;
        });
}

}  // namespace hrta
