"""Posterior meta-replay: one hypernetwork makes, for each task, a posterior over the weights of the network that answers; what is rehearsed
is the hypernetwork's own output (Henning, Cervera et al. 2021, arXiv 2103.01133)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from reverie.checks import Problems
from reverie.learners.posteriors import PosteriorLearner
from reverie.nn.hypernetworks import Chunked, Hypernet, HypernetworkOptions, Separate
from reverie.posteriors import MeanField
from reverie.posteriors.divergences import gaussian_kl, gaussian_wasserstein
from reverie.seeding import generator

Divergence = Literal["squared", "forward-kl", "reverse-kl", "wasserstein"]


@dataclass(eq=False, repr=False)
class PosteriorReplay(PosteriorLearner):
    """On task t: N * E_q[cross-entropy] + kl_weight * KL(q_t || N(0, prior_variance)) + strength * R (section 2 of the paper).

    N: rows of the task. q_t: the posterior that the hypernetwork makes from the embedding of task t. R: how far the posteriors of earlier
    tasks have moved from what they were when the task began, by ``divergence``, a mean over the tasks ("published": divided twice, as
    their code for classification does, which its strengths belong to). Embeddings of earlier tasks stay trainable.

    Without the task, ``predict`` asks the posteriors of all tasks and believes the one that ``criterion`` prefers. The optimiser of the
    solver trains the hypernetwork, anew each task. With a point for a posterior and kl_weight = 0 this is continual learning with
    hypernetworks (von Oswald et al. 2020, arXiv 1906.00695).
    """

    hypernetwork: Annotated[
        HypernetworkOptions | None, Field(description="what makes the posteriors; None: the stream's, or chunked")
    ] = None
    strength: Annotated[
        float | None,
        Field(ge=0, description="beta: weight of the regulariser; 0: nothing is rehearsed; None: the stream's, or 10"),
    ] = None
    divergence: Annotated[
        Divergence,
        Field(
            description="squared: distance of the hypernetwork's outputs; between Gaussians also forward-kl (old to new), reverse-kl, wasserstein"
        ),
    ] = "squared"
    normalise: Annotated[
        Literal["mean", "published"],
        Field(description="the regulariser is a mean over tasks; or divided by their number once more (not squared)"),
    ] = "mean"
    old_tasks: Annotated[
        int | None, Field(gt=0, description="earlier tasks that a step rehearses, drawn anew each step; None: all")
    ] = None
    targets: Annotated[
        Literal["stored", "recomputed"],
        Field(
            description="outputs to be kept: stored while a task is learnt, or recomputed at each step from the old hypernetwork"
        ),
    ] = "stored"
    mask_heads: Annotated[bool, Field(description="squared: outputs that belong to other tasks are free")] = True

    def recommended(self, values: Mapping[str, Any], option: str | None = None) -> Mapping[str, Any]:
        mine = super().recommended(values, option)
        if isinstance(self.hypernetwork, Separate):
            return {name: value for name, value in mine.items() if name != "strength"}  # which it has no use for
        return mine

    def check(self, problems: Problems) -> None:
        super().check(problems)
        problems.check(
            not self.strength or not isinstance(self.hypernetwork, Separate),
            f"strength = {self.strength}: with hypernetwork = 'separate' no posterior ever moves; leave it out",
        )
        problems.check(
            self.divergence == "squared" or isinstance(self.posterior, MeanField),
            f"divergence = {self.divergence!r}: between Gaussians alone; use posterior = 'gaussian' or divergence = 'squared'",
        )
        problems.check(
            self.divergence != "squared" or self.normalise == "mean",
            "normalise = 'published': concerns the divergences between Gaussians; leave it out, or set divergence",
        )
        problems.check(
            self.divergence == "squared" or self.mask_heads,
            f"mask_heads = False: divergence = {self.divergence!r} counts all outputs anyway; leave it out, or use divergence = 'squared'",
        )
        for name, usual in (("old_tasks", None), ("targets", "stored")):
            value = getattr(self, name)
            problems.check(
                self.strength != 0 or value == usual,
                f"{name} = {value!r}: with strength = 0 nothing is rehearsed; leave it out, or set strength",
            )

    def meta(self) -> HypernetworkOptions:
        return self.hypernetwork or Chunked()

    @property
    def beta(self) -> float:
        return 10.0 if self.strength is None else self.strength

    def _enter(self, task: int) -> None:
        super()._enter(task)
        self._old: tuple[Tensor, ...] = ()
        masks = [self.posterior.theta_mask(self.model.layout, self.outputs_of(old)) for old in range(task)]
        if masks:  # (K, numel), at what the model of an earlier task uses
            self._masks = torch.stack(masks).to(self.device.torch_device)

    def keep(self) -> None:
        """What is made for the tasks before this one, or the hypernetwork that makes it."""
        if self.task < 1 or self.beta == 0:
            return
        if self.targets == "recomputed":
            self.model.kept = cast(Hypernet, self.model.network.frozen().module)
        else:
            with torch.no_grad():
                # The same product as in a step, of one task more: what has not moved is then exactly 0 away, and not a rounding
                # error that Adam makes a whole step of.
                self.model.kept = self.model.hypernet([self.task, *range(self.task)])[1:].clone()

    def rehearsed(self) -> Sequence[int]:
        if self.task < 1 or self.beta == 0:
            return ()
        if self.old_tasks is None or self.old_tasks >= self.task:
            return range(self.task)
        drawn = torch.randperm(self.task, generator=generator(self.rng.seed, "old tasks", self.rng.position))
        return sorted(drawn[: self.old_tasks].tolist())

    def regulariser(self, made: Tensor, tasks: Sequence[int]) -> Tensor:
        old, new = self._targets(tasks), self._described(made)
        if self.divergence == "squared":
            (theta,), (target,) = new, old
            if self.mask_heads:
                masks = self._masks if len(tasks) == len(self._masks) else self._masks[list(tasks)]
                target = torch.where(masks[:, None], target, theta.detach())
            return self.beta * mse_loss(theta, target, reduction="sum") / len(tasks)
        if self.divergence == "forward-kl":
            each = gaussian_kl(*old, *new)
        elif self.divergence == "reverse-kl":
            each = gaussian_kl(*new, *old)
        else:
            each = gaussian_wasserstein(*new, *old)
        return self.beta * each.mean() / (self.task if self.normalise == "published" else 1)

    def _described(self, theta: Tensor) -> tuple[Tensor, ...]:
        """What the divergence is computed from, of posteriors (K, parts, numel)."""
        if self.divergence == "squared":
            return (theta,)
        posterior = cast(MeanField, self.posterior)
        return posterior.deviations(theta) if self.divergence == "wasserstein" else posterior.moments(theta)

    def _targets(self, tasks: Sequence[int]) -> tuple[Tensor, ...]:
        """``_described`` of these tasks when this one began; of what is stored, computed once a task."""
        kept = self.model.kept
        assert kept is not None
        with torch.no_grad():
            if not isinstance(kept, Tensor):
                return self._described(cast(Tensor, kept([self.task, *tasks])[1:]))
            if not self._old:
                self._old = self._described(kept)
        parts = self._old
        return parts if len(tasks) == len(kept) else tuple(part[list(tasks)] for part in parts)
