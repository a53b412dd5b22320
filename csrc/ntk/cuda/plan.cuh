// The Gram builder for ReLU on int8 tensor cores: numbers that cut the work, what lies in scratch memory, and the
// parts.
//
// Numbers are cut into digits of 8 bits, v_ik = step_i q_ik + rounding, with steps that all neurons share, so that
// every sum that crosses threads is an integer: the same bits whatever the grid, the chunks or the order of the blocks.
// q is rounded up or down at random, by a hash of the neuron's number (and the sample's, for two digits): errors are
// independent with mean zero whatever the weights are, which hrta_ext/ntk/choice.py turns into a bound.
//
// Two digits: q = 256 a + b, all products of digits are kept. Three: q = 2^14 a + 2^7 b + c, where what is cut off
// below a and below b is dithered too; the products b c', c b' and c c' are dropped, and the first two have mean zero.
// a_k^2 has two or three digits of its own; a session may leave out either product.
#pragma once

#include "gpu/cooperation.cuh"
#include "ntk/gram.h"

namespace hrta {
namespace cuda {
namespace digits {

constexpr int kRows = 128;              // samples of a row block: the edge of a product's tile
constexpr int kBlock = 64;              // neurons of an operand block
constexpr int kPlane = kRows * kBlock;  // bytes of one digit of a row block and an operand block
constexpr int kFlush = 384;             // operand blocks that int32 sums hold: 81 000 a neuron at most
constexpr int kMmaShared = 99 * 1024;   // bytes of the products by mma.sync: every card from sm_80 on has them
constexpr int kSquareDigits = 3;        // of a_k^2, at most
constexpr double kFill = 0.995;         // the largest value uses this part of the integers: room for the dither
constexpr double kSquareFill = 0.9999;
constexpr int kFigures = 16;
constexpr int kFigureRows = 8;       // samples of a row of figures
constexpr int kFigureFeatures = 64;  // of them at a time

// On the device. Bits of non-negative doubles compare as integers do; NaN lies above infinity.
struct State {
  unsigned long long norm2;   // the largest |w_k|^2; where z is given 1, or infinity if it exceeds its bounds
  unsigned long long square;  // the largest a_k^2
  long long square_sum;       // of a_k^2, in steps
};

// What a session keeps in scratch memory: first what lives from begin to end, then the operands of a chunk.
struct Layout {
  int digits, square_digits;                    // as they are made, for a product that is left out too
  int64_t features;                             // D, or 0 where z is given
  int64_t rows, row_blocks, tile_count, pairs;  // pairs: d <= e of W^T W
  int share;                                    // operand blocks between two steps of the sums of |z| w
  int64_t chunk;                                // neurons
  int64_t planes;                               // of private integer sums (n, n); 0: the products' own memory
  int64_t image_bytes;                          // of an operand block's weights
  State* state;
  long long *moment, *cross, *value_planes, *slope_planes;  // (pairs), (n, D), (planes, n, n) twice
  double* norms;                                            // (rows) |x_i|; where z is given its bounds
  uint32_t* tiles;                                          // (tile_count) row block | column block << 16
  unsigned char *image, *values, *active, *squares;
  int64_t bytes;
};

// Bytes of an operand block's weights and constants, and of the operand kernel's shared memory: samples, an image, and,
// where the features are not known to the compiler, sums.
inline int64_t image_bytes_for(int64_t features) {
  return kBlock * (8 * features + 8 + 2);
}
inline int64_t operand_shared(int64_t features) {
  return 8 * features * kRows + image_bytes_for(features) +
         (features >= 2 && features <= 4 ? 0 : 16 * features * kRows);
}

Layout layout_of(const GramCall& call, int multiprocessors);

// A product's integers: entry (i, j) of plane p at [(p n + i) n + j]; of one share alone, or of many blocks at once.
struct Target {
  long long* integers;
  int n;
  int64_t plane;
  bool shared;
};

// The tiles of the upper triangle, each cut into `shares` of the operand blocks, and those into `parts` of kFlush
// blocks at most. More parts than one only where the grid has as many blocks as tiles times shares: one block then has
// them all.
struct Tasks {
  const uint32_t* tiles;
  int tile_count, shares, parts, blocks;
};

// The survey of the session's neurons, |x_i| and the tiles.
void launch_prepare(const GramCall& call, const Layout& layout, void* stream);
// `count` neurons of the call from `begin` on, as the operand kernels read them.
void launch_stage(const GramCall& call, const Layout& layout, int64_t begin, int64_t count, int multiprocessors,
                  void* stream);
void launch_operands(const GramCall& call, const Layout& layout, int64_t begin, int64_t count, int multiprocessors,
                     void* stream);
void launch_value_products(int digits, const Layout& layout, const Tasks& tasks, const Target& target, int blocks,
                           void* stream);
void launch_slope_products(int digits, const Layout& layout, const Tasks& tasks, const Target& target, int blocks,
                           void* stream);
// The same by mma.sync, where there is no wgmma.
void launch_value_products_mma(int digits, const Layout& layout, const Tasks& tasks, const Target& target, int blocks,
                               void* stream);
void launch_slope_products_mma(int digits, const Layout& layout, const Tasks& tasks, const Target& target, int blocks,
                               void* stream);
void launch_finish(const GramCall& call, const Layout& layout, void* stream);
void launch_figures(const GramCall& call, const Layout& layout, void* stream);

__device__ __forceinline__ double as_double(unsigned long long bits) {
  return __longlong_as_double((long long)bits);
}

__device__ __forceinline__ uint32_t mixed(uint32_t h) {
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  return h ^ (h >> 16);
}

__device__ __forceinline__ uint32_t hash(uint64_t k) {
  return mixed(uint32_t(k) * 0x9E3779B1u ^ mixed(uint32_t(k >> 32) + 0x85EBCA77u));
}

// Fixed point for sums of doubles: `bound` bounds the whole sum, so that integers below 2^62 hold it.
__device__ __forceinline__ double fixed_scale(double bound) {
  return bound > 0.0 ? 0x1p62 / bound : 0.0;
}
__device__ __forceinline__ double fixed_unit(double bound) {
  return bound * 0x1p-62;
}
__device__ __forceinline__ void add_to(long long* sum, long long value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), (unsigned long long)value);
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
