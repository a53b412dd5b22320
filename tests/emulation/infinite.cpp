// The CUDA launchers of infinite-width kernels, emulated, as C functions for ctypes.
#include "ntk/infinite.h"

#include "cuda_runtime.h"
#include "ntk/gram.h"

using namespace hrta;

extern "C" {

void run_backwards(int on) {
  emulation::backwards = on != 0;
}

// sizes: base, same, n, n2, D, S, depth, widths. inputs: x, x2, norm, norm2, s, weight, square. work: chain, chain2, a,
// w.
void infinite(const int64_t* sizes, const double** inputs, double** work) {
  InfiniteCall call{};
  call.base = int(sizes[0]), call.same = sizes[1] != 0, call.n = sizes[2], call.n2 = sizes[3], call.D = sizes[4];
  call.S = sizes[5], call.depth = sizes[6], call.widths = sizes[7];
  call.x = inputs[0], call.x2 = inputs[1], call.norm = inputs[2], call.norm2 = inputs[3], call.s = inputs[4];
  call.weight = inputs[5], call.square = inputs[6];
  call.chain = work[0], call.chain2 = work[1], call.a = work[2], call.w = work[3];
  cuda::infinite_gram(call, 0, nullptr);
}
void powers(const int64_t* sizes, const double* left, const double* right, const double* base, double* result) {
  cuda::power_sum(sizes[0], sizes[1], sizes[2], left, right, base, result, 0, nullptr);
}
}
