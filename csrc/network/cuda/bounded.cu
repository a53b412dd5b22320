#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct LaneKernels<OneBase<Tanh>, float>;
template struct LaneKernels<OneBase<Erf>, float>;
template struct LaneKernels<OneBase<Sin>, float>;

}  // namespace cuda
}  // namespace hrta
