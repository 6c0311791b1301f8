"""Agreement of a solver with the one before it: all of the rows, none of them, and the warning in between."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from reverie.probes.solver_agreement import SolverAgreement
from reverie.seeding import Randomness
from tests.tiny import tiny_stream


def learner(change: float) -> SimpleNamespace:
    """A former solver that always answers 0, and a live one that answers 1 on that share of rows."""
    first = torch.tensor([1.0, 0.0, 0, 0, 0, 0])

    def live(x: torch.Tensor) -> torch.Tensor:
        scores = first.repeat(len(x), 1)
        scores[: round(change * len(x)), 1] = 2.0
        return scores

    return SimpleNamespace(
        past=SimpleNamespace(scores=lambda x: first.repeat(len(x), 1)),
        network=SimpleNamespace(scores=live),
        active_classes="all",
        device=SimpleNamespace(torch_device=torch.device("cpu")),
    )


@pytest.mark.parametrize(("change", "warns"), [(0.0, False), (0.1, False), (0.5, True), (1.0, True)])
def test_it_is_the_share_of_rows_answered_alike(change: float, warns: bool) -> None:
    stream = tiny_stream()
    finding = SolverAgreement()(learner(change), stream, stream[1], Randomness(0))
    assert finding.numbers["solver_agreement"] == pytest.approx(1 - change, abs=0.03)
    assert bool(finding.warnings) == warns
    if warns:
        assert "of current rows, below 80%" in finding.warnings[0]


def test_there_is_nothing_to_agree_with_in_the_first_task() -> None:
    stream = tiny_stream()
    assert not SolverAgreement()(SimpleNamespace(past=None), stream, stream[0], Randomness(0)).numbers
