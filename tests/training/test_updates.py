"""Adam's native update of losses of the user's own: torch's numbers, torch's state, and what is left to torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from hrta_ext.backends import use_backend
from hrta_ext.compiled import _C
from hrta_ext.training import updates

pytestmark = pytest.mark.skipif(_C is None, reason="no compiled kernels")


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in ((70, 3), (), (33,))]


def filled(owners: list[nn.Parameter], k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    for p in owners:
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_the_numbers_and_the_state_are_torchs(dtype: torch.dtype, tolerance: float) -> None:
    """Torch's step and the native one take turns on one state; a parameter without gradient stays."""
    mine, theirs = parameters(dtype), parameters(dtype)
    options = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6}
    native, plain = Adam(mine, **options), Adam(theirs, foreach=False, **options)  # type: ignore[arg-type]
    for k in range(6):
        filled(mine, k)
        filled(theirs, k)
        if k == 2:
            mine[1].grad = theirs[1].grad = None
        assert updates.serves(native)
        versions = [p._version for p in mine]
        if k == 3:
            native.load_state_dict(copy.deepcopy(native.state_dict()))
        native.step() if k == 4 else updates.update(native)
        plain.step()
        for p, q, version in zip(mine, theirs, versions, strict=True):
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
            assert (p._version > version) == (p.grad is not None)
            for name, moment in plain.state[q].items():
                torch.testing.assert_close(native.state[p][name], moment, rtol=tolerance, atol=tolerance)


def test_what_is_left_to_torch() -> None:
    owners = parameters(torch.float32)
    assert not updates.serves(torch.optim.SGD(owners, lr=0.1))
    assert not updates.serves(Adam(owners, weight_decay=0.1))
    assert not updates.serves(Adam(owners, lr=torch.tensor(0.1)))
    assert not updates.serves(Adam([nn.Parameter(torch.zeros(2, 3).mT)]))
    assert not updates.serves(Adam([nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))]))
    hooked = Adam(owners)
    hooked.register_step_post_hook(lambda *_: None)
    assert not updates.serves(hooked)
    with use_backend("torch"):
        assert not updates.serves(Adam(owners))


def test_a_gradient_in_another_order_is_torchs() -> None:
    """The native loop goes by memory."""
    owner = nn.Parameter(torch.zeros(2, 3))
    owner.grad = torch.arange(6.0).reshape(3, 2).mT
    optimizer = Adam([owner], lr=0.1)
    updates.update(optimizer)
    expected: Tensor = -0.1 * owner.grad.sign()
    torch.testing.assert_close(owner.detach(), expected)
