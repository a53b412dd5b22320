// Pre-activations z = x . w of the direct Gram builder, and what is known of their errors: by chains of floats, or for
// many features by digits on matrix tiles (loops.h), unless chains should be more accurate.
#pragma once

#include <vector>

#include "ntk/cpu/direct.h"
#include "ntk/cpu/float_class.h"
#include "ntk/gram.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

class Preactivations {
 public:
  // Of one neuron in the mean: z^2, and the square of its error.
  struct Expected {
    double variance, error;
  };

  // `groups` of samples, those beyond n zeros. With few of them digits serve where chains do not keep the class.
  Preactivations(const GramDirect& call, int64_t groups, const FloatClass& chains, ParallelFor parallel_for,
                 bool small);

  // For every sample, of a base that can be exact, if all weights are like the first ones.
  const std::vector<Expected>& expected() const { return expected_; }

  // Numbers in `squares` of form.
  int64_t square_count() const { return by_digits_ ? 0 : call_.D; }

  // Rows that form takes at a time, a multiple of kRun.
  int rows() const { return by_digits_ && call_.D >= kLongRow ? kMostRows : kRun; }

  // z (groups, rows(), kGroup) of `count` rows (count, D), at most rows(), and the groups from `first` on. In passing
  // square (count), from which repair bounds errors, not finite where a row is not; and squares += w_k o w_k.
  void form(int64_t first, int groups, const float* rows, int count, double* z, double* square, float* squares) const;

  // As DirectLoops::repair.
  void repair(int64_t group, const float* rows, const double* square, int count, double radius, double* z) const {
    loops_.repair(samples_, group, rows, square, count, radius, z);
  }

  // Whether pre-activations of one sample with these sums of z^2 and of errors' squares are as accurate as taken for.
  // The low digits of floats beside large ones have some zeros at their ends, so their mean is not zero: beside samples
  // that differ little from a constant, and neurons that cancel it, errors agree.
  bool trusts(double z, double error) const { return !by_digits_ || error <= kDigitShare * z; }

  // For every sample the sum of its errors' squares, from the sums of square and of squares over all neurons.
  std::vector<double> errors(double square, const std::vector<double>& squares) const;

 private:
  static constexpr double kDigitShare = 0x1p-49;
  // Features from which the digits of a panel's samples leave the second cache, and few z are near zero.
  static constexpr int64_t kLongRow = 512;

  std::vector<double> weighted(const std::vector<double>& squares) const;
  bool is_zero(int64_t i) const;
  void pack(int64_t group) const;
  void pack_digits();
  void pack_floats();
  void expect(const FloatClass& chains);
  double error_by_digits(int64_t i, double square) const;

  const GramDirect& call_;
  ParallelFor parallel_for_;
  const DirectLoops& loops_;
  const AmxLoops* amx_;
  const bool small_;
  const int64_t groups_;
  bool by_digits_;
  Buffer<float> x_;           // (groups, D, kGroup)
  Buffer<int8_t> digits_;     // (groups of samples, ceil(D / 64), kRowDigits, kTileBytes)
  Buffer<double> scale_;      // (groups of samples, kGroup)
  std::vector<double> norm_;  // (groups * kGroup)
  Samples samples_;
  std::vector<Expected> expected_;
};

}  // namespace cpu
}  // namespace hrta
