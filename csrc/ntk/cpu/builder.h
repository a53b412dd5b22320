// What both Gram algorithms (builder.cpp, arcs.cpp) stand on: neurons.
#pragma once

#include "ntk/cpu/loops.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

// Neurons [begin, begin + count) of the call as doubles: weight (count, D), a (count). False if any is not finite.
bool fetch_neurons(const GramCall& call, int64_t begin, int count, double* weight, double* a);

// ReLU and D = 2 (arcs.cpp).
bool gram_sums_by_arcs(const GramCall& call, ParallelFor parallel_for);
int64_t arcs_scratch(const GramCall& call);

}  // namespace cpu
}  // namespace hrta
