"""Replay from a scholar: a frozen generator and the frozen solver that labels its samples (Shin et al. 2017, arXiv 1705.08690)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from reverie.checks import NotReadyError
from reverie.replay.selection import SCORED, Selection, certainty, class_medians
from reverie.seeding import Randomness
from reverie.types import Batch, Generator, Solver, State

LabelSource = Literal["solver", "condition", "agreement"]
Targets = Callable[[Tensor], Tensor]

LABEL_ROWS = 8192  # rows labelled at a time: large products, bounded memory
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
    sliced; the draws are those of the position of the chunk's first step, whatever was drawn before.
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

    def sample(self, n: int, current: Batch | None = None) -> Batch:
        """The n replayed rows of the step that training stands at; with a pool, drawn from rows that are generated once a phase."""
        if self.pool is not None:
            return self._from_pool(n, self.pool)
        here, chunk = self.rng.position, steps_a_chunk(self.chunk, n * self.candidates)
        first = here.step - here.step % chunk
        key = (here.task, here.phase, first, n)
        if self._drawn is None or self._drawn[0] != key:
            drawn = self.draw(n * chunk, self.rng.at("replay", here.task, here.phase, first))
            self._drawn = (key, drawn)
        start = (here.step - first) * n
        return _taken(self._drawn[1], slice(start, start + n))

    def _from_pool(self, n: int, pool: int) -> Batch:
        key = (self.rng.position.task, self.rng.position.phase, -1, pool)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = (key, self.draw(pool, self.rng.at("replay pool", *key[:2])))
        rows = self._drawn[1]
        index = torch.randint(pool, (n,), generator=self.rng("pool draw"), device=rows.x.device)
        return _taken(rows, index)

    def draw(self, n: int, rng: torch.Generator) -> Batch:
        """n freshly generated, labelled rows of equal weight; under "agreement" rows that disagree weigh nothing.

        With a selection each row is the best of several candidates of its class, so that the classes keep their shares.
        """
        if self._labelling is None:
            raise NotReadyError("the scholar was not told how to label its replay; call begin_task first")
        rule, each = self._labelling, self.candidates
        classes = None
        if self.generator.conditional:
            pick = torch.randint(len(rule.seen), (n,), generator=rng, device=rule.seen.device)
            classes = rule.seen[pick].repeat_interleave(each)
        rows = self.generator.sample(n * each, rng, classes)
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
        merit = self._merit(rows, scores, rule)
        best = merit.reshape(n, each).argmax(dim=1) + each * torch.arange(n, device=merit.device)
        return _taken(rows, best)

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
