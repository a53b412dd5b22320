// The jet of the two-layer network, value, gradient and second derivatives in x, as the torch layer calls it. Beside
// the pass of network.h, with V_k the quadratic features of w_k:
//   second_i = m^(-1/2) sum_k a_k sigma_s''(w_k . x_i) V_k
// Nothing of size n x m is stored.
#pragma once

#include "network/network.h"

namespace hrta {

// V_k: sum_c w_kc^2; w_kc^2, one for each column; w_kc w_kc' for c <= c', row by row of the upper triangle.
enum class SecondForm : int { kLaplacian, kDiagonal, kHessian };

constexpr int64_t kMostJetFeatures = 64;  // D, the bits of `columns`
constexpr int64_t kMostQuadratic = 136;   // R: a Hessian in 16 columns

struct SecondDerivatives {
  SecondForm form;
  uint64_t columns;  // bit d: x's feature d takes part
};

inline namespace HRTA_SIMD_LEVEL {

HRTA_INLINE int column_count(const SecondDerivatives& second) {
  int count = 0;
  for (uint64_t rest = second.columns; rest != 0; rest &= rest - 1) ++count;
  return count;
}

// R, the numbers in V_k.
HRTA_INLINE int quadratic_features(const SecondDerivatives& second) {
  const int count = column_count(second);
  if (second.form == SecondForm::kLaplacian) return 1;
  return second.form == SecondForm::kDiagonal ? count : count * (count + 1) / 2;
}

// Calls body(r, c, c') for every product w_c w_c' that V holds, r its place.
template <typename Body>
HRTA_INLINE void over_products(const SecondDerivatives& second, const Body& body) {
  int r = 0, c = 0;
  for (uint64_t rest = second.columns; rest != 0; rest >>= 1, ++c) {
    if ((rest & 1) == 0) continue;
    if (second.form != SecondForm::kHessian) {
      body(r, c, c);
      r += second.form == SecondForm::kDiagonal;
      continue;
    }
    int other = c;
    for (uint64_t others = rest; others != 0; others >>= 1, ++other) {
      if ((others & 1) != 0) body(r++, c, other);
    }
  }
}

}  // namespace HRTA_SIMD_LEVEL

// Contiguous, of the call's dtype.
struct TwoLayerJet {
  void* f;       // (B, n)
  void* df_dx;   // (B, n, D)
  void* second;  // (B, n, R)
};

// Any of these may be null.
struct TwoLayerJetGradients {
  const void* grad_f;        // (B, n)
  const void* grad_df_dx;    // (B, n, D)
  const void* grad_second;   // (B, n, R)
  void* grad_weight;         // (B, m, D)
  void* grad_output_weight;  // (B, m)
};

namespace cpu {

// As in network.h: sums over neurons in float64, in an order that depends on the shapes alone.
void two_layer_jet_forward(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJet& jet,
                           ParallelFor parallel_for);

// The gradients of sum_i grad_f_i f_i + grad_df_dx_i . df_dx_i + grad_second_i . second_i in the weights. With
// p_ik = grad_df_dx_i . w_k, q_ik = grad_second_i . V_k, e_ik = g_i sigma' + p_ik sigma'' + q_ik sigma''':
//   w_k: a_k (sum_i e_ik x_i + sigma' grad_df_dx_i + (dV_k / dw_k)^T sum_i sigma'' grad_second_i)
//   a_k: sum_i g_i sigma + p_ik sigma' + q_ik sigma''
void two_layer_jet_backward(const TwoLayerCall& call, const SecondDerivatives& second,
                            const TwoLayerJetGradients& gradients, ParallelFor parallel_for);

// The gradient of the same in x, summed over the networks: grad_x (n, D) = m^(-1/2) sum_k a_k e_ik w_k.
void two_layer_jet_input_gradient(const TwoLayerCall& call, const SecondDerivatives& second,
                                  const TwoLayerJetGradients& gradients, void* grad_x, ParallelFor parallel_for);

// And in s: m^(-1/2) sum_ik a_k (g_i (sigma - z_ik) + p_ik (sigma' - 1) + q_ik sigma'').
double two_layer_jet_parameter_gradient(const TwoLayerCall& call, const SecondDerivatives& second,
                                        const TwoLayerJetGradients& gradients, ParallelFor parallel_for);

}  // namespace cpu

namespace cuda {

// The numbers R that the kernels serve, beside network.h's kMostFeatures: a Hessian in 10 columns.
constexpr int64_t kMostQuadratic = 64;

// As on the CPU and as network.h's passes on a device; scratch holds two_layer_jet_scratch bytes.
int64_t two_layer_jet_scratch(const TwoLayerCall& call, const SecondDerivatives& second, bool backward);
const char* two_layer_jet_forward(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJet& jet,
                                  void* scratch, int device, void* stream);
const char* two_layer_jet_backward(const TwoLayerCall& call, const SecondDerivatives& second,
                                   const TwoLayerJetGradients& gradients, void* scratch, int device, void* stream);

}  // namespace cuda

}  // namespace hrta
