// Launches whose blocks share more than a grid: dynamic shared memory beyond 48 KB, clusters, blocks that are all
// resident and meet. Under the tests' emulation tests/emulation/cuda_runtime.h gives the same names.
#pragma once

#include <algorithm>
#include <mutex>

#include "gpu/device.h"
#include "gpu/launch.cuh"

namespace hrta {
namespace cuda {

struct Shape {
  dim3 blocks;
  int threads;
  size_t shared = 0;      // bytes of dynamic shared memory
  int cluster = 1;        // blocks of a cluster, neighbours along x
  bool resident = false;  // all blocks are on the device at once, for grid_barrier
};

#if defined(__CUDACC__)

namespace detail {

// A kernel's limits are the process's: no other thread may set them between this one's look at them and its launch.
inline std::mutex one_at_a_time;

template <typename Kernel>
cudaLaunchConfig_t prepared(Kernel kernel, const Shape& shape, cudaLaunchAttribute* attribute) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks, config.blockDim = dim3(unsigned(shape.threads));
  config.dynamicSmemBytes = shape.shared;
  if (shape.shared > 32 * 1024) {  // the 48 KB that need no asking count the kernel's static shared memory too
    cudaFuncAttributes now{};
    cudaFuncGetAttributes(&now, kernel);  // never lowered: a captured launch may need it yet
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         std::max(int(shape.shared), now.maxDynamicSharedSizeBytes));
  }
  if (shape.cluster > 8) cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (shape.cluster > 1) {
    attribute->id = cudaLaunchAttributeClusterDimension;
    attribute->val.clusterDim.x = unsigned(shape.cluster);
    attribute->val.clusterDim.y = attribute->val.clusterDim.z = 1;
  } else {
    attribute->id = cudaLaunchAttributeCooperative;
    attribute->val.cooperative = 1;
  }
  config.attrs = attribute, config.numAttrs = shape.cluster > 1 || shape.resident;
  return config;
}

}  // namespace detail

// Whether the current device can run the kernel in this shape; for clusters, one of them.
template <typename... Parameters>
bool fits(void (*kernel)(Parameters...), const Shape& shape, const Device& device) {
  if (shape.shared > size_t(device.shared) || shape.cluster > device.cluster) return false;
  cudaLaunchAttribute attribute{};
  const std::lock_guard<std::mutex> lock(detail::one_at_a_time);
  const bool failed_before = cudaPeekAtLastError() != cudaSuccess;  // of that launch_error() is to tell
  const cudaLaunchConfig_t config = detail::prepared(kernel, shape, &attribute);
  int count = 0;
  if (shape.cluster > 1) {
    if (cudaOccupancyMaxActiveClusters(&count, kernel, &config) != cudaSuccess) count = 0;
  } else if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel, shape.threads, shape.shared) !=
             cudaSuccess) {
    count = 0;
  }
  if (!failed_before) cudaGetLastError();  // a refusal is an answer
  if (shape.cluster > 1 || !shape.resident) return count > 0;
  return int64_t(count) * device.multiprocessors >= int64_t(shape.blocks.x) * shape.blocks.y;
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Shape& shape, void* stream, const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  const std::lock_guard<std::mutex> lock(detail::one_at_a_time);
  cudaLaunchConfig_t config = detail::prepared(kernel, shape, &attribute);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);  // launch_error() tells
}

// The block's dynamic shared memory, on the 128-byte grid.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char hrta_shared_memory[];
  return hrta_shared_memory;
}

// All threads of all blocks of a resident launch. `counter` is zero before the launch; `target` starts at zero in every
// thread and is its own. What was written before is seen after it, by loads that do not go to the L1 cache (__ldcg).
__device__ __forceinline__ void grid_barrier(uint32_t* counter, uint32_t& target) {
  target += gridDim.x * gridDim.y;
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t seen;
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    } while (int32_t(seen - target) < 0);  // however long the launch: both wrap around
  }
  __syncthreads();
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return int(rank);
}
__device__ __forceinline__ int cluster_blocks() {
  uint32_t blocks;
  asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(blocks));
  return int(blocks);
}
// All threads of all blocks of the cluster; what was written before, to shared memory of any of them, is seen after it.
// Not .aligned: the threads of a warp may come one by one, from a loop that they leave at different times.
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}
// The same place in the dynamic shared memory of another block of the cluster.
template <typename T>
__device__ __forceinline__ T* shared_of_block(T* mine, int rank) {
  T* theirs;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
  return theirs;
}
#else
// No clusters: device_of says so, and no such kernel is launched.
__device__ __forceinline__ int cluster_rank() {
  return 0;
}
__device__ __forceinline__ int cluster_blocks() {
  return 1;
}
__device__ __forceinline__ void cluster_barrier() {
  __syncthreads();
}
template <typename T>
__device__ __forceinline__ T* shared_of_block(T* mine, int) {
  return mine;
}
#endif

#else

template <typename... Parameters>
bool fits(void (*)(Parameters...), const Shape& shape, const Device& device) {
  const bool resident = shape.cluster > 1 || !shape.resident ||
                        int64_t(shape.blocks.x) * shape.blocks.y <= int64_t(device.multiprocessors);
  return shape.shared <= size_t(device.shared) && shape.cluster <= device.cluster && resident;
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Shape& shape, void*, const Arguments&... arguments) {
  const int together = shape.cluster > 1 ? shape.cluster : shape.resident ? int(shape.blocks.x * shape.blocks.y) : 1;
  emulate(shape.blocks, shape.threads, [&] { kernel(arguments...); }, shape.shared, together);
}

template <typename T>
T* shared_of_block(T* mine, int rank) {
  return reinterpret_cast<T*>(emulation::shared_of(rank) +
                              (reinterpret_cast<unsigned char*>(mine) - emulation::shared_of(cluster_rank())));
}

#endif

}  // namespace cuda
}  // namespace hrta
