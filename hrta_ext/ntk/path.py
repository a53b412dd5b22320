"""G^[a] and G^[w] as functions of s: evaluation, derivative, spectra, error bars, addition."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from hrta_ext.backends import serve
from hrta_ext.inputs import Parameters, parameter_values, shown
from hrta_ext.ntk import native, reference
from hrta_ext.ntk.files import load_path, save_path
from hrta_ext.ntk.types import Drawn, Gram, GramSums

_KERNELS = ("ntk", "a", "w")
_BLOCK_ENTRIES = 2**24  # of the matrices of as many values of s as are held at once: 128 MiB each


class GramPath:
    """G^[a] and G^[w] of one network as functions of s, from sums over its neurons.

    Both are quadratic forms in (1 - s, s) with coefficients from six sums (docs/theory.md 3.1, there in powers of s).
    Made by :func:`gram_path` and :func:`random_gram_path`; paths over disjoint neurons add up. The sums are kept in
    ``batches`` of neurons, from whose scatter :meth:`standard_error` and :meth:`lambda_min_error` come.

    Attributes:
        x: Samples, (n, D), float64.
        x2: Samples of the columns, (n2, D), float64, where the path is one of cross-kernels (n, n2); else None.
        dtype: Type of the matrices that ``path(s)`` returns, and the class of their accuracy.
        base: Base activation.
        widths: Neurons in each batch.
        sums: The sums, with leading dimensions (batches, ...); 16 n^2 bytes per batch and network, or 16 n n2.
        drawn: The numbers of the neurons, where all were drawn; else None.
    """

    x2: Tensor | None = None  # of pickles of 0.1.0
    drawn: tuple[Drawn, ...] | None = None

    def __init__(
        self,
        x: Tensor,
        base: str,
        dtype: torch.dtype,
        widths: tuple[int, ...],
        sums: GramSums,
        x2: Tensor | None = None,
        drawn: tuple[Drawn, ...] | None = None,
    ) -> None:
        self.x, self.base, self.dtype, self.widths, self.sums = x, base, dtype, widths, sums
        self.x2, self.drawn = x2, drawn

    @property
    def width(self) -> int:
        """m, the number of neurons."""
        return sum(self.widths)

    @property
    def batches(self) -> int:
        """The number of batches of neurons whose sums are kept apart."""
        return len(self.widths)

    def batch(self, b: int) -> GramPath:
        """The path of one batch of neurons; its sums are views. It knows no numbers of neurons (``drawn``).

        Args:
            b: From 0 to ``batches`` - 1.

        Example:
            >>> import torch, hrta_ext as hx
            >>> path = hx.random_gram_path(torch.eye(2), 600, batches=3)
            >>> path.batch(1)
            GramPath(n=2, D=2, width=200, base='relu', batches=1)
        """
        if isinstance(b, bool) or not hasattr(b, "__index__"):
            raise TypeError(f"GramPath.batch: b must be an int, got {shown(b)}")
        if not 0 <= b < self.batches:
            raise ValueError(f"GramPath.batch: b must be from 0 to {self.batches - 1}, got {b}")
        sums = GramSums(*(value[b : b + 1] for value in self.sums))
        return GramPath(self.x, self.base, self.dtype, self.widths[b : b + 1], sums, self.x2)

    def __repr__(self) -> str:
        n, d = self.x.shape
        columns = "" if self.x2 is None else f", n2={self.x2.shape[0]}"
        networks = self.sums.square_sum.shape[1:-1]
        shape = f", networks={tuple(networks)}" if networks else ""
        width = f"width={self.width}, base={self.base!r}, batches={self.batches}"
        return f"GramPath(n={n}{columns}, D={d}, {width}{shape})"

    def __call__(self, s: Parameters) -> Gram:
        """Both matrices at s: (..., n, n) for one s, (S, ..., n, n) for S values; exactly symmetric.

        Of a path with ``x2``: (..., n, n2) or (S, ..., n, n2).
        """
        return self._evaluate(parameter_values(s, "GramPath", self.dtype), dtype=self.dtype)

    def derivative(self, s: Parameters) -> Gram:
        """Their derivative in s, same shapes."""
        return self._evaluate(parameter_values(s, "GramPath.derivative", self.dtype), dtype=self.dtype, derivative=True)

    def eigenvalues(self, s: Parameters, kernel: str = "ntk") -> Tensor:
        """Eigenvalues in ascending order, float64: (..., n) for one s, (S, ..., n) for S values.

        Args:
            s: Homotopy parameters.
            kernel: "ntk", or "a" or "w" for one of its two parts.
        Raises:
            ValueError: The path is one of cross-kernels (``x2``), as for all that follows from eigenvalues.
        """
        values = parameter_values(s, "GramPath.eigenvalues", self.dtype)
        self._need_symmetry("eigenvalues")
        return self._spectrum(values, kernel)

    def lambda_min(self, s: Parameters, kernel: str = "ntk") -> Tensor:
        """Smallest eigenvalue at each s, float64: (...) for one s, (S, ...) for S values.

        It grows as s^2 once n > D (docs/theory.md 3.4), and the loss decays at least like exp(-2 lambda_min t / n).
        """
        values = parameter_values(s, "GramPath.lambda_min", self.dtype)
        self._need_symmetry("lambda_min")
        self._need_samples("lambda_min")
        return self._spectrum(values, kernel)[..., 0]

    def standard_error(self, s: Parameters) -> Gram:
        """Standard error of every entry as an estimate of the infinite-width kernel, from the scatter of the batches.

        Raises:
            ValueError: There are fewer than two batches: only :func:`random_gram_path` keeps several.
        """
        values = parameter_values(s, "GramPath.standard_error", self.dtype)
        self._need_batches("standard_error")
        if values.dim() == 0:
            return self._scatter(values)
        parts = [self._scatter(block) for block in self._blocks(values)]
        return parts[0] if len(parts) == 1 else Gram(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def lambda_min_error(self, s: Parameters, kernel: str = "ntk") -> Tensor:
        """Jackknife standard error of :meth:`lambda_min` over the batches; same shape.

        Raises:
            ValueError: There are fewer than two batches.
        """
        values = parameter_values(s, "GramPath.lambda_min_error", self.dtype)
        self._need_symmetry("lambda_min_error")
        self._need_samples("lambda_min_error")
        self._need_batches("lambda_min_error")
        left_out = [self._spectrum(values, kernel, without=b)[..., 0] for b in range(self.batches)]
        return jackknife_error(torch.stack(left_out))

    def to(self, device: torch.device | str) -> GramPath:
        """The path with its samples and sums on ``device``; itself where they are there already.

        Files hold the values alone: :meth:`load` gives a path on the CPU.

        Example:
            >>> import torch, hrta_ext as hx
            >>> hx.random_gram_path(torch.eye(2), 600).to("cpu").x.device
            device(type='cpu')
        """
        if not isinstance(device, (str, torch.device)):
            raise TypeError(f"GramPath.to: device must be a torch.device or its name, got {type(device).__name__}")
        x, sums = self.x.to(device), GramSums(*(value.to(device) for value in self.sums))
        x2 = None if self.x2 is None else self.x2.to(device)
        return self if x is self.x else GramPath(x, self.base, self.dtype, self.widths, sums, x2, self.drawn)

    def __add__(self, other: GramPath) -> GramPath:
        """The path of both networks' neurons together."""
        if not isinstance(other, GramPath):
            return NotImplemented
        if self.base != other.base:
            raise ValueError(f"GramPath: both paths must have the same base, got {self.base!r} and {other.base!r}")
        if self.x.device != other.x.device:
            raise ValueError(
                f"GramPath: both paths must be on the same device, got {self.x.device} and {other.x.device}; "
                "path.to(device) moves one"
            )
        if not _equal(self.x, other.x):
            raise ValueError("GramPath: both paths must have the same samples x")
        if (self.x2 is None) != (other.x2 is None):
            raise ValueError("GramPath: a path of cross-kernels (x2) and one of symmetric matrices cannot be added")
        if not _equal(self.x2, other.x2):
            raise ValueError("GramPath: both paths must have the same samples x2")
        if self.sums.linear.shape[1:] != other.sums.linear.shape[1:]:
            raise ValueError("GramPath: both paths must have the same leading dimensions of networks")
        count = min(self.batches, other.batches)
        one, two = self._folded(count), other._folded(count)
        sums = GramSums(*(u + v for u, v in zip(one.sums, two.sums, strict=True)))
        widths = tuple(u + v for u, v in zip(one.widths, two.widths, strict=True))
        dtype = torch.float64 if self.dtype == other.dtype == torch.float64 else torch.float32
        drawn = None if self.drawn is None or other.drawn is None else (*self.drawn, *other.drawn)
        return GramPath(self.x, self.base, dtype, widths, sums, self.x2, drawn)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the path to ``path``: NumPy's format for ``.npz``, safetensors for ``.safetensors``."""
        save_path(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GramPath:
        """Read what :meth:`save` wrote, on the CPU; :meth:`to` moves it to another device.

        Raises:
            ValueError: The file is not a saved GramPath.
        """
        return cls(*load_path(path))

    def _evaluate(
        self,
        s: Tensor,
        *,
        only: int | None = None,
        without: int | None = None,
        dtype: torch.dtype = torch.float64,
        derivative: bool = False,
    ) -> Gram:
        """The matrices of all batches, of one alone, or of all without one."""
        if only is not None:
            width, total = self.widths[only], GramSums(*(value[only] for value in self.sums))
        elif without is not None:
            width = self.width - self.widths[without]
            rest = (torch.cat([value[:without], value[without + 1 :]]) for value in self.sums)
            total = GramSums(*(value.sum(0) for value in rest))
        else:
            width = self.width
            total = GramSums(*(value[0] if self.batches == 1 else value.sum(0) for value in self.sums))
        backend = serve(native, reference, self.x, self.base)
        return backend.evaluate(self.x, total, width, s, derivative, dtype, self.x2)

    def _blocks(self, s: Tensor) -> tuple[Tensor, ...]:
        """The values (S,) in blocks whose matrices fill the memory of one block."""
        return s.split(max(_BLOCK_ENTRIES // max(self.sums.value_product[0].numel(), 1), 1))

    def _spectrum(self, s: Tensor, kernel: str, *, without: int | None = None) -> Tensor:
        if kernel not in _KERNELS:
            raise ValueError(f"GramPath: kernel must be one of {', '.join(_KERNELS)}, got {kernel!r}")
        if s.dim() > 0:
            found = [self._spectrum_of_block(block, kernel, without) for block in self._blocks(s)]
            return found[0] if len(found) == 1 else torch.cat(found)
        return self._spectrum_of_block(s, kernel, without)

    def _spectrum_of_block(self, s: Tensor, kernel: str, without: int | None) -> Tensor:
        matrices = getattr(self._evaluate(s, without=without), kernel)
        if not bool(matrices.isfinite().all()):
            raise ValueError(f"GramPath: {kernel} is not finite at these s, so it has no eigenvalues")
        return torch.linalg.eigvalsh(matrices)

    def _need_symmetry(self, method: str) -> None:
        if self.x2 is not None:
            raise ValueError(f"GramPath.{method}: cross-kernels have no eigenvalues; this path has samples x2")

    def _scatter(self, s: Tensor) -> Gram:
        """Standard errors over the batches."""
        mean = self._evaluate(s)
        variance = [torch.zeros_like(part) for part in mean]
        for batch, width in enumerate(self.widths):
            for part, total, one in zip(variance, mean, self._evaluate(s, only=batch), strict=True):
                part += (width / self.width) ** 2 * (one - total) ** 2
        scale = self.batches / (self.batches - 1)
        a, w = ((scale * part).sqrt().to(self.dtype) for part in variance)
        return Gram(a, w)

    def _need_samples(self, method: str) -> None:
        if self.x.shape[0] == 0:
            raise ValueError(f"GramPath.{method}: there are no samples, so no eigenvalues")

    def _need_batches(self, method: str) -> None:
        if self.batches < 2:
            raise ValueError(
                f"GramPath.{method}: needs at least 2 batches of neurons, this path has {self.batches}; "
                "random_gram_path(..., batches=16) keeps them"
            )

    def _folded(self, count: int) -> GramPath:
        """The same path in fewer batches: batch b goes to batch b mod count."""
        if count == self.batches:
            return self
        sums = GramSums(*(torch.stack([value[b::count].sum(0) for b in range(count)]) for value in self.sums))
        widths = tuple(sum(self.widths[b::count]) for b in range(count))
        return GramPath(self.x, self.base, self.dtype, widths, sums, self.x2, self.drawn)


def _equal(one: Tensor | None, two: Tensor | None) -> bool:
    return one is two or (one is not None and two is not None and one.shape == two.shape and torch.equal(one, two))


def jackknife_error(left_out: Tensor) -> Tensor:
    """Standard error of a number from its values with each of B batches left out in turn, (B, ...) -> (...)."""
    count = len(left_out)
    return ((count - 1) / count * (left_out - left_out.mean(0)).square().sum(0)).sqrt()
