// The Gram matrices at one s, float32 class: sums of products of sigma_s(z) and a sigma_s'(z) themselves, so that
// neither the four smaller sums nor their products with x are needed, and nothing cancels but what sigma_s cancels.
// All of it is in float, but for sums over more than kChain features or kTerms neurons, for signs of z that float
// leaves open, and for z where sigma_s curves if |z| is large elsewhere (many features). What float may cost is looked
// at afterwards (within_class): the caller goes by the sums of builder.cpp where it is too much.
#include "ntk/cpu/direct.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "ntk/cpu/float_class.h"
#include "ntk/cpu/preactivations.h"
#include "ntk/gram.h"
#include "simd/levels.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

HRTA_PICK_TABLE(DirectLoops, kDirectLoops, direct_loops)

namespace {

constexpr int64_t kPanelGroups = 12;  // of samples: operands of two panels and their part of a product fit the caches
constexpr int64_t kPanel = kPanelGroups * kGroup;
constexpr int kBlock = 192, kTileBlock = 384;  // neurons of an operand, by vectors and on matrix tiles
static_assert(kMostRows % kRun == 0 && kPanel % kMostRows == 0);
static_assert(kBlock % kRun == 0 && kTileBlock % kRun == 0 && kTileBlock % kTileNeurons == 0);

// One product's operand for one block of neurons: floats, or their digits for matrix tiles.
struct Operand {
  Buffer<float> numbers;       // (groups, kBlock, kGroup)
  Buffer<int8_t> left, right;  // (groups, kTileDigits)
  Buffer<double> scale;        // (groups, kGroup)

  static constexpr int64_t kTileDigits = int64_t(kDigitsFloat) * kTileBlock * kGroup;

  Operand(int64_t groups, bool tiles)
      : numbers(tiles ? 0 : groups * kBlock * kGroup),
        left(tiles ? groups * kTileDigits : 0),
        right(tiles ? groups * kTileDigits : 0),
        scale(tiles ? groups * kGroup : 0) {}

  static int64_t bytes(int64_t groups, bool tiles) {
    return groups * (tiles ? 2 * kTileDigits + 8 * kGroup : 4 * int64_t(kBlock) * kGroup);
  }
};

// What belongs to one block of neurons.
struct Slot {
  Operand values, slopes;
  double square = 0.0, peak = 0.0;  // of the rows, as Preactivations::form has it: their sum, and the largest
  std::vector<float> squares;       // (D)
  std::vector<Scales> scales;       // (groups)

  Slot(int64_t groups, bool tiles) : values(groups, tiles), slopes(groups, tiles), scales(size_t(groups)) {}
};

// Both products' upper triangles, (n, n) each: zeros of which pages that are not touched cost nothing.
struct Products {
  std::unique_ptr<double, decltype(&std::free)> memory;
  double *value, *slope;

  explicit Products(int64_t n)
      : memory(static_cast<double*>(std::calloc(size_t(2 * n * n), sizeof(double))), &std::free),
        value(memory.get()),
        slope(value + n * n) {
    if (memory == nullptr) throw std::bad_alloc();
  }
};

// Sums over neurons and samples: |x_i|^2 weighted and plain as in Scales, and the output weights' squares.
struct Totals {
  std::vector<double> squares;                  // (D)  sum_k w_k o w_k
  std::vector<double> z, value, slope, curved;  // (n)
  double square = 0.0, peak = 0.0, output = 0.0;

  Totals(int64_t n, int64_t D) : squares(size_t(D)), z(size_t(n)), value(z), slope(z), curved(z) {}
};

class Direct {
 public:
  Direct(const GramDirect& call, ParallelFor parallel_for)
      : call_(call),
        parallel_for_(parallel_for),
        loops_(direct_loops()),
        amx_(call.n > kFewSamples ? amx_loops() : nullptr),
        groups_(amx_ == nullptr ? ceil_div(call.n, kGroup) : 2 * ceil_div(call.n, kProductTile)),
        block_(amx_ == nullptr ? kBlock : kTileBlock),
        blocks_(ceil_div(call.m, block_)),
        small_(double(call.n) * double(call.m) * double(call.D + call.n) < 0x1p20),
        class_{call.base, call.s, double(call.m)},
        preactivations_(call, groups_, class_, parallel_for, small_),
        totals_(call.n, call.D) {
    if (class_.can_be_exact()) class_.exact = wanted();
  }

  bool run() {
    if (!(call_.n <= kPanel ? run_by_blocks() : run_by_panels())) return false;
    if (!products_) return true;  // written
    if (!within_class()) return false;
    write();
    return true;
  }

 private:
  // The z that are to be formed in float64, by what weights like the first ones would make of all samples: none if
  // float does, or if more than half of them were that near.
  const Exact* wanted() const {
    const std::vector<Preactivations::Expected>& expected = preactivations_.expected();
    FloatClass tried = class_;
    const auto keeps = [&] {
      return std::all_of(expected.begin(), expected.end(),
                         [&](const auto& of) { return tried.would_keep(of.variance, of.error); });
    };
    if (keeps()) return nullptr;
    for (const Exact& exact : kExact) {
      double near = 0.0;
      for (const auto& of : expected) near += FloatClass::share_near(exact.within, of.variance);
      if (near > 0.5 * double(call_.n)) break;
      tried.exact = &exact;
      if (keeps()) break;
    }
    return tried.exact;
  }

  int count_of(int64_t block) const { return int(std::min<int64_t>(block_, call_.m - block * block_)); }

  // The groups of one panel: operands of both products. False if a weight is not finite, or its square in float.
  bool respond(int64_t block, int64_t panel, Slot& slot) const {
    const int64_t first = panel * kPanelGroups, D = call_.D;
    const int groups = int(std::min(kPanelGroups, groups_ - first)), count = count_of(block);
    const bool tiles = amx_ != nullptr;
    const int stretch = preactivations_.rows();
    const Buffer<double> z(int64_t(groups) * stretch * kGroup);
    std::vector<float> squares(size_t(preactivations_.square_count()), 0.0f);
    double square[kMostRows], total = 0.0, peak = 0.0;
    std::fill_n(slot.scales.begin() + first, groups, Scales{});
    const Buffer<float> own(tiles ? 2 * groups * int64_t(kTileBlock) * kGroup : 0);
    const int64_t size = block_ * kGroup;
    float* values = tiles ? own.at(0) : slot.values.numbers.at(first * size);
    float* slopes = tiles ? own.at(groups * size) : slot.slopes.numbers.at(first * size);
    for (int begin = 0; begin < count; begin += stretch) {
      const int some = std::min(stretch, count - begin);
      preactivations_.form(first, groups, call_.weight + (block * block_ + begin) * D, some, z.at(0), square,
                           squares.data());
      for (int k = 0; k < some; ++k) {
        total += square[k];
        peak = std::max(peak, square[k]);
      }
      for (int64_t task = 0; task < groups * ceil_div(some, kRun); ++task) {
        const int g = int(task % groups), from = int(task / groups) * kRun, run = std::min(kRun, some - from);
        const int64_t neuron = block * block_ + begin + from, at = g * size + (begin + from) * kGroup;
        double* of_group = z.at((int64_t(g) * stretch + from) * kGroup);
        if (call_.base == kRelu || class_.exact) {
          preactivations_.repair(first + g, call_.weight + neuron * D, square + from, run,
                                 class_.exact ? double(class_.exact->within) : -1.0, of_group);
        }
        loops_.respond(call_.base, call_.s, of_group, call_.output_weight + neuron, run, class_.window(), values + at,
                       slopes + at, slot.scales[size_t(first + g)]);
      }
    }
    for (int g = 0; tiles && g < groups; ++g) {
      for (const auto& [operand, numbers] : {std::pair{&slot.values, values}, std::pair{&slot.slopes, slopes}}) {
        const int64_t at = first + g;
        amx_->pack_values(kDigitsFloat, numbers + g * size, count, operand->left.at(at * Operand::kTileDigits),
                          operand->right.at(at * Operand::kTileDigits), operand->scale.at(at * kGroup));
      }
    }
    if (panel == 0) {
      slot.square = total;
      slot.peak = peak;
      slot.squares = std::move(squares);
    }
    return std::isfinite(total);
  }

  void add_totals(int64_t block, const Slot& slot, Totals& to) const {
    for (size_t d = 0; d < slot.squares.size(); ++d) to.squares[d] += double(slot.squares[d]);
    to.square += slot.square;
    to.peak = std::max(to.peak, slot.peak);
    for (int64_t i = 0; i < call_.n; ++i) {
      const Scales& scales = slot.scales[size_t(i / kGroup)];
      to.z[size_t(i)] += scales.z[i % kGroup];
      to.value[size_t(i)] += scales.value[i % kGroup];
      to.slope[size_t(i)] += scales.slope[i % kGroup];
      to.curved[size_t(i)] += scales.curved[i % kGroup];
    }
    for (int k = 0; k < count_of(block); ++k) {
      const double a = call_.output_weight[block * block_ + k];
      to.output += a * a;
    }
  }

  // out, of the row stride given, += the operand's product over one block, panel against panel.
  void multiply(int64_t block, const Operand& operand, int64_t row_panel, int64_t column_panel, double* out,
                int64_t stride) const {
    const int64_t n = call_.n, row = row_panel * kPanel, column = column_panel * kPanel;
    const int64_t row_end = std::min(n, row + kPanel), column_end = std::min(n, column + kPanel);
    if (amx_ == nullptr) {
      loops_.product(operand.numbers.get(), block_, count_of(block), row, row_end, column, column_end, out, stride);
      return;
    }
    amx_->begin();
    const auto of = [](const Buffer<int8_t>& digits, int64_t i) {
      return digits.at(i / kGroup * Operand::kTileDigits);
    };
    for (int64_t i = row; i < row_end; i += kProductTile) {
      for (int64_t j = std::max(i, column); j < column_end; j += kProductTile) {
        const int8_t* left[2] = {of(operand.left, i), of(operand.left, i + kGroup)};
        const int8_t* right[2] = {of(operand.right, j), of(operand.right, j + kGroup)};
        const Entries entries{out + (i - row) * stride + (j - column), stride,
                              int(std::min<int64_t>(n - i, kProductTile)), int(std::min<int64_t>(n - j, kProductTile)),
                              i == j};
        amx_->product(kDigitsFloat, false, left, right, count_of(block), operand.scale.at(i), operand.scale.at(j),
                      entries);
      }
    }
    amx_->end();
  }

  // Few samples: a thread takes a block through all steps while its operands are in the second cache. Part p has the
  // blocks p, p + parts, ... and its own sums, added in the end.
  bool run_by_blocks() {
    const double work = double(call_.n) * double(call_.m) * double(call_.D + call_.n);
    const int64_t parts = std::clamp<int64_t>(int64_t(std::min(work * 0x1p-18, 16.0)), 1, blocks_);
    std::vector<std::unique_ptr<Products>> products(static_cast<size_t>(parts));
    std::vector<Totals> totals(static_cast<size_t>(parts), totals_);
    std::atomic<bool> finite{true};
    for_each_task(
        parts, parallel_for_,
        [&](int64_t part) {
          products[size_t(part)] = std::make_unique<Products>(call_.n);
          Slot slot(groups_, amx_ != nullptr);
          for (int64_t block = part; block < blocks_ && finite; block += parts) {
            if (!respond(block, 0, slot)) finite = false;
            add_totals(block, slot, totals[size_t(part)]);
            multiply(block, slot.values, 0, 0, products[size_t(part)]->value, call_.n);
            multiply(block, slot.slopes, 0, 0, products[size_t(part)]->slope, call_.n);
          }
        },
        small_);
    products_ = std::move(products[0]);
    totals_ = std::move(totals[0]);
    for (int64_t part = 1; part < parts; ++part) {
      const Totals& more = totals[size_t(part)];
      for (int64_t i = 0; i < 2 * call_.n * call_.n; ++i) products_->value[i] += products[size_t(part)]->value[i];
      for (auto of : {&Totals::squares, &Totals::z, &Totals::value, &Totals::slope, &Totals::curved}) {
        for (size_t k = 0; k < (more.*of).size(); ++k) (totals_.*of)[k] += (more.*of)[k];
      }
      totals_.square += more.square;
      totals_.peak = std::max(totals_.peak, more.peak);
      totals_.output += more.output;
    }
    return finite;
  }

  // Many samples: slabs of a few blocks; threads share the panels of samples, then those of the products. With few
  // neurons there is one slab, and a pair of panels is finished at once: no sums of size n^2.
  bool run_by_panels() {
    constexpr int64_t kAim = 48 << 20;  // bytes of a slab: a panel of a product stays in the cache over its blocks
    const int64_t bytes = 2 * Operand::bytes(groups_, amx_ != nullptr), n = call_.n;
    const int64_t slab = std::clamp<int64_t>(std::min(kAim, call_.scratch_bytes) / bytes, 1, blocks_);
    std::vector<std::unique_ptr<Slot>> slots;
    for (int64_t i = 0; i < slab; ++i) slots.push_back(std::make_unique<Slot>(groups_, amx_ != nullptr));
    if (slab < blocks_) products_ = std::make_unique<Products>(n);
    std::atomic<bool> finite{true};
    const int64_t panels = ceil_div(groups_, kPanelGroups);
    for (int64_t first = 0; first < blocks_ && finite; first += slab) {
      const int64_t blocks = std::min(slab, blocks_ - first);
      for_each_task(blocks * panels, parallel_for_, [&](int64_t task) {
        if (!respond(first + task / panels, task % panels, *slots[size_t(task / panels)])) finite = false;
      });
      for (int64_t i = 0; i < blocks; ++i) add_totals(first + i, *slots[size_t(i)], totals_);
      if (slab == blocks_ && !(finite && within_class())) return false;
      for_each_pair(panels, [&](int64_t row, int64_t column) {
        const Buffer<double> own(products_ ? 0 : 2 * kPanel * kPanel);
        const int64_t at = row * kPanel * n + column * kPanel, stride = products_ ? n : kPanel;
        double* value = products_ ? products_->value + at : own.at(0);
        double* slope = products_ ? products_->slope + at : own.at(kPanel * kPanel);
        if (!products_) std::fill_n(value, 2 * kPanel * kPanel, 0.0);
        for (int64_t i = 0; i < blocks; ++i) multiply(first + i, slots[size_t(i)]->values, row, column, value, stride);
        for (int64_t i = 0; i < blocks; ++i) multiply(first + i, slots[size_t(i)]->slopes, row, column, slope, stride);
        const int64_t stretch = preactivations_.rows();
        for (int64_t i = 0; !products_ && i < kPanel && row * kPanel + i < n; i += stretch) {
          write(row * kPanel + i, stretch, column, value + i * kPanel, slope + i * kPanel, kPanel);
        }
      });
    }
    return finite;
  }

  // task(row, column) for 0 <= row <= column < count.
  template <typename Task>
  void for_each_pair(int64_t count, const Task& task) const {
    for_each_task(
        count * (count + 1) / 2, parallel_for_,
        [&](int64_t pair) {
          int64_t row = 0;
          while (pair >= count - row) pair -= count - row++;
          task(row, row + pair);
        },
        small_);
  }

  // Whether float kept the class, for every sample: one may dominate.
  bool within_class() const {
    if (!(totals_.output < 1e24 * double(call_.m))) return false;
    // One neuron that outweighs the others: the digits that a product on tiles leaves out are not averaged.
    if (amx_ != nullptr && !(32.0 * totals_.peak <= totals_.square)) return false;
    const std::vector<double> errors = preactivations_.errors(totals_.square, totals_.squares);
    for (size_t at = 0; at < errors.size(); ++at) {
      const SampleSums sums{totals_.z[at], totals_.value[at], totals_.slope[at], totals_.curved[at]};
      if (!preactivations_.trusts(sums.z, errors[at])) return false;
      if (!class_.keeps(errors[at], totals_.output, sums)) return false;
    }
    return true;
  }

  // Both matrices, where the sums of all are in products_.
  void write() const {
    const int64_t n = call_.n, panels = ceil_div(groups_, kPanelGroups);
    const int64_t stretch = n <= kPanel ? kRun : preactivations_.rows();
    for_each_task(
        ceil_div(n, stretch) * panels, parallel_for_,
        [&](int64_t task) {
          const int64_t row = task / panels * stretch, panel = task % panels, at = row * n + panel * kPanel;
          write(row, stretch, panel, products_->value + at, products_->slope + at, n);
        },
        small_);
  }

  // Some rows of a panel, as many as form takes at most, from the inner products of the samples, formed as z is.
  void write(int64_t row, int64_t count, int64_t panel, const double* value, const double* slope,
             int64_t stride) const {
    const int64_t begin = panel * kPanelGroups, first = std::max(begin, row / kGroup);
    const int64_t end = std::min(begin + kPanelGroups, groups_), rows = std::min(count, call_.n - row);
    if (first >= end) return;
    const int64_t inner_rows = preactivations_.rows();
    const Buffer<double> inner((end - first) * inner_rows * kGroup);
    std::vector<float> squares(size_t(preactivations_.square_count()), 0.0f);
    double square[kMostRows];
    preactivations_.form(first, int(end - first), call_.x + row * call_.D, int(rows), inner.at(0), square,
                         squares.data());
    for (int64_t i = 0; i < rows; i += kRun) {
      for (int64_t group = first; group < end; ++group) {
        const int64_t at = i * stride + (group - begin) * kGroup;
        loops_.finish(call_.n, double(call_.m), row + i, group, inner.at(((group - first) * inner_rows + i) * kGroup),
                      value + at, slope + at, stride, call_.a, call_.w);
      }
    }
  }

  const GramDirect& call_;
  ParallelFor parallel_for_;
  const DirectLoops& loops_;
  const AmxLoops* amx_;
  const int64_t groups_, block_, blocks_;
  const bool small_;
  FloatClass class_;
  const Preactivations preactivations_;
  std::unique_ptr<Products> products_;
  Totals totals_;
};

}  // namespace

bool gram_direct(const GramDirect& call, ParallelFor parallel_for) {
  return Direct(call, parallel_for).run();
}

}  // namespace cpu
}  // namespace hrta
