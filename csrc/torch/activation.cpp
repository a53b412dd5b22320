// hrta_ext._C: the activation's passes on raw addresses (hrta_ext/activation/native.py checks the tensors). Positional,
// since these are the calls that are made most: the dispatcher would cost several times a kernel on a thousand
// elements.
#include "activation/activation.h"

#include <pybind11/pybind11.h>

#include <exception>

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

void transform(Address x, Address y, int64_t n, int dtype, int base, int quantity, double s, Address s_values,
               int64_t n_features, Address grad, Address slope, int device) {
  require_memory(n, {x, y});
  const ActivationCall call{static_cast<Quantity>(quantity),
                            base,
                            static_cast<ScalarKind>(dtype),
                            n,
                            pointer(x),
                            pointer(grad),
                            pointer(y),
                            pointer(slope),
                            s,
                            pointer<double>(s_values),
                            n_features};
  without_gil(n, [&] {
    run_on(
        device, "transform", [&] { cpu::transform(call, torch_pool_parallel_for); },
        [&](auto stream) { return cuda::transform(call, device, stream); });
  });
}

// value(x, y, slope, n, dtype, base, s, device), slope 0 for the value alone: the calls that are made most, as a plain
// CPython function. pybind11's conversion of the arguments would cost as much again as the kernel on a thousand
// elements.
PyObject* value(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 8) {
    PyErr_SetString(PyExc_TypeError, "value takes 8 arguments");
    return nullptr;
  }
  const Address x = PyLong_AsSize_t(arguments[0]), y = PyLong_AsSize_t(arguments[1]);
  const Address slope = PyLong_AsSize_t(arguments[2]);
  const int64_t n = PyLong_AsSsize_t(arguments[3]);
  const int dtype = static_cast<int>(PyLong_AsLong(arguments[4])), base = static_cast<int>(PyLong_AsLong(arguments[5]));
  const double s = PyFloat_AsDouble(arguments[6]);
  const int device = static_cast<int>(PyLong_AsLong(arguments[7]));
  if (PyErr_Occurred() != nullptr) return nullptr;
  try {
    transform(x, y, n, dtype, base, static_cast<int>(Quantity::kValue), s, 0, 0, 0, slope, device);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyMethodDef kPlainFunctions[] = {{"value", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(value)),
                                  METH_FASTCALL, "sigma_s and, if asked for, its slope"},
                                 {nullptr, nullptr, 0, nullptr}};

ReluMaskCall mask_call(Address input, Address output, Address mask, int64_t n, int dtype, double s, Address s_value) {
  require_memory(n, {input, output, mask});
  return {static_cast<ScalarKind>(dtype), n, pointer(input),          pointer(output),
          pointer<uint8_t>(mask),         s, pointer<double>(s_value)};
}

void relu_mask_forward(Address x, Address y, Address mask, int64_t n, int dtype, double s, Address s_value,
                       int device) {
  const ReluMaskCall call = mask_call(x, y, mask, n, dtype, s, s_value);
  without_gil(n, [&] {
    run_on(
        device, "relu_mask_forward", [&] { cpu::relu_mask_forward(call, torch_pool_parallel_for); },
        [&](auto stream) { return cuda::relu_mask_forward(call, device, stream); });
  });
}

void relu_mask_backward(Address grad, Address grad_x, Address mask, int64_t n, int dtype, double s, Address s_value,
                        int device) {
  const ReluMaskCall call = mask_call(grad, grad_x, mask, n, dtype, s, s_value);
  without_gil(n, [&] {
    run_on(
        device, "relu_mask_backward", [&] { cpu::relu_mask_backward(call, torch_pool_parallel_for); },
        [&](auto stream) { return cuda::relu_mask_backward(call, device, stream); });
  });
}

// grad_s lies on the device; `partial`: scratch there, unused on the CPU.
void parameter_gradient(Address grad, Address x, Address grad_s, Address partial, int64_t n, int dtype, int base,
                        int quantity, int64_t n_features, int device) {
  require_memory(n, {grad, x});
  ActivationCall call{};
  call.quantity = static_cast<Quantity>(quantity);
  call.base = base;
  call.dtype = static_cast<ScalarKind>(dtype);
  call.n = n;
  call.x = pointer(x);
  call.grad = pointer(grad);
  call.n_features = n_features;
  double* result = pointer<double>(grad_s);
  without_gil(n, [&] {
    run_on(
        device, "parameter_gradient", [&] { cpu::parameter_gradient(call, result, torch_pool_parallel_for); },
        [&](auto stream) { return cuda::parameter_gradient(call, pointer<double>(partial), result, device, stream); });
  });
}

int64_t parameter_gradient_scratch(int64_t n, int64_t n_features, int device) {
  return scratch_on(device, [&](auto) { return cuda::parameter_gradient_scratch(n, n_features); });
}

}  // namespace

void bind_activation(py::module_& m) {
  if (PyModule_AddFunctions(m.ptr(), kPlainFunctions) != 0) throw py::error_already_set();
  m.def("transform", &transform);
  m.def("relu_mask_forward", &relu_mask_forward);
  m.def("relu_mask_backward", &relu_mask_backward);
  m.def("parameter_gradient", &parameter_gradient);
  m.def("parameter_gradient_scratch", &parameter_gradient_scratch);
}

}  // namespace hrta
