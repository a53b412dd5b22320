// The CUDA launchers of csrc/activation/activation.h, emulated, as C functions for ctypes.
#include "activation/activation.h"

#include "cuda_runtime.h"

using namespace hrta;

extern "C" {

void run_backwards(int on) {
  emulation::backwards = on != 0;
}

void transform(int quantity, int base, int dtype, int64_t n, const void* x, const void* grad, void* y, void* slope,
               double s, const double* s_values, int64_t n_features) {
  cuda::transform({static_cast<Quantity>(quantity), base, static_cast<ScalarKind>(dtype), n, x, grad, y, slope, s,
                   s_values, n_features},
                  0, nullptr);
}

void relu_mask(int forward, int dtype, int64_t n, const void* input, void* output, uint8_t* mask, double s,
               const double* s_value) {
  const ReluMaskCall call{static_cast<ScalarKind>(dtype), n, input, output, mask, s, s_value};
  forward != 0 ? cuda::relu_mask_forward(call, 0, nullptr) : cuda::relu_mask_backward(call, 0, nullptr);
}

// Returns how many doubles of scratch are needed where `partial` is null.
int64_t parameter_gradient(int quantity, int base, int dtype, int64_t n, const void* x, const void* grad,
                           int64_t n_features, double* partial, double* grad_s) {
  if (partial == nullptr) return cuda::parameter_gradient_scratch(n, n_features);
  ActivationCall call{};
  call.quantity = static_cast<Quantity>(quantity), call.base = base, call.dtype = static_cast<ScalarKind>(dtype);
  call.n = n, call.x = x, call.grad = grad, call.n_features = n_features;
  cuda::parameter_gradient(call, partial, grad_s, 0, nullptr);
  return 0;
}

}  // extern "C"
