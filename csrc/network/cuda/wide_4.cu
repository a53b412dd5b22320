#include "network/cuda/wide_launches.cuh"

namespace hrta {
namespace cuda {
namespace wide {

template struct Kernels<4>;

}  // namespace wide
}  // namespace cuda
}  // namespace hrta
