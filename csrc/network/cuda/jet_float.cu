#include "network/cuda/jet_tiles.cuh"
#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct JetTileKernels<float>;
template struct LaneKernels<JetBase, float>;

}  // namespace cuda
}  // namespace hrta
