"""Modules that carry the homotopy parameter s: the activation as a layer, and one call that sets s everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hrta_ext.activation.functions import homotopy
from hrta_ext.bases import get_base
from hrta_ext.callers import dispatch_modes, functorch_active, is_dynamo_compiling, tracing_state
from hrta_ext.inputs import Parameter, check_flag, check_homotopy_parameter, check_integer


class HomotopyLayer(nn.Module):
    """A module whose activation is sigma_s; ``s`` is a float64 buffer, or a Parameter when it is learned.

    The buffer keeps float64 through ``.half()``, ``.to(dtype)`` and the like (where the device has float64), so that a
    change of dtype never changes the function.
    """

    s: Tensor
    base: str

    def __init__(self, s: float, base: str, *, learnable: bool = False, num_features: int | None = None) -> None:
        super().__init__()
        get_base(base)
        if num_features is not None and (isinstance(num_features, bool) or not isinstance(num_features, int)):
            raise TypeError(f"num_features must be an int or None, got {type(num_features).__name__}")
        if num_features is not None:
            check_integer(num_features, "num_features")
        self.base = base
        shape = () if num_features is None else (num_features,)
        dtype = torch.get_default_dtype() if learnable else torch.float64
        value = check_homotopy_parameter(s, f"{type(self).__name__}: s", dtype)
        if learnable:
            self.s = nn.Parameter(torch.full(shape, value))
        else:
            self.register_buffer("s", torch.full(shape, value, dtype=torch.float64))

    def set_s(self, s: float) -> None:
        """Set s in place, so that optimizers, captured CUDA graphs and compiled code see it."""
        value = check_homotopy_parameter(s, dtype=self.s.dtype)
        with torch.no_grad():
            if "s" in self._parameters or "s" in self._buffers:
                self.s.fill_(value)
            else:  # parametrized: self.s is computed anew each time, and assigning it asks for right_inverse
                self.s = torch.full_like(self.s, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}s")
        if isinstance(saved, Tensor) and saved.numel() == 1 == self.s.numel():  # shapes () and (1,) are one s
            state_dict[f"{prefix}s"] = saved.reshape(self.s.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HomotopyLayer:
        before = self._buffers.get("s")
        super()._apply(fn, recurse)
        after = self._buffers.get("s")
        if before is not None and after is not None and after.dtype != before.dtype and after.device.type != "mps":
            self._buffers["s"] = before.to(after.device)
        return self


class HomotopyActivation(HomotopyLayer):
    """sigma_s(x) = (1 - s) x + s sigma(x) as a module (docs/theory.md, section 1; Yang, Chen, Hao 2025, section 2).

    Args:
        s: Homotopy parameter, a finite float: 0 is the identity, 1 the base, beyond 1 relaxation.
        base: Name of the base activation, see :func:`hrta_ext.homotopy`.
        learnable: Make ``.s`` a Parameter in the default dtype; otherwise it is a float64 buffer.
        num_features: One s per feature of the last dimension, shape (num_features,); None for a single s of shape (),
            1 for a single s of shape (1,), which serves every F as well and is what FSDP2 asks of a parameter.
        save_slope: Keep the slope for backward: see :func:`hrta_ext.homotopy`. No part of the state_dict.
    Shapes:
        Input (..., F), any F when ``num_features`` is None or 1; output of the input's shape and dtype.

    Example:
        >>> import torch, hrta_ext as hx
        >>> layer = hx.HomotopyActivation(s=1.5)
        >>> layer(torch.tensor([-2.0, 2.0]))
        tensor([1., 2.])
    """

    save_slope = False  # of modules pickled before there was one

    def __init__(
        self,
        s: float = 1.0,
        base: str = "relu",
        *,
        learnable: bool = False,
        num_features: int | None = None,
        save_slope: bool = False,
    ) -> None:
        learnable = check_flag(learnable, "HomotopyActivation: learnable")
        super().__init__(s, base, learnable=learnable, num_features=num_features)
        self.save_slope = check_flag(save_slope, "HomotopyActivation: save_slope")

    def forward(self, x: Tensor) -> Tensor:
        """sigma_s(x), of x's shape and dtype."""
        return homotopy(x, _lane_parameter(self, x), self.base, save_slope=self.save_slope)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        learnable = ", learnable=True" if isinstance(self.s, nn.Parameter) else ""
        save_slope = ", save_slope=True" if self.save_slope else ""
        return f"s={shown(self.s)}, base={self.base!r}{learnable}{save_slope}"


def _lane_parameter(layer: HomotopyLayer, x: Tensor) -> Parameter:
    """s as a number where it is a plain buffer of the CPU and nobody traces the call, as in most; else ``layer.s``."""
    s = None if is_dynamo_compiling() else layer._buffers.get("s")  # without nn.Module's search by name
    if (
        type(s) is Tensor
        and type(x) is Tensor
        and s.is_cpu
        and not s.requires_grad
        and s.dim() == 0
        and not functorch_active()
        and not dispatch_modes()
        and tracing_state() is None
    ):
        return s.item()
    return layer.s if s is None else s


def shown(s: Tensor) -> str:
    """s for ``repr``: its value, where that can be read without asking other processes; "?" on the meta device."""
    if s.numel() != 1:
        return f"<{s.numel()} values>"
    if type(s) not in (Tensor, nn.Parameter):
        return "?"
    try:
        return f"{s.item():g}"
    except RuntimeError:
        return "?"


def homotopy_layers(module: nn.Module) -> list[HomotopyLayer]:
    """Every homotopy layer inside ``module`` (itself included), in the order of ``module.modules()``."""
    return [layer for layer in module.modules() if isinstance(layer, HomotopyLayer)]


def set_homotopy(module: nn.Module, s: float) -> None:
    """Set s on every homotopy layer inside ``module``.

    Args:
        module: A network with at least one :class:`HomotopyActivation` or :class:`TwoLayerNet`, or one itself.
        s: Finite float.
    Raises:
        ValueError: ``module`` holds no homotopy layer, or ``s`` is not finite.

    Example:
        >>> import torch, hrta_ext as hx
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), hx.HomotopyActivation(), torch.nn.Linear(8, 1))
        >>> hx.set_homotopy(net, 0.5)
        >>> float(net[1].s)
        0.5
    """
    s = check_homotopy_parameter(s, "set_homotopy: s")
    if not isinstance(module, nn.Module):
        raise TypeError(f"set_homotopy: module must be a torch.nn.Module, got {type(module).__name__}")
    layers = homotopy_layers(module)
    if not layers:
        raise ValueError(
            f"set_homotopy: {type(module).__name__} has no homotopy layer; put an hx.HomotopyActivation into it"
        )
    for layer in layers:  # all of them, before any changes
        check_homotopy_parameter(s, "set_homotopy: s", layer.s.dtype)
    for layer in layers:
        layer.set_s(s)
