// Threads, blocks and barriers of the emulation (cuda_runtime.h).
#pragma once

namespace emulation {

constexpr int kWarp = 32;
constexpr int kMostWarps = 32;
constexpr size_t kStack = 1 << 16;

enum class State { kReady, kAtWarpBarrier, kAtBlockBarrier, kDone };

// A coroutine for the whole run: when a body ends it waits for the next. _setjmp and _longjmp change places without the
// system calls of swapcontext.
struct Thread {
  std::unique_ptr<char[]> stack;  // null until the first body
  jmp_buf place;
  State state;
};

// Blocks that run at the same time: a cluster, or a whole resident grid.
struct Together {
  explicit Together(int count) : barrier(count), shared(size_t(count)) {}
  std::barrier<> barrier;
  std::vector<unsigned char*> shared;  // dynamic shared memory, by rank
};

struct Block {
  std::vector<Thread> threads;
  const std::function<void()>* body;
  jmp_buf scheduler;
  int current;
  uint64_t exchange[kMostWarps][kWarp];  // of each warp's shuffle
  int votes;                             // of __syncthreads_or and its likes
  std::vector<unsigned char> memory;     // dynamic shared memory, from its first multiple of 128 on
  Together* together;
  int rank;  // among those that run together
};

constinit inline thread_local Block* here =
    nullptr;  // a pointer, for a thread_local with a constructor is asked at each use
inline bool backwards = false;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::abort();
}

// Gives way until the others have come as far.
inline void wait_at(State state) {
  Thread& thread = here->threads[size_t(here->current)];
  thread.state = state;
  if (_setjmp(thread.place) == 0) _longjmp(here->scheduler, 1);
}

inline void run_bodies() {
  for (;;) {
    (*here->body)();
    wait_at(State::kDone);
  }
}

inline void resume(Thread& thread) {
  if (_setjmp(here->scheduler) != 0) return;
  if (thread.stack != nullptr) _longjmp(thread.place, 1);
  thread.stack.reset(new char[kStack]);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = thread.stack.get();
  context.uc_stack.ss_size = kStack;
  makecontext(&context, run_bodies, 0);
  setcontext(&context);
}

// Opens a barrier that threads [first, last) have all come to; true if they did.
inline bool open_barrier(State barrier, int first, int last) {
  int waiting = 0;
  for (int i = first; i < last; ++i) waiting += here->threads[size_t(i)].state == barrier;
  if (waiting < last - first) return false;
  for (int i = first; i < last; ++i) here->threads[size_t(i)].state = State::kReady;
  return true;
}

inline void run_threads(int count) {
  for (int i = 0; i < count; ++i) here->threads[size_t(i)].state = State::kReady;
  for (;;) {
    for (int i = 0; i < count; ++i) {
      here->current = backwards ? count - 1 - i : i;
      threadIdx.x = unsigned(here->current);
      Thread& thread = here->threads[size_t(here->current)];
      if (thread.state == State::kReady) resume(thread);
    }
    bool moved = open_barrier(State::kAtBlockBarrier, 0, count), done = true;
    for (int first = 0; first < count; first += kWarp) {
      moved |= open_barrier(State::kAtWarpBarrier, first, std::min(first + kWarp, count));
    }
    for (int i = 0; i < count; ++i) done &= here->threads[size_t(i)].state == State::kDone;
    if (done) return;
    if (!moved) fail("a barrier that not every thread of its warp or block comes to");
  }
}

inline unsigned char* aligned(std::vector<unsigned char>& memory) {
  return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(memory.data()) + 127) / 128 * 128);
}

inline unsigned char* shared_of(int rank) {
  return here->together->shared[size_t(rank)];
}

struct Run {
  dim3 blocks;
  int threads;
  const std::function<void()>* body;
  size_t shared;
};

// Block `number` of the grid, on this thread.
inline void run_block(const Run& run, unsigned number, Together* together, int rank) {
  static thread_local Block of_this_thread;
  here = &of_this_thread;
  if (here->threads.size() < size_t(run.threads)) here->threads.resize(size_t(run.threads));
  here->body = run.body, here->together = together, here->rank = rank, here->votes = 0;
  here->memory.assign(run.shared + 128, 0xff);
  gridDim = run.blocks, blockDim = dim3(unsigned(run.threads));
  blockIdx = dim3(number % run.blocks.x, number / run.blocks.x);
  if (together != nullptr) {
    together->shared[size_t(rank)] = aligned(here->memory);
    together->barrier.arrive_and_wait();
  }
  run_threads(run.threads);
  if (together != nullptr) together->barrier.arrive_and_wait();  // nobody's memory goes before the others are done
}

}  // namespace emulation

// `together` blocks at a time; more than one have barriers between them.
inline void emulate(dim3 blocks, int threads, const std::function<void()>& body, size_t shared = 0, int together = 1) {
  if (threads > emulation::kMostWarps * emulation::kWarp || threads % emulation::kWarp != 0) {
    emulation::fail("a block's size");
  }
  if (blocks.x == 0 || blocks.y == 0) emulation::fail("an empty grid, which CUDA refuses");
  const unsigned count = blocks.x * blocks.y;
  if (count % unsigned(together) != 0) emulation::fail("a grid that its clusters do not divide");
  const emulation::Run run{blocks, threads, &body, shared};
  for (unsigned first = 0; first < count; first += unsigned(together)) {
    if (together == 1) {
      emulation::run_block(run, first, nullptr, 0);
      continue;
    }
    emulation::Together group(together);
    std::vector<std::thread> at_work;
    for (int rank = 0; rank < together; ++rank) {
      at_work.emplace_back([&, rank] { emulation::run_block(run, first + unsigned(rank), &group, rank); });
    }
    for (std::thread& thread : at_work) thread.join();
  }
}

inline void __syncthreads() {
  emulation::wait_at(emulation::State::kAtBlockBarrier);
}
inline void __syncwarp(unsigned = ~0u) {
  emulation::wait_at(emulation::State::kAtWarpBarrier);
}
inline int __syncthreads_count(int vote) {
  emulation::here->votes += vote != 0;
  __syncthreads();
  const int votes = emulation::here->votes;
  __syncthreads();
  emulation::here->votes = 0;
  __syncthreads();
  return votes;
}
inline int __syncthreads_or(int vote) {
  return __syncthreads_count(vote) > 0;
}
inline int __syncthreads_and(int vote) {
  return __syncthreads_count(vote) == int(blockDim.x);
}
inline void __threadfence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}
inline void __threadfence_block() {}

namespace hrta {
namespace cuda {

inline unsigned char* shared_memory() {
  return emulation::aligned(emulation::here->memory);
}

inline void meet_blocks() {
  __syncthreads();
  if (threadIdx.x == 0 && emulation::here->together != nullptr) emulation::here->together->barrier.arrive_and_wait();
  __syncthreads();
}
inline void grid_barrier(uint32_t*, uint32_t&) {
  meet_blocks();
}
inline void cluster_barrier() {
  meet_blocks();
}
inline int cluster_rank() {
  return emulation::here->rank;
}
inline int cluster_blocks() {
  return emulation::here->together == nullptr ? 1 : int(emulation::here->together->shared.size());
}

}  // namespace cuda
}  // namespace hrta
