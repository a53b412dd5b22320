// Whether float keeps the float32 class of the direct Gram builder. The roundings of a chain are taken as independent
// of mean zero: the error of z is then e with E e^2 = kChain / 6 u^2 |x_i o w_k|^2, u = 2^-24 (by digits less:
// loops.h), and what the errors d_ik of a factor v_ik make of a product is sqrt(2 / m) (sum d^2 / sum v^2)^(1/2) of it.
// 3e-7 of that are allowed, a quarter of it for bases with few neurons that are not saturated, and 7e-6 for the factor
// itself. Where z near zero is formed in float64 (exact), what float makes of the others counts.
#pragma once

#include <algorithm>
#include <cmath>

#include "ntk/cpu/direct.h"
#include "types.h"

namespace hrta {
namespace cpu {

// Of one sample, over all neurons: z^2, sigma_s(z)^2, (a sigma_s'(z))^2, and a^2 where |z| is within the window.
struct SampleSums {
  double z, value, slope, curved;
};

// Where float does not do, z within one of these is formed in float64. Beyond it sigma''^2 is below `curved`, of tanh
// and erf below `bounded` with sigma' below `slope`; beyond twice as much it is of no account.
struct Exact {
  float within;
  double curved, bounded, slope;
};
constexpr Exact kExact[] = {{2.0f, 1.2e-2, 1.9e-2, 0.071}, {3.0f, 2.1e-3, 4e-4, 0.01}};

struct FloatClass {
  int base;
  double s, m;
  const Exact* exact = nullptr;

  // sigma'' is zero but for one point, or of order 1 everywhere.
  bool is_rough() const { return base == kRelu || base == kRelu2 || base == kSin; }
  bool is_bounded() const { return base == kTanh || base == kErf; }
  bool can_be_exact() const { return !is_rough(); }
  float window() const { return exact ? 2.0f * exact->within : kCurved; }

  // Of the sum of d^2 over that of v^2, per neuron.
  double allowed() const { return std::min(4.5e-14 * m, 5e-11) / (base == kRelu ? 1.0 : 16.0); }

  // The sum of e^2 where that of |x_i o w_k|^2 is `squares`.
  static double error_of(double squares) { return kChain / 6.0 * 0x1p-48 * squares; }

  // The largest sigma_s'^2, of bases but relu2, where z is in float.
  double steepest() const {
    const double largest = is_bounded() && exact ? exact->slope : 1.13, r = std::abs(1.0 - s);
    return std::max(r * r, (r + largest * std::abs(s)) * (r + largest * std::abs(s)));
  }

  // The largest sigma''^2 within the window where z is in float.
  double most_curved() const { return !exact ? 0.64 : is_bounded() ? exact->bounded : exact->curved; }

  // `error`: the sum of e^2; `output`: of a_k^2. sigma_s as a sum of two terms must keep a quarter of the
  // larger one in the mean.
  bool keeps(double error, double output, const SampleSums& sums) const {
    // Values that are nearly log 2: what they lose to digits and to float has one sign, and is not averaged.
    if (base == kSoftplus && !(sums.z > 0x1p-14 * m)) return false;
    if (error == 0.0) return true;
    const double r = 1.0 - s;
    for (const double sum : {sums.z, sums.value, sums.slope}) {
      if (!(sum > 1e-24 * m && sum < 1e24 * m)) return false;
    }
    const double steep = base == kRelu2 ? 2.0 * s * s * sums.z / m + r * r : steepest();
    if (!(error * steep <= allowed() * sums.value)) return false;
    if (base == kRelu) return true;
    const double curved = is_rough() ? output : most_curved() * sums.curved;
    if (!(s * s * curved * error <= allowed() * m * sums.slope)) return false;
    const bool rectifier = base == kGelu || base == kSilu || base == kSoftplus;
    const double term = std::max(r * r, rectifier ? 1.0 : 0.0);
    return term * sums.z <= 16.0 * sums.value && r * r * output <= 16.0 * sums.slope;
  }

  // Of z ~ N(0, variance), at most: those within `reach` of zero.
  static double share_near(double reach, double variance) {
    return std::min(0.8 * reach / std::max(std::sqrt(variance), 1.0), 1.0);
  }

  // What keeps would say of z ~ N(0, variance). Near its limits both answers are right; far beyond them this saves a
  // run in vain.
  bool would_keep(double variance, double error) const {
    const double r = 1.0 - s, t = std::sqrt(variance), limit = allowed() / 1.5;
    const double density = 0.4 / std::max(t, 1.0);  // of z at 0
    const double value = is_bounded() ? r * r * variance + 1.6 * r * s * t + s * s : 0.5 * (1.0 + r * r) * variance;
    const double slope = is_bounded() ? r * r + density * s * (4.0 * r + 1.33 * s) : 0.5 * (1.0 + r * r);
    return error * steepest() <= limit * value &&
           s * s * most_curved() * share_near(window(), variance) * error <= limit * slope;
  }
};

}  // namespace cpu
}  // namespace hrta
