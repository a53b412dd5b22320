"""The objective of a training without targets: the checks of its terms, their values at every step, what is kept."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hrta_ext.activation.modules import homotopy_layers
from hrta_ext.compiled import require_memory
from hrta_ext.files import hash_tensor
from hrta_ext.groups import together
from hrta_ext.inputs import DtypeError, check_columns
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.jets import Joined, Need, jets_of, passes_of, trainable_order, untrainable
from hrta_ext.training.terms import AUTO, Task, Term, mean_and_error, name_of_loss, names_of

_NEW_DRAWS = 16  # of every sampler, after the last one of the training: what the loss is on points not trained on


@dataclass(frozen=True)
class _Checked:
    """A term of one training."""

    name: str
    term: Term
    need: Need

    @property
    def label(self) -> str:
        return f"term {self.name!r}"


class PointTerms:
    """What a network is trained on where there are no targets; a step takes all terms.

    Args:
        net: To be trained; its parameters are checked.
        task: Terms and unknowns.
        total_steps: Of the run.
    """

    def __init__(self, net: nn.Module, task: Task, total_steps: int) -> None:
        parameter = next(p for p in net.parameters() if p.requires_grad)
        self.net, self.task, self.total_steps = net, task, total_steps
        self.device, self.dtype = parameter.device, parameter.dtype
        self.features = net.in_features if isinstance(net, TwoLayerNet) else None
        self.fixed: dict[int, Tensor] = {}
        self.drawn: dict[int, tuple[int, Tensor]] = {}
        self.terms: list[_Checked] = []
        order = trainable_order(net)
        for k, (name, term) in enumerate(zip(names_of(task.terms), task.terms, strict=True)):
            if isinstance(term.points, Tensor):
                self.fixed[k] = self._points(term.points, name).detach()
                _check_quadrature(term, name)
            self.terms.append(_checked(name, term, self._at(k, term, name, 0).shape[1], order))
        self.needs = [checked.need for checked in self.terms]
        counts = [len(self._at(k, checked.term, checked.name, 0)) for k, checked in enumerate(self.terms)]
        self.passes, self.samples = passes_of(self.needs, counts), Joined()
        for p in task.unknowns():
            if p.device != self.device:
                raise ValueError(f"fit: parameters must be on the net's device, {self.device}, got {p.device}")
        self.values: list[list[float]] = []
        self.pending: list[Tensor] = []
        self.latest = torch.empty(0)
        self.tried = False

    # -- points

    def _points(self, points: object, name: str) -> Tensor:
        """The points as they are, checked."""
        label = f"fit: points of term {name!r}" if len(self.task.terms) > 1 else "fit: points"
        if not isinstance(points, Tensor):
            raise TypeError(f"{label} must be a tensor or a sampler that gives tensors, got {type(points).__name__}")
        if points.layout is not torch.strided:
            raise TypeError(f"{label} must be a dense (strided) tensor, got layout {points.layout}")
        require_memory(points, label)
        if points.dim() != 2 or 0 in points.shape or points.shape[1] != (self.features or points.shape[1]):
            width = "d" if self.features is None else self.features
            raise ValueError(f"{label} must have shape (n, {width}) with n at least 1, got {tuple(points.shape)}")
        self.features = points.shape[1]
        if not points.is_floating_point():
            raise TypeError(f"{label} must be a floating-point tensor, got {points.dtype}")
        if points.is_meta:
            raise ValueError(f"{label} must be on the net's device, {self.device}, got meta")
        finite = points.isfinite().all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise ValueError(f"{label} must be finite, row {row} (counted from 0) holds NaN or Inf")
        return points

    def _at(self, k: int, term: Term, name: str, draw: int) -> Tensor:
        """Points of a term, of the network's dtype and on its device."""
        if k in self.fixed:
            points = self.fixed[k]
            if points.dtype != self.dtype:
                raise DtypeError(f"fit: points must have the dtype of the network, {self.dtype}, got {points.dtype}")
            if points.device != self.device:
                raise ValueError(f"fit: points must be on the net's device, {self.device}, got {points.device}")
            return points
        if self.drawn.get(k, (-1,))[0] != draw:
            assert not isinstance(term.points, Tensor)
            exact = getattr(term.points, "draw", term.points)  # of an hx.Sampler: before it is rounded to its own dtype
            points = self._points(exact(draw), name).detach().to(self.device, self.dtype)
            self.drawn[k] = draw, points
        return self.drawn[k][1]

    # -- values

    def loss(self, step: int) -> Tensor:
        """The loss of a step, 0-dim, differentiable; what it is made of is :attr:`latest`."""
        draws = [step // checked.term.resample for checked in self.terms]
        values = self._evaluate(draws)
        self.latest = torch.stack([value.detach() for value in values])
        total = values[0]
        for value in values[1:]:
            total = total + value
        if not self.tried and not bool(self.latest.isfinite().all()):
            bad = self.terms[int((~self.latest.isfinite()).nonzero()[0])]
            raise ValueError(f"fit: loss must be finite at the first step, {bad.label} gives {self.latest.tolist()}")
        return total

    def _evaluate(self, draws: list[int]) -> list[Tensor]:
        values = []
        numbered = enumerate(zip(self.terms, draws, strict=True))
        every = [self._at(k, checked.term, checked.name, draw) for k, (checked, draw) in numbered]
        jets = jets_of(self.net, every, self.needs, self.passes, self.samples)
        for checked, points, jet in zip(self.terms, every, jets, strict=True):
            term = checked.term
            pointwise = term.loss(jet, points)
            _check_pointwise(pointwise, points.shape[0], checked)
            mean = pointwise.mean() if term.quadrature is None else (term.quadrature * pointwise).sum()
            values.append(mean if term.weight == 1.0 else term.weight * mean)
        return values

    def check_leaves(self, loss: Tensor, optimizer: Optimizer) -> None:
        """ValueError where the loss hangs on a tensor that requires grad and that nobody trains."""
        groups = [group["params"] for group in optimizer.param_groups]
        known = {id(p) for ps in (self.net.parameters(), self.task.unknowns(), *groups) for p in ps}
        seen, nodes = set(), [loss.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)  # of the nodes where a backward pass ends
            points = type(leaf) is Tensor and leaf.shape[1:] == (self.features,)  # of jets by autograd
            if leaf is not None and not points and id(leaf) not in known:
                raise ValueError(
                    f"fit: loss holds a tensor of shape {tuple(leaf.shape)} that requires grad and is not trained; "
                    "an unknown must be in parameters=[...], or a Parameter of a loss that is an nn.Module"
                )
            nodes += [following for following, _ in node.next_functions]

    def settle(self) -> None:
        """Note the values of a step, before its update; ValueError unless the first gradients are finite."""
        self.pending.append(self.latest)
        if self.tried:
            return
        for p in (*self.net.parameters(), *self.task.unknowns()):
            if p.grad is not None and not bool(p.grad.isfinite().all()):
                raise ValueError(
                    "fit: the gradient of loss must be finite at the first step, got NaN or Inf "
                    "(a root or a norm of 0 has none)"
                )
        self.tried = True

    # -- what runs, checkpoints and results ask

    def collect(self) -> None:
        """Read the recorded values off the device."""
        if self.pending:
            self.values += torch.stack(self.pending).double().tolist()
            self.pending.clear()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: values of all steps, unknowns. Draws need nothing, the step says which they are."""
        losses = {c.name: dict(c.term.loss.state_dict()) for c in self.terms if isinstance(c.term.loss, nn.Module)}
        return {
            "values": torch.tensor(self.values, dtype=torch.float64),
            "losses": losses,
            "parameters": [p.detach() for p in self.task.parameters],
        }

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Stand where a run stood that had done ``step`` steps and then gave ``state``."""
        self.values, self.tried = state["values"].tolist(), step > 0
        for checked in self.terms:
            if isinstance(checked.term.loss, nn.Module):
                checked.term.loss.load_state_dict(state["losses"][checked.name])
        with torch.no_grad():
            for p, value in zip(self.task.parameters, state["parameters"], strict=True):
                p.copy_(value)

    def tensors(self) -> list[Tensor]:
        """Fixed points."""
        return list(self.fixed.values())

    def hashes(self) -> dict[str, Any]:
        """What makes two runs the same run."""
        terms = []
        for k, checked in enumerate(self.terms):
            numbers = hash_tensor(self._at(k, checked.term, checked.name, 0))
            rule = checked.term.quadrature
            weights = "" if rule is None else f", quadrature {hash_tensor(rule)}"
            terms.append(f"{self._description(checked)}, points {numbers}{weights}")
        unknowns = [f"{tuple(p.shape)} {p.dtype}" for p in self.task.unknowns()]
        losses = [checked.term.loss for checked in self.terms if isinstance(checked.term.loss, nn.Module)]
        buffers = [f"{name} {tuple(b.shape)} {b.dtype}" for loss in losses for name, b in loss.named_buffers()]
        return {"terms": terms, "unknowns": unknowns + buffers}

    def _description(self, checked: _Checked) -> str:
        term = checked.term
        what = f"{checked.name}: {name_of_loss(term.loss)}, weight {_digits(term.weight)}, {checked.need.kind}"
        if checked.need.columns is not None:
            what += f" of columns {list(checked.need.columns)}"
        if isinstance(term.points, Tensor):
            return f"{what}, at {term.points.shape[0]} points"
        own = getattr(term.points, "description", None)
        name = getattr(term.points, "__name__", type(term.points).__name__)
        sampler = name if own is None else own if isinstance(own, str) else json.dumps(own, sort_keys=True, default=str)
        return f"{what}, sampler {sampler}, resample {term.resample}"

    def facts(self, *, finished: bool) -> dict[str, Any]:
        """What a report says."""
        points = [self._at(k, checked.term, checked.name, 0) for k, checked in enumerate(self.terms)]
        facts: dict[str, Any] = {
            "terms": [self._description(checked) for checked in self.terms],
            "n_samples": sum(len(p) for p in points),
            "n_unknowns": sum(p.numel() for p in self.task.unknowns()),
        }
        if finished and len(self.fixed) < len(self.terms):
            try:
                with together(self.net.ranks if isinstance(self.net, TwoLayerNet) else None, "fit"):
                    mean, error = self._on_new_points()
                facts["loss_on_new_points"] = {"mean": mean, "standard_error": error, "draws": _NEW_DRAWS}
            except Exception as failure:  # the training is done, and worth more than this
                warnings.warn(f"fit: the trained loss could not be taken on new points: {failure}", stacklevel=4)
        return facts

    def _on_new_points(self) -> tuple[float, float]:
        """The loss on draws after those of the training, and its standard error; leaves the network as it is."""
        first = [(self.total_steps - 1) // checked.term.resample + 1 for checked in self.terms]
        before = besides_weights(self.net)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.enable_grad(), torch.random.fork_rng(devices):
            losses = [
                sum(float(value.detach()) for value in self._evaluate([start + k for start in first]))
                for k in range(_NEW_DRAWS)
            ]
        put_back(before)
        return mean_and_error(losses)

    def of_steps(self) -> dict[str, Tensor]:
        """The values of every term at every step, float64 on the CPU."""
        rows = torch.tensor(self.values, dtype=torch.float64).reshape(-1, len(self.terms))
        return {checked.name: rows[:, k] for k, checked in enumerate(self.terms)}


def _digits(number: float) -> str:
    """A number as short as can be, without loss."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def besides_weights(net: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What a forward pass or a schedule may change, and its present values."""
    tensors = (*net.buffers(), *(layer.s for layer in homotopy_layers(net)))
    return [(tensor, tensor.detach().clone()) for tensor in tensors]


def put_back(values: list[tuple[Tensor, Tensor]]) -> None:
    """Undo what has changed since :func:`besides_weights`."""
    with torch.no_grad():
        for tensor, value in values:
            tensor.copy_(value)


def _checked(name: str, term: Term, features: int, order: tuple[int, str]) -> _Checked:
    asked = getattr(term.loss, "second", AUTO) if term.second == AUTO else term.second
    columns = getattr(term.loss, "second_columns", None) if term.second_columns is None else term.second_columns
    limit, base = order
    why = f"fit: the loss of term {name!r} takes derivatives that its jet has not: "
    if asked is None:
        need = "value" if limit == 0 or getattr(term.loss, "value_only", False) else "gradient"
        why += untrainable(limit, base) if limit == 0 else "it has second=None"
    elif asked == AUTO:
        need = ("value", "gradient", "laplacian")[limit]
        why += "" if limit == 2 else untrainable(limit, base)
    elif limit < 2:
        raise ValueError(f"fit: the loss of term {name!r} takes second derivatives: {untrainable(1, base)}")
    else:
        need = asked
    if need in ("value", "gradient"):
        return _Checked(name, term, Need(need, None, why))
    chosen = None if columns is None else check_columns(columns, features, f"fit: second_columns of term {name!r}")
    return _Checked(name, term, Need(need, None if chosen is None else tuple(chosen), why))


def _check_quadrature(term: Term, name: str) -> None:
    rule, points = term.quadrature, term.points
    assert isinstance(points, Tensor)
    if rule is None:
        return
    label = f"fit: quadrature of term {name!r}"
    if not isinstance(rule, Tensor):
        raise TypeError(f"{label} must be a tensor, got {type(rule).__name__}")
    if rule.shape != points.shape[:1]:
        raise ValueError(f"{label} must have shape ({points.shape[0]},) to match its points, got {tuple(rule.shape)}")
    if rule.dtype != points.dtype or rule.device != points.device:
        expected, found = f"{points.dtype} on {points.device}", f"{rule.dtype} on {rule.device}"
        raise DtypeError(f"{label} must be of the points' dtype and device, {expected}, got {found}")
    if not rule.isfinite().all():
        raise ValueError(f"{label} must be finite, got NaN or Inf")


def _check_pointwise(values: object, n: int, checked: _Checked) -> None:
    if not isinstance(values, Tensor):
        kind = type(values).__name__
        raise TypeError(f"fit: loss must return a tensor ({n},) of pointwise values, {checked.label} gave {kind}")
    if values.shape != (n,):
        raise ValueError(
            f"fit: loss must return pointwise values, shape ({n},), {checked.label} gave {tuple(values.shape)}"
        )
    if values.is_complex():
        raise TypeError(f"fit: loss must return real values, {checked.label} gave {values.dtype}")
    if not values.requires_grad:
        raise ValueError(
            f"fit: loss must be made of the jet by differentiable operations, that of {checked.label} has no graph"
        )
