// Samples with two features cut the circle of directions into arcs: each sample is active, w . x > 0, on an open half
// circle, so neurons whose weights point into the same arc are active on the same samples. Sums over the samples active
// on each arc, and over the arcs on which each sample is active, are running sums along the circle.
//
// ntk/cpu/arcs.cpp builds the same circle again, for the Gram matrices; the two share no code. Here a direction is an
// integer (Angle), so that a neuron finds its arc in a few nanoseconds at every step of a training, and a tie w . x = 0
// is the integer just outside an arc. There an entry of a matrix needs the neurons active on both of two samples: they
// fill a range of bins, of which the rays w . x = 0 are some, and the sign of w . x in double finds a neuron's bin.
//
// Limit of both: exact in sign for float32-like data; constructed weights exactly perpendicular to samples whose two
// features differ by a factor of 2^50 may be off.
#pragma once

#include <cstdint>
#include <vector>

#include "circle/angles.h"

namespace hrta {
namespace cpu {

inline bool is_finite(double x) {
  return x - x == 0;
}

constexpr int64_t kMostArcSamples = int64_t(1) << 29;

class Arcs {
 public:
  // Of x (n, 2), n < kMostArcSamples. Rows of zeros are active nowhere.
  template <typename T>
  Arcs(const T* x, int64_t n);

  // Whether x is; otherwise there are no arcs.
  bool finite() const { return finite_; }

  // Length of an array over the arcs. Its last element is for w = 0, which is active on no sample.
  int64_t count() const { return static_cast<int64_t>(samples_.size()) + 2; }

  // For the search (angles.h); it looks at this object's arrays.
  ArcTable table() const;

  // sums (count, 2): the terms (n, 2) of the samples active on each arc.
  void sum_over_samples(const double* terms, double* sums) const;

  // active (n, 2): the values (count, 2) of the arcs on which each sample is active.
  void sum_over_arcs(const double* values, double* active, int64_t n) const;

 private:
  struct Direction {
    Angle angle;
    int32_t sample;
  };
  static std::vector<Direction> sorted(const std::vector<Direction>& directions);
  void set_bounds(const std::vector<Direction>& directions);
  void make_table();

  bool finite_ = true;
  std::vector<Angle> bounds_;     // where the half circles begin and end, and more, as in ArcTable
  std::vector<int32_t> samples_;  // whose they are; ~i where the half circle of sample i ends
  std::vector<int32_t> at_zero_;  // the samples active on arc 0
  // A direction is found in constant time where the bounds are spread.
  std::vector<int32_t> starts_;
  int shift_ = 0;
};

}  // namespace cpu
}  // namespace hrta
