// Written by polynomials.py; the relative error of each before rounding stands beside it.
#pragma once

#include "math/host_device.h"

namespace hrta {
inline namespace HRTA_SIMD_LEVEL {

// (expm1(r) - r) / r^2, |r| <= ln(2)/2
// float: degree 5, relative error 2.9e-9
HRTA_INLINE float expm1_core(float u) {
  float square = u * u;
  return multiply_add(multiply_add(multiply_add(1.98910805e-4f, square, 8.33331084e-3f), square, 1.66666667e-1f), u,
                      multiply_add(multiply_add(1.39337307e-3f, square, 4.16664642e-2f), square, 5.00000001e-1f));
}
// double: degree 10, relative error 3.0e-18
HRTA_INLINE double expm1_core(double u) {
  double square = u * u;
  return multiply_add(
      multiply_add(multiply_add(multiply_add(multiply_add(2.5105312729622102e-8, square, 2.7557255170000887e-6), square,
                                             1.9841269875002279e-4),
                                square, 8.3333333333260831e-3),
                   square, 1.6666666666666671e-1),
      u,
      multiply_add(
          multiply_add(multiply_add(multiply_add(multiply_add(2.0914755325893202e-9, square, 2.755727347871858e-7),
                                                 square, 2.4801587325677462e-5),
                                    square, 1.3888888888883711e-3),
                       square, 4.166666666666667e-2),
          square, 5.0e-1));
}

// (atanh(t)/t - 1) / t^2 in u = t^2, 0 <= t <= 1/3
// float: degree 4, relative error 1.0e-8
HRTA_INLINE float log1p_core(float u) {
  float square = u * u;
  return multiply_add(multiply_add(1.08532879e-1f, square, 1.99998532e-1f), u,
                      multiply_add(multiply_add(1.16121646e-1f, square, 1.4296179e-1f), square, 3.33333337e-1f));
}
// double: degree 10, relative error 3.4e-18
HRTA_INLINE double log1p_core(double u) {
  double square = u * u;
  return multiply_add(
      multiply_add(multiply_add(multiply_add(multiply_add(3.7460718977753837e-2, square, 5.8671395306515987e-2), square,
                                             7.6922719824302746e-2),
                                square, 1.1111111099118385e-1),
                   square, 1.9999999999999761e-1),
      u,
      multiply_add(
          multiply_add(multiply_add(multiply_add(multiply_add(7.8152889004614252e-2, square, 5.4225891974400074e-2),
                                                 square, 6.6675893157246279e-2),
                                    square, 9.0909099489813572e-2),
                       square, 1.428571428580005e-1),
          square, 3.3333333333333333e-1));
}

// (a + 2) Phi(-a) exp(a^2/2) - 3/4 in t = (a - 2)/(a + 2), a >= 0
// float: degree 11, relative error 3.7e-9
HRTA_INLINE float normal_tail_core(float u) {
  return multiply_add(
      multiply_add(
          multiply_add(
              multiply_add(
                  multiply_add(
                      multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(-6.58198262e-5f, u,
                                                                                                    -1.49598063e-4f),
                                                                                       u, 1.3302602e-4f),
                                                                          u, 8.36916943e-4f),
                                                             u, 8.2378608e-4f),
                                                u, -1.95161157e-3f),
                                   u, -6.73461613e-3f),
                      u, -4.69769906e-4f),
                  u, 3.67194145e-2f),
              u, 2.87973752e-2f),
          u, -3.31404476e-1f),
      u, -7.75919952e-2f);
}
// double: degree 28, relative error 7.7e-18
HRTA_INLINE double normal_tail_core(double u) {
  return multiply_add(
      multiply_add(
          multiply_add(
              multiply_add(
                  multiply_add(
                      multiply_add(
                          multiply_add(
                              multiply_add(
                                  multiply_add(
                                      multiply_add(
                                          multiply_add(
                                              multiply_add(
                                                  multiply_add(
                                                      multiply_add(
                                                          multiply_add(
                                                              multiply_add(
                                                                  multiply_add(
                                                                      multiply_add(
                                                                          multiply_add(
                                                                              multiply_add(
                                                                                  multiply_add(
                                                                                      multiply_add(
                                                                                          multiply_add(
                                                                                              multiply_add(
                                                                                                  multiply_add(
                                                                                                      multiply_add(
                                                                                                          multiply_add(
                                                                                                              multiply_add(
                                                                                                                  1.6001913814699693e-8,
                                                                                                                  u,
                                                                                                                  4.4480057426210872e-8),
                                                                                                              u,
                                                                                                              -4.6557880327548297e-8),
                                                                                                          u,
                                                                                                          -2.5956193978858614e-7),
                                                                                                      u,
                                                                                                      -1.3260329971062275e-7),
                                                                                                  u,
                                                                                                  4.5723257995012012e-7),
                                                                                              u, 7.1184209553915733e-7),
                                                                                          u, 2.7476966313056858e-7),
                                                                                      u, -3.599471842588697e-7),
                                                                                  u, -1.3397192118062687e-6),
                                                                              u, -2.8297600753137449e-6),
                                                                          u, -2.8604736057253066e-6),
                                                                      u, 1.9645179204776363e-6),
                                                                  u, 1.2572527781295399e-5),
                                                              u, 2.1724998840920973e-5),
                                                          u, 9.6814980274480232e-6),
                                                      u, -4.6059057898672502e-5),
                                                  u, -1.2855195233493337e-4),
                                              u, -1.1569239819066799e-4),
                                          u, 2.0699174257879655e-4),
                                      u, 8.2719892066403284e-4),
                                  u, 7.8511815544048139e-4),
                              u, -1.9511241594433453e-3),
                          u, -6.7249070781079344e-3),
                      u, -4.6959683443976427e-4),
                  u, 3.6718360968921392e-2),
              u, 2.8797360345363559e-2),
          u, -3.3140444238878103e-1),
      u, -7.7591995107317579e-2);
}

// erf(x)/x - 1 in u = x^2, 0 <= x <= 3/4
// float: degree 5, relative error 1.5e-9
HRTA_INLINE float erf_core(float u) {
  float square = u * u;
  return multiply_add(multiply_add(multiply_add(-6.75647957e-4f, square, -2.68351146e-2f), square, -3.76126195e-1f), u,
                      multiply_add(multiply_add(5.11533211e-3f, square, 1.12833865e-1f), square, 1.28379166e-1f));
}
// double: degree 11, relative error 9.0e-21
HRTA_INLINE double erf_core(double u) {
  double square = u * u;
  return multiply_add(
      multiply_add(
          multiply_add(multiply_add(multiply_add(multiply_add(-9.5028408947747052e-10, square, -1.63332293434337e-7),
                                                 square, -1.4925589383821143e-5),
                                    square, -8.5483270011359461e-4),
                       square, -2.6866170645118445e-2),
          square, -3.7612638903183752e-1),
      u,
      multiply_add(
          multiply_add(multiply_add(multiply_add(multiply_add(1.4413879289095029e-8, square, 1.6460383209858149e-6),
                                                 square, 1.2055331545294116e-4),
                                    square, 5.2239776252221919e-3),
                       square, 1.1283791670955087e-1),
          square, 1.2837916709551257e-1));
}

// (tanh(x)/x - 1) / x^2 in u = x^2, 0 <= x <= 3/4
// float: degree 6, relative error 1.8e-9
HRTA_INLINE float tanh_core(float u) {
  float square = u * u;
  return multiply_add(
      multiply_add(multiply_add(3.08992639e-3f, square, 2.18357814e-2f), square, 1.33333226e-1f), u,
      multiply_add(multiply_add(multiply_add(-6.96533033e-4f, square, -8.68471699e-3f), square, -5.39651677e-2f),
                   square, -3.33333333e-1f));
}
// double: degree 13, relative error 1.7e-18
HRTA_INLINE double tanh_core(double u) {
  double square = u * u;
  return multiply_add(
      multiply_add(
          multiply_add(
              multiply_add(multiply_add(multiply_add(multiply_add(5.9853996720391628e-7, square, 1.3601729022897116e-5),
                                                     square, 9.6289533164274865e-5),
                                        square, 5.8998376820811334e-4),
                           square, 3.5921273057713371e-3),
              square, 2.1869488534033451e-2),
          square, 1.3333333333333293e-1),
      u,
      multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(-3.8335892945015438e-6, square,
                                                                                    -3.7848643166759977e-5),
                                                                       square, -2.3893326736872919e-4),
                                                          square, -1.455827548291657e-3),
                                             square, -8.8632354791053638e-3),
                                square, -5.3968253968207599e-2),
                   square, -3.3333333333333333e-1));
}

// (sin(r)/r - 1) / r^2 in u = r^2, |r| <= pi/4
// float: degree 3, relative error 1.7e-10
HRTA_INLINE float sin_core(float u) {
  float square = u * u;
  return multiply_add(multiply_add(2.72496201e-6f, square, 8.33333187e-3f), u,
                      multiply_add(-1.98400844e-4f, square, -1.66666667e-1f));
}
// double: degree 6, relative error 7.2e-20
HRTA_INLINE double sin_core(double u) {
  double square = u * u;
  return multiply_add(
      multiply_add(multiply_add(1.6058530596645955e-10, square, 2.755731921932058e-6), square, 8.3333333333333315e-3),
      u,
      multiply_add(multiply_add(multiply_add(-7.5866368828251596e-13, square, -2.5052106225994401e-8), square,
                                -1.9841269841265041e-4),
                   square, -1.6666666666666667e-1));
}

// (cos(r) - 1 + r^2/2) / r^4 in u = r^2, |r| <= pi/4
// float: degree 2, relative error 4.9e-8
HRTA_INLINE float cos_core(float u) {
  float square = u * u;
  return multiply_add(-1.38883019e-3f, u, multiply_add(2.45476898e-5f, square, 4.16666647e-2f));
}
// double: degree 5, relative error 3.1e-17
HRTA_INLINE double cos_core(double u) {
  double square = u * u;
  return multiply_add(
      multiply_add(multiply_add(-1.138254464534925e-11, square, -2.755731726587808e-7), square, -1.388888888888739e-3),
      u,
      multiply_add(multiply_add(2.0876145049413179e-9, square, 2.4801587298754401e-5), square, 4.1666666666666665e-2));
}

// (atan(t)/t - 1) / t^2 in u = t^2, 0 <= t <= tan(pi/8)
// double: degree 11, relative error 3.5e-18
HRTA_INLINE double atan_core(double u) {
  double square = u * u;
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

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
