// The Gram builder's sessions by arcs (csrc/ntk/gram.h), emulated, as C functions for ctypes.
#include "cuda_runtime.h"
#include "gpu/device.h"
#include "ntk/gram.h"

using namespace hrta;

extern "C" {

void run_backwards(int on) {
  emulation::backwards = on != 0;
}

// Zero lifts a limit.
void limit_card(int multiprocessors, int shared) {
  cuda::limit_devices({0, multiprocessors, shared, 0});
}

// sizes: base, n, D, neurons of all calls.
int serve(const int64_t* sizes) {
  GramCall call{};
  call.base = int(sizes[0]), call.n = sizes[1], call.D = sizes[2], call.total = double(sizes[3]);
  return cuda::gram_arcs_serve(call);
}

// sizes: n, m, digits, dtype, stretch; sums: as GramSums. Returns the bytes of scratch where it is null.
int64_t build(const int64_t* sizes, const double* x, const void* weight, const void* output_weight, uint64_t seed,
              uint64_t first, double** sums, void* scratch) {
  const int64_t m = sizes[1], stretch = sizes[4];
  GramCall call{};
  call.base = kRelu, call.digits = int(sizes[2]), call.n = sizes[0], call.D = 2, call.m = m, call.total = double(m);
  call.x = x, call.scratch = scratch;
  call.neurons = {static_cast<ScalarKind>(sizes[3]), weight, output_weight, seed, first};
  if (scratch == nullptr) return cuda::gram_arcs_serve(call) ? cuda::gram_arcs_scratch(call, 0) : -1;
  call.sums = {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]};
  cuda::gram_arcs_begin(call, 0, nullptr);
  for (int64_t begin = 0; begin < m; begin += stretch) {
    call.m = m - begin < stretch ? m - begin : stretch;
    call.neurons.first = first + uint64_t(begin);
    cuda::gram_arcs_add(call, 0, nullptr);
  }
  cuda::gram_arcs_end(call, 0, nullptr);
  return 0;
}
}
