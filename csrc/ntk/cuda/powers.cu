// Sums of Hermite expansions (hrta_ext/ntk/hermite.py) by Horner's rule. A thread has one column and eight rows, so
// that a coefficient of the column, from the L2 cache, serves eight of them.
#include "gpu/launch.cuh"
#include "ntk/gram.h"

namespace hrta {
namespace cuda {
namespace {

constexpr int kRows = 8, kTerms = 64;  // of the rows' coefficients at a time

__global__ void __launch_bounds__(kThreads) power_sum_kernel(int64_t n, int64_t n2, int64_t terms, const double* left,
                                                             const double* right, const double* base, double* result) {
  __align__(16) __shared__ double shared[kTerms][kRows];
  const int64_t columns = (n2 + kThreads - 1) / kThreads, row = blockIdx.x / columns * kRows;
  const int64_t j = blockIdx.x % columns * kThreads + threadIdx.x, column = j < n2 ? j : n2 - 1;
  double power[kRows], sum[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    power[i] = base[(row + i < n ? row + i : n - 1) * n2 + column], sum[i] = 0.0;
  }
  for (int64_t end = terms; end > 0; end -= kTerms) {
    const int count = int(end < kTerms ? end : kTerms);
    const int64_t first = end - count;
    __syncthreads();  // the terms before have been read
    for (int at = int(threadIdx.x); at < count * kRows; at += kThreads) {
      const int i = at / count, k = at - i * count;
      shared[k][i] = row + i < n ? left[(row + i) * terms + first + k] : 0.0;
    }
    __syncthreads();
    for (int k = count - 1; k >= 0; --k) {
      const double factor = right[(first + k) * n2 + column];
#pragma unroll
      for (int i = 0; i < kRows; ++i) sum[i] = fma(sum[i], power[i], shared[k][i] * factor);
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (j < n2 && row + i < n) result[(row + i) * n2 + j] = sum[i];
  }
}

}  // namespace

const char* power_sum(int64_t n, int64_t n2, int64_t terms, const double* left, const double* right, const double* base,
                      double* result, int device, void* stream) {
  if (n * n2 == 0) return nullptr;
  DeviceGuard guard(device);
  const dim3 grid(unsigned((n + kRows - 1) / kRows * ((n2 + kThreads - 1) / kThreads)));
  launch(power_sum_kernel, grid, kThreads, stream, n, n2, terms, left, right, base, result);
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
