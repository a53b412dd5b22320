// ReLU with its mask: bit i % 8 of byte i / 8 says x_i > 0, written forward and all that backward reads beside the
// gradient.
#include "activation/activation.h"
#include "activation/cuda/parameter.cuh"
#include "activation/cuda/storage.cuh"
#include "gpu/launch.cuh"

namespace hrta {
namespace cuda {
namespace {

template <typename T>
struct MaskCall {
  const void* input;  // (n) x forward, grad backward
  void* output;       // (n) may be `input`
  uint8_t* mask;
  int64_t n;
  Parameter<T> h;
  const double* s_value;  // (1) on the device instead of h, or null
  bool aligned;           // input and output on 16 bytes
};

template <typename T, bool kForward>
__device__ __forceinline__ T masked(T value, bool bit, const Parameter<T>& h) {
  if (bit) return value;
  if constexpr (!kForward) return h.linear * value;
  if constexpr (sizeof(T) == 4) return h.linear * keep_above(value, h.lowest);
  return h.linear * at_least(value, h.lowest);
}

// A warp takes a run of 256 elements: 32 mask bytes, one per lane. It reads kParts vectors per lane; a lane holds
// kLanes consecutive elements of each, so that a byte's bits lie in kParts neighbouring lanes.
constexpr int kRun = 256;
constexpr int kMaskTile = kThreads / 32 * kRun;

// The byte of mask that this lane writes, from the bits of its vectors.
template <int kLanes, int kParts>
__device__ __forceinline__ unsigned gathered(const unsigned (&bits)[kParts], int lane) {
  if constexpr (kParts == 1) return bits[0];
  unsigned mine = 0;  // vector v's bits at v kLanes
#pragma unroll
  for (int v = 0; v < kParts; ++v) mine |= bits[v] << (v * kLanes);
  const int shift = lane / (32 / kParts) * kLanes;  // of the vector that holds this lane's byte
  unsigned byte = 0;
#pragma unroll
  for (int k = 0; k < kParts; ++k) {
    const unsigned theirs = __shfl_sync(0xffffffffu, mine, lane * kParts % 32 + k);
    byte |= (theirs >> shift & ((1u << kLanes) - 1u)) << (k * kLanes);
  }
  return byte;
}

template <typename Stored, bool kForward>
__global__ void __launch_bounds__(kThreads)
    relu_mask_kernel(const __grid_constant__ MaskCall<typename Storage<Stored>::Computed> call) {
  using S = Storage<Stored>;
  using T = typename S::Computed;
  constexpr int kLanes = S::kLanes, kParts = 8 / kLanes;
  const int64_t tile = int64_t(blockIdx.x) * kMaskTile;
  const Parameter<T> h = parameter(call.h, call.s_value);
  if (call.aligned && call.n - tile >= kMaskTile) {
    const int lane = int(threadIdx.x) % 32;
    const int64_t first = tile + int64_t(threadIdx.x / 32) * kRun;
    const uint4* input = reinterpret_cast<const uint4*>(static_cast<const Stored*>(call.input) + first) + lane;
    uint4* output = reinterpret_cast<uint4*>(static_cast<Stored*>(call.output) + first) + lane;
    uint8_t* mask = call.mask + first / 8;
    uint4 raw[kParts];
    unsigned bits[kParts];
#pragma unroll
    for (int v = 0; v < kParts; ++v) {
      raw[v] = input[v * 32];
      bits[v] = kForward ? 0u : unsigned(mask[(v * 32 + lane) * kLanes / 8]) >> (lane * kLanes % 8);
    }
#pragma unroll
    for (int v = 0; v < kParts; ++v) {
      T value[kLanes];
      S::unpack(raw[v], value);
#pragma unroll
      for (int j = 0; j < kLanes; ++j) {
        if constexpr (kForward) bits[v] |= value[j] > T(0) ? 1u << j : 0u;
        value[j] = masked<T, kForward>(value[j], (bits[v] >> j & 1u) != 0, h);
      }
      output[v * 32] = S::pack(value);
    }
    if constexpr (kForward) mask[lane] = uint8_t(gathered<kLanes>(bits, lane));
  } else {
    const int64_t bytes = (call.n + 7) / 8, last = (tile + kMaskTile) / 8;
#pragma unroll 1
    for (int64_t b = tile / 8 + threadIdx.x; b < bytes && b < last; b += kThreads) {
      unsigned bits = kForward ? 0u : call.mask[b];
#pragma unroll 1
      for (int64_t i = b * 8; i < b * 8 + 8 && i < call.n; ++i) {
        const T value = S::load(static_cast<const Stored*>(call.input)[i]);
        const unsigned one = 1u << (i % 8);
        if (kForward && value > T(0)) bits |= one;
        static_cast<Stored*>(call.output)[i] = S::store(masked<T, kForward>(value, (bits & one) != 0, h));
      }
      if constexpr (kForward) call.mask[b] = uint8_t(bits);
    }
  }
}

template <bool kForward>
const char* launch_relu_mask(const ReluMaskCall& call, int device, void* stream) {
  if (call.n == 0) return nullptr;
  DeviceGuard guard(device);
  with_stored(call.dtype, [&](auto stored) {
    using Stored = decltype(stored);
    using T = typename Storage<Stored>::Computed;
    const MaskCall<T> mask{call.input,
                           call.output,
                           call.mask,
                           call.n,
                           Parameter<T>::from(call.s),
                           call.s_value,
                           on_grid(call.input, call.output)};
    launch(relu_mask_kernel<Stored, kForward>, unsigned((call.n + kMaskTile - 1) / kMaskTile), kThreads, stream, mask);
  });
  return launch_error();
}

}  // namespace

const char* relu_mask_forward(const ReluMaskCall& call, int device, void* stream) {
  return launch_relu_mask<true>(call, device, stream);
}

const char* relu_mask_backward(const ReluMaskCall& call, int device, void* stream) {
  return launch_relu_mask<false>(call, device, stream);
}

}  // namespace cuda
}  // namespace hrta
