"""What a training tells: a callback after every step, the caller at the end."""

# Annotations stay objects: as strings, those of FitResult would be looked up in hrta_ext, the module that it names.

import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hrta_ext.files import write_json


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a callback gets after every step.

    Attributes:
        step: Number of the step, from 0; ``result.loss[step]`` is its loss.
        total_steps: Steps of all stages together.
        stage: Number of the stage, from 0.
        s: Homotopy parameter of this step.
        net: The network, already updated.
        loss_tensor: The loss before the update, a 0-dim tensor on the network's device.
    """

    step: int
    total_steps: int
    stage: int
    s: float
    net: nn.Module
    loss_tensor: Tensor

    @property
    def loss(self) -> float:
        """The loss as a float. On a GPU reading it waits for the step to end."""
        return float(self.loss_tensor)


Callback = Callable[[StepInfo], object]


@dataclass(frozen=True)
class FitResult:
    """What :func:`fit` did.

    Attributes:
        net: The network, trained in place.
        loss: R before the update of each step, float64 on the CPU, shape (steps done,).
        s: Homotopy parameter of each step, float64, shape (steps done,).
        stop_reason: "finished", "callback", "diverged" or "interrupted".
        seconds: Time spent training, that of the interrupted runs that this one continued included.
        settings: The arguments and the sizes, plain values.
        terms: With ``loss``, the value of every term before the update of each step, its weight included, float64,
            shape (steps done,), by its name: they add up to ``loss``. Empty without.
    """

    net: nn.Module = field(repr=False)
    loss: Tensor = field(repr=False)
    s: Tensor = field(repr=False)
    stop_reason: str
    seconds: float
    settings: dict[str, Any] = field(repr=False)
    terms: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def engine(self) -> str:
        """The engine that did the steps: "fused" or "torch"."""
        return str(self.settings["engine"])

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write settings, losses, s, stop reason, seconds and versions. NaN and Inf become null."""
        content = {
            "settings": self.settings,
            "stop_reason": self.stop_reason,
            "seconds": self.seconds,
            "steps": self.loss.numel(),
            "final_loss": self.loss[-1].item() if self.loss.numel() else None,
            "versions": {
                "hrta_ext": importlib.metadata.version("hrta_ext"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "loss": self.loss.tolist(),
            "s": self.s.tolist(),
        }
        if self._terms():
            content["terms"] = {name: values.tolist() for name, values in self._terms().items()}
        write_json(path, content)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw loss, and terms where there are several, against step, the stages marked by s.

        On a log scale, or where values are negative on one that is linear around 0. The suffix of ``path`` names the
        format.
        """
        from hrta_ext.plots import plot_loss

        plot_loss(self.loss, self.s, path, terms=self._terms())

    def _terms(self) -> dict[str, Tensor]:
        return vars(self).get("terms", {})  # pickles of before there were any


FitResult.__module__ = "hrta_ext"  # pickles outlast the moves of files
