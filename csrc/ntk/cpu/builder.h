// What both Gram algorithms (gram.cpp, gram_arcs.cpp) stand on: aligned memory, tasks for the thread pool, neurons.
#pragma once

#include <atomic>
#include <new>

#include "ntk/cpu/loops.h"

namespace hrta {
namespace cpu {

// Memory that starts at a cache line, not initialised.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : memory_(static_cast<T*>(::operator new(size_t(count) * sizeof(T), kLine))) {}
  ~Buffer() { ::operator delete(memory_, kLine); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* at(int64_t i) const { return memory_ + i; }

 private:
  static constexpr std::align_val_t kLine{64};
  T* memory_;
};

// Runs task(0) .. task(count - 1), each once, on whichever thread is free: uneven tasks share the threads well. Work
// that is over before another thread wakes up (`small`) stays on this one.
template <typename Task>
void for_each_task(int64_t count, ParallelFor parallel_for, const Task& task, bool small = false) {
  if (count == 0) return;
  if (small) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  struct Context {
    const Task* task;
    std::atomic<int64_t> next;
    int64_t count;
  } context{&task, {0}, count};
  auto body = [](int64_t, int64_t, void* pointer) {
    Context& c = *static_cast<Context*>(pointer);
    for (int64_t i = c.next++; i < c.count; i = c.next++) (*c.task)(i);
  };
  parallel_for(count, 1, body, &context);
}

// Neurons [begin, begin + count) of the call as doubles: weight (count, D), a (count). False if any is not finite.
bool fetch_neurons(const GramCall& call, int64_t begin, int count, double* weight, double* a);

// ReLU and D = 2 (gram_arcs.cpp).
bool gram_sums_by_arcs(const GramCall& call, ParallelFor parallel_for);
int64_t arcs_scratch(const GramCall& call);

}  // namespace cpu
}  // namespace hrta
