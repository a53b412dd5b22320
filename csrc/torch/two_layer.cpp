// The two-layer network on tensors: on raw addresses for eager calls (hrta_ext/two_layer_native.py checks the tensors).
#include "two_layer.h"

#include "../two_layer.h"
#include "runtime.h"

namespace py = pybind11;

namespace hrta {
namespace {

using Address = uintptr_t;

TwoLayerCall call_of(Address x, Address weight, Address output_weight, int64_t networks, int64_t n, int64_t features,
                     int64_t width, int dtype, int base, double s) {
  TwoLayerCall call{};
  call.dtype = static_cast<ScalarKind>(dtype);
  call.base = base;
  call.networks = networks;
  call.n = n;
  call.features = features;
  call.width = width;
  call.x = reinterpret_cast<const void*>(x);
  call.weight = reinterpret_cast<const void*>(weight);
  call.output_weight = reinterpret_cast<const void*>(output_weight);
  call.s = s;
  return call;
}

void forward(Address x, Address weight, Address output_weight, int64_t networks, int64_t n, int64_t features,
             int64_t width, int dtype, int base, double s, int quantity, Address f, Address df_dx) {
  const TwoLayerCall call = call_of(x, weight, output_weight, networks, n, features, width, dtype, base, s);
  py::gil_scoped_release release;
  cpu::two_layer_forward(call, static_cast<Quantity>(quantity), reinterpret_cast<void*>(f),
                         reinterpret_cast<void*>(df_dx), torch_pool_parallel_for);
}

void backward(Address x, Address weight, Address output_weight, int64_t networks, int64_t n, int64_t features,
              int64_t width, int dtype, int base, double s, Address grad_f, Address grad_df_dx, Address grad_weight,
              Address grad_output_weight) {
  const TwoLayerCall call = call_of(x, weight, output_weight, networks, n, features, width, dtype, base, s);
  const TwoLayerGradients gradients{reinterpret_cast<const void*>(grad_f), reinterpret_cast<const void*>(grad_df_dx),
                                    reinterpret_cast<void*>(grad_weight), reinterpret_cast<void*>(grad_output_weight)};
  py::gil_scoped_release release;
  cpu::two_layer_backward(call, gradients, torch_pool_parallel_for);
}

}  // namespace

void bind_two_layer(py::module_& m) {
  m.def("two_layer_forward", &forward);
  m.def("two_layer_backward", &backward);
}

}  // namespace hrta
