// The direct Gram builder's loops, compiled once per SIMD level. As in activation/cpu/loops.cpp, nothing here may call
// an inline function of the standard library.
#include "math/homotopy.h"
#include "ntk/cpu/direct.h"
#include "simd/denormals.h"
#include "simd/lanes.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

constexpr int kGroupVectors = kGroup / kLanes<float>;
// A tile of kTileRows numbers by kTileVectors vectors of samples fills the registers with sums; half of the vectors do
// for the last samples.
constexpr int kTileVectors = kGroupVectors == 1 ? 2 : kGroupVectors;
constexpr int kTileRows = kVectorRegisters == 32 ? 12 : (kTileVectors == 2 ? 6 : 2);
constexpr int kTileSamples = kTileVectors * kLanes<float>;
static_assert(kRun % kTileRows == 0 && kTileSamples % kGroup == 0);

HRTA_INLINE Vector<double> wide(const float* memory) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2), aligned(4), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const Half*>(memory), Vector<double>);
}

HRTA_INLINE void add_to(double* out, Vector<float> sum) {
#if defined(__AVX512F__)
  const auto low = Vector<double>(_mm512_cvtps_pd(_mm512_castps512_ps256(__m512(sum))));
  const auto high = Vector<double>(_mm512_cvtps_pd(_mm512_extractf32x8_ps(__m512(sum), 1)));
#elif defined(__AVX2__)
  const auto low = Vector<double>(_mm256_cvtps_pd(_mm256_castps256_ps128(__m256(sum))));
  const auto high = Vector<double>(_mm256_cvtps_pd(_mm256_extractf128_ps(__m256(sum), 1)));
#else
  float lanes[kLanes<float>];
  store(lanes, sum);
  const Vector<double> low = wide(lanes), high = wide(lanes + kLanes<double>);
#endif
  store(out, load(out) + low);
  store(out + kLanes<double>, load(out + kLanes<double>) + high);
}

// Where the samples of a tile lie: in groups `stride` apart, kGroup side by side.
template <typename T>
HRTA_INLINE T* vector_at(T* groups, int64_t stride, int v) {
  return groups + (v / kGroupVectors) * stride + (v % kGroupVectors) * kLanes<float>;
}

// out += sum over k < length of left[r][k kStride] times right (length, kGroup), for kTileRows rows.
template <int kVectors, int kStride>
void add_chains(const float* const* left, const float* right, int64_t right_group, int64_t length, double* out,
                int64_t out_row, int64_t out_group) {
  const float* row[kTileRows];
  for (int r = 0; r < kTileRows; ++r) row[r] = left[r];
  Vector<float> sum[kTileRows][kVectors] = {};
  for (int64_t k = 0; k < length; ++k) {
    Vector<float> column[kVectors];
    for (int v = 0; v < kVectors; ++v) column[v] = load(vector_at(right, right_group, v) + k * kGroup);
    for (int r = 0; r < kTileRows; ++r) {
      const Vector<float> factor = broadcast(row[r][k * kStride]);
      for (int v = 0; v < kVectors; ++v) sum[r][v] = fused(factor, column[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < kVectors; ++v) add_to(vector_at(out, out_group, v) + r * out_row, sum[r][v]);
  }
}

template <int kStride>
void add_chains(int64_t samples, const float* const* left, const float* right, int64_t right_group, int64_t length,
                double* out, int64_t out_row, int64_t out_group) {
  if (samples > kTileSamples / 2) {
    add_chains<kTileVectors, kStride>(left, right, right_group, length, out, out_row, out_group);
  } else {
    add_chains<kTileVectors / 2, kStride>(left, right, right_group, length, out, out_row, out_group);
  }
}

int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// square (kRows) += |row|^2 and squares (length) += row o row of rows `stride` apart.
template <int kRows>
void survey_rows(const float* rows, int64_t stride, int64_t length, double* square, float* squares) {
  Vector<float> sum[kRows] = {};
  float rest[kRows] = {};
  int64_t d = 0;
  for (; d + kLanes<float> <= length; d += kLanes<float>) {
    Vector<float> total = load(squares + d);
    for (int r = 0; r < kRows; ++r) {
      const Vector<float> w = load(rows + r * stride + d);
      sum[r] = fused(w, w, sum[r]);
      total = fused(w, w, total);
    }
    store(squares + d, total);
  }
  for (; d < length; ++d) {
    for (int r = 0; r < kRows; ++r) {
      const float w = rows[r * stride + d];
      rest[r] += w * w;
      squares[d] += w * w;
    }
  }
  for (int r = 0; r < kRows; ++r) square[r] += sum_of_lanes(sum[r]) + double(rest[r]);
}

void survey(const float* rows, int64_t stride, int64_t length, int64_t count, double* square, float* squares) {
  constexpr int kRows = 4;
  int64_t k = 0;
  for (; k + kRows <= count; k += kRows) survey_rows<kRows>(rows + k * stride, stride, length, square + k, squares);
  for (; k < count; ++k) survey_rows<1>(rows + k * stride, stride, length, square + k, squares);
}

void weighted(const float* rows, int64_t D, int64_t count, const double* squares, double* sums) {
  constexpr int kWidth = kLanes<double>, kSums = 4;
  for (int64_t k = 0; k < count; ++k) {
    const float* row = rows + k * D;
    Vector<double> sum[kSums] = {};
    int64_t d = 0;
    for (; d + kSums * kWidth <= D; d += kSums * kWidth) {
      for (int i = 0; i < kSums; ++i) {
        const Vector<double> x = wide(row + d + i * kWidth);
        sum[i] = fused(x * x, load(squares + d + i * kWidth), sum[i]);
      }
    }
    sums[k] = sum_of_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; d < D; ++d) sums[k] += double(row[d]) * double(row[d]) * squares[d];
  }
}

void preactivations(const Samples& samples, int64_t first, int groups, const float* rows, int count, double* z,
                    double* square, float* squares) {
  constexpr int64_t kSlab = 256;  // features: those of a tile of samples stay in the first cache
  const int64_t D = samples.D, begin = first * kGroup, end = least(begin + groups * kGroup, samples.n);
  for (int64_t i = 0; i < int64_t(groups) * kRun * kGroup; ++i) z[i] = 0.0;
  for (int k = 0; k < count; ++k) square[k] = 0.0;
  for (int64_t slab = 0; slab < D; slab += kSlab) {
    const int64_t slab_end = least(slab + kSlab, D);
    survey(rows + slab, D, slab_end - slab, count, square, squares + slab);
    for (int64_t i = begin; i < end; i += kTileSamples) {
      const float* right = samples.groups + (i / kGroup) * D * kGroup;
      double* out = z + (i - begin) * kRun;
      for (int k = 0; k < count; k += kTileRows) {
        for (int64_t d = slab; d < slab_end; d += kChain) {
          const float* left[kTileRows];
          for (int r = 0; r < kTileRows; ++r) left[r] = rows + least(k + r, count - 1) * D + d;  // the last ones twice
          add_chains<1>(end - i, left, right + d * kGroup, D * kGroup, least(slab_end - d, kChain), out + k * kGroup,
                        kGroup, kRun * kGroup);
        }
      }
    }
  }
}

// x . w in float64: products are exact.
double dot(const float* x, const float* w, int64_t D) {
  constexpr int kWidth = kLanes<double>, kSums = 4;
  Vector<double> sum[kSums] = {};
  int64_t d = 0;
  for (; d + kSums * kWidth <= D; d += kSums * kWidth) {
    for (int i = 0; i < kSums; ++i) sum[i] = fused(wide(x + d + i * kWidth), wide(w + d + i * kWidth), sum[i]);
  }
  double total = sum_of_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; d < D; ++d) total += double(x[d]) * double(w[d]);
  return total;
}

void repair(const Samples& samples, int64_t group, const float* rows, const double* square, int count, double radius,
            double* z) {
  const double D = double(samples.D), floor = kUnderflow * D, share = samples.sign_bound + 0x1p-52 * D;
  const double* size = samples.norm + group * kGroup;
  const int64_t lanes = least(samples.n - group * kGroup, kGroup);
  for (int k = 0; k < count; ++k) {
    double* row = z + k * kGroup;
    const double bound = share * __builtin_sqrt(square[k] + kSquareUnderflow * D);
    int64_t near = 0;
    double reach[kGroup];
    for (int l = 0; l < kGroup; ++l) {
      const double sign = multiply_add(bound, size[l], floor);
      reach[l] = sign > radius ? sign : radius;
      near |= absolute(row[l]) <= reach[l] ? 1 : 0;
    }
    if (near == 0) continue;
    const float* weight = rows + k * samples.D;
    bool zero = true;
    for (int64_t d = 0; zero && d < samples.D; ++d) zero = weight[d] == 0.0f;
    for (int64_t l = 0; l < lanes && !zero; ++l) {
      if (!(absolute(row[l]) <= reach[l])) continue;
      row[l] = dot(samples.rows + (group * kGroup + l) * samples.D, weight, samples.D);
    }
  }
}

// slopes = sigma_s'(z), without a.
template <typename Base>
void respond_as(Homotopy<float> h, const double* z, int count, float* values, float* slopes, float* narrow) {
  const int n = count * kGroup;
  for (int i = 0; i < n; ++i) narrow[i] = float(z[i]);
  if constexpr (Base::kGrowth == Growth::kRamp) {  // a z that is zero in float has its sign
    for (int i = 0; i < n; ++i) {
      values[i] = z[i] > 0.0 ? narrow[i] : h.linear * narrow[i];
      slopes[i] = z[i] > 0.0 ? 1.0f : h.linear;
    }
  } else {
    for_each_in_lanes<Base>(narrow, n, [=](int i, auto at) __attribute__((always_inline)) {
      store(values + i, homotopy_value<Base>(at, h));
      store(slopes + i, homotopy_slope<Base>(at, h));
    });
  }
}

void respond(int base, double s, const double* z, const float* a, int count, float window, float* values, float* slopes,
             Scales& scales) {
  const FlushDenormals flush;  // FloatClass sees to it that nothing of account is that small
  float narrow[kRun * kGroup];
  with_base(base,
            [&](auto tag) { respond_as<decltype(tag)>(Homotopy<float>::from(s), z, count, values, slopes, narrow); });
  Vector<float> sum[4][kGroupVectors] = {};
  for (int k = 0; k < count; ++k) {
    const Vector<float> output_weight = broadcast(a[k]), square = output_weight * output_weight;
    for (int v = 0; v < kGroupVectors; ++v) {
      const int i = k * kGroup + v * kLanes<float>;
      const Vector<float> pre = load(narrow + i), value = load(values + i), slope = output_weight * load(slopes + i);
      store(slopes + i, slope);
      const Vector<float> curved = pre * pre < broadcast(window * window) ? square : Vector<float>{};
      sum[0][v] = fused(pre, pre, sum[0][v]);
      sum[1][v] = fused(value, value, sum[1][v]);
      sum[2][v] = fused(slope, slope, sum[2][v]);
      sum[3][v] += curved;
    }
  }
  double* const into[4] = {scales.z, scales.value, scales.slope, scales.curved};
  for (int p = 0; p < 4; ++p) {
    for (int v = 0; v < kGroupVectors; ++v) add_to(into[p] + v * kLanes<float>, sum[p][v]);
  }
}

void product(const float* operand, int64_t block, int count, int64_t row, int64_t row_end, int64_t column,
             int64_t column_end, double* out, int64_t stride) {
  const FlushDenormals flush;
  const int64_t size = block * kGroup;  // of a group
  for (int64_t j = column; j < column_end; j += kTileSamples) {
    const int64_t columns = least(column_end - j, kTileSamples);
    const float* right = operand + (j / kGroup) * size;
    for (int64_t i = row; i < least(row_end, j + columns); i += kTileRows) {
      const int64_t rows = least(row_end - i, kTileRows);
      double* to = out + (i - row) * stride + (j - column);
      const bool whole = rows == kTileRows && columns == kTileSamples && i + rows <= j + 1;
      double tile[kTileRows][kTileSamples] = {};
      for (int64_t k = 0; k < count; k += kTerms) {
        const float* left[kTileRows];
        for (int64_t r = 0; r < kTileRows; ++r) {
          const int64_t at = least(i + r, row_end - 1);  // the last one more than once
          left[r] = operand + (at / kGroup) * size + k * kGroup + at % kGroup;
        }
        add_chains<kGroup>(columns, left, right + k * kGroup, size, least(count - k, kTerms), whole ? to : tile[0],
                           whole ? stride : kTileSamples, kGroup);
      }
      for (int64_t r = 0; !whole && r < rows; ++r) {
        for (int64_t c = i + r > j ? i + r - j : 0; c < columns; ++c) to[r * stride + c] += tile[r][c];
      }
    }
  }
}

void finish(int64_t n, double m, int64_t row, int64_t group, const double* inner, const double* value,
            const double* slope, int64_t stride, float* a, float* w) {
  const int64_t column = group * kGroup;
  const int64_t rows = least(n - row, kRun), columns = least(n - column, kGroup);
  const double per_neuron = 1.0 / m;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = (row + i) * n + column, from = row + i > column ? row + i - column : 0;
    for (int64_t c = from; c < columns; ++c) {
      a[at + c] = float(per_neuron * value[i * stride + c]);
      w[at + c] = float(inner[i * kGroup + c] * (per_neuron * slope[i * stride + c]));
    }
  }
  for (int64_t c = 0; c < columns; ++c) {
    const int64_t below = (column + c) * n + row, end = least(column + c - row, rows);
    for (int64_t i = 0; i < end; ++i) {
      a[below + i] = a[(row + i) * n + column + c];
      w[below + i] = w[(row + i) * n + column + c];
    }
  }
}

}  // namespace

extern const DirectLoops kDirectLoops;
const DirectLoops kDirectLoops = {survey, weighted, preactivations, repair, respond, product, finish};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
