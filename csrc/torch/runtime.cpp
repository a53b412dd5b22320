#include "torch/runtime.h"

#include <dlfcn.h>
#include <torch/csrc/stable/c/shim.h>

#include <stdexcept>
#include <string>

#if !defined(HRTA_CUDA_ARCHITECTURES)
#define HRTA_CUDA_ARCHITECTURES ""
#endif

namespace hrta {

void torch_pool_parallel_for(int64_t count, int64_t grain, cpu::RangeBody body, void* context) {
  if (torch_parallel_for(0, count, grain, body, context) != 0) {
    throw std::runtime_error("hrta_ext: torch's parallel_for failed");
  }
}

// Only CUDA builds of torch export the stream query, and one binary serves both kinds; a weak symbol would not find it,
// since libtorch_cuda is loaded after us or not at all.
void* current_cuda_stream(int device) {
  using Query = int32_t (*)(int32_t device, void** stream);
  static const Query query = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return library == nullptr ? nullptr : reinterpret_cast<Query>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  void* stream = nullptr;
  if (query == nullptr || query(device, &stream) != 0) {
    throw std::runtime_error("hrta_ext: this torch has no CUDA stream to run on");
  }
  return stream;
}

void check_cuda(const char* kernel, const char* error) {
  if (error == nullptr) return;
  std::string message = std::string("hrta_ext: ") + kernel + ": CUDA error: " + error;
  // In CUDA's words: no code for this card, or PTX that this driver cannot compile for it.
  if (message.find("kernel image") != std::string::npos || message.find("PTX") != std::string::npos) {
    message += "; these kernels are built for " HRTA_CUDA_ARCHITECTURES ", `hrta doctor` says how to build them anew";
  }
  throw std::runtime_error(message);
}

const char* cuda_architectures() {
  return HRTA_CUDA_ARCHITECTURES;
}

}  // namespace hrta
