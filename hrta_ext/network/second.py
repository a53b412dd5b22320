"""Second derivatives in x of the two-layer network: sums over neurons of sigma_s''(z) times quadratic features of w.

d^2 f / dx_c dx_c' = m^(-1/2) sum_k a_k sigma_s''(w_k . x) w_kc w_kc' (docs/theory.md 1), so that every form is
m^(-1/2) sum_k a_k sigma_s'' V_k with a row V_k of R numbers for each neuron. csrc/network/jet.h has the same forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FORMS = ("laplacian", "diagonal", "hessian")  # in the order of SecondForm in csrc/network/jet.h


@dataclass(frozen=True)  # no tuple, which vmap would take apart
class Second:
    """Which second derivatives: a form, over ascending columns of x."""

    form: str
    columns: tuple[int, ...]

    def size(self) -> int:
        """R: 1, one a column, or the upper triangle of the Hessian, row by row."""
        count = len(self.columns)
        return {"laplacian": 1, "diagonal": count, "hessian": count * (count + 1) // 2}[self.form]

    def pairs(self) -> tuple[list[int], list[int]]:
        """The two columns of each number of the triangle."""
        ordered = [(c, other) for at, c in enumerate(self.columns) for other in self.columns[at:]]
        return [c for c, _ in ordered], [other for _, other in ordered]

    def features(self, weight: Tensor) -> Tensor:
        """V (..., m, R) of weight (..., m, D)."""
        if self.form == "hessian":
            first, other = self.pairs()
            return weight[..., first] * weight[..., other]
        squares = weight[..., list(self.columns)].square()
        return squares.sum(-1, keepdim=True) if self.form == "laplacian" else squares

    def pull_back(self, weight: Tensor, grad: Tensor) -> Tensor:
        """The gradient in weight (..., m, D) of sum V grad, grad (..., m, R)."""
        columns = list(self.columns)
        if self.form != "hessian":
            rows = 2.0 * grad * weight[..., columns]
            return torch.zeros_like(rows[..., :1]).expand(weight.shape).index_add(-1, _index(columns, weight), rows)
        first, other = self.pairs()
        zero = torch.zeros_like(grad[..., :1]).expand(weight.shape)
        zero = zero.index_add(-1, _index(first, weight), grad * weight[..., other])
        return zero.index_add(-1, _index(other, weight), grad * weight[..., first])

    def push_forward(self, weight: Tensor, dot: Tensor) -> Tensor:
        """The derivative of V along ``dot``, of weight's shape."""
        first, other = self.pairs() if self.form == "hessian" else (list(self.columns),) * 2
        products = weight[..., first] * dot[..., other] + dot[..., first] * weight[..., other]
        return products.sum(-1, keepdim=True) if self.form == "laplacian" else products

    def unpacked(self, values: Tensor) -> Tensor:
        """(..., R) as the public result: (...), (..., d) or (..., d, d)."""
        if self.form == "laplacian":
            return values.squeeze(-1)
        if self.form == "diagonal":
            return values
        count = len(self.columns)
        place = torch.empty((count, count), dtype=torch.long)
        upper = torch.triu_indices(count, count)
        place[upper[0], upper[1]] = place[upper[1], upper[0]] = torch.arange(self.size())
        return values[..., place.to(values.device)]

    def arranged(self, values: Tensor, columns: Sequence[int]) -> Tensor:
        """``unpacked`` with these columns, the same ones, in the order that somebody asked for."""
        result = self.unpacked(values)
        if self.form == "laplacian" or list(columns) == list(self.columns):
            return result
        order = [self.columns.index(column) for column in columns]
        return result[..., order] if self.form == "diagonal" else result[..., order, :][..., order]


def _index(columns: list[int], like: Tensor) -> Tensor:
    return torch.tensor(columns, device=like.device)
