"""The generator made of densities: scopes, shares, window, merging, what is kept, support and refusals."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import DataError, NotReadyError, OptionsError
from reverie.device import CPU
from reverie.generators import (
    DENSITIES,
    GENERATORS,
    Densities,
    Gaussian,
    GaussianCopula,
    GaussianMixture,
    KernelDensity,
    KMeansCodebook,
    MixtureOfFactorAnalysers,
    PrincipalComponents,
)
from reverie.generators.densities import apportioned
from reverie.learners import FrozenBackbone, GenerativeReplay
from reverie.options import from_options, to_options
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.storage import read_tree, write_tree
from reverie.streams import TensorRows
from reverie.types import Generator, StreamSpec
from tests.tiny import differing, make_loop, tiny_stream

PLAIN = Gaussian(covariance="full", shrinkage="none")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spec(shape: tuple[int, ...] = (3,)) -> StreamSpec:
    classes = tuple(range(6))
    return StreamSpec("test", "class", shape, classes, (classes,), ("all",), (classes,))


def built(shape: tuple[int, ...] = (3,), seed: int = 0, **options: Any) -> Densities:
    part = Densities(**{"density": PLAIN, **options})
    part.build(spec(shape), Randomness(seed), CPU)
    return part


def rows(classes: tuple[int, ...], task: int = 0, n: int = 20, shape: tuple[int, ...] = (3,), seed: int = 0) -> Any:
    """n rows of each class around ten times its index, one further a task; the classes mixed."""
    y = torch.tensor(classes).repeat(n)
    noise = torch.randn(len(y), *shape, generator=seeded(100 * task + seed))
    x = noise + (10.0 * y + task).reshape(-1, *[1] * len(shape))
    return TensorRows(x, y, torch.full_like(y, task))


def fitted(tasks: int = 2, **options: Any) -> Densities:
    """Task t brings classes 2 t and 2 t + 1."""
    part = built(**options)
    for task in range(tasks):
        part.fit(rows((2 * task, 2 * task + 1), task))
    return part


def data_of(*sets: Any) -> tuple[Tensor, Tensor]:
    batches = [part.take(torch.arange(len(part))) for part in sets]
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])


# ---------------------------------------------------------------------------------- scopes


@pytest.mark.parametrize(
    ("scope", "keys"),
    [
        ("class", [(-1, 0), (-1, 1), (-1, 2), (-1, 3)]),
        ("task-class", [(0, 0), (0, 1), (1, 2), (1, 3)]),
        ("task", [(0, -1), (1, -1)]),
        ("global", [(-1, -1)]),
    ],
)
def test_one_density_for_each_key_of_the_scope(scope: str, keys: list[tuple[int, int]]) -> None:
    part = fitted(scope=scope)
    assert isinstance(part, Generator)
    assert sorted(part.components) == keys
    assert part.conditional == ("class" in scope)
    first, y = data_of(rows((0, 1), 0))
    key = keys[0]
    expected = first[y == 0] if "class" in scope else first
    if scope == "global":
        expected = torch.cat([first, data_of(rows((2, 3), 1))[0]])
    torch.testing.assert_close(part.components[key][0].density.mean, expected.mean(0))
    assert part.components[key][0].density.count == len(expected)


@pytest.mark.parametrize("scope", ["class", "task-class"])
def test_samples_are_of_the_classes_asked_for(scope: str) -> None:
    part = fitted(scope=scope)
    classes = torch.tensor([3, 0, 0, 2, 1, 3, 3])
    batch = part.sample(7, seeded(), classes)
    assert torch.equal(batch.y, classes)
    assert batch.task.tolist() == [1, 0, 0, 1, 0, 1, 1]
    torch.testing.assert_close(batch.x.mean(1), 10.0 * classes + batch.task, atol=3.0, rtol=0)
    torch.testing.assert_close(batch.weight, torch.full((7,), 1 / 7))


@pytest.mark.parametrize("scope", ["task", "global"])
def test_without_classes_in_the_scope_rows_have_no_label(scope: str) -> None:
    batch = fitted(scope=scope).sample(40, seeded())
    assert batch.y is None
    assert batch.x.shape == (40, 3)


def test_images_come_back_as_images() -> None:
    part = built((1, 2, 3), density=Gaussian(covariance="diagonal"))
    part.fit(rows((0, 1), shape=(1, 2, 3)))
    assert part.sample(4, seeded(), torch.tensor([0, 1, 1, 0])).x.shape == (4, 1, 2, 3)


def test_sampling_is_a_function_of_the_generator_given() -> None:
    part, classes = fitted(), torch.arange(4).repeat(5)
    first, again, other = (part.sample(20, seeded(s), classes).x for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ---------------------------------------------------------------------------------- shares


def counts_by_task(part: Densities, n: int, classes: Tensor | None = None) -> list[int]:
    return torch.bincount(part.sample(n, seeded(), classes).task, minlength=3).tolist()


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        ("task-balanced", [28, 28, 28]),
        ("proportional", [12, 24, 48]),
        ("inverse-frequency", [48, 24, 12]),
        ("recency", [12, 24, 48]),
    ],
)
@pytest.mark.parametrize("scope", ["task", "task-class"])
def test_shares_of_tasks_are_exact(allocation: str, expected: list[int], scope: str) -> None:
    part = built(scope=scope, allocation=allocation)
    for task, n in enumerate((5, 10, 20)):
        part.fit(rows((0,), task, n))
    classes = torch.zeros(84, dtype=torch.int64) if part.conditional else None
    assert counts_by_task(part, 84, classes) == expected


def test_inversely_to_rows_goes_by_tasks_and_within_a_task_by_rows() -> None:
    part = built(density=PrincipalComponents(dimensions=1), allocation="inverse-frequency")
    for task, n in ((0, 10), (0, 30), (1, 20)):  # the first task's rows in two fits
        part.fit(rows((0,), task, n))
    assert [member.density.count for member in part._members(0)] == [10, 30, 20]
    weights = part._weights()[0]
    expected = torch.tensor([1 / 12, 3 / 12, 8 / 12], dtype=torch.float64)
    torch.testing.assert_close(weights / weights.sum(), expected)


def test_any_slice_of_the_rows_has_all_tasks() -> None:
    part = built(scope="task")
    for task in range(3):
        part.fit(rows((0,), task))
    first = part.sample(300, seeded()).task[:100]
    assert bool((torch.bincount(first, minlength=3) > 15).all())


@pytest.mark.parametrize(("window", "expected"), [(None, [20, 20, 20]), (2, [0, 30, 30]), (1, [0, 0, 60])])
def test_a_window_samples_the_last_tasks_only(window: int | None, expected: list[int]) -> None:
    part = built(scope="task", window=window)
    for task in range(3):
        part.fit(rows((0,), task))
    assert counts_by_task(part, 60) == expected


def test_a_class_older_than_the_window_is_not_rehearsed_and_drawn_only_for_who_asks() -> None:
    part = fitted(3, window=1)
    assert part.class_weights(torch.arange(6)).tolist() == [0, 0, 0, 0, 1, 1]
    assert part.sample(2, seeded(), torch.tensor([0, 5])).task.tolist() == [0, 2]


def taught_unevenly(**options: Any) -> Densities:
    """Rows of (task, class): 10 of (0, 0), 30 of (0, 1), 20 of (1, 1)."""
    part = built(class_balanced=False, **options)
    part.fit(rows((0,), 0, 10))
    part.fit(rows((1,), 0, 30))
    part.fit(rows((1,), 1, 20))
    return part


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"allocation": "task-balanced"}, [1 / 4, 1 / 4, 1 / 2]),
        ({"allocation": "proportional"}, [1 / 6, 1 / 2, 1 / 3]),
        ({"allocation": "inverse-frequency"}, [6 / 11, 2 / 11, 3 / 11]),
        ({"allocation": "recency"}, [1 / 6, 1 / 6, 2 / 3]),
        ({"allocation": "proportional", "window": 1}, [0, 0, 1]),
    ],
)
def test_allocation_shares_all_samples_among_the_classes_of_each_task(
    options: dict[str, Any], expected: list[float]
) -> None:
    part = taught_unevenly(**options)
    weights = part.class_weights(torch.tensor([0, 1]))
    assert weights is not None
    shares = weights / weights.sum()
    torch.testing.assert_close(shares, torch.tensor([expected[0], expected[1] + expected[2]], dtype=torch.float64))
    tasks = torch.bincount(part.sample(1100, seeded(), torch.ones(1100, dtype=torch.int64)).task, minlength=2) / 1100
    within = torch.tensor(expected[1:]) / sum(expected[1:])
    torch.testing.assert_close(tasks, within, atol=1e-3, rtol=0)


def test_classes_without_tasks_share_by_their_rows() -> None:
    part = built(scope="class", class_balanced=False, allocation="proportional")
    part.fit(rows((0,), 0, 10))
    part.fit(rows((1,), 1, 30))
    assert part.class_weights(torch.tensor([1, 0])).tolist() == [30, 10]
    with pytest.raises(NotReadyError, match="class 4: no density"):
        part.class_weights(torch.tensor([1, 4]))


def test_by_default_classes_are_rehearsed_alike() -> None:
    assert fitted(2).class_weights(torch.arange(4)) is None


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({"scope": "class", "allocation": "recency"}, ("allocation",)),
        ({"scope": "class", "allocation": "proportional"}, ("allocation",)),
        ({"scope": "class", "window": 2}, ("window",)),
        ({"scope": "class", "class_balanced": False}, ("class_balanced",)),
        ({"scope": "class", "class_balanced": False, "allocation": "recency"}, ("class_balanced", "allocation")),
        ({"scope": "task", "class_balanced": False}, ("class_balanced",)),
        (
            {"scope": "global", "allocation": "proportional", "window": 1, "class_balanced": False},
            ("window", "class_balanced", "allocation"),
        ),
    ],
)
def test_shares_that_a_scope_cannot_tell_apart_are_refused_by_name(
    options: dict[str, Any], idle: tuple[str, ...]
) -> None:
    with pytest.raises(OptionsError) as caught:
        Densities(**options)
    assert str(caught.value).count("has no effect") == len(idle)
    for name in idle:
        assert f"{name} = {options[name]!r}: has no effect where scope = '{options['scope']}'" in str(caught.value)


def test_an_allocation_that_a_stream_gives_nothing_to_share_is_refused_before_training() -> None:
    apart, shared = overlapping(((0, 1), (2, 3))), overlapping()
    message = r"allocation = 'recency': has no effect where class_balanced = True and each class belongs to one task.*set class_balanced = False"
    with pytest.raises(OptionsError, match=message):
        Densities(allocation="recency").build(apart, Randomness(0), CPU)
    Densities(allocation="recency", class_balanced=False).build(apart, Randomness(0), CPU)
    Densities(allocation="recency").build(shared, Randomness(0), CPU)


def test_apportioned_shares_have_the_right_mean() -> None:
    shares, rng = torch.tensor([0.5, 0.3, 0.15, 0.05]), seeded()
    drawn = torch.tensor([apportioned(shares, 7, rng) for _ in range(2000)]).double()
    assert bool((drawn.sum(1) == 7).all())
    assert bool(((drawn - 7 * shares).abs() < 1).all())
    torch.testing.assert_close(drawn.mean(0), 7 * shares.double(), atol=0.05, rtol=0)
    assert apportioned(torch.tensor([1.0]), 3, rng) == [3]


# ---------------------------------------------------------------------------------- merging


@pytest.mark.parametrize("covariance", ["full", "diagonal", "isotropic", "shared"])
def test_a_class_met_again_is_the_fit_of_the_union(covariance: str) -> None:
    part = built(scope="class", density=Gaussian(covariance=covariance, shrinkage="none"))
    whole = part.clone()
    whole.build(spec(), Randomness(0), CPU)
    sets = [rows((0, 1), 0, 20), rows((1, 2), 1, 7), rows((0, 2), 2, 11)]
    for one in sets:
        part.fit(one)
    x, y = data_of(*sets)
    whole.fit(TensorRows(x, y, torch.full_like(y, 2)))
    assert {key: len(members) for key, members in part.components.items()} == {(-1, 0): 1, (-1, 1): 1, (-1, 2): 1}
    assert part.class_counts() == whole.class_counts() == {0: 31, 1: 27, 2: 18}
    for key, (member,) in part.components.items():
        (expected,) = whole.components[key]
        torch.testing.assert_close(member.density.mean, expected.density.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(member.density.spread, expected.density.spread, rtol=1e-4, atol=1e-4)
    assert [members[0].task for _, members in sorted(part.components.items())] == [2, 1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"density": GaussianMixture(components=2)},
        {"density": Gaussian(covariance="low-rank", rank=1)},
        {"transforms": ("standardise",)},
    ],
)
def test_what_does_not_merge_is_kept_beside(options: dict[str, Any]) -> None:
    part = built(scope="class", **options)
    part.fit(rows((0,), 0, 10))
    part.fit(rows((0,), 1, 30))
    assert [member.density.count for member in part.components[-1, 0]] == [10, 30]
    assert part.class_counts() == {0: 40}
    batch = part.sample(100, seeded(), torch.zeros(100, dtype=torch.int64))
    assert torch.bincount(batch.task).tolist() == [50, 50]
    # The density of the class is that of all its rows.
    z = batch.x[:5]
    logs = [member.transforms.log_prob(member.density, z) for member in part.components[-1, 0]]
    expected = torch.logsumexp(torch.stack([logs[0] + math.log(0.25), logs[1] + math.log(0.75)]), dim=0)
    torch.testing.assert_close(part.class_log_prob(z)[:, 0].float(), expected)


def test_covariance_is_shared_by_all_classes_and_kept_once() -> None:
    part = fitted(3, density=Gaussian(covariance="shared", shrinkage="none"), scope="class")
    spreads = {id(members[0].density.spread) for members in part.components.values()}
    assert len(spreads) == 1
    x, y = data_of(*(rows((2 * task, 2 * task + 1), task) for task in range(3)))
    centred = torch.cat([x[y == c] - x[y == c].mean(0) for c in range(6)])
    covariance = part.components[-1, 0][0].density.covariance()
    torch.testing.assert_close(covariance, centred.T @ centred / len(centred), rtol=1e-4, atol=1e-5)
    assert part.num_bytes() == 4 * (6 * 3 + 6)


# ---------------------------------------------------------------------------------- density


def test_log_prob_is_that_of_the_mixture() -> None:
    part = built(scope="class")
    part.fit(rows((0, 1), 0, 30))
    part.fit(rows((2,), 1, 90))
    z = torch.randn(6, 3, generator=seeded()) * 10
    table = part.class_log_prob(z)
    assert part.known_classes() == [0, 1, 2]
    assert table.shape == (6, 3)
    shares = torch.tensor([0.2, 0.2, 0.6]).log()
    torch.testing.assert_close(part.log_prob(z), torch.logsumexp(table + shares, dim=1), check_dtype=False)
    classes = torch.tensor([2, 0, 1, 1, 0, 2])
    torch.testing.assert_close(part.log_prob(z, classes), table[torch.arange(6), classes])


@pytest.mark.parametrize("support", ["real", "nonnegative", "hurdle"])
@pytest.mark.parametrize(
    "transforms",
    [(), ("standardise",), ("whiten",), ("tukey",), ("log1p",), ("tukey", "standardise"), ("log1p", "whiten")],
    ids=lambda steps: " ".join(steps) or "none",
)
def test_log_prob_integrates_to_one_less_the_share_that_a_root_or_logarithm_cuts(
    transforms: tuple[Any, ...], support: Any
) -> None:
    part = built((1,), density=Gaussian("diagonal"), transforms=transforms, support=support)
    x = torch.randn(300, 1, generator=seeded()).abs()
    part.fit(TensorRows(x, torch.zeros(300, dtype=torch.int64)))
    root = torch.linspace(-3, 3, 40_001, dtype=torch.float64)  # finer near 0, where a root's density has a pole
    axis = root * root.abs()
    density = part.log_prob(axis[:, None].float()).double().exp()
    total = float(torch.trapezoid(density, axis))
    cut = 0.0
    if {"tukey", "log1p"} & set(transforms):
        assert not density[axis < 0].any()
        u = x.sqrt() if "tukey" in transforms else x.log1p()
        cut = float(torch.special.ndtr(-u.mean() / u.std(correction=0)))
        assert 0.001 < cut < 0.2
    assert total == pytest.approx(1 - cut, abs=2e-3)


def test_bayes_rule_on_the_densities_tells_the_classes() -> None:
    part = fitted()
    x, y = data_of(rows((0, 1), 0, seed=1), rows((2, 3), 1, seed=1))
    assert torch.equal(part.class_log_prob(x).argmax(dim=1), y)


# ---------------------------------------------------------------------------------- support


def relu_rows(task: int = 0, n: int = 400) -> Any:
    x = torch.randn(n, 3, generator=seeded(task)) + torch.tensor([0.0, 1.0, -1.0])
    return TensorRows(x.relu(), torch.zeros(n, dtype=torch.int64), torch.full((n,), task))


@pytest.mark.parametrize("density", DENSITIES.values())
def test_hurdle_keeps_the_share_of_zeros(density: type) -> None:
    part = built(density=density(), support="hurdle")
    part.fit(relu_rows())
    x = part.sample(2000, seeded(), torch.zeros(2000, dtype=torch.int64)).x
    expected = (data_of(relu_rows())[0] == 0).float().mean(0)
    torch.testing.assert_close((x == 0).float().mean(0), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("covariance", ["full", "shared"])
def test_hurdle_follows_merged_rows(covariance: str) -> None:
    part = built(density=Gaussian(covariance=covariance, shrinkage="none"), support="hurdle", scope="class")
    part.fit(relu_rows(0))
    part.fit(relu_rows(1, 800))
    assert len(part.components[-1, 0]) == 1
    x = part.sample(2000, seeded(), torch.zeros(2000, dtype=torch.int64)).x
    expected = (data_of(relu_rows(0), relu_rows(1, 800))[0] == 0).float().mean(0)
    torch.testing.assert_close((x == 0).float().mean(0), expected, atol=0.04, rtol=0)


def test_support_auto_cuts_where_all_rows_were_nonnegative() -> None:
    part = built(support="auto")
    part.fit(relu_rows())
    assert float(part.sample(500, seeded(), torch.zeros(500, dtype=torch.int64)).x.min()) == 0
    other = built(support="auto")
    other.fit(rows((0,)))
    assert float(other.sample(500, seeded(), torch.zeros(500, dtype=torch.int64)).x.min()) < 0


# ---------------------------------------------------------------------------------- what is kept


CASES: list[dict[str, Any]] = [
    {},
    {"scope": "class", "density": Gaussian(covariance="shared")},
    {"scope": "task", "transforms": ("standardise", "whiten")},
    {"density": Gaussian(covariance="low-rank", rank=2), "support": "hurdle", "transforms": ("tukey",)},
    {"density": PrincipalComponents(dimensions=2), "scope": "task", "allocation": "recency"},
    {"density": PrincipalComponents(dimensions=2), "scope": "global"},
    {"transforms": ("tukey", "normalise", "standardise"), "support": "hurdle"},
    *({"density": family()} for family in DENSITIES.values()),
]


@pytest.mark.parametrize("options", CASES, ids=lambda options: " ".join(map(str, options.values())) or "usual")
def test_saved_and_loaded_it_samples_the_same_bits(options: dict[str, Any], tmp_path: Path) -> None:
    part = built(**options)
    for task in range(2):
        x, y = data_of(rows((0, task + 1), task))
        part.fit(TensorRows(x.abs(), y, torch.full_like(y, task)))
    state = part.state()
    assert part.num_bytes() == sum(t.numel() * t.element_size() for t in state["tensors"].values()) > 0
    write_tree(tmp_path / "state", state)
    loaded = part.clone()
    loaded.build(spec(), Randomness(5), CPU)
    loaded.load(read_tree(tmp_path / "state"))
    assert differing(loaded.state(), state) == []
    classes = torch.tensor([0, 2, 1] * 4) if part.conditional else None
    drawn, again = (model.sample(12, seeded(), classes) for model in (part, loaded))
    assert torch.equal(drawn.x, again.x)
    assert torch.equal(drawn.task, again.task)
    # Learning on from there is the same too.
    for model in (part, loaded):
        model.rng = Randomness(0)
        model.fit(rows((0,), 2) if "tukey" not in part.transforms else relu_rows(2))
    assert differing(loaded.state(), part.state()) == []


def test_frozen_is_not_moved_by_later_fits() -> None:
    part = fitted(scope="class")
    frozen = part.frozen()
    state = frozen.state()
    part.fit(rows((0, 5), 2))
    assert differing(frozen.state(), state) == []
    assert frozen.known_classes() == [0, 1, 2, 3]
    assert part.known_classes() == [0, 1, 2, 3, 5]


def test_options_there_and_back() -> None:
    part = Densities(
        density=PrincipalComponents(density=GaussianMixture(covariance="full"), dimensions=3),
        transforms=("tukey", "standardise"),
        window=2,
    )
    assert to_options(from_options(GENERATORS, to_options(part))) == to_options(part)
    made = from_options(GENERATORS, {"name": "densities", "density": {"name": "kde", "bandwidth": "0.5"}})
    assert made.density.bandwidth == 0.5
    assert made.stores_real_samples
    assert not part.stores_real_samples


def test_a_class_may_be_asked_for_that_one_row_taught() -> None:
    for family in DENSITIES.values():
        part = built(density=family())
        told = (
            nullcontext() if part.stores_real_samples else pytest.warns(UserWarning, match="one row alone of class 0")
        )
        with told:
            part.fit(rows((0,), n=1))
        x = part.sample(5, seeded(), torch.zeros(5, dtype=torch.int64)).x
        torch.testing.assert_close(x, data_of(rows((0,), n=1))[0].expand(5, 3), atol=0.02, rtol=0)


def test_a_row_alone_is_told_of_when_it_is_fitted_and_no_more() -> None:
    part = built(density=Gaussian("diagonal"), scope="class")
    with pytest.warns(
        UserWarning, match="one row alone of class 1, 2 was fitted: its density is that row, a stored latent"
    ):
        part.fit(TensorRows(torch.rand(7, 3), torch.tensor([0, 1, 0, 2, 0, 3, 3])))
    part.fit(rows((4,), 1))
    part.fit(rows((1,), 2, 1))  # merged into two


@pytest.mark.parametrize("covariance", ["full", "shared"])
def test_too_few_rows_for_a_covariance_that_is_not_shrunk_are_refused(covariance: str) -> None:
    """Of three latents: four rows where each has its own, and as many beside the means where it is shared."""
    part = built(density=Gaussian(covariance, shrinkage="none"))
    with pytest.raises(
        OptionsError,
        match=r"shrinkage = 'none': a covariance of 3 latents needs 4 rows.* use shrinkage = 'ledoit-wolf'",
    ):
        part.fit(rows((0,), n=3))
    assert part.components == {}
    part.fit(rows((0,), n=4))
    if covariance == "full":
        with pytest.raises(OptionsError, match="was fitted to 2"):
            part.fit(rows((0, 1), 1, n=2))
        assert part.known_classes() == [0]
    else:
        part.fit(rows((0, 1), 1, n=2))
    built(density=Gaussian(covariance, shrinkage=0.1)).fit(rows((0,), n=2))


def test_what_is_computed_from_the_densities_is_working_memory() -> None:
    """A float32 root serves samples; what a likelihood needs is in float64 and made when it is asked for."""
    d = 5
    for density, drawn, judged in (
        (Gaussian(), d * d * 4, d * d * 4),
        (GaussianMixture("tied", components=2), d * d * 4, None),
        (Gaussian("diagonal"), 0, 0),
        (KernelDensity(), 0, 0),
    ):
        part = built((d,), density=density)
        part.fit(rows((0,), n=40, shape=(d,)))
        kept = part.num_bytes()
        assert part.working_bytes() == 0
        part.sample(3, seeded(), torch.zeros(3, dtype=torch.int64))
        assert part.working_bytes() == part.frozen().working_bytes() == drawn
        part.log_prob(torch.zeros(2, d))
        if judged is None:
            assert part.working_bytes() >= drawn + 2 * d * d * 8
        else:
            assert part.working_bytes() == drawn + judged
        assert part.num_bytes() == kept


# ---------------------------------------------------------------------------------- budget


SIZED: dict[str, Any] = {
    **{f"gaussian {kind}": Gaussian(covariance=kind) for kind in ("isotropic", "diagonal", "full", "shared")},
    "gaussian low-rank": Gaussian(covariance="low-rank", rank=2),
    "gaussian of all ranks": Gaussian(covariance="low-rank", rank=50),
    **{
        f"gmm {kind}": GaussianMixture(covariance=kind, components=3)
        for kind in ("spherical", "diagonal", "tied", "full")
    },
    "factor analysers": MixtureOfFactorAnalysers(components=2, rank=2),
    "k-means": KMeansCodebook(components=5),
    "copula": GaussianCopula(grid=9),
    "kde": KernelDensity(most=6),
    "kde of one bandwidth": KernelDensity(most=6, bandwidth=0.3),
    "principal components": PrincipalComponents(dimensions=3),
    "principal components of a mixture": PrincipalComponents(density=GaussianMixture(components=2), dimensions=50),
}
UNSIZED = (
    GaussianMixture(choose="bic"),
    GaussianMixture(choose="held-out"),
    KernelDensity(),
    PrincipalComponents(dimensions=0.9),
    PrincipalComponents(density=KernelDensity(), dimensions=2),
)
WIDTH = 5


def overlapping(task_classes: tuple[tuple[int, ...], ...] = ((0, 1), (1, 2, 3), (0,))) -> StreamSpec:
    """Three tasks, classes 0 and 1 in two of them."""
    names = tuple(f"task {task}" for task in range(len(task_classes)))
    return StreamSpec("test", "class", (WIDTH,), (0, 1, 2, 3), task_classes, names, task_classes)


def taught(stream: StreamSpec, **options: Any) -> Densities:
    part = Densities(**options)
    part.build(stream, Randomness(0), CPU)
    for task, classes in enumerate(stream.task_classes):
        data = rows(classes, task, 40, (WIDTH,)).take(torch.arange(40 * len(classes)))
        part.fit(TensorRows(data.x.abs(), data.y, data.task))
    return part


@pytest.mark.parametrize("scope", ["class", "task", "task-class", "global"])
@pytest.mark.parametrize("family", SIZED)
def test_bytes_needed_are_those_that_are_kept_in_the_end(family: str, scope: str) -> None:
    density = SIZED[family]
    around: list[dict[str, Any]] = [{}, {"support": "hurdle"}]
    if density.pooled:
        if scope in ("task", "global"):
            return
    else:
        around += [{"transforms": ("log1p", "standardise", "whiten", "normalise")}]
    for options in around:
        stream = overlapping()
        part = taught(stream, density=density, scope=scope, **options)
        assert part.bytes_needed(stream) == part.num_bytes()


@pytest.mark.parametrize("density", UNSIZED, ids=repr)
def test_where_rows_decide_the_bytes_are_not_known_beforehand(density: Any) -> None:
    assert Densities(density=density).bytes_needed(overlapping()) is None


def test_a_budget_is_exact_and_refused_before_any_training() -> None:
    stream = overlapping()
    full = Densities().bytes_needed(stream)
    assert full == 4 * 6 * (
        5 + 15 + 6
    )  # a class of a task: six; mean, covariance, and what Ledoit and Wolf's rule needs
    assert taught(stream, budget=full).num_bytes() == full
    message = (
        "budget = 623 bytes for all densities: those of this stream, of 5 numbers a row, need 624; raise it, or try covariance = 'diagonal' or "
        "'low-rank', fewer components, or a scope of fewer densities"
    )
    with pytest.raises(OptionsError, match=message):
        Densities(budget=623).build(stream, Randomness(0), CPU)
    for fewer in ({"density": Gaussian("diagonal")}, {"scope": "class"}, {"density": Gaussian("low-rank", rank=1)}):
        taught(stream, budget=623, **fewer)


def test_a_stream_that_grows_beyond_the_budget_is_refused_and_what_was_known_stays() -> None:
    part = taught(overlapping(), budget=624)
    before = part.state()
    longer = overlapping(((0, 1), (1, 2, 3), (0,), (1,)))
    with pytest.raises(OptionsError, match=r"budget = 624 bytes for all densities: .* need 728"):
        part.extend(longer)
    assert differing(part.state(), before) == []
    assert part.spec == overlapping()


def test_what_was_not_known_beforehand_is_refused_before_it_is_stored() -> None:
    part = built(density=KernelDensity(), scope="class", budget=4 * 2 * 21 * 3)
    part.fit(rows((0, 1), 0, 20))  # 20 rows and a bandwidth each
    before = part.state()
    with pytest.raises(
        OptionsError, match="budget = 504 bytes for all densities: those fitted so far need 528; raise it"
    ):
        part.fit(rows((2,), 1, 1))
    assert differing(part.state(), before) == []
    assert part.known_classes() == [0, 1]


def test_the_budget_is_checked_at_the_width_behind_a_frozen_backbone_before_it_is_trained() -> None:
    learner = FrozenBackbone(
        GenerativeReplay(generator=Densities(budget=100), labels="condition"), backbone=MLP(hidden=(12,))
    )
    with pytest.raises(OptionsError, match="those of this stream, of 12 numbers a row, need 2,472"):
        make_loop(learner, tiny_stream("class"))


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_latents_that_are_not_finite_are_refused(value: float) -> None:
    x = torch.zeros(4, 3)
    x[2, 1] = value
    part = fitted(1)
    before = part.state()
    with pytest.raises(DataError, match="the latents hold NaN or infinite values"):
        part.fit(TensorRows(x, torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)))
    assert differing(part.state(), before) == []


@pytest.mark.parametrize("built_first", [True, False])
def test_nothing_comes_from_what_was_never_fitted(built_first: bool) -> None:
    part = built() if built_first else Densities()
    for use in (
        lambda: part.sample(3, seeded(), torch.zeros(3, dtype=torch.int64)),
        lambda: part.log_prob(torch.zeros(1, 3)),
        lambda: part.class_log_prob(torch.zeros(1, 3)),
    ):
        with pytest.raises(NotReadyError, match="no density was fitted yet"):
            use()


def test_a_class_that_was_never_fitted_is_named() -> None:
    part = fitted()
    with pytest.raises(
        NotReadyError, match="class 5: no density was fitted to it yet; those of classes 0, 1, 2, 3 were"
    ):
        part.sample(2, seeded(), torch.tensor([0, 5]))
    with pytest.raises(NotReadyError, match="class 4: no density"):
        part.log_prob(torch.zeros(2, 3), torch.tensor([0, 4]))


def test_classes_must_be_named_where_they_are_told_apart() -> None:
    with pytest.raises(OptionsError, match="must be told which classes to sample"):
        fitted().sample(3, seeded())


@pytest.mark.parametrize("options", [{"scope": "task"}, {"scope": "global"}, {"transforms": ("whiten",)}])
def test_a_shared_covariance_needs_classes_and_no_transforms(options: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match="a covariance shared by all classes needs scope"):
        Densities(density=Gaussian(covariance="shared"), **options)


def test_whether_there_is_a_density_is_known_as_far_as_options_tell() -> None:
    assert Densities().has_density
    assert not Densities(transforms=("normalise",)).has_density
    assert not Densities(PrincipalComponents(noise=False)).has_density
    assert Densities(PrincipalComponents(noise=False, dimensions=3)).has_density  # where latents are as many


def test_real_rows_are_owned_up_to() -> None:
    assert Densities(density=KernelDensity()).stores_real_samples
    assert Densities(density=PrincipalComponents(density=KernelDensity())).stores_real_samples
    assert not Densities().stores_real_samples
