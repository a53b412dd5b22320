// Tiles of infinite-width kernels. As in activation/cpu/loops.cpp, no inline function of the standard library.
#include "ntk/cpu/infinite_loops.h"

#include "simd/vector.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

constexpr int kTile = kInfiniteTile, kFeatures = 32;
constexpr int kStrip = 16;  // pairs of a mixture whose sums are kept side by side

struct Square {
  double at[kTile][kTile];
  double* operator[](int i) { return at[i]; }
  const double* operator[](int i) const { return at[i]; }
};

struct Tile {
  int rows, columns;
  int64_t row, column;
  bool triangle;  // on the diagonal of a symmetric result
  Square inner;   // x . y
  Square apart, together;
};

// What a chain says of the samples [first, first + count); the others of the tile repeat the last.
struct Link {
  double norm[kTile], mean[kTile];
};

Link link_of(const double* chain, int64_t n, int64_t link, int64_t first, int count) {
  Link found;
  const double* from = chain + 2 * link * n + first;
  for (int i = 0; i < kTile; ++i) {
    const int at = i < count ? i : count - 1;
    found.norm[i] = from[at], found.mean[i] = from[n + at];
  }
  return found;
}

// A zero vector has no direction, and whatever its angle, its norm makes the entry right.
double inverse_norm(double norm) {
  return 1.0 / (norm < 1e-300 ? 1e-300 : norm);
}

// Inner products, and distances of the directions: differences first, not 2 - 2 cos, which loses half the digits of a
// small angle.
void measure(const InfiniteCall& call, const double* norm, const double* norm2, Tile& tile) {
  constexpr int kLong = kLanes<double>, kAtOnce = 2 * kLong;
  double inverse[kTile], inverse2[kTile], columns_x[kFeatures][kTile], columns_u[kFeatures][kTile];
  for (int i = 0; i < kTile; ++i) inverse[i] = inverse_norm(norm[i]), inverse2[i] = inverse_norm(norm2[i]);
  for (int64_t begin = 0; begin < call.D; begin += kFeatures) {
    const int count = int(call.D - begin < kFeatures ? call.D - begin : kFeatures);
    for (int j = 0; j < kTile; ++j) {
      const double* from = call.x2 + (tile.column + (j < tile.columns ? j : 0)) * call.D + begin;
      for (int d = 0; d < count; ++d) columns_x[d][j] = from[d], columns_u[d][j] = from[d] * inverse2[j];
    }
    for (int i = 0; i < tile.rows; ++i) {
      const double* x = call.x + (tile.row + i) * call.D + begin;
      for (int j = 0; j < kTile; j += kAtOnce) {
        Vector<double> inner[2] = {}, apart[2] = {}, together[2] = {};
        for (int v = 0; v < 2 && begin > 0; ++v) {
          inner[v] = load(&tile.inner[i][j + v * kLong]), apart[v] = load(&tile.apart[i][j + v * kLong]);
          together[v] = load(&tile.together[i][j + v * kLong]);
        }
        for (int d = 0; d < count; ++d) {
          const Vector<double> xi = broadcast(x[d]), ui = broadcast(x[d] * inverse[i]);
          for (int v = 0; v < 2; ++v) {
            const Vector<double> uj = load(&columns_u[d][j + v * kLong]), minus = ui - uj, plus = ui + uj;
            inner[v] = fused(xi, load(&columns_x[d][j + v * kLong]), inner[v]);
            apart[v] = fused(minus, minus, apart[v]);
            together[v] = fused(plus, plus, together[v]);
          }
        }
        for (int v = 0; v < 2; ++v) {
          store(&tile.inner[i][j + v * kLong], inner[v]), store(&tile.apart[i][j + v * kLong], apart[v]);
          store(&tile.together[i][j + v * kLong], together[v]);
        }
      }
    }
  }
}

// (1 -+ cos) / 2 in place of the distances.
void find_pairs(const double* norm, const double* norm2, Tile& tile) {
  for (int i = 0; i < tile.rows; ++i) {
    for (int j = 0; j < kTile; ++j) {
      const SamplePair pair = pair_of(0.0, tile.apart[i][j], tile.together[i][j], norm[i], norm2[j]);
      tile.apart[i][j] = pair.apart, tile.together[i][j] = pair.together;
    }
  }
}

template <typename Sums>
void mixture_row(const Widths& widths, double norm, const double* norm2, const double* inner, const double* apart,
                 const double* together, double* value, double* slope) {
  Side sides[kMostWidths];
  for (int a = 0; a < widths.count; ++a) sides[a] = side_of<Sums>(norm, widths.square[a]);
  for (int first = 0; first < kTile; first += kStrip) {
    double sums[kMostSums][kStrip] = {}, cosine[kStrip], tilted[kStrip];
    double rest[kStrip], root[kStrip], scale[kStrip];
    for (int j = 0; j < kStrip; ++j) {
      const int at = first + j;
      cosine[j] = cosine_of({inner[at], apart[at], together[at], norm, norm2[at]});
    }
    for (int b = 0; b < widths.count; ++b) {
      for (int j = 0; j < kStrip; ++j) {
        const Side v = side_of<Sums>(norm2[first + j], widths.square[b]);
        tilted[j] = multiply_add(v.share, 4.0 * apart[first + j] * together[first + j], v.rest);
        rest[j] = v.rest, root[j] = v.root, scale[j] = v.scale;
      }
      for (int a = 0; a < widths.count; ++a) {
        const Side u = sides[a];
        const double weight = widths.weight[a] * widths.weight[b];
#pragma GCC ivdep
        for (int j = 0; j < kStrip; ++j) {
          double terms[kMostSums];
          const Side v = {0.0, rest[j], root[j], scale[j]};
          Sums::term(correlation_of(u, tilted[j], root[j], absolute(cosine[j])), u, v, terms);
#pragma GCC unroll 4
          for (int k = 0; k < Sums::kSums; ++k) sums[k][j] = multiply_add(weight, terms[k], sums[k][j]);
        }
      }
    }
    for (int j = 0; j < kStrip; ++j) {
      const int at = first + j;
      const double mine[kMostSums] = {sums[0][j], sums[1][j], sums[2][j], sums[3][j]};
      const SamplePair pair = {inner[at], apart[at], together[at], norm, norm2[at]};
      const Moments moments = Sums::moments(pair, cosine[j], mine);
      value[at] = moments.value, slope[at] = moments.slope;
    }
  }
}

template <typename Pairs>
void find_moments(const Widths& widths, const Tile& tile, const Link& rows, const Link& columns, Square& value,
                  Square& slope) {
  for (int i = 0; i < tile.rows; ++i) {
    const double *inner = tile.inner[i], *apart = tile.apart[i], *together = tile.together[i];
    if constexpr (Pairs::kMixture) {
      mixture_row<typename Pairs::Sums>(widths, rows.norm[i], columns.norm, inner, apart, together, value[i], slope[i]);
    } else {
      double *to = value[i], *slope_to = slope[i];
      const double norm = rows.norm[i];
#pragma GCC ivdep
      for (int j = 0; j < kTile; ++j) {
        const Moments moments = Pairs::moments({inner[j], apart[j], together[j], norm, columns.norm[j]}, widths);
        to[j] = moments.value, slope_to[j] = moments.slope;
      }
    }
  }
}

void write(const InfiniteCall& call, const Tile& tile, const Square& from, double* to) {
  for (int i = 0; i < tile.rows; ++i) {
    double* row = to + (tile.row + i) * call.n2 + tile.column;
    for (int j = tile.triangle ? i : 0; j < tile.columns; ++j) row[j] = from[i][j];
  }
  for (int j = 0; j < tile.columns && call.same; ++j) {
    double* row = to + (tile.column + j) * call.n2 + tile.row;
    for (int i = 0; i < (tile.triangle ? j : tile.rows); ++i) row[i] = from[i][j];
  }
}

// One layer: K^[a] to `value` and the factor of K^[w] to `slope`, in place of the moments.
void to_kernels(const LayerAt& layer, const Tile& tile, const Link& rows, const Link& columns, Square& value,
                Square& slope) {
  for (int i = 0; i < tile.rows; ++i) {
    for (int j = 0; j < kTile; ++j) {
      const LayerKernels kernels =
          layer_kernels(layer, tile.inner[i][j], rows.mean[i] + columns.mean[j], {value[i][j], slope[i][j]});
      value[i][j] = kernels.sigma, slope[i][j] = kernels.factor;
    }
  }
}

template <typename Pairs>
void deep_tile(const InfiniteCall& call, const Widths& widths, const Tile& first, int64_t at) {
  const LayerAt layer = layer_at(call.s[at]);
  Tile tile = first;
  Square tangent = tile.inner, sigma, factor;
  Link rows = link_of(call.chain, call.n, at * call.depth, tile.row, tile.rows);
  Link columns = link_of(call.chain2, call.n2, at * call.depth, tile.column, tile.columns);
  for (int64_t k = 0; k < call.depth; ++k) {
    find_moments<Pairs>(widths, tile, rows, columns, sigma, factor);
    to_kernels(layer, tile, rows, columns, sigma, factor);
    const bool last = k + 1 == call.depth;
    const int64_t next = at * call.depth + k + (last ? 0 : 1);
    const Link next_rows = link_of(call.chain, call.n, next, tile.row, tile.rows);
    const Link next_columns = link_of(call.chain2, call.n2, next, tile.column, tile.columns);
    for (int i = 0; i < tile.rows; ++i) {
      for (int j = 0; j < kTile; ++j) {
        const double rest = tangent[i][j] * factor[i][j];
        tangent[i][j] = last ? rest : sigma[i][j] + rest;
        const SamplePair before = {tile.inner[i][j], tile.apart[i][j], tile.together[i][j], rows.norm[i],
                                   columns.norm[j]};
        const SamplePair pair = next_pair<Pairs>(layer, before, sigma[i][j], next_rows.norm[i], next_columns.norm[j]);
        tile.inner[i][j] = sigma[i][j], tile.apart[i][j] = pair.apart, tile.together[i][j] = pair.together;
      }
    }
    rows = next_rows, columns = next_columns;
  }
  write(call, tile, sigma, call.a + at * call.n * call.n2);
  write(call, tile, tangent, call.w + at * call.n * call.n2);
}

template <typename Pairs>
void shallow_tile(const InfiniteCall& call, const Widths& widths, const Tile& tile, const Link& rows,
                  const Link& columns) {
  Square value, slope;
  find_moments<Pairs>(widths, tile, rows, columns, value, slope);
  for (int64_t at = 0; at < call.S; ++at) {
    Square sigma = value, factor = slope;
    to_kernels(layer_at(call.s[at]), tile, rows, columns, sigma, factor);
    for (int i = 0; i < tile.rows; ++i) {
      for (int j = 0; j < kTile; ++j) factor[i][j] *= tile.inner[i][j];
    }
    write(call, tile, sigma, call.a + at * call.n * call.n2);
    write(call, tile, factor, call.w + at * call.n * call.n2);
  }
}

void tile(const InfiniteCall& call, const Widths& widths, int64_t row, int64_t column) {
  Tile tile{};
  tile.row = row, tile.column = column, tile.triangle = call.same && row == column;
  tile.rows = int(call.n - row < kTile ? call.n - row : kTile);
  tile.columns = int(call.n2 - column < kTile ? call.n2 - column : kTile);
  const Link rows = link_of(call.chain, call.n, 0, row, tile.rows);
  const Link columns = link_of(call.chain2, call.n2, 0, column, tile.columns);
  measure(call, rows.norm, columns.norm, tile);
  find_pairs(rows.norm, columns.norm, tile);
  with_pairs(call.base, [&](auto pairs) {
    using Pairs = decltype(pairs);
    if (call.depth == 1) {
      shallow_tile<Pairs>(call, widths, tile, rows, columns);
    } else if constexpr (!Pairs::kMixture) {
      for (int64_t at = 0; at < call.S; ++at) deep_tile<Pairs>(call, widths, tile, at);
    }
  });
}

void chain(const InfiniteCall& call, const Widths& widths, int64_t n, const double* norm, double* chain) {
  with_pairs(call.base, [&](auto pairs) {
    for (int64_t i = 0; i < n; ++i) fill_chain<decltype(pairs)>(call, widths, norm[i], chain + i, n);
  });
}

}  // namespace

extern const InfiniteLoops kInfiniteLoops;
const InfiniteLoops kInfiniteLoops = {chain, tile};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
