// The Gram builder's loops, compiled once per SIMD level. As in activation/cpu/loops.cpp, nothing here may call an
// inline function of the standard library.
#include "ntk/cpu/loops.h"

#include "math/homotopy.h"
#include "math/normals.h"
#include "simd/denormals.h"
#include "simd/lanes.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

// --- random neurons --------------------------------------------------------------------------------------------------

// Normals of one counter block j for kLanesAtOnce neurons, written to normal[4][kLanesAtOnce].
constexpr int kLanesAtOnce = 64;

void normal_block(uint64_t seed, uint64_t first, uint32_t block, float (*normal)[kLanesAtOnce]) {
  uint32_t words[4][kLanesAtOnce];
  for (int l = 0; l < kLanesAtOnce; ++l) {
    const Philox r = philox(first + uint64_t(l), block, seed);
    words[0][l] = r.word[0];
    words[1][l] = r.word[1];
    words[2][l] = r.word[2];
    words[3][l] = r.word[3];
  }
  for (int p = 0; p < 2; ++p) {
    for (int l = 0; l < kLanesAtOnce; ++l) {
      normal_pair(words[2 * p][l], words[2 * p + 1][l], normal[2 * p][l], normal[2 * p + 1][l]);
    }
  }
}

void random_neurons(uint64_t seed, uint64_t first, int64_t count, int64_t D, float* weight, float* a) {
  float normal[4][kLanesAtOnce];
  for (int64_t begin = 0; begin < count; begin += kLanesAtOnce) {
    const int lanes = int(count - begin < kLanesAtOnce ? count - begin : kLanesAtOnce);
    for (int64_t block = 0; 4 * block <= D; ++block) {
      normal_block(seed, first + uint64_t(begin), uint32_t(block), normal);
      for (int i = 0; i < 4; ++i) {
        const int64_t d = 4 * block + i - 1;  // normal 0 is the output weight
        if (d >= D) break;
        if (d < 0) {
          for (int l = 0; l < lanes; ++l) a[begin + l] = normal[i][l];
        } else {
          for (int l = 0; l < lanes; ++l) weight[(begin + l) * D + d] = normal[i][l];
        }
      }
    }
  }
}

// --- responses: z, then sigma(z) and a sigma'(z), then their sums ----------------------------------------------------

constexpr int kWideVectors = kGroup / kLanes<double>;
constexpr int kNeuronsAtOnce = kWideVectors <= 2 ? 4 : (kWideVectors <= 4 ? 2 : 1);

template <int kCount>
void dot_products(const double* x, const double* weight, int64_t D, double* z) {
  Vector<double> sum[kCount][kWideVectors] = {};
  for (int64_t d = 0; d < D; ++d) {
    Vector<double> sample[kWideVectors];
    for (int v = 0; v < kWideVectors; ++v) sample[v] = load(x + d * kGroup + v * kLanes<double>);
    for (int q = 0; q < kCount; ++q) {
      const Vector<double> w = broadcast(weight[q * D + d]);
      for (int v = 0; v < kWideVectors; ++v) sum[q][v] = fused(sample[v], w, sum[q][v]);
    }
  }
  for (int q = 0; q < kCount; ++q) {
    for (int v = 0; v < kWideVectors; ++v) store(z + q * kGroup + v * kLanes<double>, sum[q][v]);
  }
}

// z (count, kGroup) of the neurons whose weights start at `weight`.
void all_dot_products(const double* x, const double* weight, int64_t D, int count, double* z) {
  int k = 0;
  for (; k + kNeuronsAtOnce <= count; k += kNeuronsAtOnce) {
    dot_products<kNeuronsAtOnce>(x, weight + k * D, D, z + k * kGroup);
  }
  for (; k < count; ++k) dot_products<1>(x, weight + k * D, D, z + k * kGroup);
}

// values = sigma(z), slopes = a sigma'(z).
template <typename Base, typename T>
void values_and_slopes(const double* z, const double* a, int count, T* values, T* slopes) {
  [[maybe_unused]] const Homotopy<T> one = Homotopy<T>::from(1.0);
  for (int k = 0; k < count; ++k) {
    const T output_weight = T(a[k]);
    const double* row = z + k * kGroup;
    T *value = values + k * kGroup, *slope = slopes + k * kGroup, pre[kGroup];
    for (int l = 0; l < kGroup; ++l) pre[l] = T(row[l]);
    if constexpr (Base::kGrowth == Growth::kRamp) {
      for (int l = 0; l < kGroup; ++l) {
        value[l] = row[l] > 0.0 ? pre[l] : T(0);
        slope[l] = row[l] > 0.0 ? output_weight : T(0);
      }
    } else {
      for_each_in_lanes<Base>(pre, kGroup, [=](int l, auto at) {
        store(value + l, homotopy_value<Base>(at, one));
        store(slope + l, decltype(at)(output_weight) * Base::slope(at));
      });
    }
  }
}

template <typename T>
void values_and_slopes_of(int base, const double* z, const double* a, int count, T* values, T* slopes) {
  const FlushDenormals flush;
  with_base(base, [&](auto tag) { values_and_slopes<decltype(tag)>(z, a, count, values, slopes); });
}

// A run of neurons passes through all loops while it is in the first cache. It is also as long as sums stay in float
// before they go on in double: 64 roundings cost 2e-7 at most.
constexpr int kRun = 64;

// sums (kCount, kGroup) += sum over k of rows (count, kGroup) times factor k * stride + 0 .. kCount - 1.
template <int kCount, typename T>
void weighted_sums(const T* rows, const T* factor, int64_t stride, int count, double* sums) {
  constexpr int kVectors = kGroup / kLanes<T>;
  Vector<T> sum[kCount][kVectors] = {};
  for (int k = 0; k < count; ++k) {
    Vector<T> row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = load(rows + k * kGroup + v * kLanes<T>);
    for (int q = 0; q < kCount; ++q) {
      const Vector<T> w = broadcast(factor[k * stride + q]);
      for (int v = 0; v < kVectors; ++v) sum[q][v] = fused(row[v], w, sum[q][v]);
    }
  }
  for (int q = 0; q < kCount; ++q) {
    T lanes[kGroup];
    for (int v = 0; v < kVectors; ++v) store(lanes + v * kLanes<T>, sum[q][v]);
    for (int l = 0; l < kGroup; ++l) sums[q * kGroup + l] += double(lanes[l]);
  }
}

// sums (D, kGroup) += sum over k of rows (count, kGroup) times weight (count, D).
template <typename T>
void feature_sums(const T* rows, const T* weight, int64_t D, int count, double* sums) {
  int64_t d = 0;
  for (; d + 4 <= D; d += 4) weighted_sums<4>(rows, weight + d, D, count, sums + d * kGroup);
  if (D - d == 3) return weighted_sums<3>(rows, weight + d, D, count, sums + d * kGroup);
  if (D - d == 2) return weighted_sums<2>(rows, weight + d, D, count, sums + d * kGroup);
  if (D - d == 1) return weighted_sums<1>(rows, weight + d, D, count, sums + d * kGroup);
}

template <typename T>
void responses_in(int base, const double* x, const NeuronBlock& neurons, T* values, T* slopes, const GroupSums& sums) {
  const int64_t D = neurons.D;
  const T* weight = static_cast<const T*>(neurons.weight_t);
  for (int64_t i = 0; i < D * kGroup; ++i) sums.cross[i] = 0.0;
  for (int64_t i = 0; sums.linear != nullptr && i < D * kGroup; ++i) sums.linear[i] = 0.0;
  for (int l = 0; l < kGroup; ++l) sums.slope_sum[l] = 0.0;
  double z[kRun * kGroup];
  T a[kRun], narrow[kRun * kGroup];
  for (int begin = 0; begin < neurons.count; begin += kRun) {
    const int count = neurons.count - begin < kRun ? neurons.count - begin : kRun;
    T *value = values + begin * kGroup, *slope = slopes + begin * kGroup;
    all_dot_products(x, neurons.weight + begin * D, D, count, z);
    values_and_slopes_of(base, z, neurons.a + begin, count, value, slope);
    feature_sums(value, weight + begin * D, D, count, sums.cross);
    for (int k = 0; k < count; ++k) a[k] = T(neurons.a[begin + k]);
    weighted_sums<1>(slope, a, 1, count, sums.slope_sum);
    if (sums.linear == nullptr) continue;
    for (int i = 0; i < count * kGroup; ++i) narrow[i] = T(z[i]);
    feature_sums(narrow, weight + begin * D, D, count, sums.linear);
  }
}

void responses(int base, bool high, const double* x, const NeuronBlock& neurons, void* values, void* slopes,
               const GroupSums& sums) {
  if (high) {
    responses_in(base, x, neurons, static_cast<double*>(values), static_cast<double*>(slopes), sums);
  } else {
    responses_in(base, x, neurons, static_cast<float*>(values), static_cast<float*>(slopes), sums);
  }
}

// --- products by vectors ---------------------------------------------------------------------------------------------

// kRows rows of the tile in registers: one vector row of `right` and kRows broadcasts per neuron.
constexpr int kPartialSum = 256;  // neurons summed in T before the sum goes on in double

template <typename T>
void product_in(const T* left, const T* right, int count, Entries entries) {
  constexpr int kVectors = kGroup / kLanes<T>;
  constexpr int kRows = kVectorRegisters / 2 / kVectors < 2 ? 2 : kVectorRegisters / 2 / kVectors;
  double result[kGroup][kGroup] = {};
  for (int begin = 0; begin < count; begin += kPartialSum) {
    const int end = begin + kPartialSum < count ? begin + kPartialSum : count;
    for (int row = 0; row < kGroup; row += kRows) {
      Vector<T> sum[kRows][kVectors] = {};
      for (int k = begin; k < end; ++k) {
        Vector<T> column[kVectors];
        for (int v = 0; v < kVectors; ++v) column[v] = load(right + k * kGroup + v * kLanes<T>);
        for (int r = 0; r < kRows; ++r) {
          const Vector<T> factor = broadcast(left[k * kGroup + row + r]);
          for (int v = 0; v < kVectors; ++v) sum[r][v] = fused(factor, column[v], sum[r][v]);
        }
      }
      for (int r = 0; r < kRows; ++r) {
        T lanes[kGroup];
        for (int v = 0; v < kVectors; ++v) store(lanes + v * kLanes<T>, sum[r][v]);
        for (int l = 0; l < kGroup; ++l) result[row + r][l] += double(lanes[l]);
      }
    }
  }
  for (int i = 0; i < entries.rows; ++i) {
    double* out = entries.at + i * entries.stride;
    for (int j = entries.triangle ? i : 0; j < entries.columns; ++j) out[j] += result[i][j];
  }
}

void product(bool high, const void* left, const void* right, int count, Entries entries) {
  if (high) {
    product_in(static_cast<const double*>(left), static_cast<const double*>(right), count, entries);
  } else {
    product_in(static_cast<const float*>(left), static_cast<const float*>(right), count, entries);
  }
}

// --- the matrices at s -----------------------------------------------------------------------------------------------

// Coefficients of (1 - s)^2, (1 - s) s and s^2 on a tile, and their mirror image.
struct Quadratic {
  double entry[2][3][kProductTile][kProductTile];
};

// kFull: all kProductTile columns, a trip count that the compiler can count on.
template <bool kFull, typename T>
void write_tile(const GramEvaluation& call, const double (*c)[kProductTile][kProductTile], int64_t row, int64_t column,
                int rows, int columns, T* out) {
  const int count = kFull ? kProductTile : columns;
  const int64_t stride = call.n2 == 0 ? call.n : call.n2;
  for (int64_t at = 0; at < call.S; ++at) {
    const double s = call.s[at], r = 1.0 - s;
    const double values[3] = {r * r, r * s, s * s}, derivatives[3] = {-2.0 * r, r - s, 2.0 * s};
    const double* factors = call.derivative ? derivatives : values;
    for (int i = 0; i < rows; ++i) {
      T* to = out + (at * call.n + row + i) * stride + column;
      const double *linear = c[0][i], *mixed = c[1][i], *base = c[2][i];
      for (int j = 0; j < count; ++j) {
        to[j] = T(multiply_add(factors[0], linear[j], multiply_add(factors[1], mixed[j], factors[2] * base[j])));
      }
    }
  }
}

template <typename T>
void write_tile_of(const GramEvaluation& call, const double (*c)[kProductTile][kProductTile], int64_t row,
                   int64_t column, int rows, int columns, void* out) {
  if (columns == kProductTile) return write_tile<true>(call, c, row, column, rows, columns, static_cast<T*>(out));
  write_tile<false>(call, c, row, column, rows, columns, static_cast<T*>(out));
}

void write_quadratic(const GramEvaluation& call, Quadratic& q, int64_t row, int64_t column, int rows, int columns,
                     void* out) {
  const bool symmetric = call.n2 == 0;
  for (int p = 0; symmetric && p < 3; ++p) {
    for (int i = 0; i < rows; ++i) {
      for (int j = row == column ? i : 0; j < columns; ++j) {
        q.entry[1][p][j][i] = q.entry[0][p][i][j];
        if (row == column) q.entry[0][p][j][i] = q.entry[0][p][i][j];
      }
    }
  }
  for (int mirrored = 0; mirrored < (symmetric && row != column ? 2 : 1); ++mirrored) {
    const int64_t r = mirrored ? column : row, c = mirrored ? row : column;
    const int height = mirrored ? columns : rows, breadth = mirrored ? rows : columns;
    if (call.high) {
      write_tile_of<double>(call, q.entry[mirrored], r, c, height, breadth, out);
    } else {
      write_tile_of<float>(call, q.entry[mirrored], r, c, height, breadth, out);
    }
  }
}

// The inner products of a tile's samples. Sums of two directions are formed one by one, so that two samples may change
// places.
struct InnerProducts {
  enum { kInner, kLinear, kLinearBack, kCross, kCrossBack, kCount };
  double sum[kCount][kProductTile][kProductTile];
};

void add_inner_products(const GramEvaluation& call, int64_t row, int64_t column, int rows, int columns,
                        InnerProducts& to) {
  constexpr int kFeatures = 32, kVectors = 2, kWide = kVectors * kLanes<double>;
  using P = InnerProducts;
  const double* from[3] = {call.x, call.sums.linear, call.sums.cross};
  const int64_t first = (call.n2 == 0 ? 0 : call.n) + column;
  double other[3][kFeatures][kProductTile];
  for (int64_t begin = 0; begin < call.D; begin += kFeatures) {
    const int count = int(call.D - begin < kFeatures ? call.D - begin : kFeatures);
    for (int p = 0; p < 3; ++p) {
      for (int j = 0; j < kProductTile; ++j) {
        const double* sample = from[p] + (first + (j < columns ? j : 0)) * call.D + begin;
        for (int d = 0; d < count; ++d) other[p][d][j] = sample[d];
      }
    }
    for (int i = 0; i < rows; ++i) {
      const int64_t at = (row + i) * call.D + begin;
      for (int j = 0; j < kProductTile; j += kWide) {
        Vector<double> sum[P::kCount][kVectors] = {};
        for (int q = 0; begin > 0 && q < P::kCount; ++q) {
          for (int v = 0; v < kVectors; ++v) sum[q][v] = load(to.sum[q][i] + j + v * kLanes<double>);
        }
        for (int d = 0; d < count; ++d) {
          const Vector<double> x = broadcast(from[0][at + d]), linear = broadcast(from[1][at + d]),
                               cross = broadcast(from[2][at + d]);
          for (int v = 0; v < kVectors; ++v) {
            const int lane = j + v * kLanes<double>;
            const Vector<double> other_x = load(other[0][d] + lane);
            sum[P::kInner][v] = fused(x, other_x, sum[P::kInner][v]);
            sum[P::kLinear][v] = fused(linear, other_x, sum[P::kLinear][v]);
            sum[P::kLinearBack][v] = fused(x, load(other[1][d] + lane), sum[P::kLinearBack][v]);
            sum[P::kCross][v] = fused(cross, other_x, sum[P::kCross][v]);
            sum[P::kCrossBack][v] = fused(x, load(other[2][d] + lane), sum[P::kCrossBack][v]);
          }
        }
        for (int q = 0; q < P::kCount; ++q) {
          for (int v = 0; v < kVectors; ++v) store(to.sum[q][i] + j + v * kLanes<double>, sum[q][v]);
        }
      }
    }
  }
}

void evaluate(const GramEvaluation& call, int64_t row, int64_t column) {
  const bool symmetric = call.n2 == 0;
  const int64_t n = call.n, n2 = symmetric ? n : call.n2;
  const int rows = int(n - row < kProductTile ? n - row : kProductTile),
            columns = int(n2 - column < kProductTile ? n2 - column : kProductTile);
  const double per_neuron = 1.0 / call.width, square_sum = *call.sums.square_sum * per_neuron;
  const double *row_sum = call.sums.slope_sum + row, *column_sum = call.sums.slope_sum + (symmetric ? 0 : n) + column;
  InnerProducts p;
  add_inner_products(call, row, column, rows, columns, p);
  Quadratic q;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      const int64_t here = (row + i) * n2 + column + j;
      q.entry[0][0][i][j] = 0.5 * per_neuron * (p.sum[p.kLinear][i][j] + p.sum[p.kLinearBack][i][j]);
      q.entry[0][1][i][j] = per_neuron * (p.sum[p.kCross][i][j] + p.sum[p.kCrossBack][i][j]);
      q.entry[0][2][i][j] = per_neuron * call.sums.value_product[here];
    }
  }
  write_quadratic(call, q, row, column, rows, columns, call.a);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      const int64_t here = (row + i) * n2 + column + j;
      const double inner = p.sum[p.kInner][i][j];
      q.entry[0][0][i][j] = inner * square_sum;
      q.entry[0][1][i][j] = inner * (per_neuron * (row_sum[i] + column_sum[j]));
      q.entry[0][2][i][j] = inner * (per_neuron * call.sums.slope_product[here]);
    }
  }
  write_quadratic(call, q, row, column, rows, columns, call.w);
}

// --- Hermite expansions (hrta_ext/ntk/infinite.py) -------------------------------------------------------------------

void power_sum(int64_t n2, int64_t terms, const double* left, const double* right, const double* base, double* result) {
  constexpr int kColumns = 8 * kLanes<double>;
  for (int64_t begin = 0; begin < n2; begin += kColumns) {
    const int count = int(n2 - begin < kColumns ? n2 - begin : kColumns);
    double power[kColumns] = {}, column[kColumns] = {};
    for (int j = 0; j < count; ++j) power[j] = base[begin + j];
    Vector<double> sum[8] = {};
    for (int64_t k = terms - 1; k >= 0; --k) {
      const double* from = right + k * n2 + begin;
      if (count < kColumns) {
        for (int j = 0; j < count; ++j) column[j] = from[j];
        from = column;
      }
      const Vector<double> factor = broadcast(left[k]);
      for (int v = 0; v < 8; ++v) {
        const Vector<double> term = factor * load(from + v * kLanes<double>);
        sum[v] = fused(sum[v], load(power + v * kLanes<double>), term);
      }
    }
    double lanes[kColumns];
    for (int v = 0; v < 8; ++v) store(lanes + v * kLanes<double>, sum[v]);
    for (int j = 0; j < count; ++j) result[begin + j] = lanes[j];
  }
}

}  // namespace

extern const GramLoops kGramLoops;
const GramLoops kGramLoops = {random_neurons, responses, product, evaluate, power_sum};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
