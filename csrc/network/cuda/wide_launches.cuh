// Which of the wide network's kernels are launched; each wide_N.cu instantiates those of a number of padded features.
#pragma once

#include "network/cuda/wide_backward.cuh"
#include "network/cuda/wide_forward.cuh"

namespace hrta {
namespace cuda {
namespace wide {

template <int D, int kColumns>
using ProductOf = std::conditional_t<kColumns == 0, Mma<D>, Wgmma<D, kColumns == 0 ? 32 : kColumns>>;

template <int D, bool kWithWgmma, int kSize>
void launch_forward_of(const ForwardWork& work, int64_t blocks, void* stream) {
  constexpr Cut cut = forward_cut(kWithWgmma, D, kSize);
  const Shape shape{dim3(unsigned(blocks)), kThreads, size_t(2 * tile_bytes(D))};
  launch(forward_kernel<ProductOf<D, kWithWgmma ? cut.columns : 0>, cut.q>, shape, stream, work);
}

template <int D>
void Kernels<D>::forward(bool wgmma, const ForwardWork& work, int64_t blocks, void* stream) {
  static_assert(tile_bytes(D) == 4 * Layout<D>::kTileWords);
  const int size = size_of(work.call.n);
  auto launch_as = [&](auto with_wgmma) {
    constexpr bool kWithWgmma = decltype(with_wgmma)::value;
    constexpr Cut cuts[] = {forward_cut(kWithWgmma, D, 0), forward_cut(kWithWgmma, D, 1),
                            forward_cut(kWithWgmma, D, 2)};
    if constexpr (cuts[0].q != cuts[2].q) {
      if (size == 0) return launch_forward_of<D, kWithWgmma, 0>(work, blocks, stream);
    }
    if constexpr (cuts[1].q != cuts[2].q) {
      if (size == 1) return launch_forward_of<D, kWithWgmma, 1>(work, blocks, stream);
    }
    launch_forward_of<D, kWithWgmma, 2>(work, blocks, stream);
  };
  if (wgmma) return launch_as(std::true_type{});
  launch_as(std::false_type{});
}

template <int D>
void Kernels<D>::samples(bool wgmma, const SamplesWork& work, int64_t blocks, void* stream) {
  if (wgmma) return launch(samples_kernel<Wgmma<D, 32>>, blocks, kThreads, stream, work);
  launch(samples_kernel<Mma<D>>, blocks, kThreads, stream, work);
}

template <int D>
void Kernels<D>::backward(bool wgmma, const BackwardWork& work, int64_t blocks, void* stream) {
  constexpr Cut cut = backward_cut(true, D), mma_cut = backward_cut(false, D);
  const int64_t tiles = work.samples.tiles < work.segment ? work.samples.tiles : work.segment;
  const size_t shared = size_t((tiles < 1 ? 1 : tiles) * tile_bytes(D));
  const Shape shape{dim3(unsigned(blocks)), kThreads, shared};
  if (wgmma) return launch(backward_kernel<ProductOf<D, cut.columns>, cut.q>, shape, stream, work);
  launch(backward_kernel<Mma<D>, mma_cut.q>, shape, stream, work);
}

}  // namespace wide
}  // namespace cuda
}  // namespace hrta
