"""What replay looked like while a task was learnt, and whether the solver still agrees with the scholar on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from reverie.seeding import Randomness
from reverie.types import Finding, Rows, Stream, StreamSpec, Task

ROWS = 1000  # replayed rows looked at
REFERENCE_ROWS = 2000  # real test rows that the reference classifier knows
PICTURES = 40


class ReplayQuality:
    """For learners with a scholar.

    kept: share of replayed rows that are rehearsed (all, but under labels = "agreement"); the rest is measured on these.
    histogram: share of each class among the labels of replay, (outputs,). label_agreement: share of replayed rows
    whose label is that of most of their 5 nearest real test images, a reference that no training touches (None where no
    earlier test set is at hand).
    solver_agreement: share on which the updated solver answers as the frozen one; a warning below ``threshold``.
    images: samples of the live generator, which the next task will rehearse.
    """

    name = "replay-quality"

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        spec = stream.spec
        seen = torch.tensor(spec.classes_until(task.index), device=rng.device)
        images = {}
        if len(spec.input_shape) == 3 and spec.input_shape[0] in (1, 3):
            draw = rng("pictures")
            classes = None
            if learner.model.conditional:
                classes = seen[torch.arange(PICTURES, device=rng.device) % len(seen)].sort().values
            images["generated samples"] = learner.model.sample(PICTURES, draw, classes).x.clamp(0, 1).cpu()
        if learner.scholar is None:
            return Finding(images=images)
        replay = learner.scholar.draw(ROWS, rng("replay"))
        kept = replay.weight > 0  # under labels = "agreement" the others are not rehearsed
        share = float(kept.float().mean())
        if share == 0:
            message = (
                f"task {task.name!r}: not one replayed row was kept, so nothing was rehearsed; try labels = 'solver'"
            )
            return Finding(numbers={"kept": 0.0}, images=images, warnings=(message,))
        replay = replace(replay, x=replay.x[kept], y=replay.y[kept])
        heads = old_heads(learner, spec, task.index)
        labels = replay.y[:, None] if replay.y.dtype == torch.int64 else answers(replay.y, heads)
        frozen = answers(learner.scholar.solver.scores(replay.x), heads)
        live = answers(learner.network.scores(replay.x), heads)
        agreement = float((frozen == live).float().mean())
        histogram = torch.bincount(labels.flatten(), minlength=spec.outputs).float() / labels.numel()
        return Finding(
            numbers={
                "kept": share,
                "solver_agreement": agreement,
                "label_agreement": self._label_agreement(replay.x, labels, stream, task),
                "histogram": [round(share, 4) for share in histogram.tolist()],
            },
            arrays={"histogram": histogram.cpu()},
            images=images,
            warnings=drift_warning(task, agreement, self.threshold, "replay"),
        )

    def _label_agreement(self, x: Tensor, labels: Tensor, stream: Stream, task: Task) -> float | None:
        past = [test for test in stream.tests if test.since < task.index]
        if not past:
            return None
        each = max(REFERENCE_ROWS // len(past), 1)
        real = [_spread(test.rows, each) for test in past]
        reference = KNeighborsClassifier(n_neighbors=min(5, sum(len(y) for _, y in real)))
        reference.fit(torch.cat([x for x, _ in real]).numpy(), torch.cat([y for _, y in real]).numpy())
        nearest = torch.from_numpy(reference.predict(x.flatten(1).cpu().numpy()))
        return float((labels.cpu() == nearest[:, None]).any(dim=1).float().mean())


def drift_warning(task: Task, agreement: float, threshold: float, rows: str) -> tuple[str, ...]:
    """A warning where the solver agrees with the one before on too little of the rows named."""
    if agreement >= threshold:
        return ()
    return (
        f"task {task.name!r}: the solver agrees with the one before on {agreement:.0%} of {rows}, below {threshold:.0%}; "
        "it may have forgotten: try more replay, a better generator or distillation",
    )


def old_heads(learner: Any, spec: StreamSpec, task: int) -> list[Tensor]:
    """Outputs taught before ``task``, in groups within which answers compete: a group a task, or all in one."""
    apart = spec.scenario == "task" or (spec.scenario == "class" and learner.active_classes == "current")
    groups = spec.task_classes[:task] if apart else (spec.classes_until(task - 1),)
    return [torch.tensor(group, device=learner.device.torch_device) for group in groups]


def answers(scores: Tensor, heads: list[Tensor]) -> Tensor:
    """(B, heads) the highest class of each head."""
    return torch.stack([head[scores[:, head].argmax(dim=1)] for head in heads], dim=1)


def _spread(rows: Rows, count: int) -> tuple[Tensor, Tensor]:
    """At most ``count`` rows, evenly spaced over all of them."""
    index = torch.linspace(0, len(rows) - 1, min(count, len(rows))).long()
    batch = rows.take(index)
    assert batch.y is not None
    return batch.x.flatten(1).cpu(), batch.y.cpu()
