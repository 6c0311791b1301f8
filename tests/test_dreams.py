"""What an autoencoder can be asked for, on a small one that was trained for a few steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reverie import dreams
from reverie.checks import DataError, NotReadyError, OptionsError
from reverie.device import CPU
from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.learners import LGAA
from reverie.metrics import clustering_accuracy, hsic, normalized_mutual_information
from reverie.seeding import Randomness
from reverie.streams import ArrayStream
from tests.tiny import bits, train

CLASSES = 3


def stream(scenario: str = "domain") -> ArrayStream:
    """Two domains of noisy 8 x 8 bars, one class a row that is lit; the second is the first inverted."""
    rng = torch.Generator().manual_seed(0)

    def rows(n: int, inverted: bool, shift: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(n) % CLASSES
        x = 0.2 * torch.rand(n, 1, 8, 8, generator=rng)
        x[torch.arange(n), 0, 1 + 2 * y] += 0.7
        return (1 - x if inverted else x), y + shift

    shift = CLASSES if scenario == "class" else 0
    tasks = [(*rows(48, k == 1, k * shift), *rows(24, k == 1, k * shift)) for k in range(2)]
    return ArrayStream.from_arrays([[v.numpy() for v in task] for task in tasks], scenario)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> AdversarialAutoencoder:
    return train(LGAA(steps=12, batch_size=16), stream()).learner.model


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.cat([test.rows.take(torch.arange(6)).x for test in stream().tests])


def per_class(model: AdversarialAutoencoder, x: Tensor) -> Tensor:
    return model.encode(x).class_logits.argmax(dim=1)


# ------------------------------------------------------------------------------------------ generate, replay


def test_generated_images_are_of_the_classes_and_domains_asked_for(
    model: AdversarialAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = model.draw

    def draw(classes: Tensor, domains: Tensor, rng: torch.Generator, temperature: float = 1.0) -> Tensor:
        asked.append((classes.unique().tolist(), domains.unique().tolist(), len(classes), temperature))
        return real(classes, domains, rng, temperature)

    monkeypatch.setattr(model, "draw", draw)
    images = dreams.generate(model, [2, 0], [1, 0], 4, temperature=0.5)
    assert images.shape == (2, 2, 4, 1, 8, 8)
    assert asked == [([2], [1], 4, 0.5), ([0], [1], 4, 0.5), ([2], [0], 4, 0.5), ([0], [0], 4, 0.5)]


def test_generating_follows_the_seed_alone(model: AdversarialAutoencoder) -> None:
    first = dreams.generate(model, [0, 1, 2], [0, 1], 3, seed=5)
    torch.rand(7)
    assert torch.equal(first, dreams.generate(model, [0, 1, 2], [0, 1], 3, seed=5))
    assert not torch.equal(first, dreams.generate(model, [0, 1, 2], [0, 1], 3, seed=6))
    assert torch.equal(first[1:, 2:], dreams.generate(model, [2], [1], 3, seed=5)), "whatever else is asked for"


def test_without_temperature_all_samples_of_a_class_are_the_same(model: AdversarialAutoencoder) -> None:
    images = dreams.generate(model, [1], [0], 3, temperature=0)[0, 0]
    assert torch.allclose(images[0], images[2], atol=1e-6)


def test_what_was_never_learnt_cannot_be_asked_for(model: AdversarialAutoencoder) -> None:
    with pytest.raises(DataError, match=r"class = 3: was never learnt; learnt so far: 0, 1, 2"):
        dreams.generate(model, [3], [0])
    with pytest.raises(DataError, match=r"domain = 2: was never learnt; learnt so far: 0, 1"):
        dreams.replay(model, 4, [2])
    untrained = AdversarialAutoencoder()
    untrained.build(stream().spec, Randomness(0), CPU)
    with pytest.raises(NotReadyError, match="never trained"):
        dreams.generate(untrained, [0], [0])


def test_classes_belong_to_the_domains_that_taught_them() -> None:
    model = train(LGAA(steps=2, batch_size=8), stream("class")).learner.model
    assert dreams.learnt_classes(model, [0]) == (0, 1, 2)
    assert dreams.learnt_classes(model, [1]) == (3, 4, 5)
    assert dreams.learnt_classes(model) == (0, 1, 2, 3, 4, 5)
    replayed = dreams.replay(model, 12)
    assert sorted(replayed.asked.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_replay_is_labelled_by_the_model(model: AdversarialAutoencoder) -> None:
    found = dreams.replay(model, 12, seed=1)
    codes = model.encode(found.images)
    assert torch.equal(found.classes, codes.c.argmax(dim=1))
    assert torch.equal(found.domains, codes.a.argmax(dim=1))
    assert torch.equal(found.confidence, codes.c.max(dim=1).values)
    assert found.asked.bincount().tolist() == [4, 4, 4]
    assert bits(vars(found)) == bits(vars(dreams.replay(model, 12, seed=1)))
    assert dreams.replay(model, 5, [1]).domains.tolist() == [1] * 5, "a single domain needs no inference"


def test_replay_is_drawn_as_far_from_the_centre_as_the_model_rehearses(
    model: AdversarialAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = dreams.replay(model, 6, [0]).images
    monkeypatch.setattr(model, "replay_temperature", 1e-6)
    at_centre = dreams.replay(model, 6, [0]).images
    assert at_centre[:1].allclose(at_centre[3:4], atol=1e-4), "two of a class"
    assert not near[:1].allclose(near[3:4], atol=1e-4)


# ------------------------------------------------------------------------------------------ reconstruct and its relatives


def test_reconstruction_and_its_error(model: AdversarialAutoencoder, x: Tensor) -> None:
    found = dreams.reconstruct(model, x)
    assert torch.equal(found.images, model.reconstruct(x))
    assert torch.allclose(found.error, (found.images - x).square().mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_ends_of_an_interpolation_are_the_reconstructions(
    path: dreams.Interpolation, model: AdversarialAutoencoder, x: Tensor
) -> None:
    strip = dreams.interpolate(model, x[:5], x[7:], steps=6, path=path)
    assert strip.shape == (5, 6, 1, 8, 8)
    assert torch.equal(strip[:, 0], model.reconstruct(x[:5]))
    assert torch.equal(strip[:, -1], model.reconstruct(x[7:]))


def test_linear_interpolation_halfway(model: AdversarialAutoencoder, x: Tensor) -> None:
    first, last = model.encode(x[:2]), model.encode(x[2:4])
    middle = model.decode(*((getattr(first, name) + getattr(last, name)) / 2 for name in ("mean", "c", "a")))
    assert torch.allclose(dreams.interpolate(model, x[:2], x[2:4], steps=3)[:, 1], middle, atol=1e-6)


def test_an_arc_keeps_the_length_of_codes() -> None:
    start = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    end = torch.tensor([[0.0, 1.0], [0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]])
    half = dreams._arc(start, end, 0.5)
    assert torch.allclose(half.norm(dim=1), torch.tensor([1.0, 2.0, 2.0, 0.0]), atol=1e-6), (
        "along a line where there is no arc"
    )


def test_mistakes_in_interpolations(model: AdversarialAutoencoder, x: Tensor) -> None:
    with pytest.raises(DataError, match=r"\(2, 1, 8, 8\) and \(3, 1, 8, 8\): both ends .* same shape"):
        dreams.interpolate(model, x[:2], x[:3])
    with pytest.raises(OptionsError, match=r"steps = 1: .* 2 ends"):
        dreams.interpolate(model, x[:2], x[2:4], steps=1)
    with pytest.raises(OptionsError, match="path = 'round': expected linear or spherical"):
        dreams.interpolate(model, x[:2], x[2:4], path="round")  # type: ignore[arg-type]


def test_a_traversal_goes_through_the_reconstruction(model: AdversarialAutoencoder, x: Tensor) -> None:
    found = dreams.traverse(model, x[3], x, coordinates=4, steps=5)
    assert found.images.shape == (4, 5, 1, 8, 8)
    assert found.shifts.tolist() == [-3, -1.5, 0, 1.5, 3]
    assert torch.allclose(found.images[:, 2], model.reconstruct(x[3:4]).expand(4, -1, -1, -1), atol=1e-6)


def test_a_traversal_moves_the_coordinates_of_highest_kl(model: AdversarialAutoencoder, x: Tensor) -> None:
    found = dreams.traverse(model, x[0], x, coordinates=3, steps=3, span=2)
    codes = model.encode(x)
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(codes.mean, codes.std), prior).mean(dim=0)
    assert torch.allclose(found.kl, kl.sort(descending=True).values[:3], rtol=1e-4)
    j = int(found.coordinates[1])
    z = codes.mean[:1].clone()
    mixture = codes.mean[:, j].var(unbiased=False) + codes.std[:, j].square().mean()
    z[0, j] += 2 * mixture.sqrt()
    assert torch.allclose(found.images[1, 2], model.decode(z, codes.c[:1], codes.a[:1])[0], atol=1e-5)


def test_translation_to_its_own_domain_or_class_is_the_reconstruction(model: AdversarialAutoencoder, x: Tensor) -> None:
    codes = model.encode(x)
    for own, swap in ((codes.a.argmax(dim=1), "domain"), (codes.c.argmax(dim=1), "class_")):
        for target in own.unique().tolist():
            mine = own == target
            same = dreams.translate(model, x, **{swap: target})
            assert torch.equal(same[mine], model.reconstruct(x)[mine])


def test_translation_swaps_the_code_and_nothing_else(model: AdversarialAutoencoder, x: Tensor) -> None:
    codes = model.encode(x)
    mine = codes.a.argmax(dim=1) == 0
    one = torch.tensor([[0.0, 1.0]]).expand(len(x), -1)
    assert torch.equal(dreams.translate(model, x, domain=1)[mine], model.decode(codes.mean, codes.c, one)[mine])
    assert torch.equal(dreams.translate(model, x), model.reconstruct(x))
    with pytest.raises(DataError, match="domain = 4: was never learnt"):
        dreams.translate(model, x, domain=4)


# ------------------------------------------------------------------------------------------ measures


def test_clusters_are_the_most_probable_classes(model: AdversarialAutoencoder, x: Tensor) -> None:
    labels = torch.arange(12) % CLASSES
    found = dreams.cluster(model, x, labels)
    assert torch.equal(found.codes, per_class(model, x))
    assert found.accuracy == clustering_accuracy(labels, found.codes)
    assert found.nmi == normalized_mutual_information(labels, found.codes)
    alone = dreams.cluster(model, x)
    assert (alone.accuracy, alone.nmi) == (None, None)


@pytest.mark.parametrize("method", ["pca", "t-sne"])
def test_embedding(method: dreams.Projection, model: AdversarialAutoencoder, x: Tensor) -> None:
    domains = torch.arange(12) // 6
    found = dreams.embed(model, x, domains, method, seed=3)
    assert found.points.shape == (12, 2)
    assert torch.isfinite(found.points).all()
    assert torch.equal(found.points, dreams.embed(model, x, domains, method, seed=3).points)
    assert found.hsic == pytest.approx(hsic(model.encode(x).mean, domains[:, None].float()), rel=1e-4)


def test_mistakes_in_embeddings(model: AdversarialAutoencoder, x: Tensor) -> None:
    with pytest.raises(DataError, match="3 images: a projection needs at least 4"):
        dreams.embed(model, x[:3])
    with pytest.raises(OptionsError, match="method = 'umap': expected pca or t-sne"):
        dreams.embed(model, x, method="umap")  # type: ignore[arg-type]


def test_signs_of_novelty(model: AdversarialAutoencoder, x: Tensor) -> None:
    found = dreams.novelty(model, x)
    a = model.encode(x).a
    assert torch.equal(found.error, dreams.reconstruct(model, x).error)
    assert torch.allclose(found.entropy, -(a * a.log()).sum(dim=1), atol=1e-5)
    assert found.critic.shape == (12,)


def test_health_counts_units_that_say_anything_and_compares_scores(
    model: AdversarialAutoencoder, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = model.encode(x)
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(codes.mean, codes.std), prior).mean(dim=0)
    found = dreams.health(model, x, seed=2)
    assert found.active_units == int((kl > 0.01).sum())
    samples = dreams.replay(model, len(x), seed=2).images
    gap = dreams.novelty(model, x).critic.mean() - dreams.novelty(model, samples).critic.mean()
    assert found.critic_gap == pytest.approx(gap.item(), rel=1e-4, abs=1e-6)
    monkeypatch.setattr(dreams, "ACTIVE", float(kl.sort().values[-3]))
    assert dreams.health(model, x).active_units == 2


@pytest.mark.parametrize("conditioning", ["projection", "auxiliary"])
def test_other_critics_score_too(conditioning: str, x: Tensor) -> None:
    made = AdversarialAutoencoder(conditioning=conditioning, prior="domain-shifted")  # type: ignore[arg-type]
    model = train(LGAA(made, steps=2, batch_size=8), stream()).learner.model
    assert torch.isfinite(dreams.novelty(model, x).critic).all()
    assert torch.isfinite(dreams.traverse(model, x[0], x).kl).all()


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, x: dreams.reconstruct(model, x),
        lambda model, x: dreams.interpolate(model, x, x),
        lambda model, x: dreams.traverse(model, x[0], x),
        lambda model, x: dreams.translate(model, x),
        lambda model, x: dreams.cluster(model, x),
        lambda model, x: dreams.embed(model, x),
        lambda model, x: dreams.novelty(model, x),
    ],
)
def test_images_are_checked(
    ask: Callable[[AdversarialAutoencoder, Tensor], object], model: AdversarialAutoencoder
) -> None:
    with pytest.raises(DataError, match=r"images of shape .*: expected \(n, 1, 8, 8\)"):
        ask(model, torch.zeros(6, 1, 4, 4))
    with pytest.raises(DataError, match="numbers from 0 to 255: expected 0 to 1"):
        ask(model, 255.0 * torch.arange(2).repeat(192).reshape(6, 1, 8, 8))
    with pytest.raises(DataError, match="expected 0 to 1"):
        ask(model, torch.full((6, 1, 8, 8), float("nan")))


def test_nothing_changes_the_model(model: AdversarialAutoencoder, x: Tensor) -> None:
    before = bits(model.state())
    dreams.replay(model, 4)
    dreams.novelty(model, x)
    dreams.translate(model, x, domain=0)
    assert bits(model.state()) == before


# ------------------------------------------------------------------------------------------ picking images


def test_balanced_rows_take_turns() -> None:
    labels = torch.tensor([4, 4, 4, 4, 1, 1, 7])
    index = dreams.balanced(labels, 5, 0)
    assert labels[index].tolist() == [1, 4, 7, 1, 4]
    assert torch.equal(index, dreams.balanced(labels, 5, 0))
    assert sorted(dreams.balanced(labels, 99, 0).tolist()) == list(range(7))
    assert not torch.equal(dreams.balanced(labels, 99, 0), dreams.balanced(labels, 99, 1))
