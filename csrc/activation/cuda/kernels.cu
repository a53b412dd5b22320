// The activation on the GPU: which kernel serves a call.
#include "activation/activation.h"
#include "activation/cuda/storage.cuh"
#include "gpu/launch.cuh"

namespace hrta {
namespace cuda {

template <typename Stored>
void pointwise(const ActivationCall& call, void* stream);  // pointwise.cuh
template <typename Stored>
void per_feature(const ActivationCall& call, void* stream);  // per_feature.cuh

const char* transform(const ActivationCall& call, int device, void* stream) {
  if (call.n == 0) return nullptr;
  DeviceGuard guard(device);
  with_stored(call.dtype, [&](auto stored) {
    using Stored = decltype(stored);
    call.n_features > 1 ? per_feature<Stored>(call, stream) : pointwise<Stored>(call, stream);
  });
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
