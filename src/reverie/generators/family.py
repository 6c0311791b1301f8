"""What families of densities have in common."""

from __future__ import annotations

from reverie.options import Part


class Family(Part):
    """Base of the families: what holds for most of them.

    pooled: all fits share something, see ``Gaussian.pool``. merges: two fits make the fit of the union, without transforms around them.
    stores_real_samples: a fit keeps rows as they are.
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

    def numbers(self, width: int) -> int | None:
        """Kept of one fit to many rows (n, width), without what all fits share; None where the rows decide."""
        return None


def triangle(width: int) -> int:
    """Numbers in a covariance, of which one half is kept."""
    return width * (width + 1) // 2
