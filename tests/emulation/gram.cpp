// The CUDA launchers of csrc/ntk/gram.h, emulated, as C functions for ctypes.
#include "ntk/gram.h"

#include "cuda_runtime.h"
#include "gpu/device.h"

using namespace hrta;

extern "C" {

void run_backwards(int on) {
  emulation::backwards = on != 0;
}

void limit_multiprocessors(int count) {
  cuda::limit_devices({0, count, 0, 0});
}

// 80: a card without wgmma; bytes of shared memory.
void limit_card(int capability, int shared) {
  cuda::limit_devices({capability, 0, shared, 0});
}

void draw(uint64_t seed, uint64_t first, int64_t count, int64_t D, float* weight, float* output_weight) {
  cuda::random_weights(seed, first, count, D, weight, output_weight, 0, nullptr);
}

// sizes: n, S, high, derivative, n2. inputs: inner, linear, cross, square_sum, slope_sum, value_product, slope_product.
void evaluate(const int64_t* sizes, double width, const double* s, double** inputs, void* a, void* w) {
  GramEvaluation call{};
  call.n = sizes[0], call.S = sizes[1], call.high = sizes[2] != 0, call.derivative = sizes[3] != 0;
  call.n2 = sizes[4], call.width = width, call.s = s;
  call.inner = inputs[0], call.linear = inputs[1], call.cross = inputs[2];
  call.sums.square_sum = inputs[3], call.sums.slope_sum = inputs[4];
  call.sums.value_product = inputs[5], call.sums.slope_product = inputs[6];
  call.a = a, call.w = w;
  cuda::gram_evaluate(call, 0, nullptr);
}

// sizes: n, D, m, digits, dtype, scratch_bytes, stretch, digits of a^2, base; sums: as GramSums. Returns the bytes of
// scratch where it is null.
int64_t build(const int64_t* sizes, const double* x, const void* weight, const void* output_weight, uint64_t seed,
              uint64_t first, double** sums, void* scratch, double* figures) {
  const int64_t m = sizes[2], stretch = sizes[6];
  GramCall call{};
  call.base = int(sizes[8]), call.digits = int(sizes[3]), call.square_digits = int(sizes[7]), call.n = sizes[0],
  call.D = sizes[1], call.m = stretch;
  call.x = x;
  call.neurons = {static_cast<ScalarKind>(sizes[4]), weight, output_weight, seed, first};
  call.scratch_bytes = sizes[5], call.total = double(m), call.scratch = scratch, call.figures = figures;
  if (scratch == nullptr) return cuda::gram_serves(call, 0) ? cuda::gram_scratch(call, 0) : -1;
  call.sums = {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]};
  cuda::gram_begin(call, 0, nullptr);
  for (int64_t begin = 0; begin < m; begin += stretch) {
    call.m = m - begin < stretch ? m - begin : stretch;
    call.neurons.first = first + uint64_t(begin);
    cuda::gram_add(call, 0, nullptr);
  }
  call.m = stretch;
  cuda::gram_end(call, 0, nullptr);
  return 0;
}

// Part 0: the bytes of scratch, or -1; 1 to 3: begin, add, end. sizes: n, D, m, digits, digits of a^2, dtype,
// scratch_bytes, total, seed, first. pointers: x, weight, output_weight, bounds, z, scratch, figures, then sums.
int64_t part_of_session(int part, const int64_t* sizes, void** pointers) {
  GramCall call{};
  call.base = kRelu, call.n = sizes[0], call.D = sizes[1], call.m = sizes[2];
  call.digits = int(sizes[3]), call.square_digits = int(sizes[4]);
  call.neurons = {static_cast<ScalarKind>(sizes[5]), pointers[1], pointers[2], uint64_t(sizes[8]), uint64_t(sizes[9])};
  call.scratch_bytes = sizes[6], call.total = double(sizes[7]);
  const auto at = [&](int i) { return static_cast<double*>(pointers[i]); };
  call.x = at(0), call.bounds = at(3), call.z = at(4), call.scratch = pointers[5], call.figures = at(6);
  call.sums = {at(7), at(8), at(9), at(10), at(11), at(12)};
  if (part == 0) return cuda::gram_serves(call, 0) ? cuda::gram_scratch(call, 0) : -1;
  const auto run = part == 1 ? cuda::gram_begin : part == 2 ? cuda::gram_add : cuda::gram_end;
  run(call, 0, nullptr);
  return 0;
}
}
