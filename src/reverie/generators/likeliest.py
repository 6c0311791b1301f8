"""A choice among families: the one under which rows that it was not fitted to are likeliest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import OptionsError, Problems
from reverie.generators.family import Family, Fitted
from reverie.generators.gaussian import Gaussian
from reverie.generators.gmm import HELD_OUT, GaussianMixture
from reverie.types import Density, FittedDensity, State

FEWEST = 5  # rows of which a fifth can be held out


def _candidates() -> tuple[Density, ...]:
    families = (
        Gaussian(covariance="diagonal"),
        Gaussian(covariance="low-rank"),
        Gaussian(covariance="full"),
        GaussianMixture(covariance="diagonal"),
    )
    return cast(tuple[Density, ...], families)


@dataclass(eq=False, repr=False)
class Likeliest(Family):
    """For each fit the candidate with the largest mean log-likelihood of a fifth of the rows, once fitted to the others; then it is fitted to all
    of them. Of equals the first is taken, and of fewer than five rows the one with the fewest numbers, which are then not divided.

    Two fits of one candidate merge where its family merges; the choice stays. Fits of two candidates do not: both are kept.
    """

    candidates: Annotated[
        tuple[Density, ...],
        Field(description="families; diagonal, low-rank and full Gaussians and a mixture"),
    ] = field(default_factory=_candidates)
    fit_bytes: Annotated[
        int | None,
        Field(
            gt=0,
            description="bytes that one fit may take, 4 a number: candidates that need more are left out; None: no limit",
        ),
    ] = None

    def check(self, problems: Problems) -> None:
        problems.check(bool(self.candidates), "candidates = (): none to choose from; give some, or leave it out")
        for place, family in enumerate(self.candidates):
            problems.check(
                not family.pooled,
                f"candidates[{place}]: a covariance shared by all classes is no choice of one of them; use covariance = 'full'",
            )
            problems.check(
                family.has_density, f"candidates[{place}] = {family!r}: has no likelihood to be judged by; leave it out"
            )

    @property
    def stores_real_samples(self) -> bool:
        return any(family.stores_real_samples for family in self.candidates)

    def rows_needed(self, width: int) -> int:
        return max(family.rows_needed(width) for family in self.candidates)

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedLikeliest:
        """Raises OptionsError where no candidate fits into ``fit_bytes``."""
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        if len(z) < FEWEST:
            fits = self._fits(z, seed)
            place = min(fits, key=lambda place: _numbers(fits[place]))
            return FittedLikeliest(place, fits[place])
        order = torch.randperm(len(z), generator=rng, device=z.device)
        judged, rest = order.tensor_split([round(HELD_OUT * len(z))])
        scores = {place: _score(fit, z[judged]) for place, fit in self._fits(z[rest], seed).items()}
        place = max(scores, key=lambda place: scores[place])
        return FittedLikeliest(place, self._fit(place, z, seed))

    def restore(self, state: State) -> FittedLikeliest:
        place = state["candidate"]
        return FittedLikeliest(place, self.candidates[place].restore(state))

    def _fit(self, place: int, z: Tensor, seed: int) -> FittedDensity:
        """A function of rows and seed: what one candidate draws is nothing to another."""
        return self.candidates[place].fit(z, torch.Generator(z.device).manual_seed(seed))

    def check_width(self, width: int) -> None:
        needed = [family.numbers(width) for family in self.candidates]
        if all(numbers is not None and numbers > self._most for numbers in needed):
            raise self._too_small(width, [numbers for numbers in needed if numbers is not None])

    @property
    def _most(self) -> float:
        """Numbers that a fit may have."""
        return math.inf if self.fit_bytes is None else self.fit_bytes // 4

    def _fits(self, z: Tensor, seed: int) -> dict[int, FittedDensity]:
        """Of the candidates that may take the bytes, by their place."""
        needed = [family.numbers(z.shape[1]) for family in self.candidates]
        fits = {
            place: self._fit(place, z, seed)
            for place, numbers in enumerate(needed)
            if numbers is None or numbers <= self._most
        }
        found = {place: fit for place, fit in fits.items() if _numbers(fit) <= self._most}
        if not found:
            known = [numbers for numbers in needed if numbers is not None]
            raise self._too_small(z.shape[1], known + [_numbers(fit) for fit in fits.values()])
        return found

    def _too_small(self, width: int, needed: list[int]) -> OptionsError:
        return OptionsError(
            f"fit_bytes = {self.fit_bytes}: the smallest of the candidates needs {4 * min(needed):,} bytes for rows of {width:,} numbers; raise "
            "it, or add a smaller candidate, such as name = 'gaussian', covariance = 'isotropic'"
        )


class FittedLikeliest(Fitted):
    """The fit of one of the candidates. Immutable."""

    def __init__(self, candidate: int, density: FittedDensity) -> None:
        self.count, self.candidate, self.density = density.count, candidate, density

    @property
    def width(self) -> int:
        return cast(Fitted, self.density).width

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        return self.density.sample(n, rng)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.density.log_prob(z)

    def union(self, other: Fitted) -> FittedDensity | None:
        if not isinstance(other, FittedLikeliest) or self.candidate != other.candidate:
            return None
        density = self.density.merge(other.density)
        return None if density is None else FittedLikeliest(self.candidate, density)

    def tensors(self) -> dict[str, Tensor]:
        return self.density.tensors()

    def settings(self) -> State:
        return {**self.density.settings(), "candidate": self.candidate}


def _numbers(fit: FittedDensity) -> int:
    return sum(tensor.numel() for tensor in fit.tensors().values())


def _score(fit: FittedDensity, z: Tensor) -> float:
    """Mean log-likelihood; -inf where there is none, as of a copula of latents that are often 0."""
    try:
        score = float(fit.log_prob(z).double().mean())
    except NotImplementedError:
        return -torch.inf
    return score if score == score else -torch.inf
