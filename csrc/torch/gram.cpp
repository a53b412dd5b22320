// hrta_ext._C: the Gram builder on raw addresses (hrta_ext/ntk/native.py checks the tensors).
#include "ntk/gram.h"

#include <pybind11/pybind11.h>

#include "torch/addresses.h"
#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {

namespace {

void require_memory_of(const GramCall& call) {
  const GramSums& sums = call.sums;
  require_memory(call.n * call.D, {address_of(call.x), address_of(sums.linear), address_of(sums.cross)});
  require_memory(call.n, {address_of(sums.slope_sum), address_of(sums.value_product), address_of(sums.slope_product)});
  if (call.n2 < 0 || (call.n2 > 0 && call.n2 >= call.n)) {
    throw std::runtime_error("hrta_ext: gram: the columns of cross-kernels must leave samples for their rows");
  }
  require_memory(1, {address_of(sums.square_sum)});
}

bool gram_sums(const GramCall& call) {
  require_memory_of(call);
  py::gil_scoped_release release;
  return cpu::gram_sums(call, torch_pool_parallel_for);
}

bool gram_direct(int base, int64_t n, int64_t D, int64_t m, double s, Address x, Address weight, Address output_weight,
                 int64_t scratch_bytes, Address a, Address w) {
  require_memory(n, {x, weight, output_weight, a, w});
  const GramDirect call{base,
                        n,
                        D,
                        m,
                        s,
                        pointer<const float>(x),
                        pointer<const float>(weight),
                        pointer<const float>(output_weight),
                        scratch_bytes,
                        pointer<float>(a),
                        pointer<float>(w)};
  py::gil_scoped_release release;
  return cpu::gram_direct(call, torch_pool_parallel_for);
}

// The bytes of scratch that a session of the GPU takes; -1 where its kernels do not serve the call.
int64_t gram_session([[maybe_unused]] const GramCall& call, int device) {
  if (call.n2 != 0) return -1;  // their products are symmetric
  return device == kCpuDevice ? -1 : scratch_on(device, [&](auto device) {
    return cuda::gram_serves(call, device) ? cuda::gram_scratch(call, device) : -1;
  });
}

int64_t gram_figures(int64_t n, int device) {
  return scratch_on(device, [&](auto device) {
    static_cast<void>(device);
    return cuda::gram_figures(n);
  });
}

enum class Part { kBegin, kAdd, kEnd };

// A part of a session, which the GPU alone has.
void on_session(const GramCall& call, int device, Part part) {
  require_memory_of(call);
  require_memory(call.n, {address_of(call.scratch), address_of(call.figures)});
  run_on(
      device, "gram", [] { throw std::runtime_error("hrta_ext: gram: sessions are for CUDA devices"); },
      [&](auto stream) {
        return part == Part::kBegin ? cuda::gram_begin(call, device, stream)
               : part == Part::kAdd ? cuda::gram_add(call, device, stream)
                                    : cuda::gram_end(call, device, stream);
      });
}

// Bytes of scratch; -1 where arcs do not serve the call.
int64_t gram_arcs_session([[maybe_unused]] const GramCall& call, int device) {
  return device == kCpuDevice ? -1 : scratch_on(device, [&](auto device) {
    return cuda::gram_arcs_serve(call) ? cuda::gram_arcs_scratch(call, device) : -1;
  });
}

void on_arcs(const GramCall& call, int device, Part part) {
  require_memory_of(call);
  require_memory(call.n, {address_of(call.scratch)});
  run_on(
      device, "gram", [] { throw std::runtime_error("hrta_ext: gram: sessions are for CUDA devices"); },
      [&](auto stream) {
        return part == Part::kBegin ? cuda::gram_arcs_begin(call, device, stream)
               : part == Part::kAdd ? cuda::gram_arcs_add(call, device, stream)
                                    : cuda::gram_arcs_end(call, device, stream);
      });
}

void gram_evaluate(const GramEvaluation& call, int device) {
  if (device == kCpuDevice) {
    require_memory(call.n, {address_of(call.x), address_of(call.sums.linear), address_of(call.sums.cross)});
  } else {
    require_memory(call.n, {address_of(call.inner), address_of(call.linear), address_of(call.cross)});
  }
  require_memory(call.n * call.S, {address_of(call.s), address_of(call.a), address_of(call.w)});
  run_on(
      device, "gram",
      [&] {
        py::gil_scoped_release release;
        cpu::gram_evaluate(call, torch_pool_parallel_for);
      },
      [&](auto stream) { return cuda::gram_evaluate(call, device, stream); });
}

int64_t gram_least_scratch(int base, bool high, int64_t n, int64_t n2, int64_t D, int64_t m) {
  GramCall call{};
  call.base = base;
  call.digits = gram_digits(base, high, m);
  call.n = n;
  call.n2 = n2;
  call.D = D;
  return cpu::gram_least_scratch(call);
}

void power_sum(int64_t n, int64_t n2, int64_t terms, Address left, Address right, Address base, Address result,
               int device) {
  const double *left_at = pointer<double>(left), *right_at = pointer<double>(right), *base_at = pointer<double>(base);
  double* result_at = pointer<double>(result);
  run_on(
      device, "infinite_gram",
      [&] {
        py::gil_scoped_release release;
        cpu::power_sum(n, n2, terms, left_at, right_at, base_at, result_at, torch_pool_parallel_for);
      },
      [&](auto stream) {
        return cuda::power_sum(n, n2, terms, left_at, right_at, base_at, result_at, device, stream);
      });
}

void random_weights(uint64_t seed, uint64_t first, int64_t count, int64_t D, Address weight, Address output_weight,
                    int device) {
  float *to = pointer<float>(weight), *output = pointer<float>(output_weight);
  run_on(
      device, "random_weights",
      [&] {
        py::gil_scoped_release release;
        cpu::random_weights(seed, first, count, D, to, output, torch_pool_parallel_for);
      },
      [&](auto stream) { return cuda::random_weights(seed, first, count, D, to, output, device, stream); });
}

}  // namespace

void bind_gram(py::module_& m) {
  Named<GramSums>(m, "GramSums")
      .memory("linear", &GramSums::linear)
      .memory("cross", &GramSums::cross)
      .memory("square_sum", &GramSums::square_sum)
      .memory("slope_sum", &GramSums::slope_sum)
      .memory("value_product", &GramSums::value_product)
      .memory("slope_product", &GramSums::slope_product);
  Named<Neurons>(m, "Neurons")
      .number("dtype", &Neurons::dtype)
      .memory("weight", &Neurons::weight)
      .memory("output_weight", &Neurons::output_weight)
      .member("seed", &Neurons::seed)
      .member("first", &Neurons::first);
  Named<GramCall>(m, "GramCall")
      .member("base", &GramCall::base)
      .member("digits", &GramCall::digits)
      .member("n", &GramCall::n)
      .member("n2", &GramCall::n2)
      .member("D", &GramCall::D)
      .member("m", &GramCall::m)
      .memory("x", &GramCall::x)
      .member("neurons", &GramCall::neurons)
      .member("scratch_bytes", &GramCall::scratch_bytes)
      .member("sums", &GramCall::sums)
      .member("square_digits", &GramCall::square_digits)
      .member("total", &GramCall::total)
      .memory("bounds", &GramCall::bounds)
      .memory("z", &GramCall::z)
      .memory("scratch", &GramCall::scratch)
      .memory("figures", &GramCall::figures);
  Named<GramEvaluation>(m, "GramEvaluation")
      .member("n", &GramEvaluation::n)
      .member("n2", &GramEvaluation::n2)
      .member("S", &GramEvaluation::S)
      .member("high", &GramEvaluation::high)
      .member("derivative", &GramEvaluation::derivative)
      .member("width", &GramEvaluation::width)
      .memory("s", &GramEvaluation::s)
      .member("D", &GramEvaluation::D)
      .memory("x", &GramEvaluation::x)
      .memory("inner", &GramEvaluation::inner)
      .memory("linear", &GramEvaluation::linear)
      .memory("cross", &GramEvaluation::cross)
      .member("sums", &GramEvaluation::sums)
      .memory("a", &GramEvaluation::a)
      .memory("w", &GramEvaluation::w);
  m.def("gram_digits", &gram_digits, py::arg("base"), py::arg("high"), py::arg("m"));
  m.def("gram_least_scratch", &gram_least_scratch, py::arg("base"), py::arg("high"), py::arg("n"), py::arg("n2"),
        py::arg("D"), py::arg("m"));
  m.def("gram_sums", &gram_sums);
  m.def("gram_direct", &gram_direct, py::arg("base"), py::arg("n"), py::arg("D"), py::arg("m"), py::arg("s"),
        py::arg("x"), py::arg("weight"), py::arg("output_weight"), py::arg("scratch_bytes"), py::arg("a"),
        py::arg("w"));
  const py::arg call("call"), device("device");
  m.def("gram_session", &gram_session, call, device);
  m.def("gram_figures", &gram_figures, py::arg("n"), device);
  m.def("gram_begin", [](const GramCall& call, int device) { on_session(call, device, Part::kBegin); }, call, device);
  m.def("gram_add", [](const GramCall& call, int device) { on_session(call, device, Part::kAdd); }, call, device);
  m.def("gram_end", [](const GramCall& call, int device) { on_session(call, device, Part::kEnd); }, call, device);
  m.def("gram_arcs_session", &gram_arcs_session, call, device);
  m.def("gram_arcs_begin", [](const GramCall& call, int device) { on_arcs(call, device, Part::kBegin); }, call, device);
  m.def("gram_arcs_add", [](const GramCall& call, int device) { on_arcs(call, device, Part::kAdd); }, call, device);
  m.def("gram_arcs_end", [](const GramCall& call, int device) { on_arcs(call, device, Part::kEnd); }, call, device);
  m.def("gram_evaluate", &gram_evaluate, call, device);
  m.def("power_sum", &power_sum, py::arg("n"), py::arg("n2"), py::arg("terms"), py::arg("left"), py::arg("right"),
        py::arg("base"), py::arg("result"), device);
  m.def("random_weights", &random_weights, py::arg("seed"), py::arg("first"), py::arg("count"), py::arg("D"),
        py::arg("weight"), py::arg("output_weight"), device);
}

}  // namespace hrta
