"""A density in the leading directions of the rows, and plain noise in all others."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import Problems
from reverie.generators.family import Family, Fitted
from reverie.generators.gaussian import JITTER, Gaussian
from reverie.types import Density, FittedDensity, State


@dataclass(eq=False, repr=False)
class PrincipalComponents(Family):
    """Any density of the first q principal components, with isotropic noise of the left-out variance in the other directions.

    With a full Gaussian inside it is probabilistic principal component analysis (Tipping and Bishop 1999). Without noise it has samples, but no
    density unless every direction is kept. Two fits do not merge: their directions differ.
    """

    density: Annotated[Density, Field(description="the family that is fitted to the components")] = field(
        default_factory=Gaussian
    )
    dimensions: Annotated[
        int | Annotated[float, Field(gt=0, lt=1)],
        Field(gt=0, description="components kept: how many, or the share of the variance that they keep at least"),
    ] = 0.95
    noise: Annotated[bool, Field(description="whether the left-out variance is put back as noise")] = True

    def check(self, problems: Problems) -> None:
        if self.density.pooled:
            problems.add(
                "density: a covariance shared by all classes cannot be taken inside principal components, which differ between them; "
                "use covariance = 'full'"
            )

    @property
    def stores_real_samples(self) -> bool:
        return self.density.stores_real_samples

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedPrincipal:
        mean = z.mean(dim=0, dtype=torch.float64)
        centred = z.double() - mean
        values, directions = principal_axes(centred)
        q = self._kept(values, z.shape[1])
        basis = (
            directions[:, :q].to(z).contiguous()
        )  # as it lies when it was saved and loaded: so its products have the same bits
        left = (centred.square().mean(dim=0).sum() - values[:q].sum()).clamp(min=0) / max(z.shape[1] - q, 1)
        noise = left.clamp(min=JITTER * float(values.sum() / z.shape[1]) or JITTER) if self.noise else left * 0
        inner = self.density.fit((z - mean.to(z)) @ basis, rng)
        return FittedPrincipal(inner, mean.to(z), basis, noise.to(z).reshape(1))

    def restore(self, state: State) -> FittedPrincipal:
        inside = {name.removeprefix("inner."): value for name, value in state.items() if name.startswith("inner.")}
        inner = self.density.restore({**inside, **state["inner"]})
        return FittedPrincipal(inner, state["mean"], state["basis"], state["noise"])

    @property
    def has_density(self) -> bool:
        """Without noise only where all directions are kept, which a share of the variance hardly asks for."""
        return self.density.has_density and (self.noise or isinstance(self.dimensions, int))

    def numbers(self, width: int) -> int | None:
        if not isinstance(self.dimensions, int):
            return None
        kept = min(self.dimensions, width)
        inner = self.density.numbers(kept)
        return None if inner is None else inner + width * (kept + 1) + 1

    def rows_needed(self, width: int) -> int:
        kept = self.dimensions if isinstance(self.dimensions, int) else 1
        return self.density.rows_needed(min(kept, width))

    def _kept(self, values: Tensor, width: int) -> int:
        if isinstance(self.dimensions, int):
            return min(self.dimensions, len(values))
        share = values.cumsum(0) / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
        return min(int((share < self.dimensions).sum()) + 1, len(values))


class FittedPrincipal(Fitted):
    """inner: the density of the components; mean (d,); basis (d, q), orthonormal; noise (1,), the variance left out in each
    other direction, 0 for none. Immutable."""

    def __init__(self, inner: FittedDensity, mean: Tensor, basis: Tensor, noise: Tensor) -> None:
        self.inner, self.mean, self.basis, self.noise = inner, mean, basis, noise
        self.count = inner.count

    @property
    def width(self) -> int:
        return len(self.mean)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        drawn = self.mean + self.inner.sample(n, rng) @ self.basis.T
        if not float(self.noise):
            return drawn
        noise = torch.randn(n, len(self.mean), generator=rng, device=self.mean.device, dtype=self.mean.dtype)
        return drawn + (noise - (noise @ self.basis) @ self.basis.T) * self.noise.sqrt()

    def log_prob(self, z: Tensor) -> Tensor:
        d, q = self.basis.shape
        if q < d and not float(self.noise):
            raise NotImplementedError(
                "principal components without noise fill a plane and have no density; set noise = True"
            )
        centred = z - self.mean
        inside = centred @ self.basis
        total = self.inner.log_prob(inside)
        if q == d:
            return total
        rest = (centred - inside @ self.basis.T).square().sum(dim=1)
        return total - 0.5 * (rest / self.noise + (d - q) * (self.noise.log() + math.log(2 * math.pi)))

    def tensors(self) -> dict[str, Tensor]:
        inside = {f"inner.{name}": tensor for name, tensor in self.inner.tensors().items()}
        return {"mean": self.mean, "basis": self.basis, "noise": self.noise, **inside}

    def settings(self) -> State:
        return {"inner": self.inner.settings()}


def principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (r,), largest first, and directions (d, r) of centred rows (n, d), r = min(n, d), from the smaller of the two Gram matrices."""
    n, d = centred.shape
    if d <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred / n)
        return values.clamp(min=0).flip(0), vectors.flip(1)
    values, vectors = torch.linalg.eigh(centred @ centred.T / n)
    # Columns of rows' combinations, made orthonormal also where a variance is 0.
    return values.clamp(min=0).flip(0), torch.linalg.qr(centred.T @ vectors.flip(1)).Q
