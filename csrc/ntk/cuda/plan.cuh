// The Gram builder on int8 tensor cores: numbers that cut the work, what lies in scratch memory, and the parts.
//
// Numbers are cut into digits of 8 bits, v_ik = step_i q_ik + rounding, with steps that all neurons share, so that
// every sum that crosses threads is an integer: the same bits whatever the grid, the chunks or the order of the blocks.
//
// Two and three digits are for ReLU in the float32 class. q is rounded up or down at random, by a hash of the neuron's
// number (and the sample's, for two digits): errors are independent with mean zero whatever the weights are, which
// hrta_ext/ntk/choice.py turns into a bound. Two digits: q = 256 a + b, all products of digits are kept. Three:
// q = 2^14 a + 2^7 b + c, where what is cut off below a and below b is dithered too; the products b c', c b' and c c'
// are dropped, and the first two have mean zero. a_k^2 has two or three digits of its own; a session may leave out
// either product.
//
// Levels are for all bases and both classes. q is rounded to nearest and has S = 5 or 7 signed digits; of the products
// d_i d'_j those of the levels i + j < L are kept, L = S or 8. Nothing is random: hrta_ext/ntk/levels.py bounds what is
// dropped term by term. A pass takes two or three levels, and a product's integer has two words, high 2^w + low: high
// at its entry above the diagonal, low mirrored below it, or beside the matrix for the diagonal.
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
constexpr int kSquareDigits = 3;        // of a_k^2, at most; a pass for levels
constexpr int kMostDigits = 7;
constexpr int kLevelFlush = 288;  // operand blocks that the sums of a level hold: 7 2^14 a neuron at most
constexpr double kFill = 0.995;   // the largest value uses this part of the integers: room for the dither
constexpr double kSquareFill = 0.9999;
constexpr int kFigures = 20;
constexpr int kFigureRows = 8;       // samples of a row of figures
constexpr int kFigureFeatures = 64;  // of them at a time

// On the device. Bits of non-negative doubles compare as integers do; NaN lies above infinity.
struct State {
  unsigned long long norm2;   // the largest |w_k|^2; where z is given 1, or infinity if it exceeds its bounds
  unsigned long long square;  // the largest a_k^2
  long long square_sum;       // of a_k^2, in steps; for levels in fixed point,
  long long square_rest;      // and 2^-32 of that
};

// call.digits for levels: their number L.
HRTA_INLINE bool by_levels(const GramCall& call) {
  return call.digits > 3;
}
HRTA_INLINE int digits_of(const GramCall& call) {
  return call.digits < kMostDigits ? call.digits : kMostDigits;
}
// Levels 0 to 2, 3 and 4, then 5 and all above: two passes for five digits, three for seven.
inline int passes_of(const GramCall& call) {
  return call.digits > 5 ? 3 : 2;
}
inline int last_level(int pass, const GramCall& call) {
  return pass == 0 ? 2 : pass == 1 ? 4 : call.digits - 1;
}
// w: the weight of level 2 above the last one's.
inline int word_bits(const GramCall& call) {
  return 8 * (call.digits - 3);
}

// What a session keeps in scratch memory: first what lives from begin to end, then the operands of a chunk.
struct Layout {
  int digits, square_digits;                    // as they are made, for a product that is left out too
  int64_t features;                             // D, or 0 where z is given
  int64_t rows, row_blocks, tile_count, pairs;  // pairs: d <= e of W^T W
  int share;                                    // operand blocks between two steps of the sums of |z| w
  int64_t chunk;                                // neurons
  int64_t planes;                               // of private integer sums (n, n); 0: the products' own memory
  int64_t image_bytes;                          // of an operand block's weights
  int64_t hold;                                 // operand blocks that the low words hold
  State* state;
  long long *moment, *cross;                    // (2, pairs), (n, D); the second words are 2^-32 of the first
  long long *value_planes, *slope_planes;       // (planes, n, n)
  long long *cross_rest, *slope_sum;            // levels: (n, D), (2, n)
  long long *value_low, *slope_low;             // levels: (planes or 1, n), the low words of the diagonal
  double *norms, *value_bounds, *slope_bounds;  // (rows) |x_i|, where z is given its bounds; and what |sigma(z_ik)|,
                                                // |a_k sigma'(z_ik)| stay below
  uint32_t* tiles;                              // (tile_count) row block | column block << 16
  unsigned char *image, *values, *active, *slopes, *squares;  // active: ReLU; slopes: the others
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
// `low`: the low word, 2^shift times what a pass found, at entry (j, i) or in `diagonal` (planes, n).
struct Target {
  long long* integers;
  int n;
  int64_t plane;
  bool shared;
  bool low;
  int shift;
  long long* diagonal;
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
// What values and slopes stay below.
void launch_bounds(const GramCall& call, const Layout& layout, void* stream);
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
// Levels: the operands of values and slopes (responses.cu), one pass's product of either (levels.cu), and words.cu.
void launch_responses(const GramCall& call, const Layout& layout, int64_t count, int multiprocessors, void* stream);
void launch_level_products(const GramCall& call, int pass, const unsigned char* operands, const Tasks& tasks,
                           const Target& target, int blocks, void* stream);
void launch_carry(const GramCall& call, const Layout& layout, void* stream);
void launch_words(const GramCall& call, const Layout& layout, void* stream);
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
// A double in two words, to 2^-32 of the fixed point's unit: many roundings that go one way add up.
struct Fixed {
  long long whole, rest;
};
__device__ __forceinline__ Fixed to_fixed(double scaled) {
  const long long whole = __double2ll_rn(scaled);
  return {whole, __double2ll_rn((scaled - double(whole)) * 0x1p32)};
}
// Of the sums of sigma(z) w and of a^2 sigma'(z), by what bounds them.
__device__ __forceinline__ double cross_bound(const GramCall& call, const Layout& layout, int64_t row) {
  return call.total * sqrt(as_double(layout.state->norm2)) * layout.value_bounds[row];
}
__device__ __forceinline__ double slope_sum_bound(const GramCall& call, const Layout& layout, int64_t row) {
  return call.total * sqrt(as_double(layout.state->square)) * layout.slope_bounds[row];
}
__device__ __forceinline__ double from_fixed(long long whole, long long rest, double unit) {
  return (double(whole) + double(rest) * 0x1p-32) * unit;
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
