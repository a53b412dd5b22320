// The activation on the CPU: cuts the work into pieces for the thread pool and adds up partial sums.
#include <algorithm>
#include <vector>

#include "activation/activation.h"
#include "activation/cpu/half_loops.h"
#include "activation/cpu/loops.h"
#include "simd/levels.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

HRTA_PICK_TABLE(ActivationLoops, kActivationLoops, activation_loops)
HRTA_PICK_TABLE(HalfLoops, kHalfLoops, half_loops)

namespace {

// Elements per task: enough to repay waking a thread, few enough to share 1e5 elements between threads.
constexpr int64_t kGrainBlocks = 16;
constexpr int64_t kMaxRowChunks = 64;

// Calls work(begin, end) for ranges of [0, n) that start at multiples of kBlock.
template <typename Work>
void over_blocks(int64_t n, ParallelFor parallel_for, const Work& work) {
  if (n <= kGrainBlocks * kBlock) {
    if (n > 0) work(int64_t(0), n);
    return;
  }
  run_parallel(parallel_for, ceil_div(n, kBlock), kGrainBlocks,
               [&](int64_t begin, int64_t end) { work(begin * kBlock, std::min(end * kBlock, n)); });
}

bool is_half(ScalarKind dtype) {
  return dtype == ScalarKind::kFloat16 || dtype == ScalarKind::kBFloat16;
}

}  // namespace

void transform(const ActivationCall& call, ParallelFor parallel_for) {
  const ActivationLoops& table = activation_loops();
  const HalfLoops& halves = half_loops();
  const bool half = is_half(call.dtype);
  over_blocks(call.n, parallel_for, [&](int64_t begin, int64_t end) {
    if (!half || !halves.transform(call, begin, end)) table.transform(call, begin, end);
  });
}

void relu_mask_forward(const ReluMaskCall& call, ParallelFor parallel_for) {
  const auto loop = is_half(call.dtype) ? half_loops().relu_mask_forward : activation_loops().relu_mask_forward;
  over_blocks(call.n, parallel_for, [&](int64_t begin, int64_t end) { loop(call, begin, end); });
}

void relu_mask_backward(const ReluMaskCall& call, ParallelFor parallel_for) {
  const auto loop = is_half(call.dtype) ? half_loops().relu_mask_backward : activation_loops().relu_mask_backward;
  over_blocks(call.n, parallel_for, [&](int64_t begin, int64_t end) { loop(call, begin, end); });
}

void parameter_gradient(const ActivationCall& call, double* grad_s, ParallelFor parallel_for) {
  const ActivationLoops& table = activation_loops();
  const int64_t features = std::max<int64_t>(call.n_features, 1);
  // One partial sum per chunk of whole rows; the chunks depend on the shape alone, so the bits do not depend on
  // threads.
  const int64_t rows = call.n / features;
  const int64_t rows_per_chunk = features == 1 ? kBlock : std::max<int64_t>(ceil_div(rows, kMaxRowChunks), 1);
  const int64_t chunks = ceil_div(rows, rows_per_chunk), elements = rows_per_chunk * features;
  std::vector<double> partial(static_cast<size_t>(chunks * features), 0.0);
  const int64_t grain = std::max<int64_t>(kGrainBlocks * kBlock / elements, 1);
  run_parallel(parallel_for, chunks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * elements, last = std::min(first + elements, call.n);
      table.parameter_gradient(call, first, last, partial.data() + chunk * features);
    }
  });
  std::fill(grad_s, grad_s + features, 0.0);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t j = 0; j < features; ++j) grad_s[j] += partial[static_cast<size_t>(chunk * features + j)];
  }
}

}  // namespace cpu
}  // namespace hrta
