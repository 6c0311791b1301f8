"""What families of densities have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from reverie.checks import NotReadyError
from reverie.options import Part
from reverie.types import FittedDensity


class Family(Part):
    """Base of the families: what holds for most of them.

    pooled: all fits share something, see ``Gaussian.pool``. merges: two fits make the fit of the union, without transforms around them.
    stores_real_samples: a fit keeps rows as they are. has_density: whether fits have a ``log_prob``, as far as options tell.
    """

    @property
    def pooled(self) -> bool:
        return False

    @property
    def merges(self) -> bool:
        return False

    @property
    def stores_real_samples(self) -> bool:
        return False

    @property
    def has_density(self) -> bool:
        return True

    def numbers(self, width: int) -> int | None:
        """Kept of one fit to many rows (n, width), without what all fits share; None where the rows decide."""
        return None

    def rows_needed(self, width: int) -> int:
        """Rows below which a fit is no distribution."""
        return 1

    def check_width(self, width: int) -> None:
        """Raises OptionsError where no rows of this width can be fitted, before any is."""


class Fitted(ABC):
    """Base of the fits: values, which nothing changes but what they keep of their own computations."""

    count: int

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers of a row."""

    def merge(self, other: FittedDensity) -> FittedDensity | None:
        """The fit of the union of both sets of rows; None where it cannot be told from two fits. Raises NotReadyError for fits to rows of
        different widths."""
        if not isinstance(other, Fitted):
            return None
        if self.width != other.width:
            raise NotReadyError(
                f"a density of {self.width:,} latents cannot be merged with one of {other.width:,}; fit both to latents of the same "
                "cut, or begin with a new generator"
            )
        return self.union(other)

    def union(self, other: Fitted) -> FittedDensity | None:
        """``merge`` of fits to rows of one width."""
        return None


def cached_bytes(fits: Iterable[FittedDensity]) -> int:
    """Of what fits have computed from the numbers that they store and kept: roots, inverses."""
    fits = list(fits)
    stored = {id(tensor) for fit in fits for tensor in fit.tensors().values()}
    kept = {id(tensor): tensor for fit in fits for tensor in _tensors(fit)}
    return sum(tensor.numel() * tensor.element_size() for name, tensor in kept.items() if name not in stored)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All that a value holds, however deep."""
    if isinstance(value, Tensor):
        yield value
        return
    for inner in (
        value if isinstance(value, list | tuple) else vars(value).values() if hasattr(value, "__dict__") else ()
    ):
        yield from _tensors(inner)


def triangle(width: int) -> int:
    """Numbers in a covariance, of which one half is kept."""
    return width * (width + 1) // 2
