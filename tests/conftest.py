"""Fixtures: the backends that can be used here, each with the device it serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import hrta_ext as hx


@pytest.fixture(params=["torch", "cpp", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A device on which every call is served by one backend; the test runs once per backend usable here."""
    name = request.param
    if not hx.backends()[name]:
        pytest.skip(f"backend {name} is not usable here")
    with hx.use_backend(name):
        yield torch.device("cuda" if name == "cuda" else "cpu")


@pytest.fixture(params=["native", "torch"])
def both_backends(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test's CPU tensors are served by the compiled kernels, then by plain torch."""
    if request.param == "native" and not hx.backends()["cpp"]:
        pytest.skip("no compiled kernels")
    with hx.use_backend(request.param):
        yield


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """x (12, 1) and y (12,) in float64 for the tests of training."""
    x = torch.linspace(0.0, 1.0, 12, dtype=torch.float64)[:, None]
    return x, torch.sin(2 * torch.pi * x[:, 0])
