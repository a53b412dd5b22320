"""Every public flag is a bool: a string or a number that stands for one is refused, NumPy's own is not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import hrta_ext as hx

X = torch.linspace(0, 1, 5)[:, None]


def net() -> hx.TwoLayerNet:
    return hx.TwoLayerNet(1, 4, s=0.5, seed=0)


def fit(**flag: Any) -> None:
    hx.fit(net(), X, X[:, 0], s=0.5, steps=1, **flag)


def fit_ensemble(**flag: Any) -> None:
    hx.fit_ensemble([net()], X, X[:, 0], s=0.5, steps=1, **flag)


FLAGS: list[tuple[str, str, Callable[..., Any]]] = [
    ("fit", "keep_function", fit),
    ("fit", "progress", fit),
    ("fit", "resume", fit),
    ("fit", "keep_function", fit_ensemble),
    ("HomotopyScheduler", "keep_function", lambda **flag: hx.HomotopyScheduler(net(), [0.5], **flag)),
    ("TwoLayerNet.set_s", "keep_function", lambda **flag: net().set_s(1.0, **flag)),
    ("TwoLayerNet", "bias", lambda **flag: hx.TwoLayerNet(1, 4, **flag)),
    ("HomotopyActivation", "learnable", hx.HomotopyActivation),
    ("HomotopyActivation", "save_slope", hx.HomotopyActivation),
    ("homotopy", "save_slope", lambda **flag: hx.homotopy(X, 0.5, "gelu", **flag)),
    ("random_gram_path", "progress", lambda **flag: hx.random_gram_path(X, 4, **flag)),
    ("KernelRegression", "bias", lambda **flag: hx.KernelRegression(**flag).fit(X, X[:, 0])),
]


@pytest.mark.parametrize(("function", "flag", "call"), FLAGS)
@pytest.mark.parametrize("value", ["False", 1, 0, None, torch.tensor(True)])
def test_what_is_no_bool_is_refused(function: str, flag: str, call: Callable[..., Any], value: object) -> None:
    with pytest.raises(TypeError, match=f"^{function}: {flag} must be a bool, got "):
        call(**{flag: value})


@pytest.mark.parametrize(("function", "flag", "call"), FLAGS)
@pytest.mark.parametrize("value", [True, False])
def test_numpy_bools_are_bools(function: str, flag: str, call: Callable[..., Any], value: bool) -> None:
    if not (flag == "resume" and value):  # which needs a checkpoint
        call(**{flag: np.bool_(value)})
