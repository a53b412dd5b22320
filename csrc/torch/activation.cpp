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

// The calls that are made most, as plain CPython functions: pybind11's conversion of the arguments would cost as much
// again as the kernel on a thousand elements. Each takes eight numbers, the one at kNumber a float.
template <int kNumber, typename Run>
PyObject* plain_call(const char* name, PyObject* const* arguments, Py_ssize_t count, const Run& run) {
  if (count != 8) {
    PyErr_Format(PyExc_TypeError, "%s takes 8 arguments", name);
    return nullptr;
  }
  int64_t values[8] = {};
  for (int i = 0; i < 8; ++i) {
    if (i != kNumber) values[i] = PyLong_AsLongLong(arguments[i]);
  }
  const double s = PyFloat_AsDouble(arguments[kNumber]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  try {
    run(values, s);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  Py_RETURN_NONE;
}

// value(x, y, slope, n, dtype, base, s, device), slope 0 for the value alone.
PyObject* value(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return plain_call<6>("value", arguments, count, [](const int64_t* v, double s) {
    transform(Address(v[0]), Address(v[1]), v[3], int(v[4]), int(v[5]), static_cast<int>(Quantity::kValue), s, 0, 0, 0,
              Address(v[2]), int(v[7]));
  });
}

// slope_times(x, grad, y, n, dtype, base, s, device)
PyObject* slope_times(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return plain_call<6>("slope_times", arguments, count, [](const int64_t* v, double s) {
    require_memory(v[3], {Address(v[1])});
    transform(Address(v[0]), Address(v[2]), v[3], int(v[4]), int(v[5]), static_cast<int>(Quantity::kSlope), s, 0, 0,
              Address(v[1]), 0, int(v[7]));
  });
}

ReluMaskCall mask_call(Address input, Address output, Address mask, int64_t n, int dtype, double s, Address s_value) {
  require_memory(n, {input, output, mask});
  return {static_cast<ScalarKind>(dtype), n, pointer(input),          pointer(output),
          pointer<uint8_t>(mask),         s, pointer<double>(s_value)};
}

void mask_forward(Address x, Address y, Address mask, int64_t n, int dtype, double s, Address s_value, int device) {
  const ReluMaskCall call = mask_call(x, y, mask, n, dtype, s, s_value);
  without_gil(n, [&] {
    run_on(
        device, "relu_mask_forward", [&] { cpu::relu_mask_forward(call, torch_pool_parallel_for); },
        [&](auto stream) { return cuda::relu_mask_forward(call, device, stream); });
  });
}

void mask_backward(Address grad, Address grad_x, Address mask, int64_t n, int dtype, double s, Address s_value,
                   int device) {
  const ReluMaskCall call = mask_call(grad, grad_x, mask, n, dtype, s, s_value);
  without_gil(n, [&] {
    run_on(
        device, "relu_mask_backward", [&] { cpu::relu_mask_backward(call, torch_pool_parallel_for); },
        [&](auto stream) { return cuda::relu_mask_backward(call, device, stream); });
  });
}

// relu_mask_forward(x, y, mask, n, dtype, s, address of s or 0, device), and so backward of grad_y, grad_x, mask.
PyObject* relu_mask_forward(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return plain_call<5>("relu_mask_forward", arguments, count, [](const int64_t* v, double s) {
    mask_forward(Address(v[0]), Address(v[1]), Address(v[2]), v[3], int(v[4]), s, Address(v[6]), int(v[7]));
  });
}

PyObject* relu_mask_backward(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return plain_call<5>("relu_mask_backward", arguments, count, [](const int64_t* v, double s) {
    mask_backward(Address(v[0]), Address(v[1]), Address(v[2]), v[3], int(v[4]), s, Address(v[6]), int(v[7]));
  });
}

using PlainFunction = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);

PyMethodDef plain_function(const char* name, PlainFunction function, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, doc};
}

PyMethodDef kPlainFunctions[] = {plain_function("value", value, "sigma_s and, if asked for, its slope"),
                                 plain_function("slope_times", slope_times, "the slope of sigma_s times a gradient"),
                                 plain_function("relu_mask_forward", relu_mask_forward, "sigma_s of ReLU and its mask"),
                                 plain_function("relu_mask_backward", relu_mask_backward, "its gradient by the mask"),
                                 {nullptr, nullptr, 0, nullptr}};

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
  m.def("parameter_gradient", &parameter_gradient);
  m.def("parameter_gradient_scratch", &parameter_gradient_scratch);
}

}  // namespace hrta
