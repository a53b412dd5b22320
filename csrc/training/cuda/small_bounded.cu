#include "training/cuda/small_kernel.cuh"

namespace hrta {
namespace cuda {
namespace small {

template Kernel* kernel_for<Tanh>(int, int);
template Kernel* kernel_for<Erf>(int, int);
template Kernel* kernel_for<Sin>(int, int);

}  // namespace small
}  // namespace cuda
}  // namespace hrta
