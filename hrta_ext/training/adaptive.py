"""s that finds its own way to the end: as far at a time as the loss allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hrta_ext.inputs import as_float, check_homotopy_parameter, check_integer, shown, with_bias
from hrta_ext.network.functions import two_layer, two_layer_with_gradient
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.data import Samples
from hrta_ext.training.losses import is_plain
from hrta_ext.training.schedules import Schedule
from hrta_ext.training.states import Checks, increasing, many, whole


@dataclass(frozen=True)
class AdaptiveHomotopy:
    """Moves s from ``start`` to ``end`` as fast as the loss allows, for ``s`` of :func:`fit`.

    Every ``patience`` steps s goes on by the largest step that leaves the loss at most (1 + tolerance) times what it
    is. f_s is affine in s: with r the residuals and g = m^(-1/2) sum_k a_k (sigma(z_k) - z_k), the loss at s' is
    |r + (s' - s) g|^2 / (2n) (weights and gradients alike), so the step is in closed form: with p = |r|^2, b = r . g
    and a = |g|^2 towards the end it is tolerance p / (b + (b^2 + a tolerance p)^(1/2)). It needs two forward passes.

    ``result.s`` of :func:`fit` says which s every step had, ``result.settings["s_reached_end"]`` whether the end was
    reached: where the loss falls very low, the steps that it allows are very small. With ``keep_function`` in
    :func:`fit` no step of s adds anything to the loss, and s keeps the pace that it would have without.

    Args:
        start: s of the first steps.
        end: s to go to.
        tolerance: Positive; the part of the loss that a step of s may add to it.
        patience: Steps of training between two steps of s.
    Raises:
        TypeError, ValueError: A value is not finite, tolerance not positive or patience below 1.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.linspace(0, 1, 20)[:, None]
        >>> net = hx.TwoLayerNet(1, 50, seed=0)
        >>> s = hx.AdaptiveHomotopy(1.0, 1.5, patience=20)
        >>> result = hx.fit(net, x, torch.sin(6 * x[:, 0]), s=s, steps=400, lr=1e-2)
        >>> float(result.s[0]), float(result.s[-1]), result.settings["s_reached_end"]
        (1.0, 1.5, True)
    """

    start: float
    end: float
    tolerance: float = 0.5
    patience: int = 100

    def __post_init__(self) -> None:
        name = type(self).__name__
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, (int, float)):
            raise TypeError(f"{name}: tolerance must be a number, got {shown(self.tolerance)}")
        if not 0.0 < as_float(self.tolerance) < math.inf:
            raise ValueError(f"{name}: tolerance must be positive and finite, got {self.tolerance}")
        object.__setattr__(self, "start", check_homotopy_parameter(self.start, f"{name}: start"))
        object.__setattr__(self, "end", check_homotopy_parameter(self.end, f"{name}: end"))
        object.__setattr__(self, "tolerance", float(self.tolerance))
        object.__setattr__(self, "patience", check_integer(self.patience, f"{name}: patience"))


def check_adapts(net: nn.Module) -> None:
    """ValueError unless the outputs of ``net`` are affine in its s."""
    if not is_plain(net) or isinstance(net.s, nn.Parameter):
        kind = type(net).__name__
        raise ValueError(f"fit: AdaptiveHomotopy needs a TwoLayerNet, affine in its buffer s, got {kind}")


class AdaptiveScheduler(Schedule):
    """The schedule of one run.

    Args:
        net: What :func:`check_adapts` has nothing against.
        rule: Start, end and how to get there.
        samples: What the loss is over.
        keep_function: As in :class:`HomotopyScheduler`.
    """

    _saved: ClassVar[Checks] = {"values": many, "stage": whole, "last_step": whole, "changes": increasing}
    moves = False

    def __init__(
        self, net: TwoLayerNet, rule: AdaptiveHomotopy, samples: Samples, *, keep_function: bool = False
    ) -> None:
        self.rule, self.samples, self.net = rule, samples, net
        self.keep_function = keep_function
        self.last_step = 0
        self.changes: tuple[int, ...] = (0,)  # the first step of every value
        super().__init__(net, (rule.start,))

    def step(self) -> None:
        """Count one step of training and set the s of the next one."""
        self.advance(1)
        if self.last_step % self.rule.patience == 0 and self.get_last_s() != self.rule.end:
            s = _next(self.get_last_s(), self.rule, lambda s: residuals(self.net, self.samples, s))
            if s != self.get_last_s():
                self.values, self.changes = (*self.values, s), (*self.changes, self.last_step)
                self._enter(self.stage + 1)

    def advance(self, steps: int) -> None:
        """Count several steps of training, within a stage."""
        self.last_step += steps

    def next_change(self, step: int) -> int | None:
        """The first step after ``step`` that may have another s."""
        return None if self.get_last_s() == self.rule.end else step + self.rule.patience - step % self.rule.patience

    def _misfit(self) -> str | None:
        if len(self.changes) != len(self.values) or self.changes[0] != 0 or self.changes[-1] > self.last_step:
            return "changes"
        return None if self.stage == len(self.values) - 1 else "stage"

    def path(self, steps: int) -> Tensor:
        """s of so many steps."""
        counts = torch.tensor([*self.changes, steps]).diff()
        return torch.repeat_interleave(torch.tensor(self.values, dtype=torch.float64), counts)


def _next(s: float, rule: AdaptiveHomotopy, residuals_at: Callable[[float], Tensor]) -> float:
    at_zero, at_one = residuals_at(0.0), residuals_at(1.0)
    r, g = (1.0 - s) * at_zero + s * at_one, math.copysign(1.0, rule.end - s) * (at_one - at_zero)
    p, b, a = float(r @ r), float(r @ g), float(g @ g)
    allowed = rule.tolerance * p
    root = math.sqrt(b * b + a * allowed) if math.isfinite(p + b + a) else math.nan
    # Of the two forms the one in which nothing cancels.
    step = allowed / (b + root) if b > 0.0 else (root - b) / a if a > 0.0 else math.inf
    if math.isnan(step):
        return s
    return rule.end if step >= abs(rule.end - s) else s + math.copysign(step, rule.end - s)


@torch.no_grad()
def residuals(net: TwoLayerNet, samples: Samples, s: float) -> Tensor:
    """sqrt(c_i) (f_s(x_i) - y_i) and, with a target gradient, those of its components: |.|^2 is 2 n R. float64, 1-D."""
    points = with_bias(samples.x) if net.bias else samples.x
    skip = torch.zeros_like(points[0]) if net.skip is None else net.skip
    target = samples.target_gradient
    if target is None:
        f = net.outputs(two_layer, points, s)
    else:
        f, df_dx = net.outputs(two_layer_with_gradient, points, s)
    rows = (f + points @ skip - samples.y.reshape(-1)).double()[:, None]
    if target is not None:
        rows = torch.cat([rows, ((df_dx + skip)[:, : net.in_features] - target).double()], 1)
    if samples.sample_weight is not None:
        rows = rows * samples.sample_weight.double().sqrt()[:, None]
    return rows.reshape(-1)
