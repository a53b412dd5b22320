// The Gram builder on the GPU: what lies where in scratch memory, and a session's launches.
#include <algorithm>

#include "ntk/cuda/products.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

constexpr int64_t kMostFeatures = 64;  // of the operand kernel's shared memory
constexpr int64_t kFewTiles = 10;      // n = 512: every block has its own copy of a tile's sums
constexpr int64_t kMostChunk = int64_t(1) << 22;
constexpr int64_t kMostSamples = 65535;  // of a grid's second side

int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

struct Cutter {
  unsigned char* memory;
  int64_t at = 0;
  template <typename T>
  T* take(int64_t count) {
    T* result = reinterpret_cast<T*>(memory + at);
    at += round_up(count * int64_t(sizeof(T)), 256);
    return result;
  }
};

// As many shares as bring the tiles in whole waves.
int shares_for(int64_t tile_count, int blocks, int flush, int multiprocessors) {
  const int least_shares = (blocks + flush - 1) / flush;
  int best = least_shares;
  double least = 1e30;
  for (int shares = least_shares; shares <= blocks && shares < least_shares + multiprocessors; ++shares) {
    const int64_t waves = (tile_count * shares + multiprocessors - 1) / multiprocessors;
    const double cost = double(waves) * (double(blocks) / shares + 24.0);  // 24: an epilogue, in operand blocks
    if (cost < least) least = cost, best = shares;
  }
  return best;
}

// With many tiles a block has one for itself, and adds to the sums without atomics: their waves leave little idle.
bool many_tiles(const Layout& layout, int multiprocessors) {
  return layout.tile_count >= 4 * multiprocessors;
}

int flush_of(const GramCall& call) {
  return by_levels(call) ? kLevelFlush : kFlush;
}

Tasks tasks_of(const GramCall& call, const Layout& layout, int blocks, int multiprocessors) {
  const int flush = flush_of(call);
  Tasks tasks{layout.tiles, int(layout.tile_count), 1, 1, blocks};
  if (layout.planes > 0) {
    tasks.shares = int(std::min<int64_t>(layout.planes, blocks));
    tasks.parts = (blocks + tasks.shares * flush - 1) / (tasks.shares * flush);
    if (blocks > tasks.shares * tasks.parts * (flush - 1)) ++tasks.parts;  // shares are not all of one length
  } else if (!many_tiles(layout, multiprocessors)) {
    tasks.shares = shares_for(tasks.tile_count, blocks, flush, multiprocessors);
  }
  return tasks;
}

bool by_wgmma(const Device& card) {
  return has_wgmma(card) && card.shared >= 227 * 1024;
}

bool by_mma(const Device& card, [[maybe_unused]] int device) {
#if defined(__CUDACC__)
  if (runs_wgmma(device)) return false;  // these kernels are empty there
#endif
  return card.capability >= 80 && card.shared >= kMmaShared;
}

Target target_of(const Layout& layout, const GramCall& call, const Tasks& tasks, bool values, int pass) {
  Target target{};
  target.n = int(call.n), target.low = pass > 0;
  target.diagonal = values ? layout.value_low : layout.slope_low;
  if (target.low) target.shift = 8 * (call.digits - 1 - last_level(pass, call));
  if (layout.planes > 0) {
    target.integers = values ? layout.value_planes : layout.slope_planes, target.plane = call.n * call.n;
  } else {
    target.integers = reinterpret_cast<long long*>(values ? call.sums.value_product : call.sums.slope_product);
    target.shared = tasks.shares > 1;
  }
  return target;
}

// The squares of ReLU: digits 0, 1, 2 in the first pass, then two more each.
int last_square_level(int pass) {
  return 2 + 2 * pass;
}

// Of levels, whose operands are large and whose numbers take long to make: at least 512 shares to go round where there
// are as many neurons. From shapes alone.
int level_share(const GramCall& call, int64_t row_blocks) {
  const int64_t blocks = (int64_t(call.total) + kBlock - 1) / kBlock * row_blocks;
  const int most = call.n > 4096 ? 4 : call.n <= kRows ? 16 : 32;
  int share = 1;
  while (2 * share <= most && blocks >= 1024 * share) share *= 2;
  return share;
}

// Operand blocks whose products a low word holds: below 2^63, at 4 2^14 2^(8 (L - 4)) a neuron from level 3 and less
// from the levels below it. High words hold all neurons of a session.
int64_t blocks_held(const GramCall& call) {
  return call.digits <= 5 ? int64_t(1) << 24 : call.digits == 7 ? int64_t(1) << 16 : 496;
}

void add_levels(const GramCall& call, const Layout& layout, int64_t count, int multiprocessors, void* stream) {
  const int blocks = int((count + kBlock - 1) / kBlock);
  const Tasks tasks = tasks_of(call, layout, blocks, multiprocessors);
  const int grid = int(std::min<int64_t>(int64_t(tasks.tile_count) * tasks.shares, multiprocessors));
  launch_responses(call, layout, count, multiprocessors, stream);
  for (int pass = 0; pass < passes_of(call); ++pass) {
    const Target target = target_of(layout, call, tasks, true, pass);
    launch_level_products(call, pass, layout.values, tasks, target, grid, stream);
  }
  for (int pass = 0; pass < passes_of(call); ++pass) {
    Target target = target_of(layout, call, tasks, false, pass);
    if (call.base != kRelu) {
      launch_level_products(call, pass, layout.slopes, tasks, target, grid, stream);
      continue;
    }
    Layout part = layout;
    part.squares += layout.chunk * kSquareDigits * pass;
    if (pass > 0) target.shift = 8 * (call.digits - 1 - last_square_level(pass));
    launch_slope_products(kSquareDigits, part, tasks, target, grid, stream);
  }
}

}  // namespace

Layout layout_of(const GramCall& call, int multiprocessors) {
  Layout layout{};
  layout.digits = std::max(digits_of(call), 2);
  layout.square_digits = by_levels(call) ? kSquareDigits * passes_of(call) : std::max(call.square_digits, 2);
  const int64_t nn = call.n * call.n;
  layout.rows = round_up(call.n, kRows), layout.row_blocks = layout.rows / kRows;
  layout.tile_count = layout.row_blocks * (layout.row_blocks + 1) / 2;
  layout.features = call.bounds == nullptr ? call.D : 0;
  layout.pairs = layout.features * (layout.features + 1) / 2;
  // The operand kernel keeps the sums of few features in registers; a share of the others ends in atomics.
  layout.share = layout.features <= 4 || call.n > 8192 ? 8 : call.n > 4096 ? 16 : 32;
  const bool levels = by_levels(call);
  if (levels) layout.share = level_share(call, layout.row_blocks);
  layout.image_bytes = image_bytes_for(layout.features);
  if (layout.tile_count <= kFewTiles) {
    layout.planes = std::max<int64_t>(multiprocessors / layout.tile_count, 1);
    if (32 * layout.planes * nn > call.scratch_bytes) layout.planes = 0;
  }
  Cutter cut{static_cast<unsigned char*>(call.scratch)};
  layout.state = cut.take<State>(1);
  layout.moment = cut.take<long long>(2 * layout.pairs);
  layout.cross = cut.take<long long>(call.n * layout.features);
  if (levels) {
    const int64_t diagonals = std::max<int64_t>(layout.planes, 1) * call.n;
    layout.cross_rest = cut.take<long long>(call.n * call.D);
    layout.slope_sum = cut.take<long long>(2 * call.n);
    layout.value_low = cut.take<long long>(diagonals);
    layout.slope_low = cut.take<long long>(diagonals);
  }
  layout.value_planes = cut.take<long long>(layout.planes * nn);
  layout.slope_planes = cut.take<long long>(layout.planes * nn);
  layout.norms = cut.take<double>(layout.rows);
  layout.value_bounds = cut.take<double>(layout.rows);
  layout.slope_bounds = cut.take<double>(layout.rows);
  layout.tiles = cut.take<uint32_t>(layout.tile_count);
  const int64_t unit = int64_t(layout.share) * kBlock;
  const bool binary = call.base == kRelu;
  const int64_t of_values = layout.digits, of_squares = layout.square_digits;
  const int64_t per_neuron =
      layout.rows * (binary ? of_values + 1 : 2 * of_values) + layout.image_bytes / kBlock + (binary ? of_squares : 0);
  const bool whole = layout.planes == 0 && many_tiles(layout, multiprocessors);
  int64_t most = whole ? int64_t(flush_of(call)) * kBlock : kMostChunk;
  layout.hold = blocks_held(call);
  if (levels) most = std::min(most, (layout.hold - 1) * kBlock * std::max<int64_t>(layout.planes, 1));
  const int64_t fits = std::min((call.scratch_bytes - cut.at - 1024) / per_neuron, most);
  // Whole waves of the operand kernel, two blocks a multiprocessor, where the rest would not be missed.
  const int64_t wave = unit * std::max<int64_t>(2 * int64_t(multiprocessors) / layout.row_blocks, 1);
  const int64_t step = fits >= (levels ? 2 : 4) * wave ? wave : unit;
  layout.chunk = std::max(std::min(fits / step * step, round_up(call.m, unit)), unit);
  layout.image = cut.take<unsigned char>(layout.chunk / kBlock * layout.image_bytes);
  layout.values = cut.take<unsigned char>(layout.rows * layout.chunk * of_values);
  if (binary) {
    layout.active = cut.take<unsigned char>(layout.rows * layout.chunk);
    layout.squares = cut.take<unsigned char>(layout.chunk * of_squares);
  } else {
    layout.slopes = cut.take<unsigned char>(layout.rows * layout.chunk * of_values);
  }
  layout.bytes = cut.at;
  return layout;
}

}  // namespace digits

using namespace digits;

bool gram_serves(const GramCall& call, int device) {
  const Device card = device_of(device);
  if (call.n <= 0 || call.n > kMostSamples || call.D < 1) return false;
  const bool few = call.bounds != nullptr || (call.D <= kMostFeatures && operand_shared(call.D) <= card.shared);
  if (by_levels(call)) {
    const bool known = call.digits == 5 || call.digits == 7 || call.digits == 8;
    return known && call.bounds == nullptr && few && by_wgmma(card);
  }
  const auto two_or_three = [](int digits) { return digits == 0 || digits == 2 || digits == 3; };
  return call.base == kRelu && two_or_three(call.digits) && two_or_three(call.square_digits) && few &&
         (by_wgmma(card) || by_mma(card, device));
}

int64_t gram_scratch(const GramCall& call, int device) {
  return layout_of(call, device_of(device).multiprocessors).bytes;
}

int64_t gram_figures(int64_t n) {
  return std::max<int64_t>((n + kFigureRows - 1) / kFigureRows, 3);
}

const char* gram_begin(const GramCall& call, int device, void* stream) {
  DeviceGuard guard(device);
  const Layout layout = layout_of(call, device_of(device).multiprocessors);
  // All up to the norms: state, moments, cross, private sums.
  cudaMemsetAsync(call.scratch, 0,
                  size_t(reinterpret_cast<unsigned char*>(layout.norms) - static_cast<unsigned char*>(call.scratch)),
                  static_cast<cudaStream_t>(stream));
  launch_prepare(call, layout, stream);
  launch_bounds(call, layout, stream);
  return launch_error();
}

const char* gram_add(const GramCall& call, int device, void* stream) {
  if (call.m == 0) return nullptr;
  DeviceGuard guard(device);
  const Device card = device_of(device);
  const int multiprocessors = card.multiprocessors;
  const bool wgmma = by_wgmma(card);
  const Layout layout = layout_of(call, multiprocessors);
  int64_t held = 0;  // operand blocks in the low words, at most
  for (int64_t begin = 0; begin < call.m; begin += layout.chunk) {
    const int64_t count = std::min(call.m - begin, layout.chunk);
    const int blocks = int((count + kBlock - 1) / kBlock);
    launch_stage(call, layout, begin, count, multiprocessors, stream);
    if (by_levels(call)) {
      const int64_t more = layout.planes > 0 ? blocks / std::min<int64_t>(layout.planes, blocks) + 1 : blocks;
      if (held + more > layout.hold) launch_carry(call, layout, stream), held = 0;
      add_levels(call, layout, count, multiprocessors, stream);
      held += more;
      continue;
    }
    launch_operands(call, layout, begin, count, multiprocessors, stream);
    const Tasks tasks = tasks_of(call, layout, blocks, multiprocessors);
    const int grid = int(std::min<int64_t>(int64_t(tasks.tile_count) * tasks.shares, multiprocessors));
    if (call.digits != 0) {
      const auto products = wgmma ? launch_value_products : launch_value_products_mma;
      products(call.digits, layout, tasks, target_of(layout, call, tasks, true, 0), grid, stream);
    }
    if (call.square_digits != 0) {
      const auto products = wgmma ? launch_slope_products : launch_slope_products_mma;
      products(call.square_digits, layout, tasks, target_of(layout, call, tasks, false, 0), grid, stream);
    }
  }
  if (by_levels(call) && call.digits > 5) launch_carry(call, layout, stream);  // the next call counts from zero
  return launch_error();
}

const char* gram_end(const GramCall& call, int device, void* stream) {
  DeviceGuard guard(device);
  const Layout layout = layout_of(call, device_of(device).multiprocessors);
  launch_finish(call, layout, stream);
  launch_figures(call, layout, stream);
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
