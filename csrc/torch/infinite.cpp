// hrta_ext._C: infinite-width kernels on raw addresses (hrta_ext/ntk/infinite_native.py checks the tensors).
#include "ntk/infinite.h"

#include <pybind11/pybind11.h>

#include "torch/addresses.h"
#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {

namespace {

void infinite_gram(const InfiniteCall& call, int device) {
  if (call.widths < 1 || call.widths > kMostWidths)
    throw std::runtime_error("hrta_ext: infinite_gram: too many widths");
  require_memory(1, {address_of(call.weight), address_of(call.square)});
  require_memory(call.n, {address_of(call.x), address_of(call.norm), address_of(call.chain)});
  require_memory(call.n2, {address_of(call.x2), address_of(call.norm2), address_of(call.chain2)});
  require_memory(call.S * call.n * call.n2, {address_of(call.s), address_of(call.a), address_of(call.w)});
  run_on(
      device, "infinite_gram",
      [&] {
        py::gil_scoped_release release;
        cpu::infinite_gram(call, torch_pool_parallel_for);
      },
      [&](auto stream) { return cuda::infinite_gram(call, device, stream); });
}

}  // namespace

void bind_infinite(py::module_& m) {
  Named<InfiniteCall>(m, "InfiniteCall")
      .member("base", &InfiniteCall::base)
      .member("same", &InfiniteCall::same)
      .member("n", &InfiniteCall::n)
      .member("n2", &InfiniteCall::n2)
      .member("D", &InfiniteCall::D)
      .member("S", &InfiniteCall::S)
      .member("depth", &InfiniteCall::depth)
      .memory("x", &InfiniteCall::x)
      .memory("x2", &InfiniteCall::x2)
      .memory("norm", &InfiniteCall::norm)
      .memory("norm2", &InfiniteCall::norm2)
      .memory("s", &InfiniteCall::s)
      .member("widths", &InfiniteCall::widths)
      .memory("weight", &InfiniteCall::weight)
      .memory("square", &InfiniteCall::square)
      .memory("chain", &InfiniteCall::chain)
      .memory("chain2", &InfiniteCall::chain2)
      .memory("a", &InfiniteCall::a)
      .memory("w", &InfiniteCall::w);
  m.def("infinite_gram", &infinite_gram, py::arg("call"), py::arg("device"));
}

}  // namespace hrta
