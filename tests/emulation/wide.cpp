// The wide network's passes on the emulated tensor cores, whatever its size, as C functions for ctypes; and one product
// of fragments each.
#include "cuda_runtime.h"
#include "gpu/cooperation.cuh"
#include "gpu/wgmma.cuh"
#include "network/cuda/ways.h"

using namespace hrta;

namespace {

// limits: capability, multiprocessors, bytes of shared memory.
cuda::Device device_of(const int* limits) {
  return {limits[0], limits[1], limits[2], 1};
}

TwoLayerCall call_of(const int64_t* sizes, const void* x, const void* weight, const void* output_weight,
                     const double* s) {
  return {ScalarKind::kFloat32, kRelu, sizes[0], sizes[1], sizes[2], sizes[3], x, weight, output_weight, 0.0, s};
}

uint32_t pair_of(const uint16_t* halves, int64_t at, int64_t step) {
  return halves[at] | uint32_t(halves[at + step]) << 16;
}

// d (16 rows of the warp, 8 columns) as lanes hold it.
void put(float* d, const float (&results)[4]) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  for (int e = 0; e < 4; ++e) d[(row + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = results[e];
}

}  // namespace

extern "C" {

void run_backwards(int on) {
  emulation::backwards = on != 0;
}

// sizes: networks, n, D, m. Returns the bytes of scratch where `scratch` is null.
int64_t wide_forward(const int* limits, const int64_t* sizes, const void* x, const void* weight,
                     const void* output_weight, const double* s, int in_double, int parameter_gradient, void* f,
                     void* df_dx, const int64_t* done, void* scratch) {
  const TwoLayerCall call = call_of(sizes, x, weight, output_weight, s);
  if (scratch == nullptr) return cuda::wide::forward_scratch(call, device_of(limits));
  cuda::wide::forward(call, {f, df_dx, in_double != 0, parameter_gradient != 0, done}, scratch, device_of(limits),
                      nullptr);
  return 0;
}

// numbers: null, or of the update: rule, rate, root, beta1, beta2, epsilon; moments: first of weight and output_weight,
// then second.
int64_t wide_backward(const int* limits, const int64_t* sizes, const void* x, const void* weight,
                      const void* output_weight, const double* s, const void* grad_f, const void* grad_df_dx,
                      void* grad_weight, void* grad_output_weight, const double* numbers, void** moments,
                      const int64_t* done, void* scratch) {
  const TwoLayerCall call = call_of(sizes, x, weight, output_weight, s);
  if (scratch == nullptr) return cuda::wide::backward_scratch(call, device_of(limits));
  cuda::Targets targets{{grad_f, grad_df_dx, grad_weight, grad_output_weight}};
  cuda::Update update{};
  if (numbers != nullptr) {
    update.numbers = {numbers[0] != 0 ? UpdateRule::kAdam : UpdateRule::kDescent,
                      numbers[1],
                      numbers[2],
                      numbers[3],
                      numbers[4],
                      numbers[5]};
    update.weight_first = moments[0], update.output_first = moments[1];
    update.weight_second = moments[2], update.output_second = moments[3];
    update.done = done;
    targets.update = &update;
  }
  cuda::wide::backward(call, targets, scratch, device_of(limits), nullptr);
  return 0;
}

// Whether the network goes this way: bit 0 forward, bit 1 backward.
int wide_serves(const int* limits, int dtype, int base, const int64_t* sizes) {
  TwoLayerCall call = call_of(sizes, nullptr, nullptr, nullptr, nullptr);
  call.dtype = static_cast<ScalarKind>(dtype), call.base = base;
  return int(cuda::wide::serves_forward(call, device_of(limits))) +
         2 * int(cuda::wide::serves_backward(call, device_of(limits)));
}

// d (16, 8) += a (16, 16) b (16, 8) by mma.sync, and rounded = a b in float16; a and b are float16.
void mma_of_matrices(const uint16_t* a, const uint16_t* b, float* d, uint16_t* rounded) {
  emulate(dim3(1), 32, [&] {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t left[4], right[2], pairs[2];
    for (int r = 0; r < 4; ++r) left[r] = pair_of(a, (g + r % 2 * 8) * 16 + 2 * t + r / 2 * 8, 1);
    for (int r = 0; r < 2; ++r) right[r] = pair_of(b, (2 * t + 8 * r) * 8 + g, 8);
    float results[4];
    for (int e = 0; e < 4; ++e) results[e] = d[(g + e / 2 * 8) * 8 + 2 * t + e % 2];
    cuda::multiply(results, left[0], left[1], left[2], left[3], right[0], right[1]);
    cuda::multiply_to_halves(pairs, left[0], left[1], left[2], left[3], right[0], right[1]);
    put(d, results);
    for (int e = 0; e < 4; ++e) {
      rounded[(g + e / 2 * 8) * 8 + 2 * t + e % 2] = uint16_t(pairs[e / 2] >> 16 * (e % 2));
    }
  });
}

// d (64, 8) = a (64, 16) b (16, 8) by wgmma, b in shared memory as core matrices `gap` bytes apart.
void wgmma_of_matrices(const uint16_t* a, const uint16_t* b, float* d, int gap) {
  emulate(
      dim3(1), 128,
      [&] {
        const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, t = lane % 4;
        auto* shared = reinterpret_cast<uint16_t*>(cuda::shared_memory());
        const int k = threadIdx.x / 8, column = threadIdx.x % 8;
        shared[k / 8 * gap / 2 + column * 8 + k % 8] = b[k * 8 + column];
        __syncthreads();
        uint32_t left[4];
        for (int r = 0; r < 4; ++r) left[r] = pair_of(a, (row + r % 2 * 8) * 16 + 2 * t + r / 2 * 8, 1);
        float results[4];
        cuda::wgmma(results, left[0], left[1], left[2], left[3],
                    cuda::wgmma_matrix(cuda::shared_address(shared), uint32_t(gap), 0), false);
        put(d, results);
      },
      1024);
}
}
