// Pairs of samples at infinite width: E[sigma(u) sigma(v)] and E[sigma'(u) sigma'(v)] of u = w . x, v = w . y with
// w ~ N(0, I), and the kernels of a layer at s (docs/theory.md 3.2, 3.3). hrta_ext/ntk/expectations.py has the same in
// plain torch and says where the formulas come from; here they stand in the angle and in ratios that no norm overflows.
#pragma once

#include "math/bases.h"

namespace hrta {

// Widths a of a mixture: sigma(z) is the sum of weight erf(z / (sqrt(2) a)) or alike. Closed forms have one.
constexpr int kMostWidths = 32;
struct Widths {
  int count;
  double weight[kMostWidths];
  double square[kMostWidths];  // a^2
};

inline namespace HRTA_SIMD_LEVEL {

constexpr double kPi = 3.14159265358979323846;

struct SamplePair {
  double inner;            // x . y
  double apart, together;  // (1 - cos) / 2 and (1 + cos) / 2 of their angle, each to full relative accuracy
  double norm, norm2;
};

// From |u - v|^2 and |u + v|^2, or what is proportional to them. Without a direction the angle is 0.
HRTA_INLINE SamplePair pair_of(double inner, double apart, double together, double norm, double norm2) {
  const double sum = apart + together;
  const bool known = sum > 1e-290;
  const double inverse = 1.0 / (known ? sum : 1.0);
  return {inner, known ? apart * inverse : 0.0, known ? together * inverse : 1.0, norm, norm2};
}

// Of a nearly right angle from the inner product, which may be exact where 1 +- cos are not.
HRTA_INLINE double cosine_of(const SamplePair& pair) {
  const double cosine = pair.together - pair.apart, product = pair.norm * pair.norm2;
  const bool usable = absolute(cosine) < 0.25 && product > 1e-290 && product < 1e290;
  return usable ? pair.inner / product : cosine;
}

struct Moments {
  double value, slope;  // E[sigma(u) sigma(v)], E[sigma'(u) sigma'(v)]
};

// --- one term -------------------------------------------------------------------------------------------------------

struct Angle {
  double sine, cosine;
  double acute;  // between the lines along x and y, in [0, pi/2]
  double rest;   // pi - the angle between x and y
};

HRTA_INLINE Angle angle_of(const SamplePair& pair) {
  Angle angle;
  angle.sine = 2.0 * square_root(pair.apart * pair.together);
  angle.cosine = pair.together - pair.apart;
  const Direction direction = direction_of(absolute(angle.cosine), angle.sine);
  angle.acute = angle_of(direction, direction.over / direction.under);
  angle.rest = angle.cosine < 0.0 ? angle.acute : kPi - angle.acute;
  return angle;
}

// The arc-cosine kernels of Cho and Saul (2009).
struct ReluPairs {
  static constexpr bool kMixture = false;
  static HRTA_INLINE Moments moments(const SamplePair& pair, const Widths&) {
    const Angle angle = angle_of(pair);
    const double first = multiply_add(angle.rest, angle.cosine, angle.sine);
    return {pair.norm * pair.norm2 * (first * (0.5 / kPi)), angle.rest * (0.5 / kPi)};
  }
  static HRTA_INLINE double mean_slope(double, const Widths&) { return 0.5; }
};

struct Relu2Pairs {
  static constexpr bool kMixture = false;
  static HRTA_INLINE Moments moments(const SamplePair& pair, const Widths&) {
    const Angle angle = angle_of(pair);
    const double product = pair.norm * pair.norm2, cosine = angle.cosine;
    const double first = multiply_add(angle.rest, cosine, angle.sine);
    const double second = multiply_add(3.0 * angle.sine, cosine, angle.rest * multiply_add(2.0 * cosine, cosine, 1.0));
    return {product * product * (second * (0.125 / kPi)), product * (first * (0.5 / kPi))};
  }
  static HRTA_INLINE double mean_slope(double norm, const Widths&) { return norm * 0.39894228040143267794; }
};

// (exp(-|x - y|^2 / 2) -+ exp(-|x + y|^2 / 2)) / 2; the difference as the larger exponential times an expm1.
struct SinPairs {
  static constexpr bool kMixture = false;
  static HRTA_INLINE Moments moments(const SamplePair& pair, const Widths&) {
    const double longer = pair.norm - pair.norm2, unequal = longer * longer, product = pair.norm * pair.norm2;
    const double near = at_most(pair.apart, pair.together), far = at_least(pair.apart, pair.together);
    const double larger = exponential(-0.5 * multiply_add(4.0 * product, near, unequal));
    const double smaller = exponential(-0.5 * multiply_add(4.0 * product, far, unequal));
    const double lost = -0.5 * tanh_parts(absolute(pair.inner)).em1;
    return {with_sign(larger * lost, pair.inner), 0.5 * (larger + smaller)};
  }
  static HRTA_INLINE double mean_slope(double norm, const Widths&) { return exponential(-0.5 * norm * norm); }

 private:
  static HRTA_INLINE double exponential(double x) { return times_exp(1.0, exp_of_negative(x)); }
};

// --- mixtures -------------------------------------------------------------------------------------------------------
// u and v with the variances a^2 and b^2 added: their correlation is rho = cos(angle) u.root v.root, and 1 - rho^2
// comes without cancellation. E[Phi(u / a) Phi(v / b)] = 1/4 + asin(rho) / (2 pi).

// Of |x| = r at the width a.
struct Side {
  double share, rest;  // r^2 / (r^2 + a^2), a^2 / (r^2 + a^2)
  double root;         // of the share
  double scale;        // 1 / sqrt(r^2 + a^2), or its inverse where the family wants that
};

template <typename Sums>
HRTA_INLINE Side side_of(double norm, double square) {
  const bool huge = norm > 1e150;  // whose square may overflow
  const double length = huge ? norm : square_root(multiply_add(norm, norm, square));
  const double inverse = 1.0 / length, root = norm * inverse;
  return {root * root, square * inverse * inverse, root, Sums::kLengths ? length : inverse};
}

struct Correlation {
  double asin;             // of |rho|
  double cosine, inverse;  // sqrt(1 - rho^2), and 1 over it
  double roots;            // u.root v.root
};

// `tilted`: v.rest + v.share sin(angle)^2. `cosine`: |cos(angle)|.
HRTA_INLINE Correlation correlation_of(const Side& u, double tilted, double root2, double cosine) {
  const double roots = u.root * root2, rho = roots * cosine;
  const double root = square_root(at_least(multiply_add(u.share, tilted, u.rest), 1e-290));
  const Direction direction = direction_of(root, rho);
  const double inverse = 1.0 / (root * direction.under);
  return {angle_of(direction, direction.over * root * inverse), root, direction.under * inverse, roots};
}

// What a family of bases sums over both widths: kSums numbers, the first asin |rho|; and what follows from the sums.
constexpr int kMostSums = 4;

// sigma(z) = erf(z / (sqrt(2) a)): erf, tanh.
struct ErfSums {
  static constexpr int kSums = 2;
  static constexpr bool kLengths = false;
  static HRTA_INLINE void term(const Correlation& c, const Side& u, const Side& v, double* terms) {
    terms[0] = c.asin;
    terms[1] = c.inverse * u.scale * v.scale;
  }
  static HRTA_INLINE Moments moments(const SamplePair&, double cosine, const double* sums) {
    return {with_sign(sums[0] * (2.0 / kPi), cosine), sums[1] * (2.0 / kPi)};
  }
  static HRTA_INLINE double mean_slope(double norm, const Widths& widths) {
    double sum = 0.0;
    for (int k = 0; k < widths.count; ++k) {
      sum = multiply_add(widths.weight[k], side_of<ErfSums>(norm, widths.square[k]).scale, sum);
    }
    return sum * 0.79788456080286535588;  // sqrt(2 / pi)
  }
};

// sigma(z) = z Phi(z / a): gelu, silu.
struct GeluSums {
  static constexpr int kSums = 4;
  static constexpr bool kLengths = false;
  static HRTA_INLINE void term(const Correlation& c, const Side& u, const Side& v, double* terms) {
    const double first = c.roots * c.inverse, rests = u.rest * v.rest * c.inverse * c.inverse;
    terms[0] = c.asin;
    terms[1] = first;
    terms[2] = first * (u.rest + v.rest);
    terms[3] = first * rests;
  }
  static HRTA_INLINE Moments moments(const SamplePair& pair, double cosine, const double* sums) {
    const double both = 0.25 + with_sign(sums[0] * (0.5 / kPi), cosine);
    const double sine2 = 4.0 * pair.apart * pair.together;
    const double rest = multiply_add(sine2, sums[1], cosine * cosine * sums[2]) * (0.5 / kPi);
    return {pair.norm * pair.norm2 * multiply_add(cosine, both, rest),
            multiply_add(cosine * (0.5 / kPi), sums[2] + sums[3], both)};
  }
  static HRTA_INLINE double mean_slope(double, const Widths&) { return 0.5; }
};

// sigma(z) = E ReLU(z + a g): softplus.
struct RampSums {
  static constexpr int kSums = 2;
  static constexpr bool kLengths = true;
  static HRTA_INLINE void term(const Correlation& c, const Side& u, const Side& v, double* terms) {
    terms[0] = c.asin;
    terms[1] = c.cosine * u.scale * v.scale;
  }
  static HRTA_INLINE Moments moments(const SamplePair& pair, double cosine, const double* sums) {
    const double both = 0.25 + with_sign(sums[0] * (0.5 / kPi), cosine);
    return {multiply_add(pair.norm * pair.norm2 * cosine, both, sums[1] * (0.5 / kPi)), both};
  }
  static HRTA_INLINE double mean_slope(double, const Widths&) { return 0.5; }
};

// A base with one width.
template <typename Sums>
struct OneWidth {
  static constexpr bool kMixture = false;
  static HRTA_INLINE Moments moments(const SamplePair& pair, const Widths& widths) {
    const double cosine = cosine_of(pair), sine2 = 4.0 * pair.apart * pair.together;
    const Side u = side_of<Sums>(pair.norm, widths.square[0]), v = side_of<Sums>(pair.norm2, widths.square[0]);
    double sums[kMostSums];
    Sums::term(correlation_of(u, multiply_add(v.share, sine2, v.rest), v.root, absolute(cosine)), u, v, sums);
    return Sums::moments(pair, cosine, sums);
  }
  static HRTA_INLINE double mean_slope(double norm, const Widths& widths) { return Sums::mean_slope(norm, widths); }
};

// A base with many: the loops over them are the caller's.
template <typename Family>
struct ManyWidths {
  using Sums = Family;
  static constexpr bool kMixture = true;
  static HRTA_INLINE double mean_slope(double norm, const Widths& widths) { return Sums::mean_slope(norm, widths); }
};

// body(the pairs of the base with this number); another number, which no caller has, is sin's.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <typename Body>
HRTA_INLINE auto with_pairs(int base, const Body& body) {
  switch (base) {
    case kRelu: return body(ReluPairs{});
    case kRelu2: return body(Relu2Pairs{});
    case kTanh: return body(ManyWidths<ErfSums>{});
    case kGelu: return body(OneWidth<GeluSums>{});
    case kSilu: return body(ManyWidths<GeluSums>{});
    case kSoftplus: return body(ManyWidths<RampSums>{});
    case kErf: return body(OneWidth<ErfSums>{});
    default: return body(SinPairs{});
  }
}

// --- layers ---------------------------------------------------------------------------------------------------------

// Both kernels are quadratic forms in (1 - s, s).
struct LayerAt {
  double s, linear, mixed, square;
};

HRTA_INLINE LayerAt layer_at(double s) {
  return {s, (1.0 - s) * (1.0 - s), s * (1.0 - s), s * s};
}

struct LayerKernels {
  double sigma;   // K^[a]
  double factor;  // K^[w] / x . y
};

// In fused products alone, which no compiler rounds otherwise elsewhere: entries (i, j) and (j, i) are to be equal.
HRTA_INLINE LayerKernels layer_kernels(const LayerAt& layer, double inner, double means, const Moments& moments) {
  const double linear = multiply_add(layer.mixed, means, layer.linear);
  return {multiply_add(inner, linear, layer.square * moments.value), multiply_add(layer.square, moments.slope, linear)};
}

// |hidden layer| of a sample of this norm.
template <typename Pairs>
HRTA_INLINE double next_norm(const LayerAt& layer, double norm, double mean, const Widths& widths) {
  const Moments moments = Pairs::moments({norm * norm, 0.0, 1.0, norm, norm}, widths);
  return square_root(at_least(layer_kernels(layer, norm * norm, 2.0 * mean, moments).sigma, 0.0));
}

// The pair of hidden layers of covariance sigma and norms norm and norm2.
template <typename Pairs>
HRTA_INLINE SamplePair next_pair(const LayerAt&, const SamplePair& pair, double sigma, double norm, double norm2) {
  const double product = norm * norm2;
  const bool duplicates = pair.apart == 0.0 && pair.norm == pair.norm2;
  return pair_of(sigma, duplicates ? 0.0 : at_least(product - sigma, 0.0), at_least(product + sigma, 0.0), norm, norm2);
}

// sigma_s(z) = (1 - s/2) z + (s/2) |z|; the odd and the even part are uncorrelated, and with the acute angle phi
// 1 - cos of the even part is (1 - cos phi) - (2 / pi) (sin phi - phi cos phi).
template <>
HRTA_INLINE SamplePair next_pair<ReluPairs>(const LayerAt& layer, const SamplePair& pair, double sigma, double norm,
                                            double norm2) {
  const Angle angle = angle_of(pair);
  const double half = 0.5 * layer.s, odd = 2.0 * (1.0 - half) * (1.0 - half), even = half * half;
  const double bent = multiply_add(-angle.acute, absolute(angle.cosine), angle.sine);
  const double lost = multiply_add(-2.0 / kPi, bent, 2.0 * at_most(pair.apart, pair.together));
  return pair_of(sigma, at_least(multiply_add(odd, pair.apart, even * lost), 0.0),
                 at_least(multiply_add(odd, pair.together, even * (2.0 - lost)), 0.0), norm, norm2);
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
