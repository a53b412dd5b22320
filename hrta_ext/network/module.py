"""The wide two-layer network as a module (docs/theory.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrta_ext.activation.modules import HomotopyLayer, shown
from hrta_ext.callers import stand_in
from hrta_ext.groups import Ranks, ranks_of, together
from hrta_ext.inputs import (
    Parameter,
    Parameters,
    check_flag,
    check_homotopy_parameter,
    check_integer,
    check_seed,
    with_bias,
)
from hrta_ext.network.functions import two_layer
from hrta_ext.network.jets import Jet, two_layer_jet
from hrta_ext.network.keeping import rescale
from hrta_ext.network.rows import as_sharded, local_rows
from hrta_ext.network.shares import shared
from hrta_ext.ntk.draws import random_weights
from hrta_ext.ntk.gram import gram
from hrta_ext.ntk.types import Gram


class TwoLayerNet(HomotopyLayer):
    """Two-layer network in the NTK parametrisation, f_s(x) = m^(-1/2) sum_k a_k sigma_s(w_k . x) + c . x.

    All weights start as N(0, 1) (docs/theory.md 1; Yang, Chen, Hao 2025, eq. 3). With ``bias`` a 1 is appended to
    every sample, so that the last column of ``weight`` holds the biases. c is there only after
    ``set_s(s, keep_function=True)``.

    With ``group`` the neurons are divided among its ranks (docs/distributed.md): each makes the same network, holds its
    share of the neurons, and calls all methods alike on the same samples.

    Args:
        in_features: d, the number of features of a sample.
        width: m, the number of neurons, of all ranks together.
        s: Homotopy parameter; ``.s`` is a 0-dim float64 buffer that :func:`hrta_ext.set_homotopy` sets.
        base: Base activation.
        bias: Append the constant 1 to the samples.
        seed: Seed of the starting weights, the same numbers on every device; None draws from torch's global generator,
            with ``draw="counter"`` one number, a seed, on rank 0.
        draw: How the starting weights come of the seed: "generator", torch's; or "counter", those of
            :func:`random_weights`, any stretch of which can be drawn by itself. Default: "counter" with ``group``,
            which knows no other, else "generator".
        group: A ``torch.distributed`` process group, "world" for all processes, or None for this process alone.
    Attributes:
        weight: W, shape (m, D) with D = d + 1 (or d without bias); with ``group`` the rows of this rank's neurons.
        output_weight: a, shape (m,); with ``group`` those of this rank's neurons.
        neurons: Numbers of the neurons that this process holds.
        skip: c, shape (D,), or None: a buffer, so that training leaves it as it is.
    Shapes:
        Input (n, d), output (n,).
    Raises:
        TypeError, ValueError: An argument is off, or differs from that of another rank.

    Example:
        >>> import torch, hrta_ext as hx
        >>> net = hx.TwoLayerNet(1, 1000, s=0.5, seed=0)
        >>> net(torch.linspace(0, 1, 5)[:, None]).shape
        torch.Size([5])
    """

    ranks: Ranks | None = None  # pickles of before there were any have none of their own

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        s: float = 1.0,
        base: str = "relu",
        bias: bool = True,
        seed: int | None = None,
        draw: str | None = None,
        group: Any = None,
    ) -> None:
        ranks = ranks_of(group, "TwoLayerNet")
        with together(ranks, "TwoLayerNet") as facts:
            super().__init__(check_homotopy_parameter(s, "TwoLayerNet: s", torch.get_default_dtype()), base)
            self.skip: Tensor | None
            self.register_buffer("skip", None)
            self.in_features = check_integer(in_features, "TwoLayerNet: in_features")
            self.width = check_integer(width, "TwoLayerNet: width")
            self.bias = check_flag(bias, "TwoLayerNet: bias")
            seed = None if seed is None else check_seed(seed, "TwoLayerNet: seed")
            draw = _check_draw(draw, ranks)
            facts |= {"in_features": in_features, "width": width, "s": s, "base": base, "bias": bias, "seed": seed}
            facts |= {"torch's default dtype": torch.get_default_dtype(), "device": torch.get_default_device().type}
        if ranks is not None:
            self.ranks = ranks
        if draw == "generator":
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            weight = torch.randn(self.width, self.in_features + self.bias, generator=generator)
            output_weight = torch.randn(self.width, generator=generator)
        else:
            weight, output_weight = self._counted(seed)
        self.weight = nn.Parameter(weight.to(torch.get_default_device()))
        self.output_weight = nn.Parameter(output_weight.to(torch.get_default_device()))

    def _counted(self, seed: int | None) -> tuple[Tensor, Tensor]:
        """The starting weights of this process's neurons by their numbers."""
        if seed is None:
            first = self.ranks is None or self.ranks.rank == 0
            number = torch.randint(2**63 - 1, (1,)) if first else torch.zeros(1, dtype=torch.int64)
            seed = int(number if self.ranks is None else self.ranks.from_first(number))
        with together(self.ranks, "TwoLayerNet"):
            return random_weights(
                self.neurons.start,
                len(self.neurons),
                self.in_features + self.bias,
                seed=seed % 2**64,
                device=torch.get_default_device(),
            )

    @property
    def neurons(self) -> range:
        """Numbers of the neurons that this process holds: of all of them without a group."""
        first, count = (0, self.width) if self.ranks is None else self.ranks.share(self.width)
        return range(first, first + count)

    @property
    def group(self) -> Any:
        """The process group whose ranks share the neurons; None for this process alone."""
        return None if self.ranks is None else self.ranks.group

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> Any:
        """What DistributedDataParallel looks at before anything else."""
        if self.ranks is not None:
            raise ValueError(
                "DistributedDataParallel: a TwoLayerNet with group= holds different neurons on every rank, whose "
                "gradients must not be averaged; hx.fit trains it as it is"
            )
        if "_ddp_ignored" not in vars(self):
            raise AttributeError("_ddp_params_and_buffers_to_ignore")
        return self._ddp_ignored

    @_ddp_params_and_buffers_to_ignore.setter
    def _ddp_params_and_buffers_to_ignore(self, names: Any) -> None:
        self._ddp_ignored = names

    def outputs(self, function: Any, samples: Tensor, s: Parameter | None = None, **options: Any) -> Any:
        """What :func:`two_layer`, or a function like it, gives for the neurons of all ranks, without the skip.

        Args:
            function: Called with samples, weights and s, and ``base``.
            samples: (n, D), with the column of ones.
            s: Default: the network's own.
            options: Of ``function``.
        """
        weights = self.weight, self.output_weight, self.s if s is None else s
        if self.ranks is None:
            return function(samples, *weights, base=self.base, **options)
        return shared(self.ranks, self.width, function, samples, *weights, base=self.base, **options)

    def forward(self, x: Tensor) -> Tensor:
        """f_s at every sample: x (n, d) -> (n,)."""
        samples = self._samples(x)
        f: Tensor = self.outputs(two_layer, samples)
        return f if self.skip is None else f + samples @ self.skip

    def _samples(self, x: Tensor) -> Tensor:
        """(n, D), with the column of ones."""
        if self.ranks is None:
            return self._checked(x)
        with self.ranks.telling("TwoLayerNet"):
            return self._checked(x)

    def _checked(self, x: Tensor) -> Tensor:
        if not stand_in(x):  # a tracer's proxy has no shape to look at
            if not isinstance(x, Tensor):
                raise TypeError(f"TwoLayerNet: x must be a tensor, got {type(x).__name__}")
            if x.dim() != 2 or x.shape[1] != self.in_features:
                raise ValueError(f"TwoLayerNet: x must have shape (n, {self.in_features}), got {tuple(x.shape)}")
        return with_bias(x) if self.bias else x

    def jet(self, x: Tensor, *, second: str = "laplacian", second_columns: Sequence[int] | None = None) -> Jet:
        """The network with its first and second derivatives in x (n, d), those in the inputs (:func:`two_layer_jet`).

        Args:
            x: Samples, (n, d).
            second: "laplacian", "diagonal" or "hessian".
            second_columns: Inputs that ``second`` is taken in; default: all.
        """
        samples = self._samples(x)
        columns: dict[str, Any] = {"columns": range(self.in_features), "second_columns": second_columns}
        jet: Jet = self.outputs(two_layer_jet, samples, second=second, **columns)
        if self.skip is None:
            return jet
        return Jet(jet.value + samples @ self.skip, jet.gradient + self.skip[: self.in_features], jet.second)

    def set_s(self, s: float, *, keep_function: bool = False) -> None:
        """Set s in place.

        With ``keep_function`` the network computes what it did: a becomes a s / s', which keeps s sum_k a_k sigma(z_k),
        and the rest of the difference, (1 - s / s') m^(-1/2) sum_k a_k w_k . x, goes to ``skip`` (docs/theory.md 1).

        Args:
            s: s', finite.
            keep_function: Exact to rounding (1e-6 in float32, 1e-15 in float64, relative to m^(-1/2) sum |a_k| |w_k|
                |x|). G^[w] shrinks by (s / s')^2 through a, which takes back what s' adds to it.
        Raises:
            ValueError: s not finite; with ``keep_function`` s = 0, now or then: at s = 0 the network is linear.
        """
        value = check_homotopy_parameter(s, dtype=self.s.dtype)
        if check_flag(keep_function, "TwoLayerNet.set_s: keep_function"):
            rescale(self, value)
        super().set_s(value)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._rows() if self.ranks is not None else ():
            assert self.ranks is not None
            local = destination[f"{prefix}{name}"]
            destination[f"{prefix}{name}"] = as_sharded(self.ranks, local.contiguous(), self.width)

    def _rows(self) -> list[str]:
        """Parameters with a row for each neuron."""
        return [name for name in ("weight", "output_weight") if name in self._parameters]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in self._rows() if self.ranks is not None else ():
            assert self.ranks is not None
            saved, own = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if isinstance(saved, Tensor):
                try:
                    shape = (self.width, *own.shape[1:])
                    state_dict[f"{prefix}{name}"] = local_rows(self.ranks, saved, shape)
                except ValueError as error:
                    rest[-1].append(f"TwoLayerNet: {prefix}{name} must have {error}")
                    del state_dict[f"{prefix}{name}"]
        if "skip" in self._buffers:  # there or not, as in what is loaded
            saved = state_dict.get(f"{prefix}skip")
            if saved is None and f"{prefix}weight" in state_dict:
                self.skip = None
            elif saved is not None and self.skip is None:
                self.skip = self.weight.detach().new_zeros(self.weight.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "skip" not in self._parameters:
            self._buffers.setdefault("skip", None)  # pickles of before there was one

    def to_relu(self) -> TwoLayerNet:
        """The pure-ReLU network (s = 1) of width 2m that computes the same function (Remark 1 of the paper).

        (1 - s) z + s ReLU(z) = ReLU(z) - (1 - s) ReLU(-z), so neuron (w, a) becomes (w, a sqrt 2) and
        (-w, -(1 - s) a sqrt 2); the factor sqrt 2 makes up for (2m)^(-1/2). A skip c becomes one more pair, (c, a) and
        (-c, -a) with a = (2m + 2)^(1/2), since ReLU(z) - ReLU(-z) = z: the width is 2m + 2 then.

        With a group both neurons of a pair are on the rank that has w, and every rank holds equally many: where m (or
        m + 1) is no multiple of the ranks, neurons with w = 0 and a = 0 fill the last ones up, and the width is that
        much larger. The order is, rank by rank, all w and the skip's, the zeros, then their opposites.

        Raises:
            ValueError: The base is not "relu".
        """
        if self.base != "relu":
            raise ValueError(f'TwoLayerNet.to_relu: needs base "relu", this network has {self.base!r}')
        pairs = self.width + (self.skip is not None)
        if self.ranks is not None:
            pairs = -(-pairs // self.ranks.size) * self.ranks.size
        net = TwoLayerNet(self.in_features, 2 * pairs, s=1.0, bias=self.bias, seed=0, group=self.group)
        net = net.to(self.weight)
        with torch.no_grad():
            weight: Tensor = self.weight
            a = self.output_weight * (2.0 * pairs / self.width) ** 0.5
            opposite = -(1.0 - self.s.to(a.dtype)) * a
            if self.skip is not None and self._has_room(pairs):
                of_skip = a.new_full((1,), (2.0 * pairs) ** 0.5)
                weight = torch.cat([weight, self.skip[None]])
                a, opposite = torch.cat([a, of_skip]), torch.cat([opposite, -of_skip])
            zeros = len(net.neurons) // 2 - len(weight)
            weight, a, opposite = F.pad(weight, (0, 0, 0, zeros)), F.pad(a, (0, zeros)), F.pad(opposite, (0, zeros))
            net.weight.copy_(torch.cat([weight, -weight]))
            net.output_weight.copy_(torch.cat([a, opposite]))
        return net

    def _has_room(self, pairs: int) -> bool:
        """Whether this rank is the first that holds fewer than its part of so many neurons."""
        if self.ranks is None:
            return True
        part = pairs // self.ranks.size
        counts = [self.ranks.share(self.width, rank)[1] for rank in range(self.ranks.size)]
        return [count < part for count in counts].index(True) == self.ranks.rank

    def gram(self, x: Tensor, s: Parameters | None = None, *, x2: Tensor | None = None) -> Gram:
        """The Gram matrices of the current weights on samples x (n, d), the bias appended (:func:`hrta_ext.gram`).

        They are those of the neurons: where ``skip`` is made a parameter and trained, the NTK has x_i . x_j besides.

        Args:
            x: Samples, (n, d), of the weights' dtype.
            s: One s or S values; None takes the network's own.
            x2: Samples (n2, d) of the columns of cross-kernels; default: x.
        """
        samples = with_bias(x) if self.bias else x
        others = with_bias(x2) if self.bias and x2 is not None else x2
        value = float(self.s) if s is None else s
        weights = self.weight.detach(), self.output_weight.detach()
        return gram(samples, *weights, value, x2=others, base=self.base, group=self.group)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"in_features={self.in_features}, width={self.width}, s={shown(self.s)}, base={self.base!r}, "
            f"bias={self.bias}" + ("" if self.ranks is None else f", ranks={self.ranks.size}")
        )


def _check_draw(draw: str | None, ranks: Ranks | None) -> str:
    if draw not in (None, "generator", "counter"):
        raise ValueError(f'TwoLayerNet: draw must be "generator", "counter" or None, got {draw!r}')
    if draw == "generator" and ranks is not None:
        raise ValueError('TwoLayerNet: draw must be "counter" with group, since no rank draws all weights')
    return draw or ("generator" if ranks is None else "counter")
