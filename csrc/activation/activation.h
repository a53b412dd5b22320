// The activation kernels as the torch layer calls them: pointers and sizes, no torch. Tensors are dense and flat; every
// one has n elements of `dtype` in the same memory order.
#pragma once

#include <cstdint>

#include "math/homotopy.h"
#include "types.h"

namespace hrta {

struct ActivationCall {
  Quantity quantity;
  int base;  // BaseIndex
  ScalarKind dtype;
  int64_t n;
  const void* x;           // (n)
  const void* grad;        // (n) multiplies the quantity, or null
  void* y;                 // (n) may be x itself
  void* slope;             // (n) second output sigma_s'(x) beside kValue, or null
  double s;                // used when n_features is 0
  const double* s_values;  // (n_features), on the tensors' device
  int64_t n_features;      // 0: s; 1: one value; F: element i has s_values[i % F]
};

// The lean backward of ReLU: bit i % 8 of mask byte i / 8 says x_i > 0.
struct ReluMaskCall {
  ScalarKind dtype;
  int64_t n;
  const void* input;  // (n) x forward, grad_y backward
  void* output;       // (n) y forward, grad_x backward; may be `input`
  uint8_t* mask;      // (ceil(n / 8)) written forward, read backward
  double s;
  const double* s_value;  // (1) on the tensors' device, or null for s
};

namespace cpu {

void transform(const ActivationCall& call, ParallelFor parallel_for);
void relu_mask_forward(const ReluMaskCall& call, ParallelFor parallel_for);
void relu_mask_backward(const ReluMaskCall& call, ParallelFor parallel_for);

// grad_s (max(n_features, 1)) = sum of grad times call.quantity (a parameter gradient), in float64 and in an order that
// depends on n and n_features alone. call.y is not used.
void parameter_gradient(const ActivationCall& call, double* grad_s, ParallelFor parallel_for);

}  // namespace cpu

namespace cuda {

// `stream` is a cudaStream_t on `device`. Each returns null or the CUDA runtime's error message.
const char* transform(const ActivationCall& call, int device, void* stream);
const char* relu_mask_forward(const ReluMaskCall& call, int device, void* stream);
const char* relu_mask_backward(const ReluMaskCall& call, int device, void* stream);

// As on the CPU; `partial` is scratch of parameter_gradient_scratch(n, n_features) doubles on the device.
int64_t parameter_gradient_scratch(int64_t n, int64_t n_features);
const char* parameter_gradient(const ActivationCall& call, double* partial, double* grad_s, int device, void* stream);

}  // namespace cuda

}  // namespace hrta
