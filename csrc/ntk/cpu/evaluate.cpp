// What follows from finished sums: the matrices at s, and sums of powers.
#include "ntk/cpu/builder.h"
#include "ntk/gram.h"

namespace hrta {
namespace cpu {

void gram_evaluate(const GramEvaluation& call, ParallelFor parallel_for) {
  const int64_t columns = call.n2 == 0 ? call.n : call.n2;
  const Pairs tiles{ceil_div(call.n, kProductTile), ceil_div(columns, kProductTile), call.n2 == 0};
  const GramLoops& loops = gram_loops();
  for_each_task(
      tiles.count(), parallel_for,
      [&](int64_t task) {
        const auto [row, column] = tiles.at(task);
        loops.evaluate(call, row * kProductTile, column * kProductTile);
      },
      call.n * columns * call.S < (1 << 18));
}

void power_sum(int64_t n, int64_t n2, int64_t terms, const double* left, const double* right, const double* base,
               double* result, ParallelFor parallel_for) {
  for_each_task(n, parallel_for, [&](int64_t i) {
    gram_loops().power_sum(n2, terms, left + i * terms, right, base + i * n2, result + i * n2);
  });
}

}  // namespace cpu
}  // namespace hrta
