#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct LaneKernels<SmoothBase, double>;

}  // namespace cuda
}  // namespace hrta
