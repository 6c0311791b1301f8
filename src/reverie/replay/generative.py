"""Replay from a scholar: a frozen generator and the frozen solver that labels its samples (Shin et al. 2017, arXiv 1705.08690)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from reverie.checks import NotReadyError
from reverie.replay.selection import (
    LABEL_ROWS,
    SCORED,
    Selection,
    certainty,
    class_medians,
    interference,
    k_centre,
    unit_features,
)
from reverie.seeding import Randomness
from reverie.types import Batch, Generator, Solver, State

LabelSource = Literal["solver", "condition", "agreement"]
Targets = Callable[[Tensor], Tensor]

DRAWN_ROWS = 16384  # rows generated in one pass at most, however many a step asks for


def steps_a_chunk(chunk: int, n: int) -> int:
    """Steps whose replay, n rows each, is generated in one pass.

    >>> steps_a_chunk(25, 128), steps_a_chunk(25, 4096)
    (25, 4)
    """
    return max(min(chunk, DRAWN_ROWS // n), 1)


@dataclass(frozen=True)
class Labelling:
    """How replay of one task is labelled. seen: (classes,) indices taught so far, which a conditional generator is asked for;
    rivals: (outputs, outputs) bool, row c the outputs that compete with class c for its rows; targets: from the frozen solver's
    scores (B, outputs) to int64 indices or soft scores; temperature: of soft targets, else None."""

    source: LabelSource
    seen: Tensor
    targets: Targets
    temperature: float | None = None
    rivals: Tensor | None = None


class Scholar:
    """A frozen solver and generator of the past, and the replay they give.

    The two never change while a task is learnt, so replay for ``chunk`` steps is generated and labelled in one pass and then
    sliced; the draws are those of the position of the chunk's first step, whatever was drawn before. The same holds for selections
    that look at nothing else. "interference" looks at the live solver and the current rows, so it is made step by step; what is
    drawn for many steps are its candidates.
    """

    def __init__(
        self,
        solver: Solver,
        generator: Generator,
        rng: Randomness,
        chunk: int,
        pool: int | None = None,
        selection: Selection = "none",
        candidates: int = 1,
    ) -> None:
        self.solver, self.generator = solver.frozen(), generator.frozen()
        self.rng, self.chunk, self.pool = rng, chunk, pool
        self.selection, self.candidates = selection, candidates if selection != "none" else 1
        self._labelling: Labelling | None = None
        self._drawn: tuple[tuple[int, ...], Batch] | None = None

    def begin_task(self, labelling: Labelling) -> None:
        self._labelling = labelling
        self._drawn = None

    def sample(
        self,
        n: int,
        current: Batch | None = None,
        solver: Solver | None = None,
        learning_rate: float = 0.0,
        epoch: int = 0,
    ) -> Batch:
        """The n replayed rows of the step that training stands at.

        current, solver, learning_rate: what the live solver learns next, and how fast; "interference" alone looks at them. epoch: with
        a pool, which one of the phase the rows are drawn from.
        """
        if self.selection != "interference":
            return self._offered(n, epoch)
        if current is None or solver is None:
            raise ValueError("selection = 'interference' needs the current rows and the live solver")
        offered = self._offered(n * self.candidates, epoch)
        growth = interference(offered, current, solver, learning_rate).masked_fill(offered.weight == 0, float("-inf"))
        return _taken(offered, growth.topk(n).indices)

    @property
    def each(self) -> int:
        """Rows generated for each that ``draw`` gives."""
        return 1 if self.selection == "interference" else self.candidates

    def _offered(self, n: int, epoch: int) -> Batch:
        if self.pool is not None:
            return self._from_pool(n, self.pool, epoch)
        here, chunk = self.rng.position, steps_a_chunk(self.chunk, n * self.each)
        first = here.step - here.step % chunk
        key = (here.task, here.phase, first, n)
        if self._drawn is None or self._drawn[0] != key:
            drawn = self.draw(n, self.rng.at("replay", here.task, here.phase, first), chunk)
            self._drawn = (key, drawn)
        start = (here.step - first) * n
        return _taken(self._drawn[1], slice(start, start + n))

    def _from_pool(self, n: int, pool: int, epoch: int) -> Batch:
        here = self.rng.position
        key = (here.task, here.phase, epoch)
        if self._drawn is None or self._drawn[0] != key:
            where = key if epoch else key[:2]  # a pool that lasts the task is that of its first epoch
            self._drawn = (key, self.draw(pool, self.rng.at("replay pool", *where)))
        rows = self._drawn[1]
        index = torch.randint(pool, (n,), generator=self.rng("pool draw"), device=rows.x.device)
        return _taken(rows, index)

    def draw(self, n: int, rng: torch.Generator, steps: int = 1) -> Batch:
        """n freshly generated, labelled rows for each of the steps, of equal weight; under "agreement" rows that disagree weigh nothing.

        With a selection by merit each row is the best of several candidates of its class, so that the classes keep their shares. With
        "diversity" the rows of a step are chosen among all its candidates, with "interference" not yet.
        """
        if self._labelling is None:
            raise NotReadyError("the scholar was not told how to label its replay; call begin_task first")
        rule, each, total = self._labelling, self.each, n * steps
        classes = None
        if self.generator.conditional:
            classes = rule.seen[self._picked(rule.seen, total, rng)].repeat_interleave(each)
        rows = self.generator.sample(total * each, rng, classes)
        if self.generator.conditional:
            rows = replace(rows, asked=classes)
        scores = None
        if rule.source != "condition" or self.selection in SCORED:
            with torch.no_grad():
                scores = torch.cat([self.solver.scores(part) for part in rows.x.split(LABEL_ROWS)])
        if rule.source != "condition":
            assert scores is not None
            temperature = None if rule.temperature is None else torch.full_like(rows.weight, rule.temperature)
            rows = replace(rows, y=rule.targets(scores), temperature=temperature)
        if rule.source == "agreement":
            assert rule.rivals is not None
            assert classes is not None
            assert scores is not None
            answers = scores.masked_fill(~rule.rivals[classes], float("-inf")).argmax(dim=1)
            rows = replace(rows, weight=rows.weight * (answers == classes))
        if each == 1:
            return rows
        if self.selection == "diversity":
            return _taken(rows, self._diverse(rows, n))
        merit = self._merit(rows, scores, rule)
        best = merit.reshape(total, each).argmax(dim=1) + each * torch.arange(total, device=merit.device)
        return _taken(rows, best)

    def _picked(self, seen: Tensor, total: int, rng: torch.Generator) -> Tensor:
        """Which of the classes seen are asked for: all alike often, but where the generator says otherwise."""
        weights_of = getattr(self.generator, "class_weights", None)
        weights = None if weights_of is None else weights_of(seen)
        if weights is None:
            return torch.randint(len(seen), (total,), generator=rng, device=seen.device)
        return torch.multinomial(weights.to(seen.device), total, replacement=True, generator=rng)

    def _diverse(self, rows: Batch, n: int) -> Tensor:
        """Of each step's candidates the n that cover their features in the frozen solver best; rows that weigh nothing come last."""
        chosen = []
        for places in torch.arange(len(rows), device=rows.x.device).split(n * self.each):
            features = unit_features(self.solver, rows.x[places])
            chosen.append(places[k_centre(features, n, last=rows.weight[places] == 0)])
        return torch.cat(chosen)

    def _merit(self, rows: Batch, scores: Tensor | None, rule: Labelling) -> Tensor:
        """(B,) what the selection prefers; rows that weigh nothing come last."""
        if self.selection == "likelihood":
            log_prob = cast(Any, self.generator).log_prob(rows.x, rows.asked)
            typical = class_medians(log_prob, rows.asked)
            merit = -(log_prob - typical).abs()
        else:
            assert scores is not None
            merit = certainty(scores[:, rule.seen], self.selection)
        return merit.masked_fill(rows.weight == 0, float("-inf"))

    def num_bytes(self) -> int:
        return self.solver.num_bytes() + self.generator.num_bytes()

    def state(self) -> State:
        return {"solver": self.solver.state(), "generator": self.generator.state()}

    def load(self, state: State) -> None:
        self.solver.load(state["solver"])
        self.generator.load(state["generator"])
        self._drawn = None


def _taken(batch: Batch, which: slice | Tensor) -> Batch:
    """Some of the rows, their weights brought to sum 1 (all 0 where every row weighs nothing)."""
    weight = batch.weight[which]
    return replace(
        batch,
        x=batch.x[which],
        y=None if batch.y is None else batch.y[which],
        task=batch.task[which],
        asked=None if batch.asked is None else batch.asked[which],
        weight=weight / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny),
        temperature=None if batch.temperature is None else batch.temperature[which],
    )
