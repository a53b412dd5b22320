// Stands in for CUDA's own header where .cu files are compiled as ordinary C++: kernels run on the CPU, one thread of a
// block after the other as coroutines that change places at barriers and shuffles. Slow, and silent about races between
// warps and blocks, but every index, bound and sum is the kernel's own. `backwards` runs the threads of a block in the
// opposite order: a result that changes with it lacks a barrier.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 threadIdx, blockIdx, gridDim;

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) {
  return "";
}
inline cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  memset(target, value, bytes);
  return cudaSuccess;
}

namespace emulation {

constexpr int kWarp = 32;
constexpr size_t kStack = 1 << 16;

enum class State { kReady, kAtWarpBarrier, kAtBlockBarrier, kDone };

// A coroutine for the whole run: when a body ends it waits for the next. _setjmp and _longjmp change places without the
// system calls of swapcontext.
struct Thread {
  std::vector<char> stack;  // empty until the first body
  jmp_buf place;
  State state;
};

struct Block {
  std::vector<Thread> threads;
  const std::function<void()>* body;
  jmp_buf scheduler;
  int current;
  double exchange[64][kWarp];  // of each warp's shuffle
};

inline Block block;
inline bool backwards = false;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::abort();
}

// Gives way until the others have come as far.
inline void wait_at(State state) {
  Thread& thread = block.threads[size_t(block.current)];
  thread.state = state;
  if (_setjmp(thread.place) == 0) _longjmp(block.scheduler, 1);
}

inline void run_bodies() {
  for (;;) {
    (*block.body)();
    wait_at(State::kDone);
  }
}

inline void resume(Thread& thread) {
  if (_setjmp(block.scheduler) != 0) return;
  if (!thread.stack.empty()) _longjmp(thread.place, 1);
  thread.stack.resize(kStack);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = thread.stack.data();
  context.uc_stack.ss_size = kStack;
  makecontext(&context, run_bodies, 0);
  setcontext(&context);
}

// Opens a barrier that threads [first, last) have all come to; true if they did.
inline bool open_barrier(State barrier, int first, int last) {
  int waiting = 0;
  for (int i = first; i < last; ++i) waiting += block.threads[size_t(i)].state == barrier;
  if (waiting < last - first) return false;
  for (int i = first; i < last; ++i) block.threads[size_t(i)].state = State::kReady;
  return true;
}

inline void run_block(int count) {
  for (int i = 0; i < count; ++i) block.threads[size_t(i)].state = State::kReady;
  for (;;) {
    for (int i = 0; i < count; ++i) {
      block.current = backwards ? count - 1 - i : i;
      threadIdx.x = unsigned(block.current);
      Thread& thread = block.threads[size_t(block.current)];
      if (thread.state == State::kReady) resume(thread);
    }
    bool moved = open_barrier(State::kAtBlockBarrier, 0, count), done = true;
    for (int first = 0; first < count; first += kWarp) {
      moved |= open_barrier(State::kAtWarpBarrier, first, std::min(first + kWarp, count));
    }
    for (int i = 0; i < count; ++i) done &= block.threads[size_t(i)].state == State::kDone;
    if (done) return;
    if (!moved) fail("a barrier that not every thread of its warp or block comes to");
  }
}

}  // namespace emulation

inline void emulate(dim3 blocks, int threads, const std::function<void()>& body) {
  emulation::Block& block = emulation::block;
  if (threads > 64 * emulation::kWarp || threads % emulation::kWarp != 0) emulation::fail("a block's size");
  if (blocks.x == 0 || blocks.y == 0) emulation::fail("an empty grid, which CUDA refuses");
  if (block.threads.size() < size_t(threads)) block.threads.resize(size_t(threads));
  block.body = &body;
  gridDim = blocks;
  for (blockIdx.y = 0; blockIdx.y < blocks.y; ++blockIdx.y) {
    for (blockIdx.x = 0; blockIdx.x < blocks.x; ++blockIdx.x) emulation::run_block(threads);
  }
}

inline void __syncthreads() {
  emulation::wait_at(emulation::State::kAtBlockBarrier);
}
inline void __syncwarp() {
  emulation::wait_at(emulation::State::kAtWarpBarrier);
}
inline double __shfl_xor_sync(unsigned, double value, int offset) {
  const int lane = int(threadIdx.x) % emulation::kWarp;
  double* exchange = emulation::block.exchange[threadIdx.x / emulation::kWarp];
  exchange[lane] = value;
  __syncwarp();
  const double result = exchange[lane ^ offset];
  __syncwarp();
  return result;
}
inline unsigned __shfl_sync(unsigned, unsigned value, int from) {
  const int lane = int(threadIdx.x) % emulation::kWarp;
  double* exchange = emulation::block.exchange[threadIdx.x / emulation::kWarp];
  exchange[lane] = value;
  __syncwarp();
  const unsigned result = unsigned(exchange[from]);
  __syncwarp();
  return result;
}
