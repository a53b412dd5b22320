#include "ntk/cpu/preactivations.h"

#include <algorithm>
#include <cmath>

namespace hrta {
namespace cpu {

namespace {

// From here on digits cost less than chains.
constexpr int64_t kDigitFeatures = 64;

int64_t digit_bytes(int64_t D) {
  return ceil_div(D, kTileNeurons) * kRowDigits * kTileBytes;
}

}  // namespace

Preactivations::Preactivations(const GramDirect& call, int64_t groups, const FloatClass& chains,
                               ParallelFor parallel_for, bool small)
    : call_(call),
      parallel_for_(parallel_for),
      loops_(direct_loops()),
      amx_(amx_loops()),
      small_(small),
      groups_(groups),
      by_digits_(amx_ != nullptr && call.D >= kDigitFeatures && call.D <= kRowFeatures &&
                 (call.n > kFewSamples || (chains.can_be_exact() && call.D < kLongRow))),
      norm_(size_t(groups * kGroup), 0.0) {
  if (by_digits_) pack_digits();
  if (by_digits_ || chains.can_be_exact()) expect(chains);
  if (!by_digits_) pack_floats();
  const double bound = by_digits_ ? kRowsBound * double(call.D) : kSignBound;
  samples_ = {call.n, call.D, call.x, x_.get(), norm_.data(), bound};
}

void Preactivations::form(int64_t first, int groups, const float* rows, int count, double* z, double* square,
                          float* squares) const {
  if (!by_digits_) return loops_.preactivations(samples_, first, groups, rows, count, z, square, squares);
  const int some = int(std::clamp<int64_t>(ceil_div(call_.n, kGroup) - first, 0, groups));
  const int z_rows = this->rows();
  const int64_t size = int64_t(z_rows) * kGroup;
  const Buffer<int32_t> levels(groups * size * kRowDigits);
  float largest[kMostRows];
  amx_->preactivations({call_.D, some, digits_.at(first * digit_bytes(call_.D)), scale_.at(first * kGroup)}, rows,
                       count, z_rows, z, largest, levels.get());
  std::fill_n(z + some * size, (groups - some) * size, 0.0);
  for (int k = 0; k < count; ++k) square[k] = double(largest[k]) * double(largest[k]);
}

std::vector<double> Preactivations::errors(double square, const std::vector<double>& squares) const {
  std::vector<double> result;
  if (by_digits_) {
    for (int64_t i = 0; i < call_.n; ++i) result.push_back(error_by_digits(i, square));
  } else {
    result = weighted(squares);
    for (double& sum : result) sum = FloatClass::error_of(sum);
  }
  return result;
}

// For every sample, sum_d x_id^2 squares_d.
std::vector<double> Preactivations::weighted(const std::vector<double>& squares) const {
  std::vector<double> sums(size_t(call_.n));
  for_each_task(
      ceil_div(call_.n, kGroup), parallel_for_,
      [&](int64_t group) {
        const int64_t i = group * kGroup;
        loops_.weighted(call_.x + i * call_.D, call_.D, std::min<int64_t>(call_.n - i, kGroup), squares.data(),
                        &sums[size_t(i)]);
      },
      small_);
  return sums;
}

bool Preactivations::is_zero(int64_t i) const {
  const float* row = call_.x + i * call_.D;
  return i >= call_.n || std::all_of(row, row + call_.D, [](float x) { return x == 0.0f; });
}

void Preactivations::pack(int64_t group) const {
  constexpr int64_t kFeatures = 64;
  const int64_t D = call_.D;
  float* to = x_.at(group * D * kGroup);
  for (int64_t begin = 0; begin < D; begin += kFeatures) {
    const int64_t end = std::min(D, begin + kFeatures);
    for (int64_t l = 0; l < kGroup; ++l) {
      const int64_t i = group * kGroup + l;
      for (int64_t d = begin; d < end; ++d) to[d * kGroup + l] = i < call_.n ? call_.x[i * D + d] : 0.0f;
    }
  }
}

// Where x is zero, so is z: no sign to repair, which a negative norm says.
void Preactivations::pack_floats() {
  x_ = Buffer<float>(groups_ * call_.D * kGroup);
  std::fill(norm_.begin(), norm_.end(), 0.0);
  std::vector<float> squares(size_t(call_.D), 0.0f);
  loops_.survey(call_.x, call_.D, call_.D, call_.n, norm_.data(), squares.data());
  for (int64_t i = 0; i < groups_ * kGroup; ++i) {
    double& norm = norm_[size_t(i)];
    norm = norm == 0.0 && is_zero(i) ? -1.0 : std::sqrt(norm + kSquareUnderflow * double(call_.D));
  }
  for_each_task(groups_, parallel_for_, [&](int64_t group) { pack(group); }, small_);
}

void Preactivations::pack_digits() {
  const int64_t D = call_.D, groups = ceil_div(call_.n, kGroup);
  digits_ = Buffer<int8_t>(groups * digit_bytes(D));
  scale_ = Buffer<double>(groups * kGroup);
  std::fill(norm_.begin(), norm_.end(), -1.0);
  for_each_task(
      groups, parallel_for_,
      [&](int64_t group) {
        const int64_t i = group * kGroup;
        const int count = int(std::min<int64_t>(call_.n - i, kGroup));
        float largest[kGroup];
        amx_->pack_samples(call_.x + i * D, D, count, digits_.at(group * digit_bytes(D)), scale_.at(i), largest);
        for (int l = 0; l < count; ++l) norm_[size_t(i + l)] = largest[l] == 0.0f ? -1.0 : double(largest[l]);
      },
      small_);
}

void Preactivations::expect(const FloatClass& chains) {
  const int64_t rows = std::min<int64_t>(call_.m, kRun), D = call_.D;
  std::vector<double> square(static_cast<size_t>(rows)), squares;
  std::vector<float> sums(static_cast<size_t>(D), 0.0f), largest(static_cast<size_t>(rows));
  loops_.survey(call_.weight, D, D, rows, square.data(), sums.data());
  for (const float sum : sums) squares.push_back(double(sum) / double(rows));
  double mean = 0.0;
  if (by_digits_) {
    amx_->largest_of(call_.weight, D, rows, largest.data());
    for (const float size : largest) mean += double(size) * double(size) / double(rows);
  }
  for (const double variance : weighted(squares)) expected_.push_back({variance, FloatClass::error_of(variance)});
  if (by_digits_ && call_.n <= kFewSamples) {
    by_digits_ = !std::all_of(expected_.begin(), expected_.end(),
                              [&](const Expected& of) { return chains.would_keep(of.variance, of.error); });
  }
  for (int64_t i = 0; by_digits_ && i < call_.n; ++i) {
    by_digits_ = error_by_digits(i, mean) <= 0.5 * kDigitShare * expected_[size_t(i)].variance;
  }
  for (int64_t i = 0; by_digits_ && i < call_.n; ++i) expected_[size_t(i)].error = error_by_digits(i, mean);
}

double Preactivations::error_by_digits(int64_t i, double square) const {
  const double largest = std::max(norm_[size_t(i)], 0.0);
  return kRowsVariance * double(call_.D) * largest * largest * square;
}

}  // namespace cpu
}  // namespace hrta
