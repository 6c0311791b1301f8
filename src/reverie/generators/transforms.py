"""Maps around a density and back, and what its samples are cut to. Fitted to one density's rows and kept with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from reverie.checks import DataError
from reverie.types import FittedDensity

Step = Literal["standardise", "tukey", "log1p", "whiten", "normalise"]
Support = Literal["auto", "real", "nonnegative", "hurdle"]

FLOOR = 1e-6  # of a standard deviation, relative to the mean one: constant features stay invertible
SHORT = 1e-12  # what is no longer has no direction
DRAWN = 4096  # samples by which the thresholds of a hurdle are set


class FittedTransforms:
    """The steps in order with their numbers, and the support. A value."""

    def __init__(self, steps: Sequence[Step], support: Support, numbers: dict[str, Tensor]) -> None:
        self.steps, self.support, self.numbers = tuple(steps), support, numbers

    def forward(self, z: Tensor) -> Tensor:
        for place, step in enumerate(self.steps):
            z = self._forward(place, step, z)
        return z

    def inverse(self, u: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Of samples: cut to what the steps can give, mapped back, then cut to the support. rng: of the lengths, where they were taken
        away."""
        if self.support == "hurdle":  # a coordinate below its threshold is 0, any other is not
            z = self._back(u, rng)
            return z.abs().masked_fill(z < self.numbers["thresholds"], 0.0)
        z = self._back(u, rng, cut=True)
        return z.clamp(min=0) if self.support == "nonnegative" else z

    def log_prob(self, density: FittedDensity, z: Tensor) -> Tensor:
        """log density of z (n, d) by the change of variables, -inf where a root or logarithm is not defined. The density itself knows
        nothing of such bounds, nor of the support: samples beyond lie on the edge, and the integral is 1 less their share. Values
        closer to 0 than 1e-6 count as 1e-6 under a root. Raises NotImplementedError where lengths were taken away.
        """
        if "normalise" in self.steps:
            raise NotImplementedError("rows of length 1 lie on a sphere, so their density is none of all latents")
        total = z.new_zeros(len(z))
        for place, step in enumerate(self.steps):
            if step in ("tukey", "log1p"):
                total = total.masked_fill((z < 0).any(dim=1), -math.inf)
            total = total + self._log_jacobian(place, step, z)
            z = self._forward(place, step, z)
        return density.log_prob(z) + total

    def with_thresholds(self, density: FittedDensity, rng: torch.Generator) -> FittedTransforms:
        """For a hurdle: each coordinate's threshold below which the density puts the share of zeros that the rows had."""
        if self.support != "hurdle":
            return self
        drawn = self._back(density.sample(DRAWN, rng), rng).sort(dim=0).values
        zeros = self.numbers["zeros"]
        place = (zeros * DRAWN).round().long().clamp(max=DRAWN - 1)
        thresholds = drawn.gather(0, place[None])[0]
        thresholds = thresholds.masked_fill(zeros == 0, -math.inf).masked_fill(zeros == 1, math.inf)
        return FittedTransforms(self.steps, self.support, {**self.numbers, "thresholds": thresholds})

    def merge(self, other: FittedTransforms, mine: int, theirs: int) -> FittedTransforms:
        """Of the union of the rows, but for the thresholds, which follow from the merged density; only where there are no steps."""
        assert not self.steps
        if self.support == "hurdle":
            share = mine / (mine + theirs)
            zeros = share * self.numbers["zeros"] + (1 - share) * other.numbers["zeros"]
            return FittedTransforms((), "hurdle", {"zeros": zeros})
        support: Support = "nonnegative" if (self.support, other.support) == ("nonnegative", "nonnegative") else "real"
        return FittedTransforms((), support, {})

    def tensors(self) -> dict[str, Tensor]:
        return self.numbers

    def _back(self, u: Tensor, rng: torch.Generator | None, cut: bool = False) -> Tensor:
        """Mapped back through the steps. Without ``cut`` a root's inverse is odd, so that order is kept below 0 too."""
        for place in reversed(range(len(self.steps))):
            step = self.steps[place]
            u = u.clamp(min=0) if cut and step in ("tukey", "log1p") else u
            u = self._inverse(place, step, u, rng)
        return u

    # ------------------------------------------------------------------ single steps

    def _forward(self, place: int, step: Step, z: Tensor) -> Tensor:
        if step == "standardise":
            return (z - self.numbers[f"{place}.mean"]) / self.numbers[f"{place}.scale"]
        if step == "whiten":
            return (z - self.numbers[f"{place}.mean"]) @ self.numbers[f"{place}.inverse"]
        if step == "normalise":
            return _directions(z)
        return z.clamp(min=0).sqrt() if step == "tukey" else torch.log1p(z.clamp(min=0))

    def _inverse(self, place: int, step: Step, u: Tensor, rng: torch.Generator | None) -> Tensor:
        if step == "standardise":
            return u * self.numbers[f"{place}.scale"] + self.numbers[f"{place}.mean"]
        if step == "whiten":
            return u @ self.numbers[f"{place}.root"] + self.numbers[f"{place}.mean"]
        if step == "normalise":
            assert rng is not None
            noise = torch.randn(len(u), 1, generator=rng, device=u.device, dtype=u.dtype)
            return _directions(u) * (self.numbers[f"{place}.mean"] + noise * self.numbers[f"{place}.scale"]).exp()
        return u * u.abs() if step == "tukey" else torch.expm1(u.abs()).copysign(u)

    def _log_jacobian(self, place: int, step: Step, z: Tensor) -> Tensor:
        if step == "standardise":
            return -self.numbers[f"{place}.scale"].log().sum().expand(len(z))
        if step == "whiten":
            return torch.linalg.slogdet(self.numbers[f"{place}.inverse"].double()).logabsdet.to(z).expand(len(z))
        if step == "tukey":
            return -(2 * z.clamp(min=FLOOR).sqrt()).log().sum(dim=1)
        return -torch.log1p(z.clamp(min=0)).sum(dim=1)


def fit_transforms(steps: Sequence[Step], support: Support, z: Tensor) -> FittedTransforms:
    """To rows z (n, d). Raises DataError where a step or a support needs x >= 0 and the rows are not."""
    lowest = 0.0 if support == "real" else float(z.min())
    if support == "auto":
        support = "nonnegative" if lowest >= 0 else "real"
    elif support in ("nonnegative", "hurdle") and lowest < 0:
        raise DataError(
            f"support = {support!r}: the latents go down to {lowest:g}; use support = 'real' or cut after a ReLU"
        )
    numbers: dict[str, Tensor] = {"zeros": (z == 0).float().mean(dim=0)} if support == "hurdle" else {}
    for place, step in enumerate(steps):
        if step in ("tukey", "log1p") and float(z.min()) < 0:
            raise DataError(
                f"transforms: {step!r} needs latents >= 0, these go down to {float(z.min()):g}; cut after a ReLU"
            )
        numbers |= {f"{place}.{name}": value for name, value in _numbers(step, z).items()}
        z = FittedTransforms(steps, support, numbers)._forward(place, step, z)
    return FittedTransforms(steps, support, numbers)


def restore_transforms(steps: Sequence[Step], support: Support, numbers: dict[str, Tensor]) -> FittedTransforms:
    return FittedTransforms(steps, support, numbers)


def _directions(z: Tensor) -> Tensor:
    """(n, d) rows of length 1; 0 stays 0."""
    return z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp(min=SHORT)


def _numbers(step: Step, z: Tensor) -> dict[str, Tensor]:
    if step == "standardise":
        scale = z.std(dim=0, correction=0)
        return {"mean": z.mean(dim=0), "scale": scale.clamp(min=FLOOR * float(scale.mean()) or 1.0)}
    if step == "whiten":
        mean = z.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov((z - mean).T.double(), correction=0).reshape(z.shape[1], -1))
        scale = values.clamp(min=FLOOR * float(values.mean()) or 1.0).sqrt()
        inverse, root = vectors / scale, (vectors * scale).T
        return {"mean": mean, "inverse": inverse.to(z).contiguous(), "root": root.to(z).contiguous()}
    if step == "normalise":  # lengths are lognormal, of mean and deviation of their logarithms (1,)
        length = torch.linalg.vector_norm(z, dim=1)
        logs = length[length > SHORT].log() if bool((length > SHORT).any()) else length.new_full((1,), math.log(SHORT))
        return {"mean": logs.mean().reshape(1), "scale": logs.std(correction=0).reshape(1)}
    return {}
