// hrta_ext._C: the kernels on raw addresses, the fast lane of eager calls (hrta_ext/native.py checks the tensors). The
// dispatcher would cost several times a kernel on a thousand elements. Importing it also registers torch.ops.hrta_ext.
#include <pybind11/pybind11.h>

#include <exception>
#include <initializer_list>
#include <stdexcept>

#include "ntk/gram.h"
#include "simd/levels.h"
#include "torch/addresses.h"
#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {
namespace {

// Other Python threads may run while a large kernel does; on a small one the hand-over costs more than it gives.
constexpr int64_t kReleaseGilFrom = 16384;

template <typename Run>
void without_gil(int64_t n, const Run& run) {
  if (n < kReleaseGilFrom) return run();
  py::gil_scoped_release release;
  run();
}

// Wrappers of functorch, and tensors whose storage was freed, have no memory to work on.
void require_memory(int64_t n, std::initializer_list<Address> addresses) {
  for (Address address : addresses) {
    if (n > 0 && address == 0) throw std::runtime_error("hrta_ext: a tensor has no memory behind it");
  }
}

void transform(Address x, Address y, int64_t n, int dtype, int base, int quantity, double s, Address s_values,
               int64_t n_features, Address grad, Address slope, int device) {
  require_memory(n, {x, y});
  ActivationCall call{static_cast<Quantity>(quantity),
                      base,
                      static_cast<ScalarKind>(dtype),
                      n,
                      reinterpret_cast<const void*>(x),
                      reinterpret_cast<const void*>(grad),
                      reinterpret_cast<void*>(y),
                      reinterpret_cast<void*>(slope),
                      s,
                      reinterpret_cast<const double*>(s_values),
                      n_features};
  without_gil(n, [&] { run_transform(call, device); });
}

// value(x, y, slope, n, dtype, base, s), slope 0 for the value alone: the calls that are made most, as a plain CPython
// function on CPU memory. pybind11's conversion of the arguments would cost as much again as the kernel on a thousand
// elements.
PyObject* value(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 7) {
    PyErr_SetString(PyExc_TypeError, "value takes 7 arguments");
    return nullptr;
  }
  const Address x = PyLong_AsSize_t(arguments[0]), y = PyLong_AsSize_t(arguments[1]);
  const Address slope = PyLong_AsSize_t(arguments[2]);
  const int64_t n = PyLong_AsSsize_t(arguments[3]);
  const int dtype = static_cast<int>(PyLong_AsLong(arguments[4])), base = static_cast<int>(PyLong_AsLong(arguments[5]));
  const double s = PyFloat_AsDouble(arguments[6]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  try {
    transform(x, y, n, dtype, base, static_cast<int>(Quantity::kValue), s, 0, 0, 0, slope, kCpuDevice);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyMethodDef kPlainFunctions[] = {{"value", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(value)),
                                  METH_FASTCALL, "sigma_s and, if asked for, its slope on the CPU"},
                                 {nullptr, nullptr, 0, nullptr}};

ReluMaskCall mask_call(Address input, Address output, Address mask, int64_t n, int dtype, double s, Address s_value) {
  require_memory(n, {input, output, mask});
  return {static_cast<ScalarKind>(dtype),   n, reinterpret_cast<const void*>(input),    reinterpret_cast<void*>(output),
          reinterpret_cast<uint8_t*>(mask), s, reinterpret_cast<const double*>(s_value)};
}

void relu_mask_forward(Address x, Address y, Address mask, int64_t n, int dtype, double s, Address s_value,
                       int device) {
  const ReluMaskCall call = mask_call(x, y, mask, n, dtype, s, s_value);
  without_gil(n, [&] { run_relu_mask_forward(call, device); });
}

void relu_mask_backward(Address grad, Address grad_x, Address mask, int64_t n, int dtype, double s, Address s_value,
                        int device) {
  const ReluMaskCall call = mask_call(grad, grad_x, mask, n, dtype, s, s_value);
  without_gil(n, [&] { run_relu_mask_backward(call, device); });
}

void parameter_gradient(Address grad, Address x, Address grad_s, Address partial, int64_t n, int dtype, int base,
                        int quantity, int64_t n_features, int device) {
  require_memory(n, {grad, x});
  ActivationCall call{};
  call.quantity = static_cast<Quantity>(quantity);
  call.base = base;
  call.dtype = static_cast<ScalarKind>(dtype);
  call.n = n;
  call.x = reinterpret_cast<const void*>(x);
  call.grad = reinterpret_cast<const void*>(grad);
  call.n_features = n_features;
  without_gil(n, [&] {
    run_parameter_gradient(call, reinterpret_cast<double*>(partial), reinterpret_cast<double*>(grad_s), device);
  });
}

}  // namespace

void bind_gram(py::module_& m);

}  // namespace hrta

PYBIND11_MODULE(_C, m) {
  using namespace hrta;
  m.doc() = "Compiled kernels of hrta_ext on raw addresses; private.";
  if (PyModule_AddFunctions(m.ptr(), kPlainFunctions) != 0) throw py::error_already_set();
  m.def("transform", &transform);
  m.def("relu_mask_forward", &relu_mask_forward);
  m.def("relu_mask_backward", &relu_mask_backward);
  m.def("parameter_gradient", &parameter_gradient);
  m.def("parameter_gradient_scratch", &parameter_gradient_scratch);
  bind_gram(m);
  bind_two_layer(m);
  bind_two_layer_training(m);
#if defined(HRTA_WITH_CUDA)
  bind_two_layer_cuda(m);
#endif
  m.def("build_info", [] {
    py::dict info;
    info["compiler"] = HRTA_COMPILER;
    info["built_for_torch"] = HRTA_BUILT_FOR_TORCH;
    info["simd_levels"] = cpu::compiled_levels();
    info["simd"] = cpu::simd_level_name();
    info["gram"] = cpu::amx_loops() != nullptr ? "int8 tiles" : "vectors";
    info["cuda_architectures"] = cuda_architectures();
    return info;
  });
}
