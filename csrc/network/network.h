// The two-layer network f_s(x_i) = m^(-1/2) sum_k a_k sigma_s(w_k . x_i) as the torch layer calls it: pointers and
// sizes, no torch. Nothing of size n x m is stored.
#pragma once

#include <cstdint>

#include "math/homotopy.h"
#include "types.h"

namespace hrta {

// B networks of the same width on the same samples. Everything is contiguous and of `dtype`, kFloat32 or kFloat64.
struct TwoLayerCall {
  ScalarKind dtype;
  int base;  // BaseIndex
  int64_t networks, n, features, width;
  const void* x;              // (n, D)
  const void* weight;         // (B, m, D)
  const void* output_weight;  // (B, m)
  double s;
  const double* s_value = nullptr;  // CUDA: one number on the device that takes the place of s, or null
};

// What backward is given and what it writes; any of these may be null.
struct TwoLayerGradients {
  const void* grad_f;        // (B, n)
  const void* grad_df_dx;    // (B, n, D)
  void* grad_weight;         // (B, m, D)
  void* grad_output_weight;  // (B, m)
};

inline namespace HRTA_SIMD_LEVEL {

// m^(-1/2), the factor of f.
HRTA_INLINE double output_scale(int64_t width) {
  return 1.0 / square_root(double(width));
}

}  // namespace HRTA_SIMD_LEVEL

namespace cpu {

// Whether the shapes make the sums over arcs (cpu/arcs.h) faster than the loops for one call.
bool arcs_win(const TwoLayerCall& call);

// Sums over neurons are in float64 and in an order that depends on the shapes alone.

// f (B, n) and its gradient in x, df_dx (B, n, D); either may be null.
void two_layer_forward(const TwoLayerCall& call, void* f, void* df_dx, ParallelFor parallel_for);

// The gradients of sum_i grad_f_i f_i, grad_f (B, n): in x, summed over the networks, grad_x (n, D); and in s.
void two_layer_input_gradient(const TwoLayerCall& call, const void* grad_f, void* grad_x, ParallelFor parallel_for);
double two_layer_parameter_gradient(const TwoLayerCall& call, const void* grad_f, ParallelFor parallel_for);

// The gradients of sum_i grad_f_i f_i + grad_df_dx_i . df_dx_i in the weights.
void two_layer_backward(const TwoLayerCall& call, const TwoLayerGradients& gradients, ParallelFor parallel_for);

}  // namespace cpu

namespace cuda {

// Features that the kernels serve; beyond, the library's products are the faster.
constexpr int64_t kMostFeatures = 64;

enum class TwoLayerPass : int { kForward, kForwardWithGradient, kInputGradient, kParameterGradient, kBackward };

// As on the CPU, on a device: `stream` is a cudaStream_t there, `scratch` memory of two_layer_scratch bytes for the
// pass. Each returns null or the CUDA runtime's error message. Every bit depends on the shapes and
// the way that serves them (cuda/ways.h).
int64_t two_layer_scratch(const TwoLayerCall& call, TwoLayerPass pass, int device);
const char* two_layer_forward(const TwoLayerCall& call, void* f, void* df_dx, void* scratch, int device, void* stream);
const char* two_layer_input_gradient(const TwoLayerCall& call, const void* grad_f, void* grad_x, void* scratch,
                                     int device, void* stream);
// grad_s () float64 on the device.
const char* two_layer_parameter_gradient(const TwoLayerCall& call, const void* grad_f, double* grad_s, void* scratch,
                                         int device, void* stream);
const char* two_layer_backward(const TwoLayerCall& call, const TwoLayerGradients& gradients, void* scratch, int device,
                               void* stream);

// Beyond kMostFeatures: what lies between the library's products of a chunk of neurons. `call` is the chunk's, its x
// and weight are not read; z (B, n, m) float64 on the device, the pre-activations, is overwritten.
constexpr int64_t kPieceNeurons = 4096, kPieceSamples = 128;

// sums (B, n, ceil(m / kPieceNeurons)) of a_k sigma_s(z_ik), and z becomes a_k sigma_s'(z_ik) if `replace`; or, of
// `excess`, sums of a_k (sigma(z_ik) - z_ik), and z stays.
const char* two_layer_sum_neurons(const TwoLayerCall& call, double scale, double* z, double* sums, bool replace,
                                  bool excess, int device, void* stream);
// With y_ik = grad_df_dx_i . w_k as z, or null: sums (B, ceil(n / kPieceSamples), m) of g_i sigma_s(z) + y sigma_s'(z);
// z becomes a_k (g_i sigma_s'(z) + y sigma_s''(z)), y becomes a_k sigma_s'(z). grad_f (B, n) or null.
const char* two_layer_sum_samples(const TwoLayerCall& call, double scale, const void* grad_f, double* z, double* y,
                                  double* sums, int device, void* stream);

}  // namespace cuda

}  // namespace hrta
