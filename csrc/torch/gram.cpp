// hrta_ext._C: the Gram builder on raw addresses (hrta_ext/native_gram.py checks the tensors).
#include "ntk/gram.h"

#include <pybind11/pybind11.h>

#include "torch/runtime.h"

namespace py = pybind11;

namespace hrta {

namespace {

using Address = uintptr_t;

int digits_for(int base, bool high, int64_t m) {
  if (high) return kDigitsDouble;
  if (base != kRelu) return kDigitsSmooth;
  return m < kFewNeurons ? kDigitsDouble : kDigitsFloat;
}

double* doubles(Address address) {
  return reinterpret_cast<double*>(address);
}

// sums: addresses of the six members of GramSums, in order.
bool gram_sums(int base, bool high, int64_t n, int64_t D, int64_t m, Address x, int dtype, Address weight,
               Address output_weight, uint64_t seed, uint64_t first, int64_t scratch_bytes, const py::tuple& sums) {
  const auto at = [&](size_t i) { return doubles(sums[i].cast<Address>()); };
  const GramCall call{base,
                      digits_for(base, high, m),
                      n,
                      D,
                      m,
                      doubles(x),
                      {static_cast<ScalarKind>(dtype), reinterpret_cast<const void*>(weight),
                       reinterpret_cast<const void*>(output_weight), seed, first},
                      scratch_bytes,
                      {at(0), at(1), at(2), at(3), at(4), at(5)}};
  py::gil_scoped_release release;
  return cpu::gram_sums(call, torch_pool_parallel_for);
}

// sums: addresses of the last four members of GramSums; inner_products: of the three matrices; results: of a and w.
void gram_evaluate(int64_t n, int64_t S, bool high, bool derivative, double width, Address s,
                   const py::tuple& inner_products, const py::tuple& sums, const py::tuple& results) {
  const auto at = [](const py::tuple& addresses, size_t i) { return doubles(addresses[i].cast<Address>()); };
  const GramEvaluation call{n,
                            S,
                            high,
                            derivative,
                            width,
                            doubles(s),
                            at(inner_products, 0),
                            at(inner_products, 1),
                            at(inner_products, 2),
                            {nullptr, nullptr, at(sums, 0), at(sums, 1), at(sums, 2), at(sums, 3)},
                            at(results, 0),
                            at(results, 1)};
  py::gil_scoped_release release;
  cpu::gram_evaluate(call, torch_pool_parallel_for);
}

void power_sum(int64_t n, int64_t n2, int64_t terms, Address left, Address right, Address base, Address result) {
  py::gil_scoped_release release;
  cpu::power_sum(n, n2, terms, doubles(left), doubles(right), doubles(base), doubles(result), torch_pool_parallel_for);
}

int64_t gram_least_scratch(int base, bool high, int64_t n, int64_t D, int64_t m) {
  GramCall call{};
  call.base = base;
  call.digits = digits_for(base, high, m);
  call.n = n;
  call.D = D;
  return cpu::gram_least_scratch(call);
}

void random_weights(uint64_t seed, uint64_t first, int64_t count, int64_t D, Address weight, Address output_weight) {
  py::gil_scoped_release release;
  cpu::random_weights(seed, first, count, D, reinterpret_cast<float*>(weight), reinterpret_cast<float*>(output_weight),
                      torch_pool_parallel_for);
}

}  // namespace

void bind_gram(py::module_& m) {
  m.def("gram_least_scratch", &gram_least_scratch);
  m.def("gram_sums", &gram_sums);
  m.def("gram_evaluate", &gram_evaluate);
  m.def("power_sum", &power_sum);
  m.def("random_weights", &random_weights);
}

}  // namespace hrta
