// Between two sweeps (arcs_sweep.cuh), by one block: outputs, loss and pull from the sums over arcs. A sample is active
// on the arcs begin + 1 .. end: with U_i the sum of a w over them and V that over all,
//   f_i = m^(-1/2) x_i . ((1 - s) V + s U_i),
//   pull of an arc = m^(-1/2) ((1 - s) R + s (sum of r_i over the samples active there)),  r_i = dR/df_i x_i, R = sum
//   r_i.
// Both are differences of running sums around the circle.
#pragma once

#include "circle/cuda/scan.cuh"
#include "training/cuda/arcs_data.cuh"

namespace hrta {
namespace cuda {
namespace arcs {
namespace training {

constexpr int kMiddleThreads = 1024;

template <typename T>
struct MiddleWork {
  Data<T> data;
  const double* sums;  // (2, arcs)
  double2* prefix;     // (arcs + 1)
  double2* terms;      // (2 n), 0 where there is no bound
  Point<T>* pull;      // (arcs)
  Shares shares;       // at the step's s
  int64_t step;        // -1: outputs alone
};

template <typename T>
__global__ void __launch_bounds__(kMiddleThreads, 1) middle_kernel(const __grid_constant__ MiddleWork<T> work) {
  const Data<T>& data = work.data;
  const Plan<T>& plan = data.plan;
  const Shares& shares = work.shares;
  if (stopped(data.done)) return;
  __shared__ Two<double> scan_shared[2][kWarp];
  __shared__ double values[5][kMiddleThreads], totals[5];  // loss, sum of r, sum of r of the samples active on arc 0
  const int thread = int(threadIdx.x), threads = int(blockDim.x), n = plan.n, arcs = plan.arcs;
  Two<double> all{}, unused{};
  {
    const int share = (arcs + threads - 1) / threads;
    const int first = at_most(thread * share, arcs), last = at_most(first + share, arcs);
    Two<double> own{};
    for (int k = first; k < last; ++k) own.x += work.sums[k], own.y += work.sums[arcs + k];
    Two<double> sum = exclusive_scan(own, threads / kWarp, scan_shared[0], &all);
    for (int k = first; k < last; ++k) {
      work.prefix[k] = make_double2(sum.x, sum.y);
      sum.x += work.sums[k], sum.y += work.sums[arcs + k];
    }
    if (last == arcs && first < last) work.prefix[arcs] = make_double2(sum.x, sum.y);
    __syncthreads();
  }
  double loss = 0, R0 = 0, R1 = 0, first0 = 0, first1 = 0;
  for (int i = thread; i < n; i += threads) {
    const double x0 = double(plan.x[2 * i]), x1 = double(plan.x[2 * i + 1]);
    const int begin = plan.begin[i], end = plan.end[i];
    double u0 = 0, u1 = 0;
    if (begin >= 0) {
      const double2 from = work.prefix[begin + 1], to = work.prefix[end + 1];
      u0 = to.x - from.x, u1 = to.y - from.y;
      if (end < begin) u0 += all.x, u1 += all.y;
    }
    const double f = x0 * (shares.all * all.x + shares.active * u0) + x1 * (shares.all * all.y + shares.active * u1);
    data.f[i] = f;
    if (work.step < 0) continue;
    const double weight = data.sample_weight == nullptr ? 1.0 : double(data.sample_weight[i]);
    const double residual = f - double(data.y[i]);
    loss += weight * (residual * residual);
    const double g = double(T(weight * residual * data.over_n)), r0 = g * x0, r1 = g * x1;
    R0 += r0, R1 += r1;
    if (begin < 0) continue;
    work.terms[begin] = make_double2(r0, r1);
    work.terms[end] = make_double2(-r0, -r1);
    if (end < begin) first0 += r0, first1 += r1;
  }
  if (work.step < 0) return;
  values[0][thread] = loss, values[1][thread] = R0, values[2][thread] = R1;
  values[3][thread] = first0, values[4][thread] = first1;
  __syncthreads();  // terms too
  if (thread < 5 * kWarp) {
    double sum = 0;
    for (int i = thread % kWarp; i < at_most(n, threads); i += kWarp) sum += values[thread / kWarp][i];
    sum = sum_over_warp(sum);
    if (thread % kWarp == 0) totals[thread / kWarp] = sum;
  }
  const int bounds = 2 * n, share = (bounds + threads - 1) / threads;
  const int first = at_most(thread * share, bounds), last = at_most(first + share, bounds);
  Two<double> own{};
  for (int k = first; k < last; ++k) own.x += work.terms[k].x, own.y += work.terms[k].y;
  Two<double> sum = exclusive_scan(own, threads / kWarp, scan_shared[1], &unused);  // its barrier: totals are there
  sum.x += totals[3], sum.y += totals[4];
  if (thread == 0) {
    loss = totals[0] * (0.5 * data.over_n);
    data.loss[work.step] = loss;
    if (!(absolute(loss) <= FloatTraits<double>::kLargest)) *data.done = work.step + 1;
  }
  const auto set = [&](int arc) {  // nothing active: exactly the rest, not what rounding leaves of a sum that is 0
    const Two<double> along = plan.active[arc] == 0 ? Two<double>{} : sum;
    work.pull[arc] = Point<T>{T(shares.all * totals[1] + shares.active * along.x),
                              T(shares.all * totals[2] + shares.active * along.y)};
  };
  for (int k = first; k < last; ++k) {
    set(k);
    sum.x += work.terms[k].x, sum.y += work.terms[k].y;
  }
  if (last != bounds || first == last) return;
  set(bounds);
  sum = {};
  set(bounds + 1);  // of w = 0
}

}  // namespace training
}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
