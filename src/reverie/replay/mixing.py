"""New and replayed rows as one weighted batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from reverie.checks import OptionsError
from reverie.types import Batch

MOST_ROWS = 1 << 17

Importance = Annotated[
    Literal["by-task", "by-count"] | Annotated[float, Field(gt=0, le=1)],
    Field(
        description="weight r of the new rows in the loss: by-task (1/t), by-count (new rows / all rows so far), or a constant"
    ),
]
ReplaySize = Annotated[
    Annotated[int, Field(gt=0)] | Literal["linear", "doubling"] | None,
    Field(
        description="replayed rows a step: a number, linear (batch * past tasks), doubling (batch * 2^(past tasks - 1)); None: the batch size"
    ),
]


def importance(rule: Importance, task: int, rows_now: int, rows_before: int) -> float:
    """r for the task with 0-based index ``task``; 1 for the first.

    >>> importance("by-task", 3, 100, 300)
    0.25
    """
    if task == 0:
        return 1.0
    if rule == "by-task":
        return 1 / (task + 1)
    if rule == "by-count":
        return rows_now / (rows_now + rows_before)
    return float(rule)


def replay_rows(rule: ReplaySize, batch_size: int, past_tasks: int) -> int:
    """Replayed rows a step. Independent of r, which weighs them.

    >>> [replay_rows("doubling", 32, past) for past in (1, 2, 3)]
    [32, 64, 128]
    """
    if rule is None:
        return batch_size
    if rule == "linear":
        return batch_size * past_tasks
    if rule == "doubling":
        return batch_size * 2 ** (past_tasks - 1)
    return rule


def check_replay_rows(rule: ReplaySize, batch_size: int, tasks: int) -> None:
    """Raises OptionsError where the last task would replay more rows a step than memory is likely to hold."""
    most = replay_rows(rule, batch_size, tasks - 1) if tasks > 1 else 0
    if most > MOST_ROWS:
        raise OptionsError(
            f"replay_size = {rule!r}: {most:,} rows a step in task {tasks}, more than {MOST_ROWS:,}; use 'linear' or a number"
        )


def mix(new: Batch, past: Batch, r: float, outputs: int) -> Batch:
    """One batch whose weighted loss is r * loss(new) + (1 - r) * loss(past), and whose gradient is therefore theirs.

    Class indices become one-hot rows where the other side has soft scores.
    """
    if new.level != past.level:
        raise ValueError(f"cannot mix rows at level {new.level!r} with rows at level {past.level!r}")
    temperature = None
    if new.temperature is not None or past.temperature is not None:
        temperature = torch.cat([_temperature(new), _temperature(past)])
    return replace(
        new,
        x=torch.cat([new.x, past.x]),
        y=_joined_targets(new.y, past.y, outputs),
        task=torch.cat([new.task, past.task]),
        weight=torch.cat([r * new.weight, (1 - r) * past.weight]),
        temperature=temperature,
    )


def _temperature(batch: Batch) -> Tensor:
    return torch.ones_like(batch.weight) if batch.temperature is None else batch.temperature


def _joined_targets(new: Tensor | None, past: Tensor | None, outputs: int) -> Tensor | None:
    if new is None or past is None:
        return None
    if new.dtype == past.dtype:
        return torch.cat([new, past])
    soft = [functional.one_hot(y, outputs).float() if y.dtype == torch.int64 else y for y in (new, past)]
    return torch.cat(soft)
