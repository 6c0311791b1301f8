"""What an adversarial autoencoder generates, and how it reconstructs test images of every domain so far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reverie import dreams
from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.seeding import Randomness
from reverie.types import Finding, Stream, Task, TestSet

COLUMNS = 10  # of a saved grid
MOST_ROWS = 40  # of the grid of samples
MEASURED = 200  # test images of a domain that numbers are measured on
LOST = 200  # steps of a task after which a critic that scores samples above real images has lost


class Dreams:
    """For learners with an ``AdversarialAutoencoder``, ``model``. Nothing in it changes from task to task but the model, so that pictures compare.

    images: samples, a row of 10 a class, domain after domain (at most 40 rows, evenly spread); reconstructions of 10 test images of every
    domain seen, each row below that of the real ones. arrays, of domain K: ``real_K`` and ``reconstructed_K`` (10, *shape), the classes
    ``classes_K`` (10,). numbers: ``active_units`` and ``critic_gap``, see ``dreams.Health``, of test images of all domains seen; a warning
    where the critic has lost after a task of 200 steps or more.
    """

    name = "dreams"

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        model: AdversarialAutoencoder = learner.model
        arrays: dict[str, Tensor] = {}
        rows: list[Tensor] = []
        measured: list[Tensor] = []
        for test in stream.tests:
            if test.since > task.index:
                continue
            real, classes = fixed_rows(test)
            reconstructed = dreams.reconstruct(model, real).images
            found = {"real": real, "reconstructed": reconstructed, "classes": classes}
            arrays |= {f"{name}_{test.head}": array for name, array in found.items()}
            rows += [_padded(real), _padded(reconstructed)]
            index = dreams.balanced(test.rows.labels, MEASURED, "health", test.head)
            measured.append(test.rows.take(index).x.cpu())
        images = {}
        if stream.spec.input_shape[0] in (1, 3):
            images = {"generated samples": _samples(model, rng.seed), "reconstructions": torch.cat(rows)}
        health = dreams.health(model, torch.cat(measured), seed=rng.seed)
        lost = _lost(task, health.critic_gap, learner.rng.position.step + 1)
        return Finding(numbers=vars(health), arrays=arrays, images=images, warnings=lost)


def _lost(task: Task, gap: float, steps: int) -> tuple[str, ...]:
    """A warning where the critic no longer leads the generator; a few steps are no sign of it."""
    if gap >= 0 or steps < LOST:
        return ()
    return (
        f"task {task.name!r}: the critic of the autoencoder scores samples above real images (by {-gap:.3g}), so it no longer leads the generator; "
        "try more critic_steps, or a smaller learning rate of generator_optimiser",
    )


def fixed_rows(test: TestSet) -> tuple[Tensor, Tensor]:
    """At most 10 images (n, *shape) of a test set whose classes take turns, and these classes (n,); always the same."""
    index = dreams.balanced(test.rows.labels, COLUMNS, "dreams", test.head)
    return test.rows.take(index).x.cpu(), test.rows.labels[index]


def _samples(model: AdversarialAutoencoder, seed: int) -> Tensor:
    cells = [(d, c) for d in dreams.learnt_domains(model) for c in dreams.learnt_classes(model, [d])]
    shown = torch.linspace(0, len(cells) - 1, min(MOST_ROWS, len(cells))).long().tolist()
    rows = [dreams.generate(model, [cells[k][1]], [cells[k][0]], COLUMNS, seed=seed)[0, 0] for k in shown]
    return torch.cat(rows)


def _padded(images: Tensor) -> Tensor:
    """A whole row of the grid, white where images are missing."""
    return torch.cat([images, images.new_ones(COLUMNS - len(images), *images.shape[1:])])
