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
int shares_for(int64_t tile_count, int blocks, int multiprocessors) {
  const int least_shares = (blocks + kFlush - 1) / kFlush;
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

Tasks tasks_of(const Layout& layout, int blocks, int multiprocessors) {
  Tasks tasks{layout.tiles, int(layout.tile_count), 1, 1, blocks};
  if (layout.planes > 0) {
    tasks.shares = int(std::min<int64_t>(layout.planes, blocks));
    tasks.parts = (blocks + tasks.shares * kFlush - 1) / (tasks.shares * kFlush);
    if (blocks > tasks.shares * tasks.parts * (kFlush - 1)) ++tasks.parts;  // shares are not all of one length
  } else if (!many_tiles(layout, multiprocessors)) {
    tasks.shares = shares_for(tasks.tile_count, blocks, multiprocessors);
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

Target target_of(const Layout& layout, const GramCall& call, const Tasks& tasks, bool values) {
  if (layout.planes > 0) {
    return {values ? layout.value_planes : layout.slope_planes, int(call.n), call.n * call.n, false};
  }
  double* product = values ? call.sums.value_product : call.sums.slope_product;
  return {reinterpret_cast<long long*>(product), int(call.n), 0, tasks.shares > 1};
}

}  // namespace

Layout layout_of(const GramCall& call, int multiprocessors) {
  Layout layout{};
  layout.digits = std::max(call.digits, 2), layout.square_digits = std::max(call.square_digits, 2);
  const int64_t nn = call.n * call.n;
  layout.rows = round_up(call.n, kRows), layout.row_blocks = layout.rows / kRows;
  layout.tile_count = layout.row_blocks * (layout.row_blocks + 1) / 2;
  layout.features = call.bounds == nullptr ? call.D : 0;
  layout.pairs = layout.features * (layout.features + 1) / 2;
  // The operand kernel keeps the sums of few features in registers; a share of the others ends in atomics.
  layout.share = layout.features <= 4 || call.n > 8192 ? 8 : call.n > 4096 ? 16 : 32;
  layout.image_bytes = image_bytes_for(layout.features);
  if (layout.tile_count <= kFewTiles) {
    layout.planes = std::max<int64_t>(multiprocessors / layout.tile_count, 1);
    if (32 * layout.planes * nn > call.scratch_bytes) layout.planes = 0;
  }
  Cutter cut{static_cast<unsigned char*>(call.scratch)};
  layout.state = cut.take<State>(1);
  layout.moment = cut.take<long long>(layout.pairs);
  layout.cross = cut.take<long long>(call.n * layout.features);
  layout.value_planes = cut.take<long long>(layout.planes * nn);
  layout.slope_planes = cut.take<long long>(layout.planes * nn);
  layout.norms = cut.take<double>(layout.rows);
  layout.tiles = cut.take<uint32_t>(layout.tile_count);
  const int64_t unit = int64_t(layout.share) * kBlock;
  const int64_t per_neuron = layout.rows * (layout.digits + 1) + layout.image_bytes / kBlock + layout.square_digits;
  const bool whole = layout.planes == 0 && many_tiles(layout, multiprocessors);
  const int64_t most = whole ? int64_t(kFlush) * kBlock : kMostChunk;
  const int64_t fits = std::min((call.scratch_bytes - cut.at - 1024) / per_neuron, most);
  // Whole waves of the operand kernel, two blocks a multiprocessor, where the rest would not be missed.
  const int64_t wave = unit * std::max<int64_t>(2 * int64_t(multiprocessors) / layout.row_blocks, 1);
  const int64_t step = fits >= 4 * wave ? wave : unit;
  layout.chunk = std::max(std::min(fits / step * step, round_up(call.m, unit)), unit);
  layout.image = cut.take<unsigned char>(layout.chunk / kBlock * layout.image_bytes);
  layout.values = cut.take<unsigned char>(layout.rows * layout.chunk * layout.digits);
  layout.active = cut.take<unsigned char>(layout.rows * layout.chunk);
  layout.squares = cut.take<unsigned char>(layout.chunk * layout.square_digits);
  layout.bytes = cut.at;
  return layout;
}

}  // namespace digits

using namespace digits;

bool gram_serves(const GramCall& call, int device) {
  const Device card = device_of(device);
  const auto two_or_three = [](int digits) { return digits == 0 || digits == 2 || digits == 3; };
  return call.base == kRelu && two_or_three(call.digits) && two_or_three(call.square_digits) && call.n > 0 &&
         call.n <= kMostSamples && call.D >= 1 && (by_wgmma(card) || by_mma(card, device)) &&
         (call.bounds != nullptr || (call.D <= kMostFeatures && operand_shared(call.D) <= card.shared));
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
  return launch_error();
}

const char* gram_add(const GramCall& call, int device, void* stream) {
  if (call.m == 0) return nullptr;
  DeviceGuard guard(device);
  const Device card = device_of(device);
  const int multiprocessors = card.multiprocessors;
  const bool wgmma = by_wgmma(card);
  const Layout layout = layout_of(call, multiprocessors);
  for (int64_t begin = 0; begin < call.m; begin += layout.chunk) {
    const int64_t count = std::min(call.m - begin, layout.chunk);
    const int blocks = int((count + kBlock - 1) / kBlock);
    launch_stage(call, layout, begin, count, multiprocessors, stream);
    launch_operands(call, layout, begin, count, multiprocessors, stream);
    const Tasks tasks = tasks_of(layout, blocks, multiprocessors);
    const int grid = int(std::min<int64_t>(int64_t(tasks.tile_count) * tasks.shares, multiprocessors));
    if (call.digits != 0) {
      const auto products = wgmma ? launch_value_products : launch_value_products_mma;
      products(call.digits, layout, tasks, target_of(layout, call, tasks, true), grid, stream);
    }
    if (call.square_digits != 0) {
      const auto products = wgmma ? launch_slope_products : launch_slope_products_mma;
      products(call.square_digits, layout, tasks, target_of(layout, call, tasks, false), grid, stream);
    }
  }
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
