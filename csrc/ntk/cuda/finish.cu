// The end of a session: integers to sums, the matrices' figures for the bound; and the matrices at s.
#include "ntk/cuda/plan.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

// product (n, n): integers of all planes, in place or of the layout, times step_i step_j; zero below the diagonal.
// grid (columns, rows). `by_norms`: a step is `unit` of norm_i, of a bound's square root; else unit and bound alone.
__global__ void __launch_bounds__(kThreads)
    product_kernel(const __grid_constant__ Layout layout, int n, bool values, double unit, long long* product) {
  const int i = int(blockIdx.y), j = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (j >= n) return;
  const long long* planes = values ? layout.value_planes : layout.slope_planes;
  const int64_t at = int64_t(i) * n + j, mirrored = int64_t(j) * n + i;
  const bool in_tile = values && i / kRows == j / kRows && i < j;  // what the tile of the diagonal left below it
  long long sum = 0;
  if (layout.planes > 0) {
    for (int64_t plane = 0; plane < layout.planes && i <= j; ++plane) {
      const long long* from = planes + plane * n * n;
      sum += from[at] + (in_tile ? from[mirrored] : 0);
    }
  } else if (i <= j) {
    sum = product[at] + (in_tile ? product[mirrored] : 0);
    if (in_tile) product[mirrored] = 0;
  }
  if (i > j) return;
  const double bound = as_double(values ? layout.state->norm2 : layout.state->square);
  const double step = values ? layout.norms[i] * layout.norms[j] * (bound * unit) : bound * unit;
  product[at] = __double_as_longlong(double(sum) * step);
}

// linear = X W^T W, cross, (linear + sum |z| w) / 2 for ReLU's two and three digits, slope_sum, from the diagonal of Q
// for ReLU, square_sum.
__global__ void __launch_bounds__(kThreads)
    sums_kernel(const __grid_constant__ GramCall call, const __grid_constant__ Layout layout, double square_unit) {
  const int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int D = int(call.D);
  if (at >= call.n * call.D) return;
  const int64_t i = at / D;
  const int d = int(at - i * D);
  const double norm2 = as_double(layout.state->norm2), unit = fixed_unit(call.total * norm2);
  const State& state = *layout.state;
  const double square = as_double(state.square);
  if (layout.features != 0) {
    double sum = 0.0;
    for (int e = 0; e < D; ++e) {
      const int low = min(d, e), high = max(d, e);
      const int64_t pair = low * D - low * (low - 1) / 2 + high - low;
      const double moment = from_fixed(layout.moment[pair], layout.moment[layout.pairs + pair], unit);
      sum = fma(moment, call.x[i * D + e], sum);
    }
    call.sums.linear[at] = sum;
    call.sums.cross[at] =
        by_levels(call) ? from_fixed(layout.cross[at], layout.cross_rest[at], fixed_unit(cross_bound(call, layout, i)))
                        : 0.5 * (sum + double(layout.cross[at]) * (unit * layout.norms[i]));
  }
  if (!by_levels(call) && call.square_digits == 0) return;  // left out: what an earlier session found stays
  if (at == 0) {
    *call.sums.square_sum = by_levels(call)
                                ? from_fixed(state.square_sum, state.square_rest, fixed_unit(call.total * square))
                                : double(state.square_sum) * (square * square_unit);
  }
  if (d > 0) return;
  if (call.base == kRelu) {
    call.sums.slope_sum[i] = call.sums.slope_product[i * call.n + i];
  } else {
    const double slope_unit = fixed_unit(slope_sum_bound(call, layout, i));
    call.sums.slope_sum[i] = from_fixed(layout.slope_sum[i], layout.slope_sum[call.n + i], slope_unit);
  }
}

// figures (ceil(n / 8), 20), of 8 rows each: over the upper triangle and its mirror image the inner products of the
// three terms of G^[a] (m times, without powers of s), of those of G^[w], then sum P_ii, sum |x_i|^2, the largest
// |x_i| (or the bounds that stand for these); in column 15 the largest |w_k|^2 and a_k^2, and sum a_k^2. With V_i and
// U_i the bounds on values and slopes: the sums of (x_i . x_j)^2 U_i^2 U_j^2, of (x_i . x_j)^2 U_i^2 Q_jj and of V_i^2,
// and the largest V_i. Eight rows at once, for the traffic of what belongs to column j, and kFigureFeatures of their
// features.
__global__ void __launch_bounds__(kThreads)
    figures_kernel(const __grid_constant__ GramCall call, const __grid_constant__ Layout layout) {
  const bool given = layout.features == 0;
  const int D = int(call.D), n = int(call.n), row0 = int(blockIdx.x) * kFigureRows, tid = int(threadIdx.x);
  __shared__ double rows[3][kFigureRows][kFigureFeatures];  // x, linear, cross
  double found[17] = {};
  const double square_sum = *call.sums.square_sum;
  for (int j0 = row0; j0 < n; j0 += kThreads) {  // all threads, for the barriers
    const int j = j0 + tid;
    double inner[kFigureRows] = {}, linear[kFigureRows] = {}, cross[kFigureRows] = {};
    for (int d0 = 0; d0 < D; d0 += kFigureFeatures) {
      const int features = min(D - d0, kFigureFeatures);
      if (j0 == row0 || D > kFigureFeatures) {
        __syncthreads();
        for (int item = tid; item < kFigureRows * features; item += kThreads) {
          const int i = item / features, d = item - i * features;
          const int64_t at = int64_t(row0 + i) * D + d0 + d;
          const bool there = row0 + i < n;
          rows[0][i][d] = there ? call.x[at] : 0.0;
          rows[1][i][d] = there ? call.sums.linear[at] : 0.0;
          rows[2][i][d] = there ? call.sums.cross[at] : 0.0;
        }
        __syncthreads();
      }
      for (int d = 0; j < n && d < features; ++d) {
        const int64_t at = int64_t(j) * D + d0 + d;
        const double x = call.x[at], l = call.sums.linear[at], c = call.sums.cross[at];
#pragma unroll
        for (int i = 0; i < kFigureRows; ++i) {
          const double xi = rows[0][i][d];
          inner[i] = fma(xi, x, inner[i]);
          linear[i] += 0.5 * fma(rows[1][i][d], x, xi * l);
          cross[i] += fma(rows[2][i][d], x, xi * c);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kFigureRows; ++i) {
      const int row = row0 + i;
      if (row > j || j >= n) continue;
      const double twice = row < j ? 2.0 : 1.0;
      const int64_t at = int64_t(row) * n + j;
      const double mixed = call.sums.slope_sum[row] + call.sums.slope_sum[j];
      const double terms[2][3] = {{linear[i], cross[i], call.sums.value_product[at]},
                                  {inner[i] * square_sum, inner[i] * mixed, inner[i] * call.sums.slope_product[at]}};
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        const double* c = terms[g];
        found[6 * g] = fma(twice * c[0], c[0], found[6 * g]);
        found[6 * g + 1] = fma(twice * c[0], c[1], found[6 * g + 1]);
        found[6 * g + 2] = fma(twice * c[0], c[2], found[6 * g + 2]);
        found[6 * g + 3] = fma(twice * c[1], c[1], found[6 * g + 3]);
        found[6 * g + 4] = fma(twice * c[1], c[2], found[6 * g + 4]);
        found[6 * g + 5] = fma(twice * c[2], c[2], found[6 * g + 5]);
      }
      const double u2 = layout.slope_bounds[row] * layout.slope_bounds[row];
      const double other2 = layout.slope_bounds[j] * layout.slope_bounds[j], inner2 = inner[i] * inner[i];
      const double q = call.sums.slope_product[int64_t(row) * n + row];
      const double other_q = call.sums.slope_product[int64_t(j) * n + j];
      found[14] = fma(twice * inner2 * u2, other2, found[14]);
      found[15] = fma(0.5 * twice * inner2, u2 * other_q + other2 * q, found[15]);
      if (row == j) {
        found[12] += terms[0][2], found[13] += given ? layout.norms[j] * layout.norms[j] : inner[i];
        found[16] = fma(layout.value_bounds[row], layout.value_bounds[row], found[16]);
      }
    }
  }
  double* out = call.figures + int64_t(blockIdx.x) * kFigures;
#pragma unroll
  for (int f = 0; f < 17; ++f) {
    const double sum = sum_over_block(found[f]);
    if (tid == 0) out[f < 14 ? f : f + 2] = sum;
  }
  if (tid != 0) return;
  double largest = 0.0, bound = 0.0;
  for (int i = row0; i < n && i < row0 + kFigureRows; ++i) {
    largest = fmax(largest, layout.norms[i]), bound = fmax(bound, layout.value_bounds[i]);
  }
  out[14] = largest, out[19] = bound;
  const State& state = *layout.state;
  const double first[3] = {as_double(state.norm2), as_double(state.square), square_sum};
  out[15] = blockIdx.x < 3 ? first[blockIdx.x] : 0.0;
}

// Entry (i, j) of both matrices for all s; where they are symmetric (j, i) by another thread from the same numbers.
// Blocks of 32 by 8 samples, so that what lies mirrored is read by whole sectors too.
template <typename T>
__global__ void __launch_bounds__(kThreads) evaluate_kernel(const __grid_constant__ GramEvaluation call) {
  const bool symmetric = call.n2 == 0;
  const int64_t n = call.n, n2 = symmetric ? n : call.n2, j = int64_t(blockIdx.x) * 32 + threadIdx.x % 32;
  if (j >= n2) return;
  const double per_neuron = 1.0 / call.width, square_sum = *call.sums.square_sum * per_neuron;
  for (int64_t i = int64_t(blockIdx.y) * 8 + threadIdx.x / 32; i < n; i += int64_t(gridDim.y) * 8) {
    const int64_t row = symmetric && j < i ? j : i, column = symmetric && j < i ? i : j;
    const int64_t here = row * n2 + column, there = column * n + row;
    const double linear = symmetric ? call.linear[there] : 0.0, cross = symmetric ? call.cross[there] : 0.0;
    const double mixed = call.sums.slope_sum[row] + call.sums.slope_sum[symmetric ? column : n + column];
    const double inner = call.inner[here];
    const double terms[2][3] = {
        {0.5 * per_neuron * (call.linear[here] + linear), per_neuron * (call.cross[here] + cross),
         per_neuron * call.sums.value_product[here]},
        {inner * square_sum, inner * (per_neuron * mixed), inner * (per_neuron * call.sums.slope_product[here])}};
    for (int64_t at = 0; at < call.S; ++at) {
      const double s = call.s[at], r = 1.0 - s;
      const double factors[3] = {call.derivative ? -2.0 * r : r * r, call.derivative ? r - s : r * s,
                                 call.derivative ? 2.0 * s : s * s};
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        const double* c = terms[g];
        const double sum = fma(factors[0], c[0], fma(factors[1], c[1], factors[2] * c[2]));
        static_cast<T*>(g == 0 ? call.a : call.w)[(at * n + i) * n2 + j] = T(sum);
      }
    }
  }
}

unsigned ceil_div(int64_t count, int64_t unit) {
  return static_cast<unsigned>((count + unit - 1) / unit);
}

}  // namespace

void launch_finish(const GramCall& call, const Layout& layout, void* stream) {
  const int n = int(call.n);
  const dim3 grid(ceil_div(n, kThreads), unsigned(n));
  const double range = 0x1p32 * kFill, square_range = ldexp(kSquareFill, 8 * layout.square_digits);
  // v = sqrt(norm2) norm / range 2^16 q for two digits; for three 2^10 q, and products are in units of 2^14.
  const double unit = call.digits == 2 ? 0x1p32 : 0x1p20 * 0x1p14;
  if (by_levels(call)) {
    launch_words(call, layout, stream);
  } else {
    if (call.digits != 0) {
      launch(product_kernel, grid, kThreads, stream, layout, n, true, unit / (range * range),
             reinterpret_cast<long long*>(call.sums.value_product));
    }
    if (call.square_digits != 0) {
      launch(product_kernel, grid, kThreads, stream, layout, n, false, 1.0 / square_range,
             reinterpret_cast<long long*>(call.sums.slope_product));
    }
  }
  launch(sums_kernel, dim3(ceil_div(call.n * call.D, kThreads)), kThreads, stream, call, layout, 1.0 / square_range);
}

void launch_figures(const GramCall& call, const Layout& layout, void* stream) {
  launch(figures_kernel, dim3(unsigned(gram_figures(call.n))), kThreads, stream, call, layout);
}

}  // namespace digits

using namespace digits;

const char* gram_evaluate(const GramEvaluation& call, int device, void* stream) {
  if (call.n == 0 || call.S == 0) return nullptr;
  DeviceGuard guard(device);
  const unsigned rows = ceil_div(call.n, 8);
  const dim3 grid(ceil_div(call.n2 == 0 ? call.n : call.n2, 32), rows < 65535 ? rows : 65535);
  if (call.high) {
    launch(evaluate_kernel<double>, grid, kThreads, stream, call);
  } else {
    launch(evaluate_kernel<float>, grid, kThreads, stream, call);
  }
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
