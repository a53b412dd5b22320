"""The scaling of a table's columns."""

import torch

from hrta_ext.tables.scaling import Scaling


def test_samples_alone_are_scaled_as_beside_targets() -> None:
    x = torch.rand(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 7.0  # constant, so only centred
    beside, alone = Scaling.of(x, torch.arange(30.0, dtype=torch.float64)), Scaling.of_samples(x)
    assert torch.equal(alone.x_mean, beside.x_mean)
    assert torch.equal(alone.x_scale, beside.x_scale)
    targets = torch.tensor([-2.5, 4.0], dtype=torch.float64)
    assert torch.equal(alone.scale_y(targets), targets)
