// Small helpers for cutting work into pieces: the thread pool with a lambda, and aligned scratch memory.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "activation/activation.h"

namespace hrta {
namespace cpu {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(64)); }
};

using AlignedMemory = std::unique_ptr<void, FreeAligned>;

inline AlignedMemory aligned_memory(int64_t bytes) {
  return AlignedMemory(::operator new(static_cast<size_t>(bytes), std::align_val_t(64)));
}

// Runs work(begin, end) over [0, count) on the pool.
template <typename Work>
void run_parallel(ParallelFor parallel_for, int64_t count, int64_t grain, const Work& work) {
  auto body = [](int64_t begin, int64_t end, void* context) { (*static_cast<const Work*>(context))(begin, end); };
  if (count > 0) parallel_for(count, grain, body, const_cast<Work*>(&work));
}

}  // namespace cpu
}  // namespace hrta
