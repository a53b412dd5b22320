// ReLU and two features: which samples a neuron is active on depends on its angle alone. Over samples sorted by angle
// the active ones are one interval of the circle, so sums over them are differences of prefix sums, and the sums over
// the neurons active on a sample are prefix sums of differences: O((m + n) log n) for everything, exact to rounding.
#pragma once

#include <cstdint>
#include <vector>

#include "../two_layer.h"

namespace hrta {
namespace cpu {

// Whether the shapes make the arcs faster than the loops (benchmarks/bench_two_layer.py).
bool arcs_win(const TwoLayerCall& call);

// What follows returns false, with its results unspecified, if a number is not finite: sums over intervals would carry
// it everywhere.

// active (networks, n, 2) = sum of a_k w_k over the neurons with w_k . x_i > 0, and total (networks, 2) over all.
bool arc_forward(const TwoLayerCall& call, std::vector<double>& active, std::vector<double>& total,
                 ParallelFor parallel_for);

// As two_layer_backward.
bool arc_backward(const TwoLayerCall& call, const TwoLayerGradients& gradients, ParallelFor parallel_for);

}  // namespace cpu
}  // namespace hrta
