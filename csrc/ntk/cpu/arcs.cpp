// ReLU and two features: no n^2 m at all. Which samples make a neuron active depends only on where the direction of its
// weights falls among the 2 n rays perpendicular to the samples. Moments of (a^2, w w^T) per ray and per arc between
// two rays, and their running sums, give every entry of the two products: the neurons active for both of two samples
// fill one range of arcs (none if the samples are antiparallel). O(m + n^2) after a sort of the rays.
//
// circle/arcs.h builds the same circle again, for the network, from integer angles; the two share no code. Bins of the
// exact rays keep them apart: a neuron on a ray is active on neither of two opposite samples, so a range of bins for
// two samples must be able to leave it out, while the network needs one sample at a time and the fastest search.
//
// Limit of both: exact in sign for float32-like data; constructed weights exactly perpendicular to samples whose two
// features differ by a factor of 2^50 may be off.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "ntk/cpu/builder.h"

namespace hrta {
namespace cpu {

namespace {

struct Direction {
  double x, y;
};

// Exact in sign for float32 data: the products have 48 bits. Beyond, see the limit above.
double cross(Direction u, Direction v) {
  return std::fma(u.x, v.y, -(u.y * v.x));
}

// Rises with the angle from 0 to 4 over a full turn.
double turn(Direction u) {
  const double q = u.y / (std::fabs(u.x) + std::fabs(u.y));
  if (u.x < 0.0) return 2.0 - q;
  return q < 0.0 ? 4.0 + q : q;
}

constexpr int kMoments = 4;  // a^2, w_0 w_0, w_0 w_1, w_1 w_1

// Bin 2 r is ray r, bin 2 r + 1 the open arc between it and the next ray.
class Rays {
 public:
  explicit Rays(const GramCall& call) : start_(size_t(call.n), -1) {
    struct Line {
      Direction direction;  // in the upper half plane
      double turn;
      int64_t sample;
      bool flipped;
    };
    std::vector<Line> lines;
    for (int64_t i = 0; i < call.n; ++i) {
      Direction d{call.x[2 * i + 1], -call.x[2 * i]};  // a quarter turn before x_i
      if (d.x == 0.0 && d.y == 0.0) continue;
      const bool flipped = d.y < 0.0 || (d.y == 0.0 && d.x < 0.0);
      if (flipped) d = {-d.x, -d.y};
      lines.push_back({d, hrta::cpu::turn(d), i, flipped});
    }
    std::sort(lines.begin(), lines.end(), [](const Line& u, const Line& v) { return u.turn < v.turn; });
    std::vector<std::pair<int64_t, bool>> line_of;  // (line, flipped) in sorted order
    for (const Line& line : lines) {
      if (rays_.empty() || cross(rays_.back(), line.direction) != 0.0) rays_.push_back(line.direction);
      line_of.emplace_back(int64_t(rays_.size()) - 1, line.flipped);
    }
    count_ = int64_t(rays_.size());
    for (size_t l = 0; l < lines.size(); ++l) {
      start_[size_t(lines[l].sample)] = 2 * (line_of[l].first + (line_of[l].second ? count_ : 0));
    }
    for (int64_t r = 0; r < count_; ++r) rays_.push_back({-rays_[size_t(r)].x, -rays_[size_t(r)].y});
    for (const Direction& ray : rays_) turns_.push_back(hrta::cpu::turn(ray));
    // First ray at or after each of `buckets` equal parts of the turn.
    const int64_t buckets = std::max<int64_t>(4 * count_, 1);
    scale_ = double(buckets) / 4.0;
    for (int64_t b = 0, r = 0; b <= buckets; ++b) {
      while (r < 2 * count_ && turns_[size_t(r)] * scale_ < double(b)) ++r;
      first_ray_.push_back(r);
    }
  }

  int64_t lines() const { return count_; }
  int64_t bins() const { return 4 * count_; }

  // Sample i is active in the open half turn of the bins start + 1 .. start + 2 lines() - 1 (modulo bins()); -1 for
  // x_i = 0, which is active nowhere.
  int64_t start(int64_t i) const { return start_[size_t(i)]; }

  // The bin of w != 0; needs a ray. The rays around the guess decide by the sign of w . x_i.
  int64_t locate(Direction w) const {
    const int64_t rays = 2 * count_;
    const double at = hrta::cpu::turn(w);
    int64_t r = first_ray_[size_t(std::min(at * scale_, double(first_ray_.size() - 1)))];
    while (r < rays && turns_[size_t(r)] <= at) ++r;
    r = r == 0 ? rays - 1 : r - 1;
    for (int64_t step = 0; step < rays; ++step) {
      const Direction here = rays_[size_t(r)], next = rays_[size_t(r + 1 == rays ? 0 : r + 1)];
      const double after = cross(here, w), before = cross(w, next);
      const bool ahead = here.x * w.x + here.y * w.y > 0.0;
      if (after == 0.0 && ahead) return 2 * r;
      if ((after > 0.0 || (after == 0.0 && count_ == 1)) && before > 0.0) return 2 * r + 1;
      r = after < 0.0 || before > 0.0 ? (r == 0 ? rays - 1 : r - 1) : (r + 1 == rays ? 0 : r + 1);
    }
    return 2 * r + 1;  // double data so close to parallel that no sign is certain
  }

 private:
  int64_t count_;                // distinct lines
  std::vector<Direction> rays_;  // (2 count_) by angle; ray r + count_ is opposite to ray r
  std::vector<double> turns_;    // (2 count_)
  std::vector<int64_t> first_ray_;
  std::vector<int64_t> start_;  // (n)
  double scale_;
};

// Running sums in two doubles: differences of nearly equal ones keep their digits.
struct Long {
  double high = 0.0, low = 0.0;

  void add(double x) {
    const double sum = high + x, part = sum - high;
    low += (high - (sum - part)) + (x - part);
    high = sum;
  }
};

// Moments of the bins before bin b, twice around.
class RunningSums {
 public:
  RunningSums(const double* moments, int64_t bins) : sums_(size_t((2 * bins + 1) * kMoments)) {
    for (int64_t b = 0; b < 2 * bins; ++b) {
      for (int q = 0; q < kMoments; ++q) {
        Long sum = sums_[size_t(b * kMoments + q)];
        sum.add(moments[(b % bins) * kMoments + q]);
        sums_[size_t((b + 1) * kMoments + q)] = sum;
      }
    }
  }

  // Adds the moments of bins first .. last to `total`; none if last < first.
  void add_range(int64_t first, int64_t last, double* total) const {
    if (last < first) return;
    for (int q = 0; q < kMoments; ++q) {
      const Long &from = sums_[size_t(first * kMoments + q)], &to = sums_[size_t((last + 1) * kMoments + q)];
      total[q] += (to.high - from.high) + (to.low - from.low);
    }
  }

 private:
  std::vector<Long> sums_;
};

// Moments of a part of the neurons by bin, and a^2 of the neurons with w = 0, which are active for no sample.
struct Moments {
  std::vector<double> bins;
  double at_zero = 0.0;
};

constexpr int64_t kMostParts = 16;
constexpr int64_t kNeuronsPerPart = 16384;  // fewer parts for fewer neurons

}  // namespace

int64_t arcs_scratch(const GramCall& call) {
  const int64_t bins = 4 * call.n;
  return (kMostParts + 1) * bins * kMoments * 8 + (2 * bins + 1) * kMoments * 16 + 160 * call.n +
         kMostParts * kNeuronBlock * 24;
}

bool gram_sums_by_arcs(const GramCall& call, ParallelFor parallel_for) {
  const Rays rays(call);
  const int64_t bins = rays.bins(), blocks = ceil_div(call.m, kNeuronBlock);
  const int64_t parts = std::clamp<int64_t>(call.m / kNeuronsPerPart, 1, kMostParts);
  std::vector<Moments> part_moments(static_cast<size_t>(parts));
  std::atomic<bool> finite{true};
  for_each_task(parts, parallel_for, [&](int64_t part) {
    Moments& moments = part_moments[size_t(part)];
    moments.bins.assign(size_t(std::max<int64_t>(bins, 1) * kMoments), 0.0);
    const Buffer<double> weight(2 * kNeuronBlock), a(kNeuronBlock);
    for (int64_t block = part; block < blocks; block += parts) {
      const int64_t begin = block * kNeuronBlock;
      const int count = int(std::min<int64_t>(kNeuronBlock, call.m - begin));
      if (!fetch_neurons(call, begin, count, weight.at(0), a.at(0))) {
        finite = false;
        return;
      }
      for (int k = 0; k < count; ++k) {
        const Direction w{*weight.at(2 * k), *weight.at(2 * k + 1)};
        const double square = *a.at(k) * *a.at(k);
        if (w.x == 0.0 && w.y == 0.0) {
          moments.at_zero += square;
          continue;
        }
        double* bin = moments.bins.data() + (bins == 0 ? 0 : rays.locate(w) * kMoments);
        bin[0] += square;
        bin[1] += w.x * w.x;
        bin[2] += w.x * w.y;
        bin[3] += w.y * w.y;
      }
    }
  });
  if (!finite) return false;

  Moments all = std::move(part_moments[0]);
  for (size_t part = 1; part < part_moments.size(); ++part) {
    for (size_t i = 0; i < all.bins.size(); ++i) all.bins[i] += part_moments[part].bins[i];
    all.at_zero += part_moments[part].at_zero;
  }
  Long total[kMoments];
  for (size_t i = 0; i < all.bins.size(); ++i) total[i % kMoments].add(all.bins[i]);
  const RunningSums running(all.bins.data(), bins);
  const GramSums& sums = call.sums;
  *sums.square_sum += total[0].high + all.at_zero;

  const int64_t half = 2 * rays.lines(), full = bins, rows = call.n - call.n2;
  const auto add_sample = [&](int64_t i) {
    const double *x = call.x + 2 * i, u0 = x[0], u1 = x[1];
    sums.linear[2 * i] += total[1].high * u0 + total[2].high * u1;
    sums.linear[2 * i + 1] += total[2].high * u0 + total[3].high * u1;
    const int64_t first = rays.start(i);
    if (first < 0) return;
    double own[kMoments] = {};
    running.add_range(first + 1, first + half - 1, own);
    sums.slope_sum[i] += own[0];
    sums.cross[2 * i] += own[1] * u0 + own[2] * u1;
    sums.cross[2 * i + 1] += own[2] * u0 + own[3] * u1;
    for (int64_t j = call.n2 == 0 ? i : rows; i < rows && j < call.n; ++j) {
      const double *y = call.x + 2 * j, v0 = y[0], v1 = y[1];
      const int64_t other = rays.start(j);
      if (other < 0) continue;
      double both[kMoments] = {};
      const int64_t ahead = other >= first ? other - first : other - first + full;
      if (ahead < half) {
        running.add_range(first + ahead + 1, first + half - 1, both);
      } else {
        running.add_range(first + 1, first + ahead - half - 1, both);
      }
      const int64_t at = call.n2 == 0 ? i * call.n + j : i * call.n2 + j - rows;
      sums.slope_product[at] += both[0];
      sums.value_product[at] += u0 * (both[1] * v0 + both[2] * v1) + u1 * (both[2] * v0 + both[3] * v1);
    }
  };
  for_each_task(call.n, parallel_for, add_sample, call.n < 200);
  return true;
}

}  // namespace cpu
}  // namespace hrta
