// Training by arcs in one launch: a thread keeps its neurons and their moments in registers for all steps; a block
// keeps the search and the bins of its neurons in shared memory. Once a step the blocks add their bins up in global
// memory and meet; what lies between two sweeps (arcs_middle.cuh) every block then does for itself, from the same
// integers to the same bits.
#pragma once

#include <vector>

#include "circle/cuda/scan.cuh"
#include "gpu/cooperation.cuh"
#include "training/cuda/arcs_data.cuh"
#include "training/update.h"

namespace hrta {
namespace cuda {
namespace arcs {
namespace training {

// Threads of a block; of a thread: neurons, arcs, and so samples (2 n + 2 <= arcs of a block).
template <typename T, int threads, int neurons, int arcs>
struct Form {
  using Type = T;
  static constexpr int kThreads = threads, kNeurons = neurons, kArcs = arcs, kSamples = arcs / 2;
};

template <typename T>
struct PersistentWork {
  Data<T> data;
  int bits;                     // as bits_for all neurons
  int64_t count;                // of steps
  const StepNumbers<T>* steps;  // (count)
  const double* s;              // (count + 1)
  unsigned long long* sums;     // (3, 2, arcs), zero: of this meeting, of the next, of the one before
  uint32_t *most, *arrived;     // (3), (), zero
};

// Dynamic shared memory; null to measure it.
template <typename T>
struct PersistentMemory {
  Two<int64_t>* prefix;     // (arcs)
  double2* terms;           // (2 n), 0 where there is no bound
  Point<T>*bound, *pull;    // (arcs) each
  double* values;           // (5, n): loss; r; r of the samples active on arc 0
  T* y;                     // (n)
  uint32_t *table, *words;  // (parts + 1), of the bins
  size_t bytes;

  HRTA_INLINE PersistentMemory(unsigned char* memory, int n, int arcs, int parts) {
    prefix = reinterpret_cast<Two<int64_t>*>(memory), terms = reinterpret_cast<double2*>(prefix + arcs);
    bound = reinterpret_cast<Point<T>*>(terms + 2 * n), pull = bound + arcs;
    values = reinterpret_cast<double*>(pull + arcs), y = reinterpret_cast<T*>(values + 5 * n);
    table = reinterpret_cast<uint32_t*>(y + n), words = table + parts + 1;
    bytes = 16 * size_t(arcs + 2 * n) + 2 * sizeof(Point<T>) * size_t(arcs) + (40 + sizeof(T)) * size_t(n) +
            4 * (size_t(parts) + 1 + 4 * size_t(arcs));
  }
};

template <typename F>
__global__ void __launch_bounds__(F::kThreads, 1)
    persistent_kernel(const __grid_constant__ PersistentWork<typename F::Type> work) {
  using T = typename F::Type;
  constexpr int kThreads = F::kThreads, kNeurons = F::kNeurons, kArcs = F::kArcs, kSamples = F::kSamples;
  const Data<T>& data = work.data;
  const Plan<T>& plan = data.plan;
  const int n = plan.n, arcs = plan.arcs, thread = int(threadIdx.x);
  __shared__ Two<int64_t> scan_integers[kWarp];
  __shared__ Two<double> scan_doubles[kWarp];
  __shared__ double totals[5];
  __shared__ uint32_t shared_most;
  __shared__ Shares shares;  // at the step's s
  const PersistentMemory<T> memory(shared_memory(), n, arcs, plan.parts);
  const Bins bins(memory.words, arcs, 0);
  for (int k = thread; k < 2 * n; k += kThreads) {
    memory.bound[k] = plan.bound[k];
    memory.terms[k] = make_double2(0.0, 0.0);
  }
  for (int k = thread; k <= plan.parts; k += kThreads) memory.table[k] = plan.table[k];
  for (int k = thread; k < 4 * bins.plane; k += kThreads) bins.words[k] = 0;
  if (thread == 0) shared_most = 0;
  const Search<T> search{memory.bound, memory.table, plan.owner, plan.parts};

  const int64_t first = (int64_t(blockIdx.x) * kThreads + thread) * kNeurons;
  const int count = int(at_most(at_least(data.m - first, int64_t(0)), int64_t(kNeurons)));
  Neurons<kNeurons, T> own{};
  with_rule(data.rule, [&](auto rule) { load<decltype(rule)::value>(data, first, count, own); });
  // A thread's samples lie kThreads apart, its arcs side by side.
  uint32_t active[kSamples] = {};  // on the arcs from the lower 16 bits on, before the upper 16; 0: on none
#pragma unroll
  for (int k = 0; k < kSamples; ++k) {
    const int i = thread + k * kThreads;
    if (i >= n) continue;
    memory.y[i] = data.y[i];
    active[k] = uint32_t(plan.begin[i] + 1) | uint32_t(plan.end[i] + 1) << 16;
  }
  bool silent[kArcs];
#pragma unroll
  for (int k = 0; k < kArcs; ++k) {
    silent[k] = thread * kArcs + k >= arcs || plan.active[thread * kArcs + k] == 0;
  }
  const int warps = (arcs + kArcs * kWarp - 1) / (kArcs * kWarp);  // of the scans
  int exponent = exponent_for<T>(0);                               // seldom right at first
  uint32_t phase = 0, target = 0;
  __syncthreads();

  for (int64_t step = 0;; ++step) {
    // Sums of the present weights over each arc.
    int arc[kNeurons];
    arcs_of<kNeurons>(search, own.w, arc);
    Two<int64_t> sums[kArcs];
    uint32_t most;
    const double s = thread == 0 ? work.s[step] : 0.0;  // arrives while the sums meet
    for (;;) {
      most = block_most(add<kNeurons>(bins, arc, count, power_of_two(work.bits - exponent), own), &shared_most);
#pragma unroll
      for (int k = 0; k < kArcs; ++k) {
        const int at = thread * kArcs + k;
        sums[k] = {0, 0};
        if (at >= arcs) continue;
        sums[k] = {bins.sum(0, at), bins.sum(1, at)};
        uint32_t* const words = bins.words + at;
        words[0] = words[bins.plane] = words[2 * bins.plane] = words[3 * bins.plane] = 0;
      }
      if (gridDim.x > 1) {
        unsigned long long* here = work.sums + (phase % 3) * 2 * arcs;
        unsigned long long* cleared =
            work.sums + ((phase + 1) % 3) * 2 * arcs;  // all have read it before they came here
#pragma unroll
        for (int k = 0; k < kArcs; ++k) {
          const int at = thread * kArcs + k;
          if (at >= arcs) continue;
          if (sums[k].x != 0) atomicAdd(here + at, (unsigned long long)(sums[k].x));
          if (sums[k].y != 0) atomicAdd(here + arcs + at, (unsigned long long)(sums[k].y));
          if (blockIdx.x == 0) cleared[at] = cleared[arcs + at] = 0;
        }
        if (thread == 0) {
          atomicMax(work.most + phase % 3, most);
          if (blockIdx.x == 0) work.most[(phase + 1) % 3] = 0;
        }
        grid_barrier(work.arrived, target);
#pragma unroll
        for (int k = 0; k < kArcs; ++k) {
          const int at = thread * kArcs + k;
          if (at >= arcs) continue;
          sums[k] = {int64_t(__ldcg(here + at)), int64_t(__ldcg(here + arcs + at))};
        }
        most = __ldcg(work.most + phase % 3);
        ++phase;
      }
      const int exact = exponent_for<T>(most);
      if (!is_finite<T>(most) || exact == exponent) break;
      exponent = exact;
      __syncthreads();  // all have read shared_most and cleared their bins
      if (thread == 0) shared_most = 0;
      __syncthreads();
    }
    const double unit = unit_of<T>(most, exponent, work.bits);
    // Outputs. The samples come anew in each step: there are too few registers for them.
    T x0[kSamples] = {}, x1[kSamples] = {};
#pragma unroll
    for (int k = 0; k < kSamples; ++k) {
      const int i = thread + k * kThreads;
      if (i < n) x0[k] = plan.x[2 * i], x1[k] = plan.x[2 * i + 1];
    }
    Two<int64_t> mine{0, 0}, all;
#pragma unroll
    for (int k = 0; k < kArcs; ++k) mine.x += sums[k].x, mine.y += sums[k].y;
    Two<int64_t> before = exclusive_scan(mine, warps, scan_integers, &all);
    if (thread == 0) shared_most = 0, shares = shares_of(data.scale, s);
#pragma unroll
    for (int k = 0; k < kArcs; ++k) {
      if (thread * kArcs + k < arcs) memory.prefix[thread * kArcs + k] = before;
      before.x += sums[k].x, before.y += sums[k].y;
    }
    __syncthreads();
    const bool last = step == work.count;
#pragma unroll
    for (int k = 0; k < kSamples; ++k) {
      const int i = thread + k * kThreads;
      if (i >= n) continue;
      const int from = int(active[k] & 0xffff), to = int(active[k] >> 16);
      Two<int64_t> u{0, 0};
      if (from > 0) {
        const Two<int64_t> low = memory.prefix[from], high = memory.prefix[to];
        u = {high.x - low.x, high.y - low.y};
        if (to < from) u.x += all.x, u.y += all.y;
      }
      const double along0 = double(x0[k]), along1 = double(x1[k]);
      const double f = unit * (along0 * (shares.all * double(all.x) + shares.active * double(u.x)) +
                               along1 * (shares.all * double(all.y) + shares.active * double(u.y)));
      if (blockIdx.x == 0) data.f[i] = f;
      if (last) continue;
      const double weight = data.sample_weight == nullptr ? 1.0 : double(data.sample_weight[i]);
      const double residual = f - double(memory.y[i]), g = double(T(weight * residual * data.over_n));
      const double r0 = g * along0, r1 = g * along1;
      memory.values[i] = weight * (residual * residual);
      memory.values[n + i] = r0;
      memory.values[2 * n + i] = r1;
      memory.values[3 * n + i] = to < from ? r0 : 0.0;
      memory.values[4 * n + i] = to < from ? r1 : 0.0;
      if (from == 0) continue;
      memory.terms[from - 1] = make_double2(r0, r1);
      memory.terms[to - 1] = make_double2(-r0, -r1);
    }
    if (last) break;
    const StepNumbers<T> numbers = work.steps[step];  // arrives before it is needed
    __syncthreads();
    // Loss and pull.
    const int from_last = (kThreads - 1 - thread) / kWarp;  // the first warps have the scan to do
    if (from_last < 5) {
      double sum = 0;
      for (int i = thread % kWarp; i < n; i += kWarp) sum += memory.values[from_last * n + i];
      sum = sum_over_warp(sum);
      if (thread % kWarp == 0) totals[from_last] = sum;
    }
    Two<double> term[kArcs], of_terms{0.0, 0.0}, unused;
#pragma unroll
    for (int k = 0; k < kArcs; ++k) {
      const int at = thread * kArcs + k;
      term[k] = at < 2 * n ? Two<double>{memory.terms[at].x, memory.terms[at].y} : Two<double>{0.0, 0.0};
      of_terms.x += term[k].x, of_terms.y += term[k].y;
    }
    Two<double> running = exclusive_scan(of_terms, warps, scan_doubles, &unused);  // its barrier: totals are there
    const double loss = totals[0] * (0.5 * data.over_n);
    if (thread == 0 && blockIdx.x == 0) data.loss[step] = loss;
    if (!(absolute(loss) <= FloatTraits<double>::kLargest)) {
      if (thread == 0 && blockIdx.x == 0) *data.done = step + 1;
      break;
    }
    running.x += totals[3], running.y += totals[4];
#pragma unroll
    for (int k = 0; k < kArcs; ++k) {  // nothing active: exactly the rest, not what rounding leaves of a sum that is 0
      const double along0 = silent[k] ? 0.0 : running.x, along1 = silent[k] ? 0.0 : running.y;
      if (thread * kArcs + k < arcs) {
        memory.pull[thread * kArcs + k] = Point<T>{T(shares.all * totals[1] + shares.active * along0),
                                                   T(shares.all * totals[2] + shares.active * along1)};
      }
      running.x += term[k].x, running.y += term[k].y;
    }
    __syncthreads();
    with_rule(data.rule,
              [&](auto rule) { own.template step<decltype(rule)::value>(data.rates, numbers, memory.pull, arc); });
  }
  with_rule(data.rule, [&](auto rule) { store<decltype(rule)::value>(own, first, count, data); });
}

// --- its launch -----------------------------------------------------------------------------------------------------

namespace persistent {

// Scratch memory of a call of `count` steps.
template <typename T>
struct Layout {
  Plan<T> plan;
  unsigned long long* sums;
  uint32_t *most, *arrived;
  StepNumbers<T>* steps;  // what lies between sums and this is to be zero
  double* s;
  int64_t bytes;

  Layout(const TwoLayerTraining& t, int64_t count, void* scratch) {
    Memory memory(scratch);
    plan = plan_in<T>(memory, t.x, t.n);
    sums = memory.take<unsigned long long>(3 * 2 * plan.arcs);
    most = memory.take<uint32_t>(3), arrived = memory.take<uint32_t>(1);
    steps = memory.take<StepNumbers<T>>(count), s = memory.take<double>(count + 1);
    bytes = memory.bytes();
  }
};

template <typename F>
Shape shape_of(const TwoLayerTraining& t) {
  using T = typename F::Type;
  constexpr int64_t kTile = F::kThreads * F::kNeurons;
  Memory none(nullptr);
  const Plan<T> plan = plan_in<T>(none, nullptr, t.n);
  Shape shape{dim3(unsigned((t.width + kTile - 1) / kTile)), F::kThreads};
  shape.shared = PersistentMemory<T>(nullptr, plan.n, plan.arcs, plan.parts).bytes, shape.resident = true;
  return shape;
}

// Queues the steps.
template <typename F>
void train_in(const TwoLayerMember& member, int64_t count, void* scratch, void* stream) {
  using T = typename F::Type;
  const TwoLayerTraining& training = *member.training;
  const Layout<T> layout(training, count, scratch);
  std::vector<StepNumbers<T>> steps;
  steps.reserve(size_t(count));
  for (int64_t i = 0; i < count; ++i) {
    steps.push_back(step_numbers_of<T>(update_numbers(training, i, member.lr[i])));
  }
  const auto on_stream = static_cast<cudaStream_t>(stream);
  // From pageable memory: it has been read when these return.
  cudaMemcpyAsync(layout.steps, steps.data(), steps.size() * sizeof(steps[0]), cudaMemcpyHostToDevice, on_stream);
  cudaMemcpyAsync(layout.s, member.s, size_t(count + 1) * sizeof(double), cudaMemcpyHostToDevice, on_stream);
  const size_t to_clear = size_t(reinterpret_cast<char*>(layout.steps) - reinterpret_cast<char*>(layout.sums));
  cudaMemsetAsync(layout.sums, 0, to_clear, on_stream);
  build_plan(layout.plan, stream);
  PersistentWork<T> work{data_of(member, layout.plan),
                         bits_for(training.width),
                         count,
                         layout.steps,
                         layout.s,
                         layout.sums,
                         layout.most,
                         layout.arrived};
  launch(persistent_kernel<F>, shape_of<F>(training), stream, work);
}

}  // namespace persistent
}  // namespace training
}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
