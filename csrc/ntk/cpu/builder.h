// What both Gram algorithms (builder.cpp, arcs.cpp) stand on: neurons.
#pragma once

#include <utility>

#include "ntk/cpu/loops.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

// All (row, column) of a grid of panels or tiles, or its upper triangle, numbered row by row.
struct Pairs {
  int64_t rows, columns;
  bool triangle;

  int64_t count() const { return triangle ? rows * (rows + 1) / 2 : rows * columns; }

  std::pair<int64_t, int64_t> at(int64_t number) const {
    if (!triangle) return {number / columns, number % columns};
    int64_t row = 0;
    while (number >= rows - row) number -= rows - row++;
    return {row, row + number};
  }
};

// Neurons [begin, begin + count) of the call as doubles: weight (count, D), a (count). False if any is not finite.
bool fetch_neurons(const GramCall& call, int64_t begin, int count, double* weight, double* a);

// ReLU and D = 2 (arcs.cpp).
bool gram_sums_by_arcs(const GramCall& call, ParallelFor parallel_for);
int64_t arcs_scratch(const GramCall& call);

}  // namespace cpu
}  // namespace hrta
