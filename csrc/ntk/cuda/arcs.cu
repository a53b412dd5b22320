// A session by arcs: what lies where in scratch memory, and its launches.
#include <algorithm>

#include "circle/cuda/access.cuh"
#include "ntk/cuda/arcs.cuh"

namespace hrta {
namespace cuda {
namespace gram_arcs {

namespace {

constexpr int kMostShift = 4;
constexpr int64_t kMostCopies = 16, kCopiesBytes = int64_t(1) << 25;  // of the windows in global memory

size_t shared_bytes(const Layout& layout) {
  const auto bins = layout.words == 2 ? Bins<2>::bytes : Bins<3>::bytes;
  return sizeof(arcs::Point<double>) * size_t(layout.plan.arcs) + 4 * (size_t(layout.plan.parts) + 1) +
         bins(layout.plan.arcs, layout.shift);
}

}  // namespace

Layout layout_of(const GramCall& call, const Device& device) {
  Layout layout{};
  layout.drawn = call.neurons.weight == nullptr;
  const bool in_double = !layout.drawn && call.neurons.dtype == ScalarKind::kFloat64;
  layout.words = in_double || call.digits == kDigitsDouble ? 3 : 2;
  layout.limbs = in_double ? kLimbs<double> : kLimbs<float>;
  Memory memory(call.scratch);
  layout.plan = arcs::plan_in<double>(memory, call.x, call.n);
  layout.plan.active = nullptr;
  layout.shift = kMostShift;
  while (layout.shift >= 0 && (layout.shared = shared_bytes(layout)) > arcs::room_of(device)) --layout.shift;
  const int64_t sums = int64_t(kMoments) * layout.plan.arcs, copy = sums * (layout.words + 1);
  layout.copies = 1;
  if (layout.shift < 0) {
    layout.shared = 0;
    layout.copies = int(std::clamp<int64_t>(kCopiesBytes / (8 * copy), 1, kMostCopies));
  }
  layout.state = memory.take<State>(1);
  layout.window = memory.take<unsigned long long>(layout.copies * copy);
  layout.exact = memory.take<unsigned long long>(layout.limbs * sums);
  layout.sums = memory.take<DoubleDouble>(sums);
  layout.zeros = size_t(reinterpret_cast<char*>(layout.sums) - reinterpret_cast<char*>(layout.state));
  layout.bytes = memory.bytes();
  return layout;
}

}  // namespace gram_arcs

using namespace gram_arcs;

bool gram_arcs_serve(const GramCall& call) {
  return call.base == kRelu && call.D == 2 && call.n > 0 && call.n <= arcs::kMostSamples &&
         call.total <= double(kMostNeurons);
}

int64_t gram_arcs_scratch(const GramCall& call, int device) {
  return layout_of(call, device_of(device)).bytes;
}

const char* gram_arcs_begin(const GramCall& call, int device, void* stream) {
  DeviceGuard guard(device);
  const Layout layout = layout_of(call, device_of(device));
  cudaMemsetAsync(layout.state, 0, layout.zeros, static_cast<cudaStream_t>(stream));
  build_plan(layout.plan, stream);
  launch_window(call, layout, stream);
  return launch_error();
}

const char* gram_arcs_add(const GramCall& call, int device, void* stream) {
  if (call.m == 0) return nullptr;
  DeviceGuard guard(device);
  const Device card = device_of(device);
  launch_sweep(call, layout_of(call, card), card.multiprocessors, stream);
  return launch_error();
}

const char* gram_arcs_end(const GramCall& call, int device, void* stream) {
  DeviceGuard guard(device);
  launch_finish(call, layout_of(call, device_of(device)), stream);
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
