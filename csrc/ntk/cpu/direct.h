// The loops of the direct Gram builder (direct.cpp), float32 but for what is summed: one table per SIMD level.
#pragma once

#include "ntk/cpu/loops.h"

namespace hrta {
namespace cpu {

constexpr int kRun = 48;             // neurons that pass through pre-activations and responses together
constexpr int kChain = 64;           // features summed in float before the sum goes on in double
constexpr int64_t kFewSamples = 32;  // up to these vectors cost less than matrix tiles
constexpr int kTerms = 32;           // neurons of a product summed in float before the sum goes on in double

// |z - x . w| <= kSignBound |x| |w| + kUnderflow D: of the chains, each of kChain roundings (one more where the product
// is rounded too), of their sum in double, and of the norms, whose squares are summed in float. What these lose to
// underflow is kSquareUnderflow D at most. By digits norms are the largest magnitudes, and kRowsBound D is the bound.
constexpr double kSignBound = 1.02 * (kChain + 3) * 0x1p-24, kUnderflow = 0x1p-147, kSquareUnderflow = 0x1p-148;

// What the sums of squares of one group say about cancellation, (kGroup) each: z, sigma_s(z), a sigma_s'(z), and a
// where |z| is within some window.
struct Scales {
  double z[kGroup], value[kGroup], slope[kGroup], curved[kGroup];
};

// Beyond kCurved sigma'' is below 0.08 for all bases but relu2 and sin.
constexpr float kCurved = 2.5f;

struct Samples {
  int64_t n, D;
  const float* rows;    // (n, D)
  const float* groups;  // (groups, D, kGroup): the same, kGroup side by side, zeros beyond n
  const double* norm;   // (groups * kGroup), negative where x is zero
  double sign_bound;    // |z - x . w| <= sign_bound norm square^(1/2) + kUnderflow D
};

struct DirectLoops {
  // square (count) += |row|^2 and squares (length) += row o row of rows `stride` apart, in float.
  void (*survey)(const float* rows, int64_t stride, int64_t length, int64_t count, double* square, float* squares);

  // sums (count) = sum_d row_d^2 squares_d of rows (count, D).
  void (*weighted)(const float* rows, int64_t D, int64_t count, const double* squares, double* sums);

  // z (groups, kRun, kGroup) of `count` rows (count, D), at most kRun, and the groups first .. first + groups - 1.
  // In passing, square (count) = |w_k|^2 and squares (D) += w_k o w_k.
  void (*preactivations)(const Samples& samples, int64_t first, int groups, const float* rows, int count, double* z,
                         double* square, float* squares);

  // z (count, kGroup) that might have another sign, or are within `radius`, are formed again in float64.
  void (*repair)(const Samples& samples, int64_t group, const float* rows, const double* square, int count,
                 double radius, double* z);

  // values = sigma_s(z), slopes = a sigma_s'(z), both (count, kGroup), from z (count, kGroup); scales are added to,
  // `curved` where |z| < window.
  void (*respond)(int base, double s, const double* z, const float* a, int count, float window, float* values,
                  float* slopes, Scales& scales);

  // out, of the row stride given and with entry (row, column) first, += sum over k of operand_ik operand_jk on and
  // above the diagonal, operand (groups, block, kGroup), for the rows from row to row_end and the columns from column
  // to column_end; row, column: multiples of two groups.
  void (*product)(const float* operand, int64_t block, int count, int64_t row, int64_t row_end, int64_t column,
                  int64_t column_end, double* out, int64_t stride);

  // a = value / m, w = inner o slope / m (n, n) for the rows from row on, kRun at most, and the columns of one group,
  // from value and slope, as in product, and inner (kRun, kGroup); and their mirror images.
  void (*finish)(int64_t n, double m, int64_t row, int64_t group, const double* inner, const double* value,
                 const double* slope, int64_t stride, float* a, float* w);
};

const DirectLoops& direct_loops();

}  // namespace cpu
}  // namespace hrta
