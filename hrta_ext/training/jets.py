"""What a loss sees of a network at its points: the fused jet of a two-layer network, autograd's of any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import Tensor, nn

from hrta_ext.activation.modules import homotopy_layers
from hrta_ext.bases import BASES, Base
from hrta_ext.inputs import with_bias
from hrta_ext.network.functions import HALF_TYPES, run
from hrta_ext.network.jets import Jet
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.network.second import Second
from hrta_ext.training.losses import by_autograd, is_plain, value_and_gradient

_SERVE = ("relu2, tanh, gelu, silu, softplus, erf and sin serve", "tanh, gelu, silu, softplus, erf and sin serve")
_FEW = 4  # times as many points has a pass that points join which need less


def trainable_order(net: nn.Module) -> tuple[int, str]:
    """How many derivatives in x a loss of ``net`` may contain, up to two, and the base that allows no more.

    A k-th derivative is trained by the base's derivative of order k + 1, which must not be zero almost everywhere: k is
    0 for relu, 1 for relu2, 2 for the smooth bases.
    """
    bases = dict.fromkeys(layer.base for layer in homotopy_layers(net))
    return min((_trainable(BASES[name]), name) for name in bases)


def _trainable(base: Base) -> int:
    probe = torch.linspace(-1.0, 1.0, 5)
    if not base.curvature(probe).any():
        return 0
    try:
        return 1 + bool(base.third_derivative(probe).any())
    except RuntimeError:  # a registered curvature that autograd cannot differentiate
        return 1


def untrainable(order: int, base: str) -> str:
    """Why no loss may contain derivatives beyond ``order``, and what to use instead."""
    kind = "derivatives" if order == 0 else "second derivatives"
    return f"{kind} of base {base!r} are constant between its kinks, which nothing can train; {_SERVE[order]}"


@dataclass(frozen=True)
class Need:
    """What a term looks at.

    Attributes:
        kind: "laplacian", "diagonal" or "hessian"; "gradient" or "value" for no more than that.
        columns: Those of the second derivatives; None for all.
        why: What touching a derivative that is not there says.
    """

    kind: str
    columns: tuple[int, ...] | None = None
    why: str = ""


class WithoutSecond(Jet):
    """A jet of value and gradient."""

    why: str

    @property
    def second(self) -> Tensor:
        """Not there."""
        raise ValueError(self.why)


class ValueAlone(WithoutSecond):
    """A jet of no derivatives."""

    @property
    def gradient(self) -> Tensor:
        """Not there."""
        raise ValueError(self.why)


def passes_of(needs: Sequence[Need], counts: Sequence[int]) -> list[list[int]]:
    """Which of the terms, with so many points, go through the neurons together; the first of each needs the most.

    A pass has a cost of its own: terms of one need share one, and few points join a pass that gives more than they
    need. Shapes alone decide.
    """
    alike: dict[tuple[str, tuple[int, ...] | None], list[int]] = {}
    for k, need in enumerate(needs):
        alike.setdefault((need.kind, need.columns), []).append(k)
    rank = {"value": 0, "gradient": 1}
    groups = sorted(alike.values(), key=lambda group: -rank.get(needs[group[0]].kind, 2))
    passes: list[list[int]] = []
    for group in groups:
        count, kind = sum(counts[k] for k in group), needs[group[0]].kind
        hosts = [p for p in passes if rank.get(needs[p[0]].kind, 2) > rank.get(kind, 2)]
        host = max(hosts, key=lambda p: sum(counts[k] for k in p), default=[])
        if host and count * _FEW <= sum(counts[k] for k in host):
            host += group
        else:
            passes.append(list(group))
    return passes


class Joined:
    """What passes of a TwoLayerNet look at: its terms' points in one tensor, with the bias, made when they change."""

    def __init__(self) -> None:
        self.made: dict[int, tuple[list[Tensor], list[int], Tensor]] = {}

    def of(self, number: int, points: list[Tensor], bias: bool) -> Tensor:
        """The samples (n, D) of pass ``number``."""
        versions = [0 if p.is_inference() else p._version for p in points]
        before = self.made.get(number)
        same = before is not None and all(p is q for p, q in zip(points, before[0], strict=True))
        if before is None or not same or versions != before[1]:
            joined = torch.cat(points) if len(points) > 1 else points[0]
            before = self.made[number] = points, versions, with_bias(joined) if bias else joined
        return before[2]


def jets_of(
    net: nn.Module, points: Sequence[Tensor], needs: Sequence[Need], passes: list[list[int]], samples: Joined
) -> list[Jet]:
    """The jets of all terms, each with what it needs. ``samples`` keeps what the passes are made of."""
    jets: dict[int, Jet] = {}
    for number, members in enumerate(passes):
        need, of_pass = needs[members[0]], [points[k] for k in members]
        sizes = tuple(len(p) for p in of_pass)
        shared = getattr(net, "ranks", None) is not None  # whose sums are those of all ranks
        if is_plain(net) and not shared and net.weight.dtype not in HALF_TYPES:
            assert isinstance(net, TwoLayerNet)
            parts = _of_plain(net, samples.of(number, of_pass, net.bias), need, sizes)
        else:
            whole = jet_of(net, torch.cat(of_pass) if len(members) > 1 else of_pass[0], need)
            if len(members) == 1:
                jets[members[0]] = whole
                continue
            cut = [[None] * len(sizes) if part is None else part.split(sizes) for part in tuple(whole)]
            parts = list(zip(*cut, strict=True))
        for k, (value, gradient, second) in zip(members, parts, strict=True):
            jets[k] = _seen(needs[k], value, gradient, second)
    return [jets[k] for k in range(len(points))]


def _of_plain(net: TwoLayerNet, samples: Tensor, need: Need, sizes: tuple[int, ...]) -> list[tuple[Any, Any, Any]]:
    """Value, gradient and second derivatives of the module's formula at samples (n, D), with the bias, cut by sizes."""
    inputs, form = net.in_features, None
    asked = tuple(range(inputs)) if need.columns is None else need.columns
    if need.kind not in ("value", "gradient"):
        form = Second(need.kind, tuple(sorted(asked)))
    found = run(samples, net.weight, net.output_weight, net.s, net.base, need.kind != "value", form, sizes)
    values, df_dx, packed = (list(found[at : at + len(sizes)]) for at in range(0, 3 * len(sizes), len(sizes)))
    gradients = [part[:, :inputs] for part in df_dx]
    if net.skip is not None:
        rows = samples.split(sizes)
        values = [part + x @ net.skip for part, x in zip(values, rows, strict=True)]
        gradients = [part + net.skip[:inputs] for part in gradients]
    seconds = [] if form is None else [form.arranged(part, asked) for part in packed]
    return list(zip_longest(values, gradients, seconds))


def _seen(need: Need, value: Tensor, gradient: Tensor | None, second: Tensor | None) -> Jet:
    if need.kind not in ("value", "gradient"):
        return Jet(value, cast(Tensor, gradient), cast(Tensor, second))
    kind: type[WithoutSecond] = ValueAlone if need.kind == "value" else WithoutSecond
    jet = kind(value, cast(Tensor, None if need.kind == "value" else gradient), cast(Tensor, None))
    jet.why = need.why
    return jet


def jet_of(net: nn.Module, x: Tensor, need: Need) -> Jet:
    """u, grad u and second derivatives of scalar outputs at x (n, d), differentiable in all parameters.

    Args:
        net: Outputs (n,) or (n, 1), each of its own point alone.
        x: Points, without the bias column: derivatives are those in its d columns.
        need: What of it.
    """
    if is_plain(net):
        assert isinstance(net, TwoLayerNet)
        if need.kind not in ("value", "gradient"):
            return net.jet(x, second=need.kind, second_columns=need.columns)
        parts = (net(x), None) if need.kind == "value" else value_and_gradient(net, x)
    elif need.kind == "value":
        parts = net(x), None
    else:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            parts = by_autograd(net, x, "loss")
    value, gradient = _scalar(parts[0], x), parts[1]
    if gradient is None or need.kind == "gradient":
        return _seen(need, value, gradient, None)
    with torch.enable_grad():
        columns = list(range(x.shape[1]) if need.columns is None else need.columns)
        rows = [_derivative(gradient[:, column], x) for column in columns]
    if need.kind == "hessian":
        return Jet(value, gradient, torch.stack([row[:, columns] for row in rows], 1))
    diagonal = torch.stack([row[:, column] for row, column in zip(rows, columns, strict=True)], 1)
    return Jet(value, gradient, diagonal.sum(1) if need.kind == "laplacian" else diagonal)


def _derivative(values: Tensor, x: Tensor) -> Tensor:
    """Of every value in its own row of x; zero where none depends on x."""
    if not values.requires_grad:
        return torch.zeros_like(x)
    (derivative,) = torch.autograd.grad(values.sum(), x, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if derivative is None else derivative


def _scalar(output: object, x: Tensor) -> Tensor:
    n = x.shape[0]
    if not isinstance(output, Tensor) or output.shape not in ((n,), (n, 1)):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"fit: loss needs a network of scalar outputs, ({n},) or ({n}, 1), got {found}")
    return output.reshape(n)
