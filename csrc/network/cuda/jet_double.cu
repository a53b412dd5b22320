#include "network/cuda/jet_tiles.cuh"
#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct JetTileKernels<double>;
template struct LaneKernels<JetBase, double>;

}  // namespace cuda
}  // namespace hrta
