"""Inputs of two numbers can be drawn: what the model of each task says everywhere around the test rows, and what would be best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from reverie.seeding import Randomness
from reverie.types import Finding, Stream, Task, TestSet

SIDE = 80  # points of the grid on each axis
MARGIN = 0.25  # of the longer side of the test rows' box, on each of its sides
DRAWS = 3  # single weight samples
PICTURED = 60  # test rows of each test set


class Plane:
    """For classifiers of two numbers with a model a task, whose predictions hold ``by_task``; of others it finds nothing.
    With draws > 0 the learner has posteriors over weights: ``model``, ``posterior``, ``outputs_of``.

    arrays, over a grid of G x G points around the test rows of the whole stream, [row, column] = [second, first input] and T models:
    first, second: (G,) the inputs. entropy: (T, G, G) of the mean predictions, as a share of the largest possible. classes: (T, G, G) the
    answer of each model. samples: (draws, T, G, G) the answers of single weight samples, with the same noise for every model; missing where
    draws = 0. answer: (G, G) where the model is inferred. bayes: (G, G) the best answer, each class of each test set taught so far being as
    frequent: of the Gaussians that a stream is drawn from (``modes``), else of those with the means and covariances of the test rows. x, y,
    task: (M, 2), (M,), (M,) some of those rows, their classes, and the tasks that teach them.
    """

    name = "plane"

    def __init__(self, draws: int = DRAWS) -> None:
        self.draws = draws

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        everything = torch.cat([_rows(test)[0] for test in stream.tests])
        first, second = _axes(everything)
        points = torch.stack(torch.meshgrid(first, second, indexing="xy"), dim=2).view(-1, 2)
        seen = [test for test in stream.tests if test.since <= task.index]
        with torch.no_grad():
            x = points.to(rng.device)
            said = learner.predict(x)
            if said.by_task is None:
                return Finding()
            samples = _samples(learner, x, said.by_task.shape[1], self.draws, rng)
        maps = {
            "entropy": _entropies(said.by_task).T,
            "classes": said.by_task.argmax(dim=2).T,
            "answer": said.scores.argmax(dim=1),
            "bayes": _best(points, stream, task),
            **samples,
        }
        return Finding(
            arrays={
                "first": first,
                "second": second,
                **{name: values.reshape(*values.shape[:-1], SIDE, SIDE).cpu() for name, values in maps.items()},
                **_pictured(seen),
            }
        )


def _rows(test: TestSet) -> tuple[Tensor, Tensor]:
    batch = test.rows.take(torch.arange(len(test.rows)))
    assert batch.y is not None
    return batch.x.cpu(), batch.y.cpu()


def _axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The grid's coordinates, (G,) each, as far apart on both axes."""
    low, high = x.amin(dim=0), x.amax(dim=0)
    half = (0.5 + MARGIN) * float((high - low).max()) or 1.0
    return tuple(torch.linspace(float(c) - half, float(c) + half, SIDE) for c in (low + high) / 2)  # type: ignore[return-value]


def _samples(learner: Any, x: Tensor, models: int, draws: int, rng: Randomness) -> dict[str, Tensor]:
    if draws == 0:
        return {}
    model = learner.model
    noise = learner.posterior.noise(draws, model.layout, rng("weights"))
    answers = []
    for task, theta in enumerate(model.hypernet(range(models))):
        outputs = torch.tensor(list(learner.outputs_of(task)), device=x.device)
        scores = model.ensemble(learner.posterior.sample(theta, model.layout, noise), x, model.statistics[task])
        answers.append(outputs[scores[..., outputs].argmax(dim=2)])
    return {"samples": torch.stack(answers, dim=1)}


def _entropies(by_task: Tensor) -> Tensor:
    """(P, T) of models' logarithms of probabilities (P, T, outputs), -inf at outputs that a model has not, as shares of the largest possible."""
    p = by_task.double().exp()
    outputs = by_task.isfinite().any(dim=0).sum(dim=1)  # of each model
    return (torch.special.entr(p).sum(dim=2) / outputs.clamp(min=2).log()).float()


def _best(points: Tensor, stream: Stream, task: Task) -> Tensor:
    """(P,) classes of the largest density after a task, summed over the Gaussians of a class."""
    modes = getattr(stream, "modes", None)  # streams of the user's own data have none
    densities: dict[int, list[Tensor]] = {}
    for number, test in enumerate(stream.tests):
        if test.since > task.index:
            continue
        x, y = _rows(test)
        for c in y.unique().tolist():
            if modes is None:
                found = _log_density(points, x[y == c])
            else:  # all of one deviation: what does not depend on the point is the same everywhere
                away = (points - modes.centres[number, test.classes.index(c)]).double()
                found = -away.square().sum(dim=1) / (2 * modes.deviation**2)
            densities.setdefault(c, []).append(found)
    classes = torch.tensor(sorted(densities))
    logs = torch.stack([torch.stack(densities[c]).logsumexp(dim=0) for c in classes.tolist()])
    return classes[logs.argmax(dim=0)]


def _log_density(points: Tensor, x: Tensor) -> Tensor:
    """(P,) of the Gaussian with the moments of rows (n, 2)."""
    x, points = x.double(), points.double()
    centred = x - x.mean(dim=0)
    covariance = centred.T @ centred / len(x)
    # Rows on a line, or a single one, still have a density.
    covariance += (1e-6 * covariance.trace() + 1e-12) * torch.eye(2, dtype=torch.float64)
    fitted = torch.distributions.MultivariateNormal(x.mean(dim=0), covariance)
    return cast(Tensor, fitted.log_prob(points))


def _pictured(tests: Sequence[TestSet]) -> dict[str, Tensor]:
    parts = []
    for test in tests:
        x, y = _rows(test)
        some = torch.linspace(0, len(x) - 1, min(PICTURED, len(x))).long()
        parts.append((x[some], y[some], torch.full((len(some),), test.since)))
    return dict(zip(("x", "y", "task"), (torch.cat(part) for part in zip(*parts, strict=True)), strict=True))
