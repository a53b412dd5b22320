// Written by polynomials.py; the relative error of each before rounding stands beside it.
#pragma once

#include "host_device.h"

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

// (a + 4) Phi(-a) exp(a^2/2) - 3/4 in t = (a - 4)/(a + 4), a >= 0
// float: degree 10, relative error 2.9e-9
HRTA_INLINE float normal_tail_core(float u) {
  return multiply_add(
      multiply_add(
          multiply_add(
              multiply_add(
                  multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(-5.15565933e-5f, u,
                                                                                                -2.31798678e-4f),
                                                                                   u, 1.71054612e-4f),
                                                                      u, 1.6452193e-3f),
                                                         u, -3.48931728e-3f),
                                            u, -7.54526827e-3f),
                               u, 6.03975331e-2f),
                  u, -1.86521281e-1f),
              u, 3.87137368e-1f),
          u, -6.07896659e-1f),
      u, 5.28513062e-3f);
}
// double: degree 22, relative error 3.8e-17
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
                                                                                          -9.990624160023276e-10, u,
                                                                                          -1.015295717649618e-11),
                                                                                      u, 1.3976528155950822e-8),
                                                                                  u, 1.4842390072751343e-8),
                                                                              u, -7.6347128434410861e-8),
                                                                          u, -1.5461968191221919e-7),
                                                                      u, 2.6354310560684454e-7),
                                                                  u, 1.0200713392568464e-6),
                                                              u, -6.2499069953697852e-7),
                                                          u, -5.9190131861540441e-6),
                                                      u, 7.1493083254784009e-7),
                                                  u, 3.5144214968257804e-5),
                                              u, -1.9078434059248705e-6),
                                          u, -2.3109482414997104e-4),
                                      u, 1.3334424978358428e-4),
                                  u, 1.6308184424805886e-3),
                              u, -3.4796923618040596e-3),
                          u, -7.5401889656250168e-3),
                      u, 6.0396574890676654e-2),
                  u, -1.8652185795969339e-1),
              u, 3.8713740074221934e-1),
          u, -6.0789664197189176e-1),
      u, 5.2851304157514784e-3);
}

// (erf(x)/x - 2/sqrt(pi)) / x^2 in u = x^2, 0 <= x <= 1
// float: degree 6, relative error 4.5e-10
HRTA_INLINE float erf_core(float u) {
  float square = u * u;
  return multiply_add(
      multiply_add(multiply_add(1.14517369e-4f, square, 5.22261113e-3f), square, 1.12837903e-1f), u,
      multiply_add(multiply_add(multiply_add(-1.02167481e-5f, square, -8.50854529e-4f), square, -2.68659453e-2f),
                   square, -3.76126389e-1f));
}
// double: degree 12, relative error 2.9e-20
HRTA_INLINE double erf_core(double u) {
  double square = u * u;
  return multiply_add(
      multiply_add(
          multiply_add(multiply_add(multiply_add(multiply_add(8.800680090460203e-11, square, 1.4796618901290417e-8),
                                                 square, 1.6462076794793433e-6),
                                    square, 1.2055332952700439e-4),
                       square, 5.223977625438469e-3),
          square, 1.1283791670955125e-1),
      u,
      multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(multiply_add(-4.374621450325064e-12, square,
                                                                                    -1.219035624032117e-9),
                                                                       square, -1.6365085592632062e-7),
                                                          square, -1.4925649082364785e-5),
                                             square, -8.5483270230246962e-4),
                                square, -2.6866170645131083e-2),
                   square, -3.7612638903183752e-1));
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

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
