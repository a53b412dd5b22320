// The loops of the Gram builder: one table per SIMD level (simd/levels.h), and one of matrix tiles (AMX) where the
// processor has them.
#pragma once

#include "ntk/gram.h"

namespace hrta {
namespace cpu {

constexpr int kGroup = 16;                // samples side by side: the lanes of every buffer below
constexpr int kNeuronBlock = 512;         // neurons between two additions to the float64 sums
constexpr int kProductTile = 2 * kGroup;  // rows and columns of one product tile

// A block of neurons. Weights are kept twice in the float32 class: z is formed in double, so that its sign is the one
// that the float64 formula has.
struct NeuronBlock {
  int count;  // at most kNeuronBlock
  int64_t D;
  const double* weight;  // (count, D)
  const void* weight_t;  // (count, D) in T, the type of the class
  const double* a;       // (count) output weights
};

// Sums of one group over one block, float64, lanes innermost.
struct GroupSums {
  double* linear;     // (D, kGroup) or null
  double* cross;      // (D, kGroup)
  double* slope_sum;  // (kGroup)
};

// The entries of a tile that are wanted: a corner of it, or of that the upper triangle.
struct Entries {
  double* at;  // upper left entry; the rows are `stride` apart
  int64_t stride;
  int rows, columns;  // at most kProductTile
  bool triangle;
};

struct GramLoops {
  // weight (count, D), a (count): the normals of neurons first, first + 1, ...
  void (*random_neurons)(uint64_t seed, uint64_t first, int64_t count, int64_t D, float* weight, float* a);

  // For the samples x (D, kGroup): values (count, kGroup) = sigma(z), slopes (count, kGroup) = a sigma'(z), in T =
  // float or double, and the sums (overwritten).
  void (*responses)(int base, bool high, const double* x, const NeuronBlock& neurons, void* values, void* slopes,
                    const GroupSums& sums);

  // entries += sum over k < count of left (count, kGroup) times right (count, kGroup), in T.
  void (*product)(bool high, const void* left, const void* right, int count, Entries entries);

  // The results' tile (row, column) of kProductTile rows and columns; without n2 row <= column, and its mirror image
  // too.
  void (*evaluate)(const GramEvaluation& call, int64_t row, int64_t column);

  // One row of power_sum: left (terms), base and result (n2).
  void (*power_sum)(int64_t n2, int64_t terms, const double* left, const double* right, const double* base,
                    double* result);
};

const GramLoops& gram_loops();

// --- products of numbers cut into 8-bit digits, exact in int32 -----------------------------------------------------
// q = sum_i digit_i 256^(S - 1 - i), digits in [-128, 127], stands for x = q scale; the scale is a power of two, one
// per sample and block: 8 S - 1 bits below the largest of the block.
// Tiles of 64 neurons by kGroup samples, 1024 bytes: rows are samples ("left"), or quadruples of neurons with the
// samples side by side ("right"), as the tile product wants its two operands.
constexpr int kTileBytes = 1024, kTileNeurons = 64;

// Pre-activations z = x . w by kRowDigits digits a number, one scale per sample and per neuron. With X and W the
// largest magnitudes of the two rows, kLeastLargest if it is less:
//   - half a unit of rounding each, units of at most 1.01 2^-30 X and W: 1.01 2^-30 D X W;
//   - the products i + j >= kRowDigits that are left out: (3 2^30 + 2^24) units of both: 3.07 2^-30 D X W;
// so |error| <= kRowsBound D X W. As independent roundings these have the size 0.72 2^-30 D^(1/2) X W (of digits that
// are uniform, where the largest is a little more than a power of two). The four products i + j = 3 stay below 2^31 for
// less than 2^15 features.
constexpr int kRowDigits = 4;
constexpr int64_t kRowFeatures = (1 << 15) - 1;
constexpr double kRowsBound = 1.02 * 0x1p-28, kRowsVariance = 0x1.1p-61;
constexpr float kLeastLargest = 0x1p-96f;
constexpr int kMostRows = 192;  // at a time, for which the digits of many features are read once

// Some groups of samples.
struct DigitSamples {
  int64_t D;
  int groups;
  const int8_t* digits;  // (groups, ceil(D / 64), kRowDigits, kTileBytes)
  const double* scale;   // (groups, kGroup)
};

struct AmxLoops {
  // left, right (S, tiles, kTileBytes), scale (kGroup). `neurons` (count) is padded with zeros to whole tiles.
  void (*pack_values)(int S, const void* values, int count, int8_t* left, int8_t* right, double* scale);

  // digits (S, kNeuronBlock) of the a^2 of a block; returns their scale.
  double (*cut_squares)(int S, const double* a, int count, int8_t* digits);

  // Binary slopes (ReLU): left (tiles, kTileBytes) = sigma', right (S, tiles, kTileBytes) = the digits of a^2 where it
  // is set.
  void (*pack_binary)(int S, const void* slopes, const int8_t* digits, int count, int8_t* left, int8_t* right);

  // entries += sum over k of left_i right_j for two groups by two groups; each pointer array holds the packed operands
  // of two groups, the scales those of their samples (kProductTile). `binary`: left has one digit.
  void (*product)(int S, bool binary, const int8_t* const* left, const int8_t* const* right, int count,
                  const double* left_scale, const double* right_scale, Entries entries);

  void (*begin)();  // before and after a thread's work with tiles
  void (*end)();

  // largest (count): of each row (count, D); 0 for zeros alone, not finite where a number is not.
  void (*largest_of)(const float* rows, int64_t D, int64_t count, float* largest);

  // One group of DigitSamples, of `count` rows (count, D), and their `largest`.
  void (*pack_samples)(const float* rows, int64_t D, int count, int8_t* digits, double* scale, float* largest);

  // z (groups, z_rows, kGroup) of rows (count, D), at most z_rows, a multiple of 16 up to kMostRows, and their
  // `largest` (count). Scratch: levels (groups, z_rows, kRowDigits, kGroup).
  void (*preactivations)(const DigitSamples& samples, const float* rows, int count, int z_rows, double* z,
                         float* largest, int32_t* levels);
};

}  // namespace cpu
}  // namespace hrta
