// The Gram builder on the CPU. Neurons pass in blocks of kNeuronBlock, each in three steps: fetch (weights as doubles,
// drawn or copied, and a^2), respond (pre-activations, responses and their sums over the block, operands of the
// products; per group of samples), multiply (tile by tile, added in float64). Blocks are added in a fixed order.
#include "ntk/cpu/builder.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "ntk/cpu/loops.h"
#include "ntk/gram.h"
#include "simd/levels.h"

namespace hrta {
namespace cpu {

HRTA_PICK_TABLE(GramLoops, kGramLoops, gram_loops)

namespace {

bool is_double(const GramCall& call) {
  return call.digits != kDigitsFloat;
}

int64_t round_up(int64_t count, int64_t unit) {
  return ceil_div(count, unit) * unit;
}

// One product's operands for one block of neurons: `left` and `right` bytes per group of samples.
struct Operands {
  int digits;
  bool tiles, binary;  // tiles: AMX digits, else vectors of T; binary: left has one digit
  int64_t left_bytes, right_bytes;
  Buffer<int8_t> left, right;              // (groups, ...)
  Buffer<double> left_scale, right_scale;  // (groups, kGroup), of the digits

  Operands(const GramCall& call, bool in_tiles, bool is_binary, int64_t groups)
      : digits(call.digits),
        tiles(in_tiles),
        binary(in_tiles && is_binary),
        left_bytes(left_size(call, in_tiles, is_binary)),
        right_bytes(in_tiles ? left_size(call, true, false) : 0),  // vectors: the same numbers on both sides
        left(groups * left_bytes),
        right(groups * right_bytes),
        left_scale(groups * kGroup),
        right_scale(groups * kGroup) {
    std::fill(left_scale.at(0), left_scale.at(groups * kGroup), 1.0);
  }

  static int64_t left_size(const GramCall& call, bool in_tiles, bool is_binary) {
    const int64_t elements = int64_t(kNeuronBlock) * kGroup;
    if (!in_tiles) return elements * (is_double(call) ? 8 : 4);
    return is_binary ? elements : elements * call.digits;
  }

  static int64_t bytes(const GramCall& call, bool in_tiles, bool is_binary, int64_t groups) {
    const int64_t right = in_tiles ? left_size(call, true, false) : 0;
    return groups * (left_size(call, in_tiles, is_binary) + right + 2 * kGroup * 8);
  }
};

// Groups of samples, an even number of the products' rows and, for cross-kernels, of their columns.
int64_t row_groups(const GramCall& call) {
  return round_up(call.n - call.n2, kProductTile) / kGroup;
}
int64_t group_count(const GramCall& call) {
  return row_groups(call) + round_up(call.n2, kProductTile) / kGroup;
}

// Below this many features sum_k w_k w_k^T (D x D) is cheaper than sum_k z_ik w_k (n x D), and gives it.
constexpr int64_t kSecondMomentFeatures = 16;

// Samples per side of a panel: the operands of two panels and their part of the products fit in the second cache.
// Cross-kernels that have few such panels are cut into smaller ones: every thread gets some.
constexpr int64_t kPanel = 192, kSmallPanel = 64, kFewPanels = 64;

// Whether threads take whole blocks of neurons, else share the samples of each. An entry of a cross-kernel has the bits
// that its two samples have in every other, and in a matrix of more than kPanel samples: its blocks are added in order.
bool goes_by_blocks(const GramCall& call) {
  return call.n <= kPanel && call.n2 == 0;
}

// What belongs to one block of neurons.
struct Slot {
  Buffer<double> weight;   // (kNeuronBlock, D)
  Buffer<float> weight_t;  // the same in float, for the float32 class
  Buffer<double> a;        // (kNeuronBlock)
  Buffer<int8_t> square_digits;
  double square_scale = 0.0;
  Operands values, slopes;
  Buffer<double> group_sums;  // (groups, 2 D + 1, kGroup)

  Slot(const GramCall& call, bool tiles, int64_t groups)
      : weight(kNeuronBlock * call.D),
        weight_t(is_double(call) ? 0 : kNeuronBlock * call.D),
        a(kNeuronBlock),
        square_digits(kDigitsDouble * kNeuronBlock),
        values(call, tiles, false, groups),
        slopes(call, tiles, call.base == kRelu, groups),
        group_sums(groups * (2 * call.D + 1) * kGroup) {}

  static int64_t bytes(const GramCall& call, bool tiles) {
    const int64_t groups = group_count(call);
    return kNeuronBlock * (12 * call.D + 8 + kDigitsDouble) + Operands::bytes(call, tiles, false, groups) +
           Operands::bytes(call, tiles, call.base == kRelu, groups) + groups * (2 * call.D + 1) * kGroup * 8;
  }
};

// The sums of some of the blocks; moment is sum_k w_k w_k^T, or unused.
struct PartialSums {
  std::vector<double> memory;
  GramSums sums;
  double* moment;

  static int64_t count(const GramCall& call) {
    return 2 * call.n * call.D + 1 + call.n + 2 * call.n * call.n + call.D * call.D;
  }

  explicit PartialSums(const GramCall& call) : memory(size_t(count(call)), 0.0) {
    const int64_t nD = call.n * call.D, nn = call.n * call.n;
    double* at = memory.data();
    sums = {at, at + nD, at + 2 * nD, at + 2 * nD + 1, at + 2 * nD + 1 + call.n, at + 2 * nD + 1 + call.n + nn};
    moment = at + 2 * nD + 1 + call.n + 2 * nn;
  }
};

double dot(const double* u, int64_t u_stride, const double* v, int64_t v_stride, int count) {
  double lanes[8] = {};
  for (int k = 0; k < count; ++k) lanes[k % 8] += u[k * u_stride] * v[k * v_stride];
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

class Builder {
 public:
  Builder(const GramCall& call, ParallelFor parallel_for)
      : call_(call),
        parallel_for_(parallel_for),
        loops_(gram_loops()),
        amx_(amx_loops()),
        groups_(group_count(call)),
        by_moment_(call.D <= kSecondMomentFeatures),
        total_blocks_(ceil_div(call.m, kNeuronBlock)),
        rows_(call.n - call.n2),
        columns_(call.n2 == 0 ? call.n : call.n2),
        x_(groups_ * call.D * kGroup) {
    std::fill(x_.at(0), x_.at(groups_ * call.D * kGroup), 0.0);
    for (int64_t i = 0; i < call.n; ++i) {
      double* lane = x_.at(lane_of(i, call.D));
      for (int64_t d = 0; d < call.D; ++d) lane[d * kGroup] = call.x[i * call.D + d];
    }
  }

  bool run() {
    if (goes_by_blocks(call_)) {
      run_by_blocks();
    } else {
      run_by_panels();
    }
    return finite_;
  }

  // Few samples: a thread takes a block through all steps while its operands are in the second cache. Part p has the
  // blocks p, p + parts, ... and its own sums, added in the end.
  void run_by_blocks() {
    const int64_t parts = std::min(part_count(call_), std::max<int64_t>(total_blocks_, 1));
    std::vector<std::unique_ptr<PartialSums>> partial(static_cast<size_t>(parts));
    for_each_task(parts, parallel_for_, [&](int64_t part) {
      partial[size_t(part)] = std::make_unique<PartialSums>(call_);
      PartialSums& own = *partial[size_t(part)];
      Slot slot(call_, amx_ != nullptr, groups_);
      for (int64_t block = part; block < total_blocks_; block += parts) {
        fetch(block, slot);
        for (int64_t group = 0; group < groups_; ++group) respond(block, group, slot);
        add_block_sums(block, slot, own.sums, own.moment);
        multiply(block, slot.values, 0, 0, kPanel, own.sums.value_product);
        multiply(block, slot.slopes, 0, 0, kPanel, own.sums.slope_product);
      }
    });
    std::vector<double> moment(size_t(call_.D * call_.D), 0.0);
    for (const auto& own : partial) {
      const auto add = [](const double* from, double* to, int64_t count) {
        for (int64_t i = 0; i < count; ++i) to[i] += from[i];
      };
      const int64_t nD = call_.n * call_.D, nn = call_.n * call_.n;
      add(own->sums.linear, call_.sums.linear, nD);
      add(own->sums.cross, call_.sums.cross, nD);
      add(own->sums.square_sum, call_.sums.square_sum, 1);
      add(own->sums.slope_sum, call_.sums.slope_sum, call_.n);
      add(own->sums.value_product, call_.sums.value_product, nn);
      add(own->sums.slope_product, call_.sums.slope_product, nn);
      add(own->moment, moment.data(), call_.D * call_.D);
    }
    if (by_moment_) add_linear_from(moment.data());
  }

  // Many samples: slabs of a few blocks; threads share the groups of samples, then the panels of the products.
  void run_by_panels() {
    constexpr int64_t kAim = 24 << 20;  // bytes of a slab: enough work between two barriers, within the last cache
    const int64_t slab = std::clamp<int64_t>(std::min(kAim, call_.scratch_bytes) / Slot::bytes(call_, amx_ != nullptr),
                                             1, std::max<int64_t>(total_blocks_, 1));
    std::vector<std::unique_ptr<Slot>> slots;
    for (int64_t i = 0; i < slab; ++i) slots.push_back(std::make_unique<Slot>(call_, amx_ != nullptr, groups_));
    std::vector<double> moment(size_t(call_.D * call_.D), 0.0);
    const auto panels_of = [&](int64_t size) {
      return Pairs{ceil_div(rows_, size), ceil_div(columns_, size), call_.n2 == 0};
    };
    const int64_t size = call_.n2 != 0 && panels_of(kPanel).count() < kFewPanels ? kSmallPanel : kPanel;
    const Pairs panels = panels_of(size);
    for (int64_t first = 0; first < total_blocks_ && finite_; first += slab) {
      const int64_t blocks = std::min(slab, total_blocks_ - first);
      const auto slot_at = [&](int64_t i) -> Slot& { return *slots[size_t(i)]; };
      for_each_task(blocks, parallel_for_, [&](int64_t i) { fetch(first + i, slot_at(i)); });
      for_each_task(blocks * groups_, parallel_for_,
                    [&](int64_t task) { respond(first + task / groups_, task % groups_, slot_at(task / groups_)); });
      for (int64_t i = 0; i < blocks; ++i) add_block_sums(first + i, slot_at(i), call_.sums, moment.data());
      for_each_task(panels.count(), parallel_for_, [&](int64_t task) {
        const auto [row, column] = panels.at(task);
        for (int64_t i = 0; i < blocks; ++i) {
          multiply(first + i, slot_at(i).values, row, column, size, call_.sums.value_product);
        }
        for (int64_t i = 0; i < blocks; ++i) {
          multiply(first + i, slot_at(i).slopes, row, column, size, call_.sums.slope_product);
        }
      });
    }
    if (by_moment_) add_linear_from(moment.data());
  }

  // Parts whose slots and sums take 128 MiB at most; a function of the shape, so that the bits depend on it alone.
  static int64_t part_count(const GramCall& call) {
    constexpr int64_t kMostBytes = 128 << 20;
    return std::clamp<int64_t>(kMostBytes / part_bytes(call), 1, 16);
  }

  static int64_t part_bytes(const GramCall& call) {
    return Slot::bytes(call, amx_loops() != nullptr) + PartialSums::count(call) * 8;
  }

 private:
  // Where sample i begins among groups of (entries, kGroup) doubles.
  int64_t lane_of(int64_t i, int64_t entries) const {
    const int64_t lane = i < rows_ ? i : row_groups(call_) * kGroup + i - rows_;
    return lane / kGroup * entries * kGroup + lane % kGroup;
  }

  int count_of(int64_t block) const { return int(std::min<int64_t>(kNeuronBlock, call_.m - block * kNeuronBlock)); }

  void fetch(int64_t block, Slot& slot) {
    const int count = count_of(block);
    const int64_t entries = count * call_.D;
    double *weight = slot.weight.at(0), *a = slot.a.at(0);
    if (!fetch_neurons(call_, block * kNeuronBlock, count, weight, a)) finite_ = false;
    if (!is_double(call_)) std::copy(weight, weight + entries, slot.weight_t.at(0));
    if (amx_ != nullptr && call_.base == kRelu) {
      slot.square_scale = amx_->cut_squares(call_.digits, a, count, slot.square_digits.at(0));
    }
  }

  void respond(int64_t block, int64_t group, Slot& slot) const {
    const int64_t D = call_.D;
    const NeuronBlock neurons{count_of(block), D, slot.weight.at(0),
                              is_double(call_) ? static_cast<const void*>(slot.weight.at(0)) : slot.weight_t.at(0),
                              slot.a.at(0)};
    double* sums = slot.group_sums.at(group * (2 * D + 1) * kGroup);
    const GroupSums group_sums{by_moment_ ? nullptr : sums + (D + 1) * kGroup, sums, sums + D * kGroup};
    constexpr int64_t kElements = int64_t(kNeuronBlock) * kGroup;
    thread_local const Buffer<double> values(kElements), slopes(kElements);
    const bool tiles = amx_ != nullptr;
    Operands &v = slot.values, &t = slot.slopes;
    int8_t *value_left = v.left.at(group * v.left_bytes), *slope_left = t.left.at(group * t.left_bytes);
    void* value = tiles ? static_cast<void*>(values.at(0)) : value_left;
    void* slope = tiles ? static_cast<void*>(slopes.at(0)) : slope_left;
    loops_.responses(call_.base, is_double(call_), x_.at(group * D * kGroup), neurons, value, slope, group_sums);
    if (!tiles) return;
    amx_->pack_values(call_.digits, value, neurons.count, value_left, v.right.at(group * v.right_bytes),
                      v.right_scale.at(group * kGroup));
    std::copy(v.right_scale.at(group * kGroup), v.right_scale.at((group + 1) * kGroup),
              v.left_scale.at(group * kGroup));
    int8_t* slope_right = t.right.at(group * t.right_bytes);
    double* scale = t.right_scale.at(group * kGroup);
    if (t.binary) {
      amx_->pack_binary(call_.digits, slope, slot.square_digits.at(0), neurons.count, slope_left, slope_right);
      std::fill(scale, scale + kGroup, slot.square_scale);
    } else {
      amx_->pack_values(call_.digits, slope, neurons.count, slope_left, slope_right, scale);
      std::copy(scale, scale + kGroup, t.left_scale.at(group * kGroup));
    }
  }

  void add_block_sums(int64_t block, const Slot& slot, const GramSums& sums, double* moment) const {
    const int64_t D = call_.D;
    const double* weight = slot.weight.at(0);
    const int count = count_of(block);
    *sums.square_sum += dot(slot.a.at(0), 1, slot.a.at(0), 1, count);
    for (int64_t d = 0; by_moment_ && d < D; ++d) {
      for (int64_t e = 0; e <= d; ++e) moment[d * D + e] += dot(weight + d, D, weight + e, D, count);
    }
    for (int64_t i = 0; i < call_.n; ++i) {
      const double* lane = slot.group_sums.at(lane_of(i, 2 * D + 1));
      sums.slope_sum[i] += lane[D * kGroup];
      for (int64_t d = 0; d < D; ++d) sums.cross[i * D + d] += lane[d * kGroup];
      for (int64_t d = 0; !by_moment_ && d < D; ++d) sums.linear[i * D + d] += lane[(D + 1 + d) * kGroup];
    }
  }

  void add_linear_from(const double* moment) const {
    const int64_t D = call_.D;
    for (int64_t i = 0; i < call_.n; ++i) {
      for (int64_t d = 0; d < D; ++d) {
        double sum = 0.0;
        for (int64_t e = 0; e < D; ++e) sum += moment[std::max(d, e) * D + std::min(d, e)] * call_.x[i * D + e];
        call_.sums.linear[i * D + d] += sum;
      }
    }
  }

  // The entries of a product that a tile of `size` rows and columns covers, in the upper triangle of a symmetric one.
  Entries entries_at(double* product, int64_t row, int64_t column, int64_t size) const {
    return {product + row * columns_ + column, columns_, int(std::clamp<int64_t>(rows_ - row, 0, size)),
            int(std::clamp<int64_t>(columns_ - column, 0, size)), call_.n2 == 0 && row == column};
  }

  // product += the operands' product over one block, panel against panel of `size` samples.
  void multiply(int64_t block, const Operands& operands, int64_t row_panel, int64_t column_panel, int64_t size,
                double* product) const {
    const int64_t pairs = size / kProductTile,
                  row_end = std::min((row_panel + 1) * pairs, ceil_div(rows_, kProductTile)),
                  column_end = std::min((column_panel + 1) * pairs, ceil_div(columns_, kProductTile));
    if (operands.tiles) amx_->begin();
    for (int64_t i = row_panel * pairs; i < row_end; ++i) {
      for (int64_t j = std::max(call_.n2 == 0 ? i : 0, column_panel * pairs); j < column_end; ++j) {
        if (operands.tiles) {
          tile_product(count_of(block), operands, i, j, product);
        } else {
          vector_product(count_of(block), operands, i, j, product);
        }
      }
    }
    if (operands.tiles) amx_->end();
  }

  // The group of samples of the products' first column.
  int64_t first_column() const { return call_.n2 == 0 ? 0 : row_groups(call_); }

  void tile_product(int count, const Operands& operands, int64_t i, int64_t j, double* product) const {
    const int64_t row = 2 * i, column = first_column() + 2 * j;
    const int8_t* left[2] = {operands.left.at(row * operands.left_bytes),
                             operands.left.at((row + 1) * operands.left_bytes)};
    const int8_t* right[2] = {operands.right.at(column * operands.right_bytes),
                              operands.right.at((column + 1) * operands.right_bytes)};
    amx_->product(operands.digits, operands.binary, left, right, count, operands.left_scale.at(row * kGroup),
                  operands.right_scale.at(column * kGroup),
                  entries_at(product, i * kProductTile, j * kProductTile, kProductTile));
  }

  void vector_product(int count, const Operands& operands, int64_t i, int64_t j, double* product) const {
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t row = 2 * i + corner / 2, column = 2 * j + corner % 2;
      const bool below_diagonal = call_.n2 == 0 && row > column;
      if (below_diagonal || row * kGroup >= rows_ || column * kGroup >= columns_) continue;
      loops_.product(operands.digits != kDigitsFloat, operands.left.at(row * operands.left_bytes),
                     operands.left.at((first_column() + column) * operands.left_bytes), count,
                     entries_at(product, row * kGroup, column * kGroup, kGroup));
    }
  }

  const GramCall& call_;
  ParallelFor parallel_for_;
  const GramLoops& loops_;
  const AmxLoops* amx_;
  const int64_t groups_;
  const bool by_moment_;
  const int64_t total_blocks_;
  const int64_t rows_, columns_;  // of the products
  Buffer<double> x_;              // (groups, D, kGroup)
  std::atomic<bool> finite_{true};
};

}  // namespace

int64_t gram_least_scratch(const GramCall& call) {
  if (call.D == 2 && call.base == kRelu) return arcs_scratch(call);
  return goes_by_blocks(call) ? Builder::part_count(call) * Builder::part_bytes(call)
                              : Slot::bytes(call, amx_loops() != nullptr);
}

bool gram_sums(const GramCall& call, ParallelFor parallel_for) {
  if (call.D == 2 && call.base == kRelu) return gram_sums_by_arcs(call, parallel_for);
  return Builder(call, parallel_for).run();
}

}  // namespace cpu
}  // namespace hrta
