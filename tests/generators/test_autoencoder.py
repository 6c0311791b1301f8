"""The regularised autoencoder: its loss by the textbook, the densities of its codes over tasks, exact continuation, and replay from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal

from reverie.checks import NotReadyError, OptionsError
from reverie.device import CPU
from reverie.generators import GENERATORS, Gaussian, GaussianMixture, KernelDensity, RegularisedAutoencoder, train
from reverie.learners import GenerativeLatentReplay, GenerativeReplay
from reverie.nn.optimisers import Adam
from reverie.options import from_options, to_options
from reverie.seeding import Position, Randomness
from reverie.solvers import MLP
from reverie.storage import read_tree, write_tree
from reverie.streams import Split
from reverie.streams.rows import TensorRows
from reverie.types import Batch, Generator, StreamSpec
from tests.tiny import differing, recommending
from tests.tiny import train as train_learner


def spec(
    shape: tuple[int, ...] = (6,), value_range: tuple[float, float] | None = (0.0, 1.0), classes: int = 3
) -> StreamSpec:
    named = tuple(range(classes))
    return StreamSpec("test", "class", shape, named, (named,), ("all",), (named,), value_range)


def built(shape: tuple[int, ...] = (6,), seed: int = 0, **options: Any) -> RegularisedAutoencoder:
    small = {"hidden": (7, 5), "latent_dim": 4, "density": GaussianMixture(components=2)}
    model = RegularisedAutoencoder(**{**small, **options})
    model.build(spec(shape, None), Randomness(seed), CPU)
    return model


def rows(n: int = 9, shape: tuple[int, ...] = (6,), seed: int = 0) -> Batch:
    draw = seeded(seed)
    weight = torch.rand(n, generator=draw)
    return Batch(
        torch.rand(n, *shape, generator=draw), torch.arange(n) % 3, torch.zeros(n).long(), weight / weight.sum()
    )


def all_rows(batch: Batch, task: int = 0) -> TensorRows:
    assert batch.y is not None
    return TensorRows(batch.x, batch.y, task)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(model: RegularisedAutoencoder, classes: Tensor, seed: int = 0) -> Tensor:
    return model.sample(len(classes), seeded(seed), classes).x


def learn(model: RegularisedAutoencoder, x: Tensor, y: Tensor, steps: int, task: int = 0, size: int = 64) -> None:
    """A task as a learner teaches it: half of each batch is replay of the copy frozen at its start."""
    past = model.frozen() if task else None
    model.begin_task()
    for step in range(steps):
        model.rng.position = Position(task=task, step=step)
        pick = torch.randint(len(x), (size,), generator=model.rng("rows"))
        shown = x[pick]
        if past is not None:
            known = torch.tensor(past.codes.known_classes())
            classes = known[torch.randint(len(known), (size,), generator=model.rng("classes"))]
            shown = torch.cat([shown, past.sample(size, model.rng("past"), classes).x])
        n = len(shown)
        model.step(Batch(shown, None, torch.zeros(n).long(), torch.full((n,), 1 / n)))
    model.fit(TensorRows(x, y, task))


# ------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_is_the_weighted_sum_of_its_terms(likelihood: str, reduction: str) -> None:
    model, batch = built(likelihood=likelihood, reduction=reduction, code_weight=0.3, decoder_weight=0.02), rows()
    z = model.encode(batch.x)
    with torch.no_grad():
        decoded = model.decoder(z)
    if likelihood == "bernoulli":
        log_p = Independent(Bernoulli(logits=decoded, validate_args=False), 1, validate_args=False).log_prob(batch.x)
    else:
        log_p = Independent(Normal(decoded, 1.0), 1).log_prob(batch.x) + 6 / 2 * math.log(2 * math.pi)
    scale = 1 / 6 if reduction == "mean" else 1.0
    losses = model.loss(batch)
    torch.testing.assert_close(losses["reconstruction"], scale * (batch.weight * -log_p).sum())
    torch.testing.assert_close(losses["code"], scale * 0.3 * 0.5 * (batch.weight * z.norm(dim=1) ** 2).sum())
    weights = [tensor for name, tensor in model.decoder.named_parameters() if name.endswith("weight")]
    assert len(weights) == 3
    norm = sum(float(weight.detach().norm()) ** 2 for weight in weights)
    assert float(losses["decoder"].detach()) == pytest.approx(scale * 0.02 * norm, rel=1e-5)


def test_penalties_keep_codes_and_decoder_small() -> None:
    x, y = mixture(200)
    sizes = {}
    for name, weights in {"none": (0.0, 0.0), "both": (1.0, 1.0)}.items():
        model = built((2,), likelihood="gaussian", code_weight=weights[0], decoder_weight=weights[1])
        learn(model, x, y, steps=200)
        decoder = sum(float(p.detach().square().sum()) for p in model.decoder.parameters() if p.dim() > 1)
        sizes[name] = (float(model.encode(x).square().mean()), decoder)
    assert sizes["both"][0] < 0.5 * sizes["none"][0]
    assert sizes["both"][1] < 0.5 * sizes["none"][1]


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 10)], ids=str)
def test_shapes_and_gradients(architecture: str, shape: tuple[int, ...]) -> None:
    model = built(shape, **({"architecture": "conv", "channels": (3, 4)} if architecture == "conv" else {}))
    assert isinstance(model, Generator)
    batch = rows(12, shape)
    torch.stack(list(model.loss(batch).values())).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.network.module.parameters())
    losses = model.step(batch)
    assert list(losses) == ["reconstruction", "code", "decoder"]
    assert all(value.isfinite() and not value.requires_grad for value in losses.values())
    model.fit(all_rows(batch))
    classes = torch.tensor([0, 2, 1, 1, 0])
    samples = model.sample(5, seeded(), classes)
    assert samples.x.shape == (5, *shape)
    assert 0 <= float(samples.x.min()) <= float(samples.x.max()) <= 1
    assert torch.equal(samples.y, classes)  # type: ignore[arg-type]
    torch.testing.assert_close(samples.weight, torch.full((5,), 0.2))


# ------------------------------------------------------------------------------------------ what it learns


CENTRES = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0], [0.0, -4.0]])


def mixture(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class 0: two clouds left and right; class 1: two clouds above and below; a deviation of 0.5."""
    which = torch.arange(n) % 4
    return CENTRES[which] + 0.5 * torch.randn(n, 2, generator=seeded(seed)), which // 2


def check_mixture(model: RegularisedAutoencoder, classes: tuple[int, ...] = (0, 1), tolerance: float = 0.3) -> None:
    """Each class has half of its samples near each of its clouds, as wide as those are."""
    for c in classes:
        x = drawn(model, torch.full((2000,), c))
        distance, nearest = torch.cdist(x, CENTRES).min(dim=1)
        assert float((distance < 2).float().mean()) > 0.95
        shares = torch.bincount(nearest, minlength=4) / 2000
        torch.testing.assert_close(shares[2 * c : 2 * c + 2], torch.tensor([0.5, 0.5]), atol=0.1, rtol=0)
        for cloud in (2 * c, 2 * c + 1):
            mine = x[nearest == cloud]
            torch.testing.assert_close(mine.mean(0), CENTRES[cloud], atol=tolerance, rtol=0)
            torch.testing.assert_close(mine.std(0), torch.full((2,), 0.5), atol=0.25, rtol=0)


def wide(**options: Any) -> RegularisedAutoencoder:
    quick = {
        "hidden": (32,),
        "latent_dim": 2,
        "likelihood": "gaussian",
        "code_weight": 0.01,
        "optimiser": Adam(learning_rate=0.01),
    }
    return built((2,), **{**quick, **options})


def test_it_recovers_a_mixture() -> None:
    model = wide()
    learn(model, *mixture(400), steps=300)
    check_mixture(model)


def test_old_classes_are_still_sampled_after_the_encoder_moved() -> None:
    model = wide()
    x, y = mixture(400)
    learn(model, x[y == 0], y[y == 0], steps=300)
    before = model.codes
    codes = model.encode(x[y == 0])
    learn(model, x[y == 1], y[y == 1], steps=300, task=1)
    moved = (model.encode(x[y == 0]) - codes).norm(dim=1).mean() / codes.norm(dim=1).mean()
    assert float(moved) > 0.2
    check_mixture(model, tolerance=0.5)
    # The densities of the first task, unchanged, would not do: the codes that they are of mean something else now.
    model.codes = before
    with pytest.raises(AssertionError):
        check_mixture(model, (0,), tolerance=0.5)


def test_a_class_met_again_has_both_halves_by_their_rows() -> None:
    model = wide()
    x, _ = mixture(400)
    left, right = x[0::4], x[1::4][:50]  # 100 rows, 50 rows
    learn(model, left, torch.zeros(100).long(), steps=300)
    assert model.codes.class_counts() == {0: 100}
    learn(model, right, torch.zeros(50).long(), steps=300, task=1)
    assert model.codes.class_counts() == {0: 150}
    share = float((drawn(model, torch.zeros(3000).long())[:, 0] < 0).float().mean())
    assert share == pytest.approx(2 / 3, abs=0.08)


def test_classes_may_join() -> None:
    model = built()
    model.step(rows())
    model.fit(all_rows(rows()))
    model.extend(spec(classes=5))
    model.begin_task()
    new = rows()
    model.step(new)
    model.fit(TensorRows(new.x, new.y + 2, 1))  # type: ignore[operator]
    assert model.codes.class_counts() == {0: 3, 1: 3, 2: 6, 3: 3, 4: 3}
    assert drawn(model, torch.arange(5)).shape == (5, 6)


def test_alone() -> None:
    x, y = mixture(80)
    model = train(wide(), x, y, steps=20)
    assert drawn(model, torch.tensor([0, 1, 1])).shape == (3, 2)
    grey = train(
        RegularisedAutoencoder(hidden=(8,), latent_dim=2), torch.randint(0, 256, (20, 1, 4, 4)).byte(), steps=3
    )
    assert float(drawn(grey, torch.zeros(4).long()).min()) >= 0


# ------------------------------------------------------------------------------------ state, copies, bytes


def test_samples_depend_on_the_generator_handed_in_alone() -> None:
    model = built()
    model.step(rows())
    model.fit(all_rows(rows()))
    classes = torch.tensor([0, 1, 2])
    first = drawn(model, classes)
    model.rng.position = Position(3, 2, 1)
    torch.rand(9)
    assert torch.equal(first, drawn(model, classes))
    assert not torch.equal(first, drawn(model, classes, seed=1))


def test_a_saved_one_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """In the middle of the second task, when the frozen copy is needed for the densities to come."""
    one, two = built(), built(seed=5)
    one.step(rows())
    one.fit(all_rows(rows()))
    one.begin_task()
    one.step(rows(seed=1))
    write_tree(tmp_path / "state", one.state())
    two.load(read_tree(tmp_path / "state"))
    assert differing(one.state(), two.state()) == []
    two.rng = one.rng
    later = TensorRows(rows(seed=3).x, rows().y + 3, 1)  # type: ignore[operator]
    for model in (one, two):
        model.step(rows(seed=2))
        model.fit(later)
    assert differing(one.state(), two.state()) == []
    assert torch.equal(drawn(one, torch.arange(6)), drawn(two, torch.arange(6)))
    assert one.past is None


def test_a_frozen_copy_samples_as_before_while_the_original_trains() -> None:
    model = built()
    model.step(rows())
    model.fit(all_rows(rows()))
    frozen = model.frozen()
    classes = torch.tensor([0, 1, 2, 2])
    first = drawn(frozen, classes)
    assert torch.equal(first, drawn(model, classes))
    model.begin_task()
    model.step(rows(seed=1))
    model.fit(all_rows(rows(seed=1), 1))
    assert torch.equal(first, drawn(frozen, classes))
    assert not torch.equal(first, drawn(model, classes))
    assert not any(p.requires_grad for p in frozen.network.module.parameters())


def test_bytes_are_those_of_all_numbers() -> None:
    model = built(density=GaussianMixture(components=2, covariance="full"))
    encoder = (6 * 7 + 7) + (7 * 5 + 5) + (5 * 4 + 4)
    decoder = (4 * 5 + 5) + (5 * 7 + 7) + (7 * 6 + 6)
    assert model.num_bytes() == 4 * (encoder + decoder)
    assert model.working_bytes() == 3 * 4 * (encoder + decoder)
    model.step(rows())
    model.fit(all_rows(rows()))
    densities = 3 * 2 * (1 + 4 + 4 * 5 // 2)
    assert model.num_bytes() == 4 * (encoder + decoder + densities)
    assert model.frozen().num_bytes() == 4 * (decoder + densities)
    assert model.frozen().working_bytes() == 0
    model.begin_task()
    assert model.working_bytes() == 4 * (3 * (encoder + decoder) + decoder + densities)
    model.fit(all_rows(rows()))
    assert model.working_bytes() == 3 * 4 * (encoder + decoder)
    assert 0 < model.flops(2, train=False) < model.flops(2)
    assert not model.stores_real_samples
    assert RegularisedAutoencoder(density=KernelDensity()).stores_real_samples


# ------------------------------------------------------------------------------------------ refusals


def test_sampled_before_it_was_fitted() -> None:
    model = built()
    message = "the autoencoder has no density of its codes, so it has nothing to replay; fit it to a task first"
    for asked in (RegularisedAutoencoder(), model, model.frozen()):
        with pytest.raises(NotReadyError, match=message):
            asked.sample(1, seeded(), torch.zeros(1).long())
    model.step(rows())
    with pytest.raises(NotReadyError, match=message):
        drawn(model, torch.zeros(1).long())
    model.fit(all_rows(rows()))
    with pytest.raises(NotReadyError, match="class 7: no density was fitted to it yet; those of classes 0, 1, 2 were"):
        drawn(model, torch.tensor([7]))
    with pytest.raises(OptionsError, match="must be told which classes to sample"):
        model.sample(2, seeded())


def test_other_refusals() -> None:
    with pytest.raises(OptionsError, match="architecture = 'conv': needs images"):
        built(architecture="conv")
    with pytest.raises(OptionsError, match=r"channels = .*no effect"):
        RegularisedAutoencoder(channels=(3,))
    with pytest.raises(OptionsError, match="needs at least one layer"):
        RegularisedAutoencoder(hidden=())
    with pytest.raises(OptionsError, match=r"likelihood = 'bernoulli': inputs must lie in \[0, 1\].*'gaussian'"):
        RegularisedAutoencoder().build(spec(value_range=(-math.inf, math.inf)), Randomness(0), CPU)


# ------------------------------------------------------------------------------------------ in learners


def test_from_options_and_back() -> None:
    model = from_options(GENERATORS, {"name": "autoencoder", "density": {"name": "gaussian"}, "code_weight": 0.5})
    assert isinstance(model.density, Gaussian)
    assert to_options(from_options(GENERATORS, to_options(model))) == to_options(model)
    components = from_options(GENERATORS, {"name": "autoencoder", "density": {"components": 3}}).density
    assert to_options(components) == to_options(GaussianMixture(components=3))


def digits(**values: Any) -> Any:
    """Five tasks of two digits, briefly."""
    stream = Split(dataset="digits", tasks=5).build("class", 0)
    return recommending(stream, **{"hidden": (64,), "latent_dim": 16, "batch_size": 64, "steps": 150, **values})


@pytest.mark.parametrize("labels", ["condition", "solver"])
def test_replay_on_digits_keeps_old_classes(labels: str) -> None:
    learner = GenerativeReplay(generator=RegularisedAutoencoder(), labels=labels)  # type: ignore[arg-type]
    run = train_learner(learner, digits())
    assert run.result["summary"]["average_accuracy"] > 0.75  # naive: 0.2
    assert run.learner.memory().stores == "none"
    assert run.learner.model.codes.known_classes() == list(range(10))


def test_replay_of_latents_of_digits_keeps_old_classes() -> None:
    generator = RegularisedAutoencoder(hidden=(64,), latent_dim=16, likelihood="gaussian")
    learner = GenerativeLatentReplay(
        method=GenerativeReplay(generator=generator, labels="condition"), backbone=MLP(hidden=(64,))
    )
    run = train_learner(learner, digits())
    assert run.result["summary"]["average_accuracy"] > 0.6
    assert run.learner.memory().stores == "none"
