// The end of a session: the arcs' moments as pairs of doubles, their running sums around the circle, and all sums from
// these.
#include "ntk/cuda/arcs.cuh"

namespace hrta {
namespace cuda {
namespace gram_arcs {

namespace {

struct FinishWork {
  GramCall call;
  Layout layout;
};

// The moment of an arc, both ways together.
template <typename T>
__global__ void __launch_bounds__(kThreads) settle_kernel(const __grid_constant__ Layout layout) {
  const int arcs = layout.plan.arcs, at = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (at >= kMoments * arcs) return;
  const int moment = at / arcs, arc = at - moment * arcs;
  const int64_t stride = int64_t(kMoments) * arcs;
  DoubleDouble sum{0.0, 0.0};
  const int exponent = layout.drawn ? kDrawnExponent : layout.state->exponent[kind_of(moment)];
  const int unit = exponent - (layout.words == 2 ? kTermBits<2> : kTermBits<3>);
  for (int i = layout.words; i >= 0; --i) {
    int64_t limb = 0;
    for (int copy = 0; copy < layout.copies; ++copy) {
      limb += int64_t(layout.window[(int64_t(copy) * (layout.words + 1) + i) * stride + at]);
    }
    sum = with_limb(sum, limb, unit + 32 * i);
  }
#pragma unroll 4
  for (int i = kLimbs<T> - 1; i >= 0; --i) {
    sum = with_limb(sum, int64_t(layout.exact[i * stride + at]), kLowest<T> + 32 * i);
  }
  if (layout.state->bad != 0) sum.high = sum.low = __longlong_as_double(-1);
  layout.sums[arc * kMoments + moment] = sum;
}

// What one sample has of the running sums: up to where its half circle begins, to where it ends, and that plus a turn.
struct Places {
  int begin, end;  // -1: active nowhere
  DoubleDouble at_begin[kMoments], at_end[kMoments], after_turn[kMoments];

  __device__ __forceinline__ void read(const Layout& layout, int i) {
    begin = layout.plan.begin[i], end = layout.plan.end[i];
    const DoubleDouble *from = layout.sums + (begin + 1) * kMoments, *to = layout.sums + (end + 1) * kMoments;
    const DoubleDouble* turn = layout.sums + (layout.plan.arcs - 1) * kMoments;
#pragma unroll
    for (int q = 0; q < kMoments; ++q) at_begin[q] = from[q], at_end[q] = to[q], after_turn[q] = to[q] + turn[q];
  }
};

// What a sum over no neurons is.
__device__ __forceinline__ double nothing(const Layout& layout) {
  return layout.state->bad != 0 ? __longlong_as_double(-1) : 0.0;
}

// a0 b0 + a1 b1, in one way on every card.
__device__ __forceinline__ double dot(double a0, double b0, double a1, double b1) {
  return fused(a0, b0, a1 * b1);
}

// One block, a quarter for each moment: sums over the arcs before, the turn's in the place of the arc of w = 0. Then
// the sums of the samples.
__global__ void __launch_bounds__(1024, 1) scan_kernel(const __grid_constant__ FinishWork work) {
  constexpr int kQuarter = 256;
  __shared__ DoubleDouble totals[2][kMoments * kQuarter];
  const Layout& layout = work.layout;
  const int thread = int(threadIdx.x), moment = thread / kQuarter, own = thread % kQuarter;
  const int arcs = layout.plan.arcs - 1, range = (arcs + kQuarter - 1) / kQuarter;
  const int first = at_most(own * range, arcs), last = at_most(first + range, arcs);
  DoubleDouble* const sums = layout.sums + moment;
  DoubleDouble sum{0.0, 0.0};
#pragma unroll 4
  for (int k = first; k < last; ++k) sum = sum + sums[k * kMoments];
  totals[0][thread] = sum;
  int from = 0;
  for (int offset = 1; offset < kQuarter; offset *= 2, from ^= 1) {
    __syncthreads();
    const DoubleDouble here = totals[from][thread];
    totals[from ^ 1][thread] = own >= offset ? totals[from][thread - offset] + here : here;
  }
  __syncthreads();
  sum = own == 0 ? DoubleDouble{0.0, 0.0} : totals[from][thread - 1];
#pragma unroll 4
  for (int k = first; k < last; ++k) {
    const DoubleDouble here = sums[k * kMoments];
    sums[k * kMoments] = sum;
    sum = sum + here;
  }
  if (own == kQuarter - 1) {
    const DoubleDouble turn = totals[from][thread], rest = sums[arcs * kMoments], all = turn + rest;
    sums[arcs * kMoments] = turn;
    if (moment == 0) *work.call.sums.square_sum = all.high + all.low;
  }
  __syncthreads();
  const double* const x = work.call.x;
  const GramSums& out = work.call.sums;
  double all[kMoments];
#pragma unroll
  for (int q = 0; q < kMoments; ++q)
    all[q] = layout.sums[arcs * kMoments + q].high + layout.sums[arcs * kMoments + q].low;
  for (int i = thread; i < layout.plan.n; i += int(blockDim.x)) {
    const double x0 = x[2 * i], x1 = x[2 * i + 1];
    const int begin = layout.plan.begin[i], end = layout.plan.end[i];
    double active[kMoments];
#pragma unroll
    for (int q = 0; q < kMoments; ++q) {
      DoubleDouble to = layout.sums[(end + 1) * kMoments + q];
      if (end < begin) to = to + layout.sums[arcs * kMoments + q];
      active[q] = begin < 0 ? nothing(layout) : difference(to, layout.sums[(begin + 1) * kMoments + q]);
    }
    out.linear[2 * i] = dot(all[1], x0, all[2], x1);
    out.linear[2 * i + 1] = dot(all[2], x0, all[3], x1);
    out.cross[2 * i] = dot(active[1], x0, active[2], x1);
    out.cross[2 * i + 1] = dot(active[2], x0, active[3], x1);
    out.slope_sum[i] = active[0];
  }
}

constexpr int kPairRows = 32;

// The upper triangles of both products: a column a thread, kPairRows rows a block. Two half circles meet in one range
// of arcs, from where the later one begins to where the earlier one ends; in none if they are opposite.
__global__ void __launch_bounds__(kThreads) pair_kernel(const __grid_constant__ FinishWork work) {
  __shared__ Places rows[kPairRows];
  const Layout& layout = work.layout;
  const int n = layout.plan.n, row0 = int(blockIdx.y) * kPairRows, column0 = int(blockIdx.x) * kThreads;
  if (row0 >= column0 + kThreads) return;  // below the diagonal
  const int thread = int(threadIdx.x), j = column0 + thread;
  const int count = at_most(n - row0, kPairRows);
  if (thread < count) rows[thread].read(layout, row0 + thread);
  __syncthreads();
  if (j >= n) return;
  Places column;
  column.read(layout, j);
  const double* const x = work.call.x;
  const double y0 = x[2 * j], y1 = x[2 * j + 1], none = nothing(layout);
  const int around = 2 * n;  // any number beyond all places goes around the circle
  const auto ahead = [&](int to, int from) { return to >= from ? to - from : to - from + around; };
  for (int r = 0; r < count; ++r) {
    const int i = row0 + r;
    if (i > j) break;
    const Places& row = rows[r];
    double both[kMoments] = {none, none, none, none};
    if (row.begin >= 0 && column.begin >= 0) {
      if (ahead(column.begin, row.begin) < ahead(row.end, row.begin)) {
        const DoubleDouble* to = row.end < column.begin ? row.after_turn : row.at_end;
#pragma unroll
        for (int q = 0; q < kMoments; ++q) both[q] = difference(to[q], column.at_begin[q]);
      } else if (ahead(row.begin, column.begin) < ahead(column.end, column.begin)) {
        const bool turns = column.end < row.begin;
#pragma unroll
        for (int q = 0; q < kMoments; ++q) {
          both[q] = difference(turns ? column.after_turn[q] : column.at_end[q], row.at_begin[q]);
        }
      }
    }
    const double x0 = x[2 * i], x1 = x[2 * i + 1];
    const int64_t at = int64_t(i) * n + j;
    work.call.sums.slope_product[at] = both[0];
    work.call.sums.value_product[at] = dot(x0, dot(both[1], y0, both[2], y1), x1, dot(both[2], y0, both[3], y1));
  }
}

unsigned ceil_div(int64_t count, int64_t unit) {
  return static_cast<unsigned>((count + unit - 1) / unit);
}

}  // namespace

void launch_finish(const GramCall& call, const Layout& layout, void* stream) {
  const FinishWork work{call, layout};
  const unsigned blocks = ceil_div(int64_t(kMoments) * layout.plan.arcs, kThreads);
  if (layout.limbs == kLimbs<float>) {
    launch(settle_kernel<float>, dim3(blocks), kThreads, stream, layout);
  } else {
    launch(settle_kernel<double>, dim3(blocks), kThreads, stream, layout);
  }
  launch(scan_kernel, dim3(1), 1024, stream, work);
  launch(pair_kernel, dim3(ceil_div(call.n, kThreads), ceil_div(call.n, kPairRows)), kThreads, stream, work);
}

}  // namespace gram_arcs
}  // namespace cuda
}  // namespace hrta
