// The wide ReLU network's passes: whom they serve, how the work is cut, and what is done to forward's sums.
#include <algorithm>

#include "network/cuda/wide_plan.cuh"

namespace hrta {
namespace cuda {
namespace wide {

namespace {

constexpr int64_t kLeastPairs = int64_t(1) << 20;
constexpr int64_t kLeastSamples = 32;       // of a tile of 128
constexpr int64_t kLeastNeurons = 1 << 14;  // backward: each block's are 128 Q, and none shares its samples' sum
constexpr int64_t kMostChunk = 1 << 23;     // tiles, so that neurons of a chunk have 32-bit numbers
constexpr int64_t kAlignment = 128;

// Calls body with the Kernels of the call's features.
template <int D = 4, typename Body>
void with_kernels(const TwoLayerCall& call, const Body& body) {
  if constexpr (D < kMostWide) {
    if (call.features > D) return with_kernels<2 * D>(call, body);
  }
  body(Kernels<D>{});
}

unsigned char* aligned(void* scratch) {
  return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(scratch) + kAlignment - 1) / kAlignment *
                                          kAlignment);
}

struct ForwardPlan {
  int D, rows;  // of a group
  int64_t groups, slice, chunks, chunk_neurons, linear, bytes;

  ForwardPlan(const TwoLayerCall& call, bool wgmma) {
    D = padded(call.features);
    rows = 128 * forward_cut(wgmma, D, size_of(call.n)).q;
    groups = ceil_div(call.n, rows);
    const int64_t all = call.networks * groups, tiles = ceil_div(call.width, kTile);
    const int64_t wanted =
        std::max(std::min(ceil_div(kForwardBlocks * resident_blocks(D), all), tiles), ceil_div(tiles, kMostChunk));
    chunk_neurons = ceil_div(tiles, wanted) * kTile;
    chunks = ceil_div(call.width, chunk_neurons);
    const int64_t group_bytes = int64_t(8) * D * rows * wanted;
    slice = std::clamp<int64_t>(kSlice / group_bytes, 1, all);
    linear = slice * group_bytes;
    bytes = linear + 8 * call.networks * wanted * D + kAlignment;
  }
};

struct BackwardPlan {
  int D, q, segment;
  int64_t tiles, slice, groups, most_blocks, pieces, partial, totals, bytes;  // offsets of each; `back` is last

  BackwardPlan(const TwoLayerCall& call, bool wgmma, const Device& device) {
    D = padded(call.features);
    q = backward_cut(wgmma, D).q;
    tiles = ceil_div(call.n, kTile);
    groups = ceil_div(call.width, 128 * q);
    // Shared memory of a block that leaves the others theirs; 1 KB of each is the system's, and half a KB static.
    const int blocks = resident_blocks(D), room = (device.shared + 1024) / blocks - 1536;
    segment = int(std::max<int64_t>(room / tile_bytes(D), 1));
    const int64_t network_bytes = tiles * (tile_bytes(D) + 8 * D + 4);
    slice = std::clamp<int64_t>(network_bytes == 0 ? call.networks : kSlice / network_bytes, 1, call.networks);
    most_blocks = std::max<int64_t>(int64_t(device.multiprocessors) * blocks, slice);
    partial = slice * tiles * tile_bytes(D);
    totals = partial + slice * tiles * 8 * D;
    pieces = totals + (tiles > kFlush ? most_blocks * (D / 2) * q * kThreads * 8 : 0);
    bytes = pieces + slice * tiles * 4 + kAlignment;
  }
};

// A warp a sample of the launch adds the chunks, in their order, and puts q V and s U together.
__global__ void __launch_bounds__(kThreads) outputs_kernel(const __grid_constant__ OutputsWork work) {
  const ForwardWork& forward = work.forward;
  const TwoLayerCall& call = forward.call;
  const Outputs& outputs = work.outputs;
  const int lane = threadIdx.x % kLanes, D = work.D;
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  if (row >= forward.slice * work.rows || stopped(forward.done)) return;
  const int64_t group = forward.first_group + row / work.rows, network = group / forward.groups;
  const int64_t sample = group % forward.groups * work.rows + row % work.rows;
  if (sample >= call.n) return;
  const int64_t at = network * call.n + sample;
  const double s = outputs.parameter_gradient ? 1.0 : parameter(call), q = outputs.parameter_gradient ? -1.0 : 1.0 - s;
  const double scale = output_scale(call.width);
  const float* x = static_cast<const float*>(call.x) + sample * call.features;
  const int wide = D < kLanes ? D : kLanes;  // lanes with features of their own; those beyond share the chunks
  double f = 0;
  for (int first = 0; first < D; first += wide) {
    const int d = first + lane % wide;
    double U = 0, V = 0;
#pragma unroll 4
    for (int64_t chunk = lane / wide; chunk < forward.chunks; chunk += kLanes / wide) {
      U += forward.sums[(chunk * forward.slice * work.rows + row) * D + d];
      V += forward.linear[(network * forward.chunks + chunk) * D + d];
    }
    for (int offset = wide; offset < kLanes; offset *= 2) {
      U += __shfl_xor_sync(~0u, U, offset);
      V += __shfl_xor_sync(~0u, V, offset);
    }
    const double slope = combine(q, V, s, U);
    const bool mine = lane < wide && d < call.features;
    if (mine && outputs.df_dx != nullptr) {
      if (outputs.in_double) {
        static_cast<double*>(outputs.df_dx)[at * call.features + d] = scale * slope;
      } else {
        static_cast<float*>(outputs.df_dx)[at * call.features + d] = float(scale * slope);
      }
    }
    f += sum_over_warp(mine ? double(x[d]) * slope : 0.0);
  }
  if (lane != 0 || outputs.f == nullptr) return;
  if (outputs.in_double) {
    static_cast<double*>(outputs.f)[at] = scale * f;
  } else {
    static_cast<float*>(outputs.f)[at] = float(scale * f);
  }
}

// Whether the kernels can run the call at all.
bool can_serve(const TwoLayerCall& call, const Device& device) {
  return call.base == kRelu && call.dtype == ScalarKind::kFloat32 && call.features <= kMostWide && call.n > 0 &&
         call.width > 0 && device.capability >= 80 && 2 * tile_bytes(padded(call.features)) <= device.shared - 8192;
}

bool pays(const TwoLayerCall& call) {
  return call.n >= kLeastSamples && double(call.networks) * double(call.n) * double(call.width) >= double(kLeastPairs);
}

}  // namespace

bool serves_forward(const TwoLayerCall& call, const Device& device) {
  return can_serve(call, device) && pays(call);
}

bool serves_backward(const TwoLayerCall& call, const Device& device) {
  return can_serve(call, device) && pays(call) && call.networks * call.width >= kLeastNeurons;
}

int64_t forward_scratch(const TwoLayerCall& call, const Device& device) {
  return ForwardPlan(call, has_wgmma(device)).bytes;
}

void forward(const TwoLayerCall& call, const Outputs& outputs, void* scratch, const Device& device, void* stream) {
  const bool wgmma = has_wgmma(device);
  const ForwardPlan plan(call, wgmma);
  unsigned char* memory = aligned(scratch);
  ForwardWork work{};
  work.call = call;
  work.groups = plan.groups, work.chunks = plan.chunks, work.chunk_neurons = plan.chunk_neurons;
  work.sums = reinterpret_cast<double*>(memory), work.linear = reinterpret_cast<double*>(memory + plan.linear);
  work.done = outputs.done;
  for (int64_t first = 0; first < call.networks * plan.groups; first += plan.slice) {
    work.first_group = first;
    work.slice = std::min(plan.slice, call.networks * plan.groups - first);
    with_kernels(call, [&](auto kernels) { kernels.forward(wgmma, work, work.slice * plan.chunks, stream); });
    const OutputsWork results{work, plan.rows, plan.D, outputs};
    launch(outputs_kernel, ceil_div(work.slice * plan.rows, kThreads / kLanes), kThreads, stream, results);
  }
}

int64_t backward_scratch(const TwoLayerCall& call, const Device& device) {
  return BackwardPlan(call, has_wgmma(device), device).bytes;
}

void backward(const TwoLayerCall& call, const Targets& targets, void* scratch, const Device& device, void* stream) {
  const bool wgmma = has_wgmma(device);
  const BackwardPlan plan(call, wgmma, device);
  unsigned char* memory = aligned(scratch);
  SamplesWork samples{};
  samples.call = call, samples.gradients = targets.gradients, samples.tiles = plan.tiles;
  samples.pieces = reinterpret_cast<uint32_t*>(memory);
  samples.back = reinterpret_cast<float*>(memory + plan.pieces);
  samples.partial = reinterpret_cast<double*>(memory + plan.partial);
  samples.done = targets.update != nullptr ? targets.update->done : nullptr;
  BackwardWork work{};
  work.groups = int(plan.groups), work.segment = plan.segment;
  work.totals = reinterpret_cast<double*>(memory + plan.totals);
  work.training = targets.update != nullptr;
  if (work.training) {
    const Update& update = *targets.update;
    work.rule = update.numbers.rule;
    if (work.rule == UpdateRule::kAdam) work.adam = Adam<float>(update.numbers);
    work.descent = Descent<float>(update.numbers);
    work.weight_first = static_cast<float*>(update.weight_first);
    work.weight_second = static_cast<float*>(update.weight_second);
    work.output_first = static_cast<float*>(update.output_first);
    work.output_second = static_cast<float*>(update.output_second);
  }
  for (int64_t first = 0; first < call.networks; first += plan.slice) {
    samples.first_network = first;
    const int64_t networks = std::min(plan.slice, call.networks - first);
    work.samples = samples;
    work.network_blocks = int(std::clamp<int64_t>(plan.most_blocks / networks, 1, plan.groups));
    with_kernels(call, [&](auto kernels) {
      if (plan.tiles > 0) kernels.samples(wgmma, samples, networks * plan.tiles, stream);
      kernels.backward(wgmma, work, networks * work.network_blocks, stream);
    });
  }
}

}  // namespace wide
}  // namespace cuda
}  // namespace hrta
