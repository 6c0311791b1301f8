"""The criteria against loops that are slow and plain, the tables of sure models, decisions for many rows at once, and how good they are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, roc_auc_score
from torch import Tensor

from reverie.metrics import auroc, expected_calibration_error, task_confusion
from reverie.metrics.task_inference import CRITERIA, agreement, confidence, entropy, entropy_gradient, in_batches

sizes = st.tuples(st.integers(1, 4), st.integers(2, 5), st.integers(1, 5), st.integers(2, 6))


def predictions(T: int, V: int, B: int, C: int, sharpness: float = 2.0, seed: int = 0) -> Tensor:
    logits = torch.randn(T, V, B, C, generator=torch.Generator().manual_seed(seed))
    return torch.softmax(sharpness * logits, dim=-1)


def by_loop(name: str, probabilities: Tensor) -> list[list[float]]:
    """scores[b][t]."""
    T, V, B, C = probabilities.shape
    p = probabilities.tolist()
    scores = [[0.0] * T for _ in range(B)]
    for b in range(B):
        for t in range(T):
            means = [math.fsum(p[t][v][b][c] for v in range(V)) / V for c in range(C)]
            if name == "entropy":
                scores[b][t] = math.fsum(m * math.log(m) for m in means if m > 0) / math.log(C)
            elif name == "confidence":
                scores[b][t] = max(means)
            else:
                squares = [math.fsum((p[t][v][b][c] - means[c]) ** 2 for v in range(V)) / V for c in range(C)]
                scores[b][t] = -math.fsum(math.sqrt(s) for s in squares) / C
    return scores


@pytest.mark.parametrize("name", ["entropy", "confidence", "agreement"])
@settings(max_examples=40, deadline=None)
@given(sizes, st.floats(0, 30), st.integers(0, 99))
def test_a_criterion_is_what_a_plain_loop_finds(
    name: str, shape: tuple[int, int, int, int], sharpness: float, seed: int
) -> None:
    probabilities = predictions(*shape, sharpness=sharpness, seed=seed)
    found = CRITERIA[name](probabilities)
    expected = torch.tensor(by_loop(name, probabilities), dtype=torch.float64)
    assert found.dtype == torch.float64
    assert found.shape == (shape[2], shape[0])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_all_criteria_are_in_the_table() -> None:
    assert {"entropy": entropy, "confidence": confidence, "agreement": agreement} == CRITERIA


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_ends_of_each_scale_do_not_depend_on_the_number_of_classes(classes: int) -> None:
    even = torch.full((1, 2, 1, classes), 1 / classes)
    sure = torch.zeros(1, 2, 1, classes)
    sure[..., 0] = 1
    split = sure.clone()
    split[:, 1] = sure[:, 1].roll(1, dims=-1)  # both samples are sure, of different classes
    assert entropy(even).item() == pytest.approx(-1)
    assert entropy(sure).item() == 0
    assert confidence(even).item() == pytest.approx(1 / classes)
    assert confidence(sure).item() == 1
    assert agreement(even).item() == agreement(sure).item() == 0
    assert agreement(split).item() == pytest.approx(-0.5 * 2 / classes)
    assert entropy(split).item() == pytest.approx(-math.log(2) / math.log(classes))


def test_total_uncertainty_counts_disagreement_and_doubt_alike_and_agreement_disagreement_alone() -> None:
    doubtful = torch.tensor([[[[0.5, 0.5]], [[0.5, 0.5]]]])
    divided = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    assert entropy(doubtful).item() == entropy(divided).item()
    assert confidence(doubtful).item() == confidence(divided).item()
    assert agreement(doubtful).item() > agreement(divided).item()


def sure_models(scores: Tensor) -> Tensor:
    """(T, 1, 1, 2) float64 probabilities whose larger logit is ahead by so much."""
    return torch.softmax(torch.stack([scores, torch.zeros_like(scores)], dim=-1), dim=-1)[:, None, None]


@pytest.mark.parametrize("name", ["entropy", "confidence"])
def test_models_that_are_equally_sure_in_float32_are_told_apart(name: str) -> None:
    probabilities = sure_models(torch.tensor([20.0, 25.0, 30.0, 18.0], dtype=torch.float64))
    assert probabilities.float()[..., 0].unique().tolist() == [1.0]
    (scores,) = CRITERIA[name](probabilities)
    assert scores.argsort(descending=True).tolist() == [2, 1, 0, 3]
    assert len(scores.unique()) == 4


def test_two_classes_are_ranked_alike_by_entropy_and_confidence() -> None:
    probabilities = predictions(6, 3, 200, 2, sharpness=3.0).double()
    assert torch.equal(entropy(probabilities).argsort(dim=1), confidence(probabilities).argsort(dim=1))


def test_agreement_refuses_one_sample() -> None:
    with pytest.raises(ValueError, match="one sample alone"):
        agreement(predictions(3, 1, 2, 2))
    for criterion in (entropy, confidence):
        assert criterion(predictions(3, 1, 2, 2)).shape == (2, 3)


def test_a_head_of_one_class_is_always_sure_and_no_division_by_zero() -> None:
    one = torch.ones(2, 3, 4, 1)
    assert entropy(one).tolist() == [[0.0, 0.0]] * 4
    assert confidence(one).tolist() == [[1.0, 1.0]] * 4


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 99))
def test_the_entropy_gradient_is_how_the_entropy_moves_with_each_share(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    """Against differences, of scores that are linear in the shares, and of some that are not."""
    T, V, B, C = shape
    directions = torch.randn(T, V, B, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares, step = torch.full((T,), 1 / T, dtype=torch.float64), 1e-5

    def mixed(alpha: Tensor) -> Tensor:
        scores = torch.tensordot(alpha, directions, 1)
        return 3 * scores + scores.square()

    def nats(alpha: Tensor) -> Tensor:
        return -entropy(torch.softmax(mixed(alpha), dim=-1)[None])[:, 0] * math.log(C)

    found = entropy_gradient(mixed, shares)
    assert found.dtype == torch.float64
    assert found.shape == (B, T)
    for task, one in enumerate(step * torch.eye(T, dtype=torch.float64)):
        moved = (nats(shares + one) - nats(shares - one)) / (2 * step)
        torch.testing.assert_close(found[:, task], -moved, rtol=1e-5, atol=1e-7)


def test_the_entropy_gradient_of_a_sure_mixture_is_no_nan_and_in_float64() -> None:
    """Other classes have probability 0 in float32, and one of them in float64 too."""
    gaps = torch.tensor([0.0, -200.0, -2000.0])
    (found,) = entropy_gradient(lambda alpha: (alpha.sum() * gaps)[None, None], torch.full((2,), 0.5))
    expected = 200 * 200 * math.exp(-200)  # H = g exp(-g) to first order, g = 200 times the sum of the shares
    assert found.tolist() == pytest.approx([expected] * 2, rel=1e-2, abs=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 30), st.integers(1, 4))
def test_rows_that_belong_together_get_the_sum_of_their_scores(rows: int, size: int, tasks: int) -> None:
    scores = torch.randn(rows, tasks, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    found = in_batches(scores, size)
    assert found.shape == scores.shape
    for row in range(rows):
        first = row - row % size
        expected = sum(scores[other] for other in range(first, min(first + size, rows)))
        torch.testing.assert_close(found[row], expected)


def test_a_run_of_one_row_decides_as_before() -> None:
    scores = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(in_batches(scores, 1), scores)


def test_together_rows_find_a_task_that_few_of_them_find_alone() -> None:
    truth = torch.tensor([0.6, 0.0])
    scores = truth + torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    alone = (scores.argmax(dim=1) == 0).double().mean()
    assert alone < 0.7
    assert (in_batches(scores, 100).argmax(dim=1) == 0).all()


# ------------------------------------------------------------------------------- how good the answers are


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(0, 99))
def test_auroc_is_the_area_that_scikit_learn_finds(n: int, m: int, values: int, seed: int) -> None:
    """Few values: many ties."""
    rng = torch.Generator().manual_seed(seed)
    inside, outside = (torch.randint(values, (count,), generator=rng) / values for count in (n, m))
    expected = roc_auc_score([0] * n + [1] * m, torch.cat([inside, outside]).numpy())
    assert auroc(inside, outside) == pytest.approx(expected, abs=1e-12)


def test_auroc_at_its_ends() -> None:
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4, 0.5])
    assert auroc(low, high) == 1
    assert auroc(high, low) == 0
    assert auroc(low, low) == 0.5
    assert auroc(torch.zeros(3), torch.zeros(5)) == 0.5  # all ties
    assert auroc(low, torch.empty(0)) is None
    assert auroc(torch.empty(0), high) is None


def calibration_by_loop(probabilities: Tensor, y: Tensor, bins: int) -> float:
    total = 0.0
    for k in range(bins):
        mine = [
            (max(p), float(p.index(max(p)) == label))
            for p, label in zip(probabilities.tolist(), y.tolist(), strict=True)
            if k / bins < max(p) <= (k + 1) / bins
        ]
        if mine:
            confidences, right = zip(*mine, strict=True)
            total += len(mine) / len(y) * abs(sum(right) / len(mine) - sum(confidences) / len(mine))
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 6), st.integers(1, 20), st.integers(0, 99))
def test_calibration_error_is_what_a_plain_loop_finds(rows: int, classes: int, bins: int, seed: int) -> None:
    probabilities = predictions(1, 1, rows, classes, seed=seed)[0, 0].double()
    y = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    found = expected_calibration_error(probabilities, y, bins)
    assert found == pytest.approx(calibration_by_loop(probabilities, y, bins), abs=1e-12)


def test_calibration_error_at_its_ends() -> None:
    sure = torch.tensor([[1.0, 0.0]] * 4)
    assert expected_calibration_error(sure, torch.zeros(4, dtype=torch.int64)) == 0
    assert expected_calibration_error(sure, torch.ones(4, dtype=torch.int64)) == 1
    mostly = torch.tensor([[0.75, 0.25]] * 4)
    assert expected_calibration_error(mostly, torch.tensor([0, 0, 0, 1])) == 0
    assert expected_calibration_error(mostly[:0], torch.empty(0, dtype=torch.int64)) is None
    # Two bins that err in opposite ways do not make up for each other.
    both = torch.tensor([[0.6, 0.4], [1.0, 0.0]])
    assert expected_calibration_error(both, torch.tensor([0, 1])) == pytest.approx((0.4 + 1) / 2)


def test_confusion_counts_rows_of_a_task_across() -> None:
    truth, inferred = (torch.randint(4, (200,), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = task_confusion(inferred, truth, 5)
    assert found.tolist() == confusion_matrix(truth, inferred, labels=range(5)).tolist()
