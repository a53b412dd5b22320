// The Gram-matrix kernels as the torch layer calls them: pointers and sizes, no torch.
//
// With z_ik = w_k . x_i and r = 1 - s the kernels are quadratic forms in (r, s):
//   sum_k sigma_s(z_ik) sigma_s(z_jk)         = r^2 linear_i . x_j + r s (cross_i . x_j + cross_j . x_i) + s^2 P_ij
//   sum_k a_k^2 sigma_s'(z_ik) sigma_s'(z_jk) = r^2 square_sum + r s (slope_sum_i + slope_sum_j) + s^2 Q_ij
// so one pass over the neurons collects the six sums of GramSums. Nothing cancels for s in [0, 1]; in powers of s alone
// the terms would at s = 1.
//
// Cross-kernels: the last n2 of the n samples are the columns of P and Q, the others the rows; r^2 linear_i . x_j is
// r^2 (linear_i . x_j + linear_j . x_i) / 2, as it is for n2 = 0 by symmetry.
#pragma once

#include "math/bases.h"
#include "types.h"

namespace hrta {

// Sums over neurons, all float64, in the caller's memory. The kernels add to them; only the upper triangles of the two
// products are touched (entries j >= i), for cross-kernels all of their (n - n2, n2).
struct GramSums {
  double* linear;         // (n, D)  sum_k z_ik w_k
  double* cross;          // (n, D)  sum_k sigma(z_ik) w_k
  double* square_sum;     // (1)     sum_k a_k^2
  double* slope_sum;      // (n)     sum_k a_k^2 sigma'(z_ik)
  double* value_product;  // (n, n)  P_ij = sum_k sigma(z_ik) sigma(z_jk)
  double* slope_product;  // (n, n)  Q_ij = sum_k a_k^2 sigma'(z_ik) sigma'(z_jk)
};

// Where the neurons come from: memory, or the counter-based generator of math/normals.h when weight is null.
struct Neurons {
  ScalarKind dtype;           // kFloat32 or kFloat64
  const void* weight;         // (m, D) or null
  const void* output_weight;  // (m) or null
  uint64_t seed;
  uint64_t first;  // index of the first drawn neuron
};

// Bytes that the int8 tiles cut numbers into; all other arithmetic is in float for kDigitsFloat, else in double.
// float32 class: relative error 1e-6. ReLU's terms cancel by a small factor at most (about s^2 beyond s = 2), which the
// averaging of rounding errors over many neurons makes good, so few neurons get more digits; those of the other bases
// cancel wherever sigma_s is nearly zero on the data. float64 class: 1e-13.
constexpr int kDigitsFloat = 3, kDigitsSmooth = 5, kDigitsDouble = 7;
constexpr int64_t kFewNeurons = 4096;

// The class of accuracy of m neurons; `high`: float64.
inline int gram_digits(int base, bool high, int64_t m) {
  if (high) return kDigitsDouble;
  if (base != kRelu) return kDigitsSmooth;
  return m < kFewNeurons ? kDigitsDouble : kDigitsFloat;
}

struct GramCall {
  int base;      // BaseIndex
  int digits;    // of the products: gram_digits; on the GPU as at gram_begin
  int64_t n, D;  // samples, features
  int64_t n2;    // the last n2 samples are the columns of cross-kernels; 0: symmetric. The GPU's kernels take 0 alone
  int64_t m;     // neurons
  const double* x;  // (n, D)
  Neurons neurons;
  int64_t scratch_bytes;  // at most, at least gram_least_scratch
  GramSums sums;
  // On the GPU alone, where a session of several calls collects the sums.
  int square_digits;  // of a_k^2 in the second product, as `digits` of the first; 0: that product is left out
  double total;       // neurons of all calls
  // Many features: z by another hand. `bounds` marks such a session, z is that of an add, and linear and cross are the
  // caller's, who has both ready at the end.
  const double* bounds;  // (n) what |z_ik| should not exceed: beyond them the figures tell of an infinite norm
  double* z;             // (n, m) z_ik, which the add overwrites by sigma(z_ik)
  void* scratch;         // cuda::gram_scratch bytes, 16-byte aligned, kept from begin to end
  double* figures;       // (cuda::gram_figures rows, 20): what hrta_ext/ntk/choice.py reads
};

// Both matrices at one s in the float32 class, without the sums.
struct GramDirect {
  int base;
  int64_t n, D, m;
  double s;
  const float* x;              // (n, D), finite
  const float* weight;         // (m, D)
  const float* output_weight;  // (m)
  int64_t scratch_bytes;       // besides 16 n^2 for sums; at least gram_least_scratch
  float *a, *w;                // (n, n), exactly symmetric
};

// Both matrices, or their derivatives in s, at S values of s, from sums over m neurons. They need x_i . x_j, linear_i .
// x_j + linear_j . x_i and the like of cross. The CPU forms these, feature by feature: an entry has the same bits
// whatever samples are beside its two. The GPU is given x_i . x_j, linear_i . x_j and cross_i . x_j, (n, n), or for
// cross-kernels (n, n2) the latter two with linear_j . x_i and cross_j . x_i added.
struct GramEvaluation {
  int64_t n, S;
  int64_t n2;  // columns of cross-kernels, whose slope_sum is (n + n2); 0: symmetric, (n, n)
  bool high;   // results in double, else float
  bool derivative;
  double width;     // m
  const double* s;  // (S)
  int64_t D;        // features, on the CPU
  const double* x;  // (n, D) or (n + n2, D), on the CPU
  const double *inner, *linear, *cross;
  GramSums sums;  // on the GPU linear and cross are not used
  void *a, *w;    // (S, n, n), exactly symmetric, or (S, n, n2)
};

namespace cpu {

struct AmxLoops;
// Null where the processor or the operating system has no int8 matrix tiles.
const AmxLoops* amx_loops();

void gram_evaluate(const GramEvaluation& call, ParallelFor parallel_for);

// result (n, n2) = sum_k left[i, k] right[k, j] base[i, j]^k, by Horner's rule; left (n, terms), right (terms, n2).
void power_sum(int64_t n, int64_t n2, int64_t terms, const double* left, const double* right, const double* base,
               double* result, ParallelFor parallel_for);

// Scratch for the smallest block of neurons.
int64_t gram_least_scratch(const GramCall& call);

// Adds the neurons [0, m) to the sums, in an order that depends on n, D and m alone. Returns false when a weight is not
// finite: the sums are then meaningless.
bool gram_sums(const GramCall& call, ParallelFor parallel_for);

// False, and nothing written, where float might not keep the class, or a weight is not finite: gram_sums knows then.
// The order of every sum depends on n, D and m alone.
bool gram_direct(const GramDirect& call, ParallelFor parallel_for);

// weight (count, D), output_weight (count): the numbers of neurons first, first + 1, ...
void random_weights(uint64_t seed, uint64_t first, int64_t count, int64_t D, float* weight, float* output_weight,
                    ParallelFor parallel_for);

}  // namespace cpu

// Pointers to the memory of `device`, which work on `stream`, a cudaStream_t; null or an error message comes back.
namespace cuda {

const char* gram_evaluate(const GramEvaluation& call, int device, void* stream);
const char* power_sum(int64_t n, int64_t n2, int64_t terms, const double* left, const double* right, const double* base,
                      double* result, int device, void* stream);
const char* random_weights(uint64_t seed, uint64_t first, int64_t count, int64_t D, float* weight, float* output_weight,
                           int device, void* stream);

// By int8 digits: begin, any number of adds (call.m neurons each, a multiple of 2048 but for the last; 2^30 in all),
// end. The sums are zero at begin, hold integers between, and results after end. Nothing in them depends on the cut
// into calls, scratch_bytes or the card. Neurons in memory come in one call; begin looks at all call.total of them.
// call.digits: 2 or 3 digits of ReLU's values, and square_digits (2 or 3) of a^2, each 0 where the sums hold that
// product from an earlier session; 5 or 7 digits, all products up to that level, for any base; 8: 7 digits, and one
// level more. With z there are output weights alone, of the add's neurons or, at begin, of all; neurons.first numbers
// them.
bool gram_serves(const GramCall& call, int device);      // with bounds any D, without up to 64 or fewer
int64_t gram_scratch(const GramCall& call, int device);  // from n, D, m (of the largest add), digits, scratch_bytes
int64_t gram_figures(int64_t n);
const char* gram_begin(const GramCall& call, int device, void* stream);
const char* gram_add(const GramCall& call, int device, void* stream);
const char* gram_end(const GramCall& call, int device, void* stream);

// ReLU and D = 2 by arcs, in the float64 class where call.digits is kDigitsDouble: sessions as above, of any cut, for n
// up to 32 766 and 2^30 neurons in all. Neurons in memory come in one call, with which the session begins too. The
// sums are written at the end; NaN where a weight is not finite.
bool gram_arcs_serve(const GramCall& call);
int64_t gram_arcs_scratch(const GramCall& call,
                          int device);  // from n, digits, neurons.dtype, and whether there is a weight
const char* gram_arcs_begin(const GramCall& call, int device, void* stream);
const char* gram_arcs_add(const GramCall& call, int device, void* stream);
const char* gram_arcs_end(const GramCall& call, int device, void* stream);

}  // namespace cuda

}  // namespace hrta
