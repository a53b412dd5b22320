"""Spectra of a two-layer network's kernels on given samples against s, at finite and at infinite width, as a report.

What ``hrta gram`` prints, writes and draws. Smallest eigenvalues below the rounding of the largest count as 0.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hrta_ext.files import replaced
from hrta_ext.ntk.infinite import infinite_gram, infinite_gram_error
from hrta_ext.ntk.path import GramPath, jackknife_error
from hrta_ext.ntk.spectra import SquareLaw, square_law

KERNELS = {"ntk": "NTK", "a": "G^[a]", "w": "G^[w]"}
# Largest deviation of the fitted exponent from 2 that still counts as the s^2 law.
TOLERANCE = 0.05
# Eigenvalues are exact to a few roundings of the largest one: smaller ones are not told from 0.
_ROUNDINGS = 16.0
# The jackknife of lambda_min in the space of the 64 lowest eigenvectors of the whole, for networks of at least 200 n
# neurons: at a tenth of the cost of GramPath.lambda_min_error, which diagonalises every left-out matrix and serves
# narrower ones. Seen: within 12 % of it at 200 n (one grid of 150 points; most within 4 %), within 0.02 % at 10^4 n. A
# jackknife of 16 batches itself scatters by 18 %.
_LOWEST = 64
_WIDE = 200
# Entries of the matrices of one block of s values: 128 MiB each.
_BLOCK_ENTRIES = 1 << 24


@dataclass(frozen=True)
class Spectrum:
    """One kernel at one width, against s; every tensor has shape (S,), float64.

    Attributes:
        smallest: lambda_min.
        error: Standard error of lambda_min, its scatter over draws of the neurons; None where there is none. It leaves
            out the bias: at finite width lambda_min lies below its limit on the average, the more the fewer neurons.
        largest: lambda_max.
        trace: Sum of the eigenvalues.
        resolution: Smallest eigenvalue that numerical error leaves visible, 16 epsilon lambda_max.
    """

    smallest: Tensor
    error: Tensor | None
    largest: Tensor
    trace: Tensor
    resolution: Tensor

    @classmethod
    def of(cls, eigenvalues: Tensor, error: Tensor | None, epsilon: float) -> Spectrum:
        """From eigenvalues (S, n) in ascending order and the relative error of the matrices."""
        largest = eigenvalues[:, -1]
        resolution = _ROUNDINGS * epsilon * largest.abs()
        return cls(eigenvalues[:, 0], error, largest, eigenvalues.sum(1), resolution)

    @property
    def resolved(self) -> Tensor:
        """Where lambda_min stands above numerical error, bool."""
        return self.smallest > self.resolution

    @property
    def condition(self) -> Tensor:
        """lambda_max / lambda_min; infinite where lambda_min is not resolved."""
        return torch.where(self.resolved, self.largest / self.smallest, math.inf)


@dataclass(frozen=True)
class SpectraReport:
    """Spectra of the NTK and its two parts on one set of samples.

    Attributes:
        s: Homotopy parameters, (S,), ascending.
        n_samples: n.
        n_features: D, the bias included.
        width: m of the finite network.
        finite: By kernel, "ntk", "a" and "w".
        infinite: The same at infinite width.
        infinite_error: Relative error bound of the infinite-width kernels, 0 for closed forms.
    """

    s: Tensor
    n_samples: int
    n_features: int
    width: int
    finite: dict[str, Spectrum]
    infinite: dict[str, Spectrum]
    infinite_error: float

    def rate(self, spectrum: Spectrum) -> Tensor:
        """2 lambda_min / n, (S,): gradient flow brings the loss down at least like exp(-rate t) (docs/theory.md 3)."""
        return 2.0 * spectrum.smallest / self.n_samples

    def law(self, spectrum: Spectrum) -> SquareLaw:
        """The power of s fitted to lambda_min over s > 0, where rounding leaves it visible."""
        visible = torch.where(spectrum.resolved, spectrum.smallest, 0.0)
        return square_law(self.s, visible, self.n_samples, self.n_features, TOLERANCE)

    def verdict(self, kernel: str = "ntk") -> str:
        """One sentence: whether lambda_min of ``kernel`` grows like s^2 on these samples."""
        infinite, finite = self.law(self.infinite[kernel]), self.law(self.finite[kernel])
        n, d, name = self.n_samples, self.n_features, KERNELS[kernel]
        if n <= d:
            return f"The s^2 law of lambda_min needs n > D; here n = {n} and D = {d}, so it says nothing on these data."
        if math.isnan(finite.exponent):
            at_width = f"cannot be told from 0 at width {self.width:,}"
        else:
            at_width = f"{finite.exponent:.3f} at width {self.width:,}"
            if finite.holds != infinite.holds:
                at_width += ", which is " + ("s^2" if finite.holds else "not s^2")
        if math.isnan(infinite.exponent):
            return (
                f"Whether lambda_min of the {name} grows like s^2 cannot be seen on these data (n = {n} > D = {d}): "
                "that takes two values s > 0 at which it stands above numerical error at infinite width."
            )
        grows = "grows like s^2" if infinite.holds else "does not grow like s^2"
        return (
            f"lambda_min of the {name} {grows} on these data (n = {n} > D = {d}): fitted exponent "
            f"{infinite.exponent:.3f} at infinite width; {at_width}. From {2 - TOLERANCE:g} to {2 + TOLERANCE:g} "
            "counts as s^2."
        )

    def unresolved(self) -> str | None:
        """A sentence on the kernels whose lambda_min at infinite width cannot be told from 0 at some s other than 0.

        At s = 0 the network is linear, so that lambda_min is 0 whenever n > D.
        """
        hidden = {kernel: int((~one.resolved & (self.s != 0.0)).sum()) for kernel, one in self.infinite.items()}
        named = [
            f"{KERNELS[kernel]} at {count} of {len(self.s)} values of s" for kernel, count in hidden.items() if count
        ]
        return f"lambda_min cannot be told from 0 at infinite width: {', '.join(named)}." if named else None

    def bias(self) -> str | None:
        """A sentence where the NTK's lambda_min at the largest s is below its limit by over three standard errors."""
        finite, infinite = self.finite["ntk"], self.infinite["ntk"]
        gap = float(infinite.smallest[-1] - finite.smallest[-1])
        if finite.error is None or not bool(infinite.resolved[-1]) or gap <= 3.0 * float(finite.error[-1]):
            return None
        share = gap / float(infinite.smallest[-1])
        return (
            f"At width {self.width:,} lambda_min is {share:.0%} below its limit. Narrow networks are biased low, and "
            "error bars show the scatter over draws alone; a larger --width comes closer."
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain lists and dictionaries."""
        return {
            "n": self.n_samples,
            "D": self.n_features,
            "s": self.s.tolist(),
            "kernels": {
                kernel: {
                    "finite": self._spectrum_as_json(self.finite[kernel]),
                    "infinite": self._spectrum_as_json(self.infinite[kernel]),
                    "verdict": self.verdict(kernel),
                }
                for kernel in KERNELS
            },
            "exponent_tolerance": TOLERANCE,
            "infinite_error_bound": self.infinite_error,
            "verdict": self.verdict(),
        }

    def _spectrum_as_json(self, spectrum: Spectrum) -> dict[str, Any]:
        law = self.law(spectrum)
        return {
            "lambda_min": spectrum.smallest.tolist(),
            "lambda_min_standard_error": None if spectrum.error is None else spectrum.error.tolist(),
            "lambda_min_resolution": spectrum.resolution.tolist(),
            "lambda_max": spectrum.largest.tolist(),
            "condition_number": spectrum.condition.tolist(),
            "trace": spectrum.trace.tolist(),
            "rate": self.rate(spectrum).tolist(),
            "exponent": law.exponent,
            "square_law_holds": law.holds if math.isfinite(law.exponent) else None,
        }

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """One row per kernel, width and s; an infinite condition number is "inf", a missing error an empty cell."""
        with replaced(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            names = "lambda_min lambda_min_standard_error lambda_max condition_number trace rate"
            writer.writerow(["kernel", "width", "s", *names.split()])
            for kernel in KERNELS:
                for width, spectrum in ((self.width, self.finite[kernel]), ("infinite", self.infinite[kernel])):
                    columns = [
                        self.s.tolist(),
                        spectrum.smallest.tolist(),
                        [""] * len(self.s) if spectrum.error is None else spectrum.error.tolist(),
                        spectrum.largest.tolist(),
                        spectrum.condition.tolist(),
                        spectrum.trace.tolist(),
                        self.rate(spectrum).tolist(),
                    ]
                    for values in zip(*columns, strict=True):
                        writer.writerow([kernel, width, *values])


def spectra_report(
    path: GramPath, s: Sequence[float], progress: Callable[[int, str], object] = lambda steps, what: None
) -> SpectraReport:
    """Spectra of a path of random neurons, and of its limit of infinite width, at every s.

    Cost: S eigenvalue problems of order n per kernel and width. Memory: the matrices of a block of s values.

    Args:
        path: From :func:`hrta_ext.random_gram_path`; error bars need two batches or more.
        s: S values, ascending, at least one.
        progress: Called as progress(steps, what) when steps are done; there are 2 S.
    Raises:
        ValueError: There are no samples, or no values of s.

    Example:
        >>> import torch, hrta_ext as hx
        >>> from hrta_ext.ntk.report import spectra_report
        >>> x = hx.with_bias(torch.linspace(0, 1, 9, dtype=torch.float64)[:, None])
        >>> report = spectra_report(hx.random_gram_path(x, 10_000), [0.5, 1.0, 2.0])
        >>> round(report.law(report.infinite["ntk"]).exponent, 2)
        2.0
    """
    if path.x2 is not None:
        raise ValueError("spectra_report: path must be one of symmetric matrices, got one of cross-kernels (x2)")
    n, d = path.x.shape
    if n == 0 or len(s) == 0:
        raise ValueError(f"spectra_report: needs samples and values of s, got {n} samples and {len(s)} values")
    values = torch.tensor(list(s), dtype=torch.float64)
    finite = _finite_width(path, values, progress)
    found: dict[str, list[Tensor]] = {kernel: [] for kernel in KERNELS}
    for block in values.split(max(_BLOCK_ENTRIES // n**2, 1)):
        limit = infinite_gram(path.x, block, base=path.base)
        for kernel in KERNELS:
            found[kernel].append(torch.linalg.eigvalsh(getattr(limit, kernel)).cpu())
        progress(len(block), "spectra, infinite width")
    limit_error = infinite_gram_error(path.x, base=path.base)
    epsilon = max(torch.finfo(torch.float64).eps, limit_error)
    infinite = {kernel: Spectrum.of(torch.cat(parts), None, epsilon) for kernel, parts in found.items()}
    return SpectraReport(values, n, d, path.width, finite, infinite, limit_error)


def _finite_width(path: GramPath, s: Tensor, progress: Callable[[int, str], object]) -> dict[str, Spectrum]:
    whole = GramPath(path.x, path.base, torch.float64, path.widths, path.sums)
    batches = [whole.batch(b) for b in range(whole.batches)]
    eigenvalues: dict[str, list[Tensor]] = {kernel: [] for kernel in KERNELS}
    errors: dict[str, list[Tensor]] = {kernel: [] for kernel in KERNELS}
    for value in s.tolist():
        matrices, lowest = whole(value), {}
        for kernel in KERNELS:
            found, vectors = torch.linalg.eigh(getattr(matrices, kernel))
            eigenvalues[kernel].append(found.cpu())
            lowest[kernel] = vectors[:, :_LOWEST]
        if len(batches) > 1 and path.width < _WIDE * path.x.shape[0]:
            for kernel in KERNELS:
                errors[kernel].append(whole.lambda_min_error(value, kernel).cpu())
        elif len(batches) > 1:
            parts = [batch(value) for batch in batches]
            for kernel, basis in lowest.items():
                projected = torch.stack([basis.mT @ getattr(part, kernel) @ basis for part in parts])
                errors[kernel].append(_projected_error(projected, path.widths).cpu())
        progress(1, "spectra, finite width")
    epsilon = torch.finfo(path.dtype).eps
    return {
        kernel: Spectrum.of(
            torch.stack(eigenvalues[kernel]), torch.stack(errors[kernel]) if errors[kernel] else None, epsilon
        )
        for kernel in KERNELS
    }


def _projected_error(matrices: Tensor, widths: Sequence[int]) -> Tensor:
    """Standard error of lambda_min of the mean of the batches' matrices (B, k, k), from leaving each out in turn."""
    weights = torch.tensor(widths, dtype=torch.float64, device=matrices.device)[:, None, None]
    total = (weights * matrices).sum(0)
    left_out = (total - weights * matrices) / (weights.sum() - weights)
    return jackknife_error(torch.linalg.eigvalsh(0.5 * (left_out + left_out.mT))[:, 0])


def count_repeated_rows(x: Tensor) -> tuple[int, tuple[int, int] | None]:
    """How many rows of x (n, d) equal an earlier one, and the first such pair (earlier, later), counted from 0."""
    _, group = torch.unique(x, dim=0, return_inverse=True)
    first: dict[int, int] = {}
    repeated, pair = 0, None
    for row, member in enumerate(group.tolist()):
        if member in first:
            repeated += 1
            pair = pair or (first[member], row)
        else:
            first[member] = row
    return repeated, pair
