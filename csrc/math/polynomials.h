// Written by polynomials.py; the relative error of each before rounding stands beside it.
#pragma once

#include "math/host_device.h"

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {

// (expm1(r) - r) / r^2, |r| <= ln(2)/2
// float: degree 5, relative error 2.9e-9
// double: degree 10, relative error 3.0e-18
template <typename V>
HRTA_INLINE V expm1_core(V u) {
  const V square = u * u;
  if constexpr (sizeof(Scalar<V>) == 4) {
    return multiply_add(
        multiply_add(multiply_add(V(1.98910805e-4f), square, V(8.33331084e-3f)), square, V(1.66666667e-1f)), u,
        multiply_add(multiply_add(V(1.39337307e-3f), square, V(4.16664642e-2f)), square, V(5.00000001e-1f)));
  } else {
    return multiply_add(
        multiply_add(multiply_add(multiply_add(multiply_add(V(2.5105312729622102e-8), square, V(2.7557255170000887e-6)),
                                               square, V(1.9841269875002279e-4)),
                                  square, V(8.3333333333260831e-3)),
                     square, V(1.6666666666666671e-1)),
        u,
        multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(V(2.0914755325893202e-9), square,
                                                                         V(2.755727347871858e-7)),
                                                            square, V(2.4801587325677462e-5)),
                                               square, V(1.3888888888883711e-3)),
                                  square, V(4.166666666666667e-2)),
                     square, V(5.0e-1)));
  }
}

// (atanh(t)/t - 1) / t^2 in u = t^2, 0 <= t <= 1/3
// float: degree 4, relative error 1.0e-8
// double: degree 10, relative error 3.4e-18
template <typename V>
HRTA_INLINE V log1p_core(V u) {
  const V square = u * u;
  if constexpr (sizeof(Scalar<V>) == 4) {
    return multiply_add(
        multiply_add(V(1.08532879e-1f), square, V(1.99998532e-1f)), u,
        multiply_add(multiply_add(V(1.16121646e-1f), square, V(1.4296179e-1f)), square, V(3.33333337e-1f)));
  } else {
    return multiply_add(
        multiply_add(multiply_add(multiply_add(multiply_add(V(3.7460718977753837e-2), square, V(5.8671395306515987e-2)),
                                               square, V(7.6922719824302746e-2)),
                                  square, V(1.1111111099118385e-1)),
                     square, V(1.9999999999999761e-1)),
        u,
        multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(V(7.8152889004614252e-2), square,
                                                                         V(5.4225891974400074e-2)),
                                                            square, V(6.6675893157246279e-2)),
                                               square, V(9.0909099489813572e-2)),
                                  square, V(1.428571428580005e-1)),
                     square, V(3.3333333333333333e-1)));
  }
}

// erf(x)/x - 1 in u = x^2, 0 <= x <= 3/4
// float: degree 5, relative error 1.5e-9
// double: degree 11, relative error 9.0e-21
template <typename V>
HRTA_INLINE V erf_core(V u) {
  const V square = u * u;
  if constexpr (sizeof(Scalar<V>) == 4) {
    return multiply_add(
        multiply_add(multiply_add(V(-6.75647957e-4f), square, V(-2.68351146e-2f)), square, V(-3.76126195e-1f)), u,
        multiply_add(multiply_add(V(5.11533211e-3f), square, V(1.12833865e-1f)), square, V(1.28379166e-1f)));
  } else {
    return multiply_add(
        multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(V(-9.5028408947747052e-10), square,
                                                                         V(-1.63332293434337e-7)),
                                                            square, V(-1.4925589383821143e-5)),
                                               square, V(-8.5483270011359461e-4)),
                                  square, V(-2.6866170645118445e-2)),
                     square, V(-3.7612638903183752e-1)),
        u,
        multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(V(1.4413879289095029e-8), square,
                                                                         V(1.6460383209858149e-6)),
                                                            square, V(1.2055331545294116e-4)),
                                               square, V(5.2239776252221919e-3)),
                                  square, V(1.1283791670955087e-1)),
                     square, V(1.2837916709551257e-1)));
  }
}

// (tanh(x)/x - 1) / x^2 in u = x^2, 0 <= x <= 3/4
// float: degree 6, relative error 1.8e-9
// double: degree 13, relative error 1.7e-18
template <typename V>
HRTA_INLINE V tanh_core(V u) {
  const V square = u * u;
  if constexpr (sizeof(Scalar<V>) == 4) {
    return multiply_add(
        multiply_add(multiply_add(V(3.08992639e-3f), square, V(2.18357814e-2f)), square, V(1.33333226e-1f)), u,
        multiply_add(
            multiply_add(multiply_add(V(-6.96533033e-4f), square, V(-8.68471699e-3f)), square, V(-5.39651677e-2f)),
            square, V(-3.33333333e-1f)));
  } else {
    return multiply_add(
        multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(V(5.9853996720391628e-7), square,
                                                                                      V(1.3601729022897116e-5)),
                                                                         square, V(9.6289533164274865e-5)),
                                                            square, V(5.8998376820811334e-4)),
                                               square, V(3.5921273057713371e-3)),
                                  square, V(2.1869488534033451e-2)),
                     square, V(1.3333333333333293e-1)),
        u,
        multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(V(-3.8335892945015438e-6), square,
                                                                                      V(-3.7848643166759977e-5)),
                                                                         square, V(-2.3893326736872919e-4)),
                                                            square, V(-1.455827548291657e-3)),
                                               square, V(-8.8632354791053638e-3)),
                                  square, V(-5.3968253968207599e-2)),
                     square, V(-3.3333333333333333e-1)));
  }
}

// (sin(r)/r - 1) / r^2 in u = r^2, |r| <= pi/4
// float: degree 3, relative error 1.7e-10
// double: degree 6, relative error 7.2e-20
template <typename V>
HRTA_INLINE V sin_core(V u) {
  const V square = u * u;
  if constexpr (sizeof(Scalar<V>) == 4) {
    return multiply_add(multiply_add(V(2.72496201e-6f), square, V(8.33333187e-3f)), u,
                        multiply_add(V(-1.98400844e-4f), square, V(-1.66666667e-1f)));
  } else {
    return multiply_add(
        multiply_add(multiply_add(V(1.6058530596645955e-10), square, V(2.755731921932058e-6)), square,
                     V(8.3333333333333315e-3)),
        u,
        multiply_add(multiply_add(multiply_add(V(-7.5866368828251596e-13), square, V(-2.5052106225994401e-8)), square,
                                  V(-1.9841269841265041e-4)),
                     square, V(-1.6666666666666667e-1)));
  }
}

// (cos(r) - 1 + r^2/2) / r^4 in u = r^2, |r| <= pi/4
// float: degree 2, relative error 4.9e-8
// double: degree 5, relative error 3.1e-17
template <typename V>
HRTA_INLINE V cos_core(V u) {
  const V square = u * u;
  if constexpr (sizeof(Scalar<V>) == 4) {
    return multiply_add(V(-1.38883019e-3f), u, multiply_add(V(2.45476898e-5f), square, V(4.16666647e-2f)));
  } else {
    return multiply_add(multiply_add(multiply_add(V(-1.138254464534925e-11), square, V(-2.755731726587808e-7)), square,
                                     V(-1.388888888888739e-3)),
                        u,
                        multiply_add(multiply_add(V(2.0876145049413179e-9), square, V(2.4801587298754401e-5)), square,
                                     V(4.1666666666666665e-2)));
  }
}

// (atan(t)/t - 1) / t^2 in u = t^2, 0 <= t <= tan(pi/8)
// double: degree 11, relative error 3.5e-18
HRTA_INLINE double atan_core(double u) {
  const double square = u * u;
  return multiply_add(
      multiply_add(
          multiply_add(multiply_add(multiply_add(multiply_add(1.627194475162406e-2, square, 4.5511081263251719e-2),
                                                 square, 5.8789145444006217e-2),
                                    square, 7.6922963049744701e-2),
                       square, 1.1111111105106705e-1),
          square, 1.9999999999999803e-1),
      u,
      multiply_add(
          multiply_add(multiply_add(multiply_add(multiply_add(-3.4558092551413796e-2, square, -5.2303478730160742e-2),
                                                 square, -6.6664236280692576e-2),
                                    square, -9.0909087510766359e-2),
                       square, -1.4285714285659327e-1),
          square, -3.3333333333333333e-1));
}

// Phi(-a) exp(a^2/2) = (1 + u normal_tail_core(u)) / d, u = a/d - kCentre, d = kOffset + kSlope a, a >= 0
template <typename T>
struct NormalTailMap;

template <>
struct NormalTailMap<float> {
  static constexpr float kOffset = 3.22478771f, kSlope = 1.28991508f, kCentre = 3.28983694e-1f;
};

template <>
struct NormalTailMap<double> {
  static constexpr double kOffset = 3.7512610935344819, kSlope = 9.3781527338362047e-1, kCentre = 3.2388295787339383e-1;
};

// float: degree 8, relative error 1.8e-8
// double: degree 21, relative error 2.2e-17
template <typename V>
HRTA_INLINE V normal_tail_core(V u) {
  const V square = u * u;
  if constexpr (sizeof(Scalar<V>) == 4) {
    return multiply_add(multiply_add(multiply_add(multiply_add(V(-2.40988825e-1f), square, V(6.24699172e-1f)), square,
                                                  V(-8.22808711e-1f)),
                                     square, V(1.07844843f)),
                        u,
                        multiply_add(multiply_add(multiply_add(multiply_add(V(-1.03343023f), square, V(9.14935894e-1f)),
                                                               square, V(-5.17889535e-1f)),
                                                  square, V(4.12487035e-1f)),
                                     square, V(-1.57326524f)));
  } else {
    return multiply_add(
        multiply_add(
            multiply_add(
                multiply_add(
                    multiply_add(
                        multiply_add(
                            multiply_add(
                                multiply_add(multiply_add(multiply_add(multiply_add(V(-1.1664645073683619e-3), square,
                                                                                    V(-6.9570975563123325e-3)),
                                                                       square, V(3.9013021173664004e-3)),
                                                          square, V(-7.2893720829210266e-4)),
                                             square, V(-4.7198023244433611e-3)),
                                square, V(1.612202230754224e-2)),
                            square, V(-3.9080014072652328e-2)),
                        square, V(9.3562964325744323e-2)),
                    square, V(-2.595747782342437e-1)),
                square, V(7.4488077399634861e-1)),
            square, V(2.1960745423575446)),
        u,
        multiply_add(
            multiply_add(
                multiply_add(
                    multiply_add(
                        multiply_add(
                            multiply_add(
                                multiply_add(multiply_add(multiply_add(multiply_add(V(5.1771410099848322e-3), square,
                                                                                    V(3.1898879440766904e-4)),
                                                                       square, V(2.035635865297871e-3)),
                                                          square, V(-6.0498868752286852e-3)),
                                             square, V(8.2644836614038468e-3)),
                                square, V(-6.2981393504635868e-3)),
                            square, V(-2.9706430359661356e-3)),
                        square, V(1.4014992730930841e-2)),
                    square, V(1.0553341196178626e-1)),
                square, V(-1.779326688408143)),
            square, V(-1.7823783106733645)));
  }
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
