// Arrays side by side in scratch memory, each on the 256-byte grid wherever the scratch memory itself begins.
#pragma once

#include <cstdint>

namespace hrta {
namespace cuda {

class Memory {
 public:
  // null: only counts the bytes.
  explicit Memory(void* scratch) : first_(reinterpret_cast<uintptr_t>(scratch)), at_(rounded(first_)) {}

  template <typename T>
  T* take(int64_t count) {
    T* const array = reinterpret_cast<T*>(at_);
    at_ = rounded(at_ + uintptr_t(count) * sizeof(T));
    return array;
  }

  // What scratch memory at any address has to have.
  int64_t bytes() const { return int64_t(at_ - first_) + kGrid; }

 private:
  static constexpr uintptr_t kGrid = 256;
  static uintptr_t rounded(uintptr_t at) { return (at + kGrid - 1) / kGrid * kGrid; }
  uintptr_t first_, at_;
};

}  // namespace cuda
}  // namespace hrta
