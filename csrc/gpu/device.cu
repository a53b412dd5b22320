#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <string_view>

#include "gpu/device.h"

namespace hrta {
namespace cuda {

namespace {

constexpr int kMostDevices = 64;
Device limits{};

int asked(cudaDeviceAttr attribute, int device) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ? value : 0;
}

Device ask(int device) {
  Device found{};
  found.capability =
      10 * asked(cudaDevAttrComputeCapabilityMajor, device) + asked(cudaDevAttrComputeCapabilityMinor, device);
  found.multiprocessors = asked(cudaDevAttrMultiProcessorCount, device);
  found.shared = asked(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  found.cluster = found.capability >= 90 ? 16 : 1;  // 16 where a launch asks whether they fit, 8 everywhere
  return found;
}

int lowered(int value, int limit) {
  return limit == 0 ? value : std::min(value, limit);
}

Device whole_device(int device) {
  static Device known[kMostDevices];
  static std::atomic<bool> asked_before[kMostDevices];
  Device found;
  if (device < 0 || device >= kMostDevices) {
    found = ask(device);
  } else {
    if (!asked_before[device].load(std::memory_order_acquire)) {  // two threads write the same
      known[device] = ask(device);
      asked_before[device].store(true, std::memory_order_release);
    }
    found = known[device];
  }
  return found;
}

}  // namespace

Device device_of(int device) {
  const Device found = whole_device(device);
  return {lowered(found.capability, limits.capability), lowered(found.multiprocessors, limits.multiprocessors),
          lowered(found.shared, limits.shared), lowered(found.cluster, limits.cluster)};
}

bool has_wgmma(const Device& device) {
#if defined(HRTA_CUDA_ARCHITECTURES)
  if (std::string_view(HRTA_CUDA_ARCHITECTURES).find("90a") == std::string_view::npos) return false;
#elif defined(__CUDACC__)
  return false;
#endif
  return device.capability == 90;
}

bool runs_wgmma(int device) {
  return has_wgmma(whole_device(device));
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int runtime_version() {
  return CUDART_VERSION;
}

void limit_devices(const Device& to) {
  limits = to;
}

}  // namespace cuda
}  // namespace hrta
