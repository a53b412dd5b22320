"""The engine that trains a two-layer network in native code, many steps per call (csrc/training/training.h).

On a GPU all steps of a call are queued at once, and the host waits for their losses.

It keeps moments and step counts where torch's optimizers keep them, so that checkpoints are the same for both engines.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from hrta_ext.backends import serve
from hrta_ext.bases import BASES
from hrta_ext.compiled import most_features, plain
from hrta_ext.inputs import with_bias
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training import native
from hrta_ext.training.data import Samples
from hrta_ext.training.losses import HOOKS
from hrta_ext.training.optimizers import LearningRate

# Between two calls Ctrl-C, progress and checkpoints get their turn.
_SECONDS_PER_CALL = 0.1
_MOST_STEPS_PER_CALL = 1 << 20
_ADAM_OPTIONS = ("weight_decay", "amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
_SGD_OPTIONS = ("weight_decay", "dampening", "nesterov", "maximize", "differentiable")


def why_not_fused(net: nn.Module, optimizer: Optimizer, samples: Samples, batch_size: int | None) -> str | None:
    """What keeps the fused engine from this training, as a clause; None when nothing does.

    Args:
        net: A module with homotopy layers.
        optimizer: Built for its parameters.
        samples: Checked ones.
        batch_size: Samples per step; None for all.
    """
    if batch_size is not None:
        return "it takes all samples at once (batch_size=None)"
    return _why_not_net(net, samples) or _why_not_optimizer(net, optimizer)


def _why_not_net(net: nn.Module, samples: Samples) -> str | None:
    if type(net) is not TwoLayerNet or "forward" in vars(net):
        return f"it trains a TwoLayerNet, net is a {type(net).__name__}"
    weights = (net.weight, net.output_weight)
    if any(type(weight) is not nn.Parameter or not weight.requires_grad for weight in weights):
        return "weight and output_weight must both be parameters that require grad"
    if isinstance(net.s, nn.Parameter) or isinstance(net.skip, nn.Parameter):
        return "it cannot learn s, nor net.skip"
    if any(getattr(net, name) for name in HOOKS) or any(weight._backward_hooks for weight in weights):
        return "net has hooks, which it would not call"
    if net.weight.dtype not in (torch.float32, torch.float64) or net.output_weight.dtype != net.weight.dtype:
        return f"it computes in float32 or float64, net is {net.weight.dtype}"
    here = len(net.neurons)
    if net.output_weight.shape != (here,) or net.weight.shape != (here, net.in_features + net.bias):
        return "weight and output_weight must have shapes (m, D) and (m,)"
    if not all(weight.is_contiguous() and not weight.is_inference() for weight in weights):
        return "weight and output_weight must be contiguous and no inference tensors"
    given, x, y = samples.given(), samples.x, samples.y
    if any(type(tensor) is not Tensor or tensor.is_inference() for tensor in given.values()):
        return f"{' and '.join(given)} must be plain tensors, no inference tensors"
    if x.dim() != 2 or x.shape[1] != net.in_features or y.shape not in ((x.shape[0],), (x.shape[0], 1)):
        shapes = f"({x.shape[0]}, {net.in_features}) and ({x.shape[0]},)"
        return f"x and y must have shapes {shapes}, they have {tuple(x.shape)} and {tuple(y.shape)}"
    weight, gradient = samples.sample_weight, samples.target_gradient
    if (weight is not None and weight.shape != x.shape[:1]) or (gradient is not None and gradient.shape != x.shape):
        return f"sample_weight and target_gradient must have shapes {tuple(x.shape[:1])} and {tuple(x.shape)}"
    if BASES[net.base].number is None:
        return f"it does not know {net.base!r}, a base of your own"
    if serve(native, None, net.weight, net.base) is None:
        return f"the compiled kernels do not serve a net on {net.weight.device} (hx.backends() says which are usable)"
    most = most_features(net.weight.device)
    if net.weight.shape[1] > most:
        return f"on a GPU it takes at most {most} features, the bias included, net has {net.weight.shape[1]}"
    return None


def _why_not_optimizer(net: nn.Module, optimizer: Optimizer) -> str | None:
    if type(optimizer) not in (Adam, SGD):
        return f'it knows the optimizers "adam", "sgd" and "gd", not {type(optimizer).__name__}'
    groups = optimizer.param_groups
    if len(groups) != 1 or {id(p) for p in groups[0]["params"]} != {id(p) for p in net.parameters()}:
        return "the optimizer must have one group, of both weights"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "the optimizer has hooks, which it would not call"
    for name in _ADAM_OPTIONS if type(optimizer) is Adam else _SGD_OPTIONS:
        if groups[0].get(name):
            return f"the optimizer has {name}={groups[0][name]}, which it does not know"
    numbers = ("lr", *groups[0].get("betas", ()))
    if any(isinstance(groups[0].get(value, value), Tensor) for value in numbers):
        return "the optimizer's lr and betas must be plain numbers"
    return None


class FusedEngine:
    """Full-batch steps of a two-layer network in native code.

    Args:
        net, optimizer, samples: What :func:`why_not_fused` has nothing against.
        rates: The learning rate of every step.
        watched: Somebody may look at the network, and change it or the optimizer, after every single step.
    """

    name = "fused"

    def __init__(
        self, net: TwoLayerNet, optimizer: Optimizer, rates: LearningRate, samples: Samples, *, watched: bool
    ) -> None:
        self.net, self.optimizer, self.rates, self.watched = net, optimizer, rates, watched
        self.given = samples
        self._take_samples()
        # The outputs and, where the loss has gradients, df/dx after them.
        outputs = self.y.numel() + (self.x.numel() if samples.target_gradient is not None else 0)
        self.f = torch.empty(outputs, dtype=torch.float64, device=self.x.device)
        self.s_of_f: float | None = None  # the s at which f holds the outputs of the present weights, if it does
        self.seconds_per_step = _SECONDS_PER_CALL  # until it is measured

    def _take_samples(self) -> None:
        given = self.given
        self.versions = self._versions()
        weight, gradient = given.sample_weight, given.target_gradient
        self.x = plain(with_bias(given.x) if self.net.bias else given.x, "fit: x")
        y, skip = given.y.reshape(-1), self.net.skip
        if skip is not None:  # stays as it is: targets without it are the neurons' own
            y = (y.double() - self.x.double() @ skip.double()).to(y.dtype)
            if gradient is not None:
                gradient = (gradient.double() - skip[: gradient.shape[1]].double()).to(gradient.dtype)
        self.y = plain(y, "fit: y")
        self.sample_weight = None if weight is None else plain(weight, "fit: sample_weight")
        self.target_gradient = None if gradient is None else plain(gradient, "fit: target_gradient")

    def _versions(self) -> list[int | None]:
        skip = self.net.skip
        return [*(tensor._version for tensor in self.given.given().values()), None if skip is None else skip._version]

    def steps_at_once(self) -> int:
        """As many as take about a tenth of a second; one when somebody watches."""
        if self.watched:
            return 1
        return max(1, min(int(_SECONDS_PER_CALL / self.seconds_per_step), _MOST_STEPS_PER_CALL))

    def train(self, step: int, count: int, s: Tensor | None) -> Tensor:
        """Losses of the steps, float64, shape (steps done,)."""
        return train_together([self], step, count, [s])[0]

    def forget(self) -> None:
        """The outputs are those of the weights as they were."""
        self.s_of_f = None

    def count(self, updates: int) -> None:
        """Note that native code has updated the weights so many times."""
        for weight in self._weights():
            torch.autograd.graph.increment_version(weight)
            if type(self.optimizer) is Adam:
                self.optimizer.state[weight]["step"] += updates

    def rates_of(self, step: int, count: int) -> Tensor:
        """The learning rates, float64, shape (count,)."""
        if self.rates.factor is None:
            return torch.full((count,), self.optimizer.param_groups[0]["lr"], dtype=torch.float64)
        rates = []
        for number in range(step, step + count):
            self.rates.apply(number)
            rates.append(self.optimizer.param_groups[0]["lr"])
        return torch.tensor(rates, dtype=torch.float64)

    def training(self) -> native.Training:
        """What the native call is told; anew for every call, since tensors may have been replaced or changed."""
        reason = why_not_fused(self.net, self.optimizer, self.given, None)
        if reason is not None:
            raise RuntimeError(f'fit: the training was changed so that engine "fused" cannot go on: {reason}')
        if self.versions != self._versions():  # a callback may draw new samples
            self._take_samples()
        group = self.optimizer.param_groups[0]
        adam = type(self.optimizer) is Adam
        names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
        if not adam:
            names = ("momentum_buffer",) if group["momentum"] else ()
        moments = [(self._moment(self.net.weight, name), self._moment(self.net.output_weight, name)) for name in names]
        return native.Training(
            base=self.net.base,
            x=self.x,
            y=self.y,
            weight=self.net.weight,
            output_weight=self.net.output_weight,
            f=self.f,
            sample_weight=self.sample_weight,
            target_gradient=self.target_gradient,
            first=moments[0] if moments else None,
            second=moments[1] if adam else None,
            betas=(float(group["betas"][0]), float(group["betas"][1])) if adam else (float(group["momentum"]), 0.0),
            epsilon=float(group["eps"]) if adam else 0.0,
            updates=self._updates() if adam else 0,
            total_width=self.net.width,
        )

    def _weights(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.net.weight, self.net.output_weight

    def _moment(self, weight: nn.Parameter, name: str) -> Tensor:
        """The optimizer's moment, zero before the first step: torch's own start, and SGD's b = grad as 0 + grad."""
        state = self.optimizer.state[weight]
        if state.get(name) is None:
            state[name] = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        moment: Tensor = state[name]
        if moment.shape != weight.shape or moment.dtype != weight.dtype or not moment.is_contiguous():
            raise RuntimeError(f"fit: the optimizer's {name} must be contiguous, of its parameter's shape and dtype")
        return moment

    def _updates(self) -> int:
        """Steps that Adam has counted, the same for both weights."""
        counts = set()
        for weight in self._weights():
            state = self.optimizer.state[weight]
            if "step" not in state:
                state["step"] = torch.tensor(0.0, dtype=torch.float32)
            counts.add(int(state["step"]))
        if len(counts) != 1:
            raise RuntimeError(f"fit: Adam must have counted as many steps for both weights, got {sorted(counts)}")
        return counts.pop()


def train_together(engines: Sequence[FusedEngine], step: int, count: int, s: Sequence[Tensor | None]) -> list[Tensor]:
    """Do the same steps with several networks at once, small ones on a thread each.

    Args:
        engines: One per network.
        step: Number of the first step.
        count: Steps to do, all of one stage.
        s: For each network, that of every step and of the one after them; None: the network's own.
    Returns:
        The losses of each network, as its engine's ``train`` gives them.
    """
    trainings = [engine.training() for engine in engines]
    rates = [engines[0].rates_of(step, count)]
    for engine in engines[1:]:  # a schedule costs as much as the steps of small networks
        if engine.rates.factor is not None and engine.rates.agrees(engines[0].rates):
            engine.rates.apply(step + count - 1)
            rates.append(rates[0])
        else:
            rates.append(engine.rates_of(step, count))
    paths = [
        torch.full((count + 1,), float(engine.net.s), dtype=torch.float64) if path is None else path
        for engine, path in zip(engines, s, strict=True)
    ]
    losses = torch.empty(len(engines), count, dtype=torch.float64)
    present = [engine.s_of_f == path[0].item() for engine, path in zip(engines, paths, strict=True)]
    keep = not any(engine.watched for engine in engines)
    start = time.perf_counter()
    steps_done = native.train(trainings, rates, paths, losses, present, keep)
    seconds_per_step = max((time.perf_counter() - start) / max(steps_done), 1e-9)
    for i, (engine, done) in enumerate(zip(engines, steps_done, strict=True)):
        updates = done if losses[i, done - 1].isfinite() else done - 1
        engine.seconds_per_step = seconds_per_step
        engine.s_of_f = paths[i][-1].item() if keep and updates == count else None
        engine.count(updates)
    return [loss[:done] for loss, done in zip(losses, steps_done, strict=True)]
