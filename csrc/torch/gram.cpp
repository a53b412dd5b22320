// hrta_ext._C: the Gram builder on raw addresses (hrta_ext/native_gram.py checks the tensors).
#include "../gram.h"

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "runtime.h"

namespace py = pybind11;

namespace hrta {

namespace {

using Address = uintptr_t;

double* doubles(Address address) {
  return reinterpret_cast<double*>(address);
}

// sums: addresses of the six members of GramSums, in order.
bool gram_sums(int base, bool high, int64_t n, int64_t D, int64_t m, Address x, int dtype, Address weight,
               Address output_weight, uint64_t seed, uint64_t first, int64_t scratch_bytes, const py::tuple& sums) {
  const auto at = [&](size_t i) { return doubles(sums[i].cast<Address>()); };
  const GramCall call{base,
                      high,
                      n,
                      D,
                      m,
                      doubles(x),
                      {static_cast<ScalarKind>(dtype), reinterpret_cast<const void*>(weight),
                       reinterpret_cast<const void*>(output_weight), seed, first},
                      scratch_bytes,
                      {at(0), at(1), at(2), at(3), at(4), at(5)}};
  const int64_t least = cpu::gram_least_scratch(call);
  if (scratch_bytes < least) {
    throw py::value_error("memory_budget must be at least " + std::to_string(least) + " bytes here, got " +
                          std::to_string(scratch_bytes));
  }
  py::gil_scoped_release release;
  return cpu::gram_sums(call, torch_pool_parallel_for);
}

void random_weights(uint64_t seed, uint64_t first, int64_t count, int64_t D, Address weight, Address output_weight) {
  py::gil_scoped_release release;
  cpu::random_weights(seed, first, count, D, reinterpret_cast<float*>(weight), reinterpret_cast<float*>(output_weight),
                      torch_pool_parallel_for);
}

}  // namespace

void bind_gram(py::module_& m) {
  m.def("gram_sums", &gram_sums);
  m.def("random_weights", &random_weights);
}

}  // namespace hrta
