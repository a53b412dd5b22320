// Small helpers for cutting work into pieces: the thread pool with a lambda, and aligned scratch memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>

#include "types.h"

namespace hrta {
namespace cpu {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Memory that starts at a cache line, not initialised; none by default.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) : memory_(static_cast<T*>(::operator new(size_t(count) * sizeof(T), kLine))) {}
  T* get() const { return memory_.get(); }
  T* at(int64_t i) const { return memory_.get() + i; }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(T* memory) const { ::operator delete(memory, kLine); }
  };
  std::unique_ptr<T, Free> memory_;
};

// Runs work(begin, end) over [0, count) on the pool.
template <typename Work>
void run_parallel(ParallelFor parallel_for, int64_t count, int64_t grain, const Work& work) {
  auto body = [](int64_t begin, int64_t end, void* context) { (*static_cast<const Work*>(context))(begin, end); };
  if (count > 0) parallel_for(count, grain, body, const_cast<Work*>(&work));
}

// Runs task(0) .. task(count - 1), each once, on whichever thread is free: uneven tasks share the threads well. Work
// that is over before another thread wakes up (`small`) stays on this one.
template <typename Task>
void for_each_task(int64_t count, ParallelFor parallel_for, const Task& task, bool small = false) {
  if (small) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  std::atomic<int64_t> next{0};
  run_parallel(parallel_for, count, 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) task(i);
  });
}

}  // namespace cpu
}  // namespace hrta
