// Kernels of infinitely wide networks on the CPU: tiles of the results on all threads.
#include "ntk/infinite.h"

#include "ntk/cpu/infinite_loops.h"
#include "simd/levels.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

HRTA_PICK_TABLE(InfiniteLoops, kInfiniteLoops, infinite_loops)

void infinite_gram(const InfiniteCall& call, ParallelFor parallel_for) {
  const InfiniteLoops& loops = infinite_loops();
  const Widths widths = widths_of(call);
  loops.chain(call, widths, call.n, call.norm, call.chain);
  if (!call.same) loops.chain(call, widths, call.n2, call.norm2, call.chain2);
  const int64_t rows = ceil_div(call.n, kInfiniteTile), columns = ceil_div(call.n2, kInfiniteTile);
  const int64_t cost = call.n * call.n2 * (call.widths * call.widths + call.S * call.depth + call.D);
  for_each_task(
      call.same ? rows * (rows + 1) / 2 : rows * columns, parallel_for,
      [&](int64_t task) {
        int64_t row = 0;
        while (task >= columns - (call.same ? row : 0)) task -= columns - (call.same ? row : 0), ++row;
        const int64_t column = (call.same ? row : 0) + task;
        loops.tile(call, widths, row * kInfiniteTile, column * kInfiniteTile);
      },
      cost < (1 << 15));
}

}  // namespace cpu
}  // namespace hrta
