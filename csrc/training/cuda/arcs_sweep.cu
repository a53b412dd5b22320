#include "gpu/cooperation.cuh"
#include "training/cuda/arcs.h"
#include "training/cuda/arcs_middle.cuh"
#include "training/cuda/arcs_sweep.cuh"
#include "training/update.h"

namespace hrta {
namespace cuda {
namespace arcs {
namespace training {
namespace sweep {

namespace {

// sums (count) of partial (parts, count), in a fixed order.
constexpr int kReduceThreads = 256;

__global__ void __launch_bounds__(kReduceThreads)
    reduce_kernel(const double* partial, int parts, int count, double* sums, const int64_t* done) {
  constexpr int kRows = kReduceThreads / kWarp;
  if (stopped(done)) return;
  __shared__ double shared[kRows][kWarp];
  const int lane = int(threadIdx.x) % kWarp, row = int(threadIdx.x) / kWarp, at = int(blockIdx.x) * kWarp + lane;
  const int share = (parts + kRows - 1) / kRows, end = at_most((row + 1) * share, parts);
  double sum = 0;
  if (at < count) {
#pragma unroll 8
    for (int part = row * share; part < end; ++part) sum += partial[int64_t(part) * count + at];
  }
  shared[row][lane] = sum;
  __syncthreads();
  if (row != 0 || at >= count) return;
#pragma unroll
  for (int r = 1; r < kRows; ++r) sum += shared[r][lane];
  sums[at] = sum;
}

template <typename T>
struct Layout {
  Plan<T> plan;
  double *partial, *sums;
  double2 *prefix, *terms;
  Point<T>* pull;
  int* exponent;
  int64_t bytes;

  Layout(const TwoLayerTraining& t, void* scratch) {
    Memory memory(scratch);
    plan = plan_in<T>(memory, t.x, t.n);
    partial = memory.take<double>(Cut<T>(t.width).shares * 2 * plan.arcs);
    sums = memory.take<double>(2 * plan.arcs);
    prefix = memory.take<double2>(plan.arcs + 1);
    terms = memory.take<double2>(2 * t.n);
    pull = memory.take<Point<T>>(plan.arcs);
    exponent = memory.take<int>(kShares);
    bytes = memory.bytes();
  }
};

// Neighbouring copies of each bin, 2^shift, against lanes that meet on one: 16 for 128 samples, 4 for 1000, and as many
// as fit. No bit depends on them, for the sums are of integers.
constexpr int kMostShift = 4;
constexpr int64_t kMostBins = 8192;

template <typename T>
int shift_of(const Plan<T>& plan, const Device& device) {
  const auto too_many = [&](int shift) {
    const size_t bytes = SweepMemory<T>(nullptr, plan.arcs, plan.parts, shift).bytes;
    return int64_t(plan.arcs) << shift > kMostBins || bytes > size_t(device.shared);
  };
  int shift = kMostShift;
  while (shift > 0 && too_many(shift)) --shift;
  return shift;
}

template <typename T>
Shape shape_of(const Plan<T>& plan, int shift, int64_t shares) {
  return {dim3(unsigned(shares)), kSweepThreads, SweepMemory<T>(nullptr, plan.arcs, plan.parts, shift).bytes};
}

// Calls body(kernel) with the kernel of the rule that updates, or that only sums.
template <typename T, typename Body>
void with_kernel(Rule rule, bool update, const Body& body) {
  if (!update) return body(sweep_kernel<Rule::kPlain, false, T>);
  if (rule == Rule::kAdam) return body(sweep_kernel<Rule::kAdam, true, T>);
  if (rule == Rule::kMomentum) return body(sweep_kernel<Rule::kMomentum, true, T>);
  body(sweep_kernel<Rule::kPlain, true, T>);
}

template <typename T>
void train_typed(const TwoLayerMember& member, int64_t steps, void* scratch, const Device& device, void* stream) {
  const TwoLayerTraining& training = *member.training;
  const Layout<T> layout(training, scratch);
  const Plan<T>& plan = layout.plan;
  build_plan(plan, stream);
  cudaMemsetAsync(layout.terms, 0, sizeof(double2) * size_t(2 * plan.n), static_cast<cudaStream_t>(stream));

  const Cut<T> cut(training.width);
  SweepWork<T> work{};
  work.data = data_of(member, plan);
  work.stride = cut.shares * Cut<T>::kTile, work.bits = cut.bits, work.shift = shift_of(plan, device);
  work.pull = layout.pull, work.exponent = layout.exponent, work.partial = layout.partial;
  MiddleWork<T> middle{work.data, layout.sums, layout.prefix, layout.terms, layout.pull, {}, -1};
  const Shape shape = shape_of(plan, work.shift, cut.shares);
  const int sums = 2 * plan.arcs, middle_threads = plan.n <= 512 ? 256 : kMiddleThreads;

  auto sweep = [&](bool update) {
    with_kernel<T>(work.data.rule, update, [&](auto kernel) { launch(kernel, shape, stream, work); });
    launch(reduce_kernel, dim3(unsigned((sums + kWarp - 1) / kWarp)), kReduceThreads, stream, layout.partial,
           int(cut.shares), sums, layout.sums, member.done);
  };
  // The outputs on entry are not looked at: those of the weights are the same bits.
  sweep(false);
  for (int64_t i = 0; i < steps; ++i) {
    middle.step = i, middle.shares = shares_of(work.data.scale, member.s[i]);
    launch(middle_kernel<T>, 1, middle_threads, stream, middle);
    work.step = step_numbers_of<T>(update_numbers(training, i, member.lr[i]));
    sweep(true);
  }
  middle.step = -1, middle.shares = shares_of(work.data.scale, member.s[steps]);
  launch(middle_kernel<T>, 1, middle_threads, stream, middle);
}

}  // namespace

bool serves(const TwoLayerTraining& t, const Device& device) {
  return with_type(t.dtype, [&](auto zero) {
    using T = decltype(zero);
    Memory none(nullptr);
    const Plan<T> plan = plan_in<T>(none, nullptr, t.n);
    const Shape shape = shape_of(plan, shift_of(plan, device), 1);
    bool all = fits(sweep_kernel<Rule::kPlain, false, T>, shape, device);
    const Rule rule = t.rule == UpdateRule::kAdam ? Rule::kAdam : Rule::kMomentum;
    with_kernel<T>(rule, true, [&](auto kernel) { all = all && fits(kernel, shape, device); });
    return all;
  });
}

int64_t scratch(const TwoLayerTraining& training) {
  return with_type(training.dtype, [&](auto zero) { return Layout<decltype(zero)>(training, nullptr).bytes; });
}

void train(const TwoLayerMember& member, int64_t steps, void* scratch, const Device& device, void* stream) {
  with_type(member.training->dtype,
            [&](auto zero) { train_typed<decltype(zero)>(member, steps, scratch, device, stream); });
}

}  // namespace sweep
}  // namespace training
}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
