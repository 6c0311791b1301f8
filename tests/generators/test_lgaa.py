"""The adversarial autoencoder: which networks each update changes, growth, exact continuation, what it is asked for and what it refuses."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.checks import DataError, NotReadyError, OptionsError
from reverie.device import CPU, Device
from reverie.generators import GENERATORS, AdversarialAutoencoder, train
from reverie.generators.lgaa import Update
from reverie.generators.lgaa_losses import code_cross_entropy
from reverie.nn.networks import training_flops
from reverie.nn.optimisers import SGD, Adam
from reverie.options import from_options, to_options
from reverie.seeding import Position, Randomness
from reverie.types import UNKNOWN, Batch, StreamSpec
from tests.tiny import bits, differing

SHAPE = (1, 8, 8)
HEADS = ((0, 1), (2, 3))
LOSSES = ["critic", "penalty", "generator", "information", "reconstruction", "kl", "domains", "classes"]


def spec(heads: tuple[tuple[int, ...], ...] = HEADS, **changes: Any) -> StreamSpec:
    classes = tuple(sorted({c for head in heads for c in head}))
    names = tuple(f"task {k}" for k in range(len(heads)))
    values: dict[str, Any] = {"value_range": (0.0, 1.0), "task_classes": heads, **changes}
    return StreamSpec("images", "class", SHAPE, classes, values["task_classes"], names, heads, values["value_range"])


def built(seed: int = 0, of: StreamSpec | None = None, device: Device = CPU, **options: Any) -> AdversarialAutoencoder:
    model = AdversarialAutoencoder(**options)
    model.build(of or spec(), Randomness(seed), device)
    model.begin_task()
    return model


def second_task(model: AdversarialAutoencoder) -> AdversarialAutoencoder:
    model.rng.position = Position(task=1)
    model.begin_task()
    return model


def rows(n: int = 6, seed: int = 0, domains: int = 1, classes: int = 2, y: Any = ()) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *SHAPE, generator=draw)
    weight = torch.rand(n, generator=draw)
    drawn = torch.randint(classes, (n,), generator=draw)
    task = torch.randint(domains, (n,), generator=draw)
    return Batch(x, drawn if isinstance(y, tuple) else y, task, weight / weight.sum())


def steps(model: AdversarialAutoencoder, start: int, end: int, **options: Any) -> list[dict[str, Tensor]]:
    task, losses = model.rng.position.task, []
    for step in range(start, end):
        model.rng.position = Position(task=task, step=step)
        losses.append(model.step(rows(seed=step, **options)))
    return losses


def hashes(model: AdversarialAutoencoder) -> dict[str, dict[str, Any]]:
    return {name: bits(dict(network.state_dict())) for name, network in model.networks.items()}


def changed(before: dict[str, dict[str, Any]], model: AdversarialAutoencoder) -> set[str]:
    after = hashes(model)
    return {name for name in before if before[name] != after[name]}


def images(model: AdversarialAutoencoder, domain: int = 0, n: int = 4, **options: Any) -> Tensor:
    classes = model.taught()[domain].nonzero().flatten()[torch.arange(n) % 2]
    return model.draw(classes, torch.full((n,), domain), torch.Generator().manual_seed(1), **options)


# ------------------------------------------------------------------------------------------ each update, its own networks


def updates_and_what_they_change(
    model: AdversarialAutoencoder, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> dict[str, set[str]]:
    """Of one step, in the order they were made."""
    found: dict[str, set[str]] = {}
    names = {id(update): name for name, update in model.updates.items()}
    real = Update.apply

    def apply(update: Update, gradients: Any) -> None:
        before = hashes(model)
        real(update, gradients)
        found[names[id(update)]] = changed(before, model)

    monkeypatch.setattr(Update, "apply", apply)
    before = hashes(model)
    steps(model, 0, 1, **options)
    assert changed(before, model) == set().union(*found.values())  # nothing changes but in an update
    return found


ALONE = {
    "critic": {"critic"},
    "generator": {"generator"},
    "dream": {"generator", "encoder"},
    "domains": {"domains"},
    "classes": {"classes"},
}


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize(
    ("options", "dream"),
    [
        ({}, {"generator", "encoder"}),
        ({"conditioning": "none"}, {"generator", "encoder"}),
        ({"conditioning": "auxiliary"}, {"generator", "encoder"}),
        ({"generators": "two"}, {"decoder", "encoder"}),
        ({"shape_inference": True, "code_kl_weight": 1.0}, {"generator", "encoder", "classes", "domains"}),
        ({"infer_generated": True}, {"generator", "encoder"}),
    ],
    ids=["usual", "blind critic", "auxiliary", "two generators", "inference shaped", "generated inferred"],
)
def test_each_update_changes_its_own_networks_alone(
    task: int, options: dict[str, Any], dream: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(**options)
    if task:
        second_task(model)
    else:  # with one domain there is nothing to be told of it, so no gradient
        model.grow(4, 2)
    found = updates_and_what_they_change(model, monkeypatch, domains=2, classes=4)
    assert found == {**ALONE, "dream": dream}
    assert list(found) == ["critic", "generator", "dream", "domains", "classes"]
    assert not any(p.grad is not None for net in model.networks.values() for p in net.parameters())


def test_each_update_changes_its_own_networks_alone_with_batch_norm_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights; running statistics move with every pass in training mode, and with no other, in the two networks that have any."""
    model = second_task(built(norm="batch"))
    assert [name for name, network in model.networks.items() if list(network.buffers())] == ["generator", "classes"]
    before = hashes(model)
    model.reconstruct(rows().x)
    model.recognise(rows().x)
    assert changed(before, model) == set()
    monkeypatch.setattr(
        "tests.generators.test_lgaa.hashes",
        lambda model: {name: bits(dict(network.named_parameters())) for name, network in model.networks.items()},
    )
    found = updates_and_what_they_change(model, monkeypatch, domains=2, classes=4)
    assert found == {**ALONE, "dream": {"generator", "encoder"}}


def test_gradient_of_mutual_information_by_hand() -> None:
    """With inferences that are linear, q(c|x) = softmax(W x) and q(a|z) = softmax(V M x): of a row of weight p it is
    w p [W' (q(c|x) - c) + M' V' (q(a|z) - a)]."""
    draw = torch.Generator().manual_seed(3)
    W, M, V = (torch.randn(*size, generator=draw) / 8 for size in ((4, 64), (32, 64), (2, 32)))

    class Stub(nn.Module):
        def __init__(self, answer: Any) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: Tensor) -> Any:
            return self.answer(x.flatten(1))

    gradients = []
    batch = rows(domains=2, classes=4)
    c, a = nn.functional.one_hot(batch.y, 4).float(), nn.functional.one_hot(batch.task, 2).float()
    fake = 2 * torch.rand(6, *SHAPE, generator=draw) - 1
    for weight in (0.0, 0.7):
        model = second_task(built(mutual_information=weight))
        model.networks |= {
            "classes": Stub(lambda x: x @ W.T),
            "encoder": Stub(lambda x: (x @ M.T, None)),
            "domains": Stub(lambda z: z @ V.T),
        }
        at = fake.clone().requires_grad_()
        loss, _ = model._generator_loss(at, c, a, batch.weight)
        gradients.append(torch.autograd.grad(loss, at)[0])
    x = fake.flatten(1)
    by_class = (torch.softmax(x @ W.T, dim=1) - c) @ W
    by_domain = (torch.softmax(x @ M.T @ V.T, dim=1) - a) @ V @ M
    expected = 0.7 * batch.weight[:, None] * (by_class + by_domain)
    assert torch.allclose((gradients[1] - gradients[0]).flatten(1), expected, atol=1e-6)
    assert expected.abs().max() > 1e-3


def test_mutual_information_reaches_the_generator_alone() -> None:
    without, with_it = built(mutual_information=0.0), built(mutual_information=1.0)
    losses = []
    for model in (without, with_it):
        batch = rows()
        known, c = model._class_codes(batch, "all")
        a = torch.ones(len(batch), 1)
        losses.append(model._wake(2 * batch.x - 1, c, a, batch.task, batch.weight, batch.weight * known))
    assert "information" not in losses[0]
    assert losses[1]["information"] > 0
    assert changed(hashes(without), with_it) == {"generator"}
    first = with_it.networks["generator"].codes.c.weight
    assert not torch.equal(first, without.networks["generator"].codes.c.weight)  # the class code is what it is about


def test_the_domain_inference_learns_from_the_code_and_not_through_it() -> None:
    """Its gradient is that of the cross-entropy of a detached code, whatever else the encoder learns."""
    model = second_task(built(label_optimiser=SGD(learning_rate=1.0), domain_shapes_encoder=False))
    batch = rows(domains=2, classes=4)
    x, domains = 2 * batch.x - 1, model.networks["domains"]
    with torch.no_grad():
        mean, std = model.networks["encoder"](x)
        z = mean + std * torch.randn(mean.shape, generator=model.rng("dream code"))
    a = nn.functional.one_hot(batch.task, 2).float()
    loss = (batch.weight * code_cross_entropy(domains(z), a)).sum()
    expected = [
        p - g for p, g in zip(domains.parameters(), torch.autograd.grad(loss, [*domains.parameters()]), strict=True)
    ]
    model.step(batch)
    for mine, theirs in zip(domains.parameters(), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_the_encoder_learns_to_tell_domains_where_it_is_asked_to() -> None:
    told, untold = (second_task(built(domain_shapes_encoder=on)) for on in (True, False))
    for model in (told, untold):
        steps(model, 0, 1, domains=2, classes=4)
    # Both updates of the generator come before, and the decoder's gradient does not depend on what the encoder is told.
    assert changed(hashes(told), untold) == {"encoder"}


# ------------------------------------------------------------------------------------------ a step


def test_same_seed_same_bits() -> None:
    one, two, other = built(), built(), built(seed=1)
    losses = [steps(model, 0, 3) for model in (one, two)]
    steps(other, 0, 3)
    assert differing(one.state(), two.state()) == []
    assert differing(*losses) == []
    assert changed(hashes(one), other) == set(one.networks)


@pytest.mark.parametrize("conditioning", ["none", "auxiliary"])
def test_losses_have_the_same_names_at_every_step(conditioning: Any) -> None:
    """Where the generator waits, and where no row has a class."""
    model = built(critic_steps=3, conditioning=conditioning)
    moved = []
    for step in range(5):
        before = hashes(model)
        model.rng.position = Position(step=step)
        unknown = torch.full((6,), UNKNOWN) if step == 2 else ()
        losses = model.step(rows(seed=step, y=unknown))
        expected = [*LOSSES[:2], "told", *LOSSES[2:]] if conditioning == "auxiliary" else LOSSES
        assert list(losses) == expected
        assert not any(loss.requires_grad for loss in losses.values())
        assert all(bool(torch.isfinite(loss)) for loss in losses.values())
        assert "critic" in changed(before, model)
        moved.append("classes" in changed(before, model))
    assert moved == [True, True, False, True, True]


def test_the_generator_wakes_once_in_critic_steps() -> None:
    model = built(critic_steps=3, generators="two")  # the dream moves the other one
    moved = []
    for step in range(7):
        before = hashes(model)
        steps(model, step, step + 1)
        moved.append("generator" in changed(before, model))
    assert moved == [True, False, False, True, False, False, True]


def test_rows_of_weight_zero_do_not_matter() -> None:
    one, two = built(norm="layer"), built(norm="layer")
    batch = rows()
    weight = batch.weight * (torch.arange(6) < 4)
    for model, x in ((one, batch.x), (two, torch.where(weight[:, None, None, None] > 0, batch.x, 1 - batch.x))):
        model.step(Batch(x, batch.y, batch.task, weight / weight.sum()))
    for mine, theirs in zip(one.networks.values(), two.networks.values(), strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_rows_without_a_class_teach_no_label() -> None:
    one, two, without = (built(virtual_adversarial=0.0) for _ in range(3))
    y = torch.tensor([0, 1, UNKNOWN, UNKNOWN, 1, UNKNOWN])
    batch = rows(y=y)
    unknown = (y == UNKNOWN)[:, None, None, None]
    one.step(batch)
    two.step(replace(batch, x=torch.where(unknown, 1 - batch.x, batch.x)))
    losses = without.step(replace(batch, y=None))
    for a, b in zip(one.networks["classes"].parameters(), two.networks["classes"].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)
    assert "classes" not in changed(hashes(built()), without)
    assert losses["classes"] == 0
    assert "classes" in changed(hashes(built()), one)


def test_the_inference_of_classes_may_learn_what_is_generated() -> None:
    """The mean of the cross-entropies of real rows and of what is generated with their codes; rows without a class are in neither."""
    still = Adam(learning_rate=1e-30)  # so that the label update meets the networks as they are here
    frozen = dict.fromkeys(("critic_optimiser", "generator_optimiser", "dream_optimiser"), still)
    batch = rows(domains=2, classes=4, y=torch.tensor([0, 3, UNKNOWN, 2, 1, UNKNOWN]))
    model = second_task(built(infer_generated=True, virtual_adversarial=0.0, **frozen))
    model._in_their_place = lambda known, weight, domain: known  # type: ignore[method-assign]
    known = batch.weight * (batch.y >= 0)
    c, a = nn.functional.one_hot(batch.y.clamp(min=0), 4).float(), nn.functional.one_hot(batch.task, 2).float()
    z = torch.randn(6, 32, generator=model.rng("label noise"))
    made = 2 * model.decode(z, c, a) - 1
    expected = 0.0
    with torch.no_grad():
        for images in (2 * batch.x - 1, made):
            each = code_cross_entropy(model.networks["classes"](images), c)
            expected += float((known * each).sum() / known.sum()) / 2
    losses = model.step(batch)
    assert math.isclose(losses["classes"].item(), expected, rel_tol=1e-5)


def test_rows_with_a_class_stand_for_those_of_their_domain_without() -> None:
    """The few labels of a new task count as much as its rows, however many labels replay has."""
    model = second_task(built(virtual_adversarial=0.0))
    y = torch.tensor([0, 1, 1, 2, UNKNOWN, UNKNOWN])
    batch = replace(rows(y=y, classes=4), task=torch.tensor([0, 0, 0, 1, 1, 1]))
    twin = copy.deepcopy(model.networks["classes"])
    losses = nn.functional.cross_entropy(twin(2 * batch.x - 1), y.clamp(min=0), reduction="none")
    weight = batch.weight
    expected = (weight[:3] * losses[:3]).sum() + weight[3:].sum() * losses[3]
    found = model.step(batch)["classes"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    none = replace(batch, y=torch.tensor([0, 1, 1, UNKNOWN, UNKNOWN, UNKNOWN]))  # a domain with no label counts nothing
    model = second_task(built(virtual_adversarial=0.0))
    expected = (weight[:3] * losses[:3]).sum() / weight[:3].sum()
    assert model.step(none)["classes"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_rows_without_a_class_smooth_the_inference_of_classes() -> None:
    """Where some rows of the phase have one; not where none has, whatever replay is labelled with. Rows with a class are left alone."""
    y = torch.tensor([0, 1, UNKNOWN, UNKNOWN, 1, UNKNOWN])
    some, none = rows(y=y), rows(y=torch.full((6,), UNKNOWN))

    def classes(batch: Batch, labelled: Any, radius: float = 0.07) -> dict[str, Any]:
        model = built(virtual_adversarial=radius)
        model.step(batch, labelled)
        return hashes(model)["classes"]

    start, plain = hashes(built())["classes"], classes(some, "some", 0.0)
    assert classes(some, "some") == classes(some, None) != plain
    assert classes(some, "none") == plain
    assert classes(none, "some") != start
    assert classes(none, None) == classes(none, "none") == start
    assert classes(rows(), None) == classes(rows(), "all") == classes(rows(), None, 0.0)
    assert classes(rows(), "some") == classes(rows(), "all")  # a batch in which all happen to have one


def test_virtual_adversarial_rests_dropout_batch_norm_and_rows_with_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.tensor([0, 1, UNKNOWN, UNKNOWN, 1, UNKNOWN])
    model = built(of=spec(heads=HEADS), norm="batch")
    seen: list[tuple[bool, int]] = []
    model.networks["classes"].register_forward_pre_hook(lambda network, x: seen.append((network.training, len(x[0]))))
    model._label(2 * rows().x - 1, torch.zeros(6, 4), rows().weight, (y >= 0).float(), "some", "some")
    assert seen == [(True, 6), (False, 3), (False, 3), (False, 3)]


def test_rows_without_a_class_do_not_teach_an_auxiliary_critic() -> None:
    """It learns domains of them alone: its head of classes stays as it was."""
    model = second_task(built(conditioning="auxiliary"))
    heads = [bits(dict(model.networks["critic"].get_submodule(name).state_dict())) for name in ("classes", "domains")]
    model.step(replace(rows(domains=2), y=None))
    after = [bits(dict(model.networks["critic"].get_submodule(name).state_dict())) for name in ("classes", "domains")]
    assert heads[0] == after[0]
    assert heads[1] != after[1]


def test_codes_of_rows_without_a_class_are_as_the_inference_believes() -> None:
    model = built()
    with torch.no_grad():  # sure of class 3, whatever it sees
        model.networks["classes"].head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 50.0]))
    y = torch.tensor([0, UNKNOWN, 1, UNKNOWN, UNKNOWN, 2])
    known, c = model._class_codes(rows(y=y), "some")
    assert known.tolist() == [1, 0, 1, 0, 0, 1]
    assert c.argmax(dim=1).tolist() == [0, 3, 1, 3, 3, 2]
    assert torch.equal(c.sum(dim=1), torch.ones(6))


def test_soft_labels_at_a_corner_are_hard_ones() -> None:
    hard, soft = built(), built()
    batch = rows()
    hard.step(batch)
    assert batch.y is not None
    soft.step(replace(batch, y=nn.functional.one_hot(batch.y, 2).float()))  # from before two classes joined
    assert changed(hashes(hard), soft) == set()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (replace(rows(), y=torch.tensor([0, 1, 7, 0, 0, 0])), r"rows of class 7, .* classes 0 to 3; extend the stream"),
        (
            replace(rows(), task=torch.tensor([0, 1, 0, 0, 0, 0])),
            r"rows of domain 1, .* domains 0 to 0; begin the task",
        ),
    ],
)
def test_rows_without_a_code_for_them_are_refused(batch: Batch, message: str) -> None:
    model = built()
    before = hashes(model)
    with pytest.raises(DataError, match=message):
        model.step(batch)
    assert changed(before, model) == set()


def test_rows_that_were_checked_before_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an accelerator is not waited for."""
    one, two = built(), built()
    one.step(rows())
    monkeypatch.setattr(two, "_checked", None)
    two.step(rows(), "all")
    assert changed(hashes(one), two) == set()
    item_by_item = built(of=spec(value_range=None))
    with pytest.raises(DataError, match="inputs must lie in"):
        item_by_item.step(replace(rows(), x=2 * rows().x), "all")


def test_values_outside_the_range() -> None:
    with pytest.raises(OptionsError, match=r"lgaa: inputs must lie in \[0, 1\], this stream's lie in \[-1, 1\]"):
        built(of=spec(value_range=(-1.0, 1.0)))
    model = built(of=spec(value_range=None))  # a data set that is read item by item
    model.step(rows())
    for wrong in (2 * rows().x - 1, 255 * rows().x, rows().x * math.nan):
        with pytest.raises(DataError, match=r"lgaa: inputs must lie in \[0, 1\], these lie in \["):
            model.step(replace(rows(), x=wrong))


def test_streams_that_cannot_be_learnt() -> None:
    with pytest.raises(OptionsError, match="needs images"):
        built(of=replace(spec(), input_shape=(64,)))
    with pytest.raises(OptionsError, match="multiples of 4, this stream's are 9 x 9"):
        built(of=replace(spec(), input_shape=(1, 9, 9)))
    with pytest.raises(OptionsError, match="needs classes, and this is regression"):
        built(of=replace(spec(), kind="regression"))


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch"},
        {"norm": "affine", "initial_std": 0.02},
        {"prior": "domain-shifted", "generators": "two", "uniform_noise": True, "temperature": 0.1},
        {"penalty_norm": "columns", "one_place": True, "uniform_noise": True, "mutual_information": 0.0},
        {"code_kl_weight": 1.0, "shape_inference": True},
        {"infer_generated": True},
    ],
)
def test_options_train(options: dict[str, Any]) -> None:
    model = second_task(built(**options))
    losses = steps(model, 0, 2, domains=2, classes=4)
    assert all(bool(torch.isfinite(loss)) for loss in losses[-1].values())
    assert images(model, domain=1).shape == (4, *SHAPE)


def test_dropout_and_batch_norm_rest_but_in_the_update_of_the_class_inference() -> None:
    shape = (3, 32, 32)
    model = AdversarialAutoencoder(size="small32")
    model.build(replace(spec(), input_shape=shape), Randomness(0), CPU)
    batch = replace(rows(4), x=torch.rand(4, *shape))
    seen = []
    model.networks["classes"].register_forward_hook(lambda network, x, y: seen.append(network.training))
    model.step(batch)
    assert seen == [False, False, True]  # generator update, dream, label
    # An answer depends on no other row.
    assert torch.allclose(model.class_logits(batch.x[:1]), model.class_logits(batch.x)[:1], atol=1e-5)


def test_bfloat16_trains() -> None:
    model = second_task(built(device=Device(torch.device("cpu"), "bf16"), conditioning="auxiliary"))
    losses = steps(model, 0, 2, domains=2, classes=4)
    assert all(bool(torch.isfinite(loss)) and loss.dtype == torch.float32 for loss in losses[-1].values())
    assert (
        images(model).dtype == model.reconstruct(rows().x).dtype == model.class_logits(rows().x).dtype == torch.float32
    )


# ------------------------------------------------------------------------------------------ growth


@pytest.mark.parametrize("conditioning", ["none", "projection", "auxiliary"])
def test_growth_changes_nothing_of_what_was_there(conditioning: Any) -> None:
    model = built(conditioning=conditioning, generators="two")
    steps(model, 0, 2)
    x, z = rows().x, torch.randn(6, 32)
    c, a = nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 0, 1]), 4).float(), torch.ones(6, 1)
    soft = torch.softmax(torch.randn(6, 4), dim=1)

    def outputs(c: Tensor, a: Tensor) -> dict[str, Tensor]:
        found = model.encode(x)
        wide = nn.functional.pad
        c, a = wide(c, (0, model.outputs - c.shape[1])), wide(a, (0, model.domains - a.shape[1]))
        with torch.no_grad():
            critic = model.networks["critic"](2 * x - 1, c, a)
        return {
            "generator": model.decode(z, c, a, sampled=True),
            "decoder": model.decode(z, c, a),
            "critic": critic,
            "mean": found.mean,
            "std": found.std,
            "classes": found.class_logits[:, :4],
            "domains": found.domain_logits[:, :1],
        }

    hard_before, soft_before = outputs(c, a), outputs(soft, a)
    model.grow(7, 3)
    assert model.encode(x).class_logits.shape == (6, 7)
    assert model.encode(x).domain_logits.shape == (6, 3)
    assert model.encode(x).domain_logits[:, 1:].max() == -math.inf  # of them nothing was learnt yet
    # To the bit, but for sums of products that another matrix product adds up in another order: logits, and soft codes.
    exact = {"generator", "decoder", "mean", "std"} | ({"critic"} if conditioning != "projection" else set())
    for before, after in ((hard_before, outputs(c, a)), (soft_before, outputs(soft, a))):
        for name in before:
            assert torch.allclose(before[name], after[name], atol=1e-6), name
    assert {name for name, value in outputs(c, a).items() if torch.equal(value, hard_before[name])} >= exact
    steps(second_task(model), 2, 3, domains=3, classes=4)


def test_a_domain_that_joins_moves_no_reconstruction_before_its_first_row() -> None:
    model = built()
    steps(model, 0, 2)
    x = rows().x
    before, codes = model.reconstruct(x), model.encode(x)
    second_task(model)
    assert (model.domains, model.seen) == (2, 1)
    assert torch.allclose(model.reconstruct(x), before, atol=1e-6)
    assert torch.equal(model.encode(x).a, torch.tensor([[1.0, 0.0]]).expand(6, -1))
    assert torch.allclose(codes.domain_logits, model.encode(x).domain_logits[:, :1], atol=1e-6)
    steps(model, 2, 3, domains=2, classes=4)
    assert (model.encode(x).a > 0).all()


def test_growth_in_steps_equals_growth_at_once() -> None:
    slow, fast = built(), built()
    for domains in (2, 3, 4):
        slow.grow(4, domains)
    fast.grow(4, 4)
    assert differing(slow.state(), fast.state()) == []


def test_moments_survive_growth_and_start_at_zero_where_it_grew() -> None:
    model = built()
    steps(model, 0, 2)
    (name,) = [n for n, p in model.networks["generator"].named_parameters() if n == "codes.a.weight"]
    place = [n for n, _ in model.networks["generator"].named_parameters()].index(name)
    before = {
        key: {k: dict(v) for k, v in update.optimiser.state_dict()["state"].items()}
        for key, update in model.updates.items()
    }
    model.grow(4, 3)
    for key, update in model.updates.items():
        after = update.optimiser.state_dict()["state"]
        assert after.keys() == before[key].keys()
        for index, values in before[key].items():
            for kind in ("exp_avg", "exp_avg_sq", "step"):
                old, new = values[kind], after[index][kind]
                assert torch.equal(new[tuple(slice(n) for n in old.shape)], old)
    moments = model.updates["generator"].optimiser.state_dict()["state"][place]["exp_avg"]
    assert moments[0].any()
    assert not moments[1:].any()


def test_optimisers_are_reset_at_a_task_where_they_are_told_to() -> None:
    keeps, forgets = built(), built(critic_optimiser=SGD(momentum=0.9, reset_each_task=True))
    for model in (keeps, forgets):
        steps(model, 0, 1)
        second_task(model)
    assert keeps.updates["critic"].optimiser.state_dict()["state"]
    assert not forgets.updates["critic"].optimiser.state_dict()["state"]
    assert forgets.updates["generator"].optimiser.state_dict()["state"]


def test_a_merged_stream_has_a_domain_for_each_task_in_it() -> None:
    model = built(of=replace(spec(), task_classes=((0, 1, 2, 3),), task_names=("all",)))
    assert model.domains == 2
    steps(model, 0, 1, domains=2, classes=4)
    assert model.taught().tolist() == [[True, True, False, False], [False, False, True, True]]


def test_classes_join_when_the_stream_grows() -> None:
    model = built(of=spec(HEADS[:1]))
    steps(model, 0, 1)
    model.extend(spec())
    before = images(model)
    second_task(model)
    assert (model.outputs, model.domains) == (4, 2)
    assert torch.equal(images(model), before)
    steps(model, 1, 2, domains=2, classes=4)
    assert model.taught().tolist() == [[True, True, False, False], [False, False, True, True]]


# ------------------------------------------------------------------------------------------ state and copies


@pytest.mark.parametrize(
    "options", [{}, {"generators": "two", "conditioning": "none", "critic_steps": 2}, {"infer_generated": True}]
)
def test_continued_from_its_state_it_is_the_unbroken_one(options: dict[str, Any]) -> None:
    whole, first, second = (built(**options) for _ in range(3))
    for model in (whole, first):
        steps(model, 0, 1)
        second_task(model)
        steps(model, 1, 3, domains=2, classes=4)  # with two, between two generator updates
    second.load(first.state())  # one that has no code for the second domain yet
    second.rng.position = Position(task=1)
    losses = [steps(model, 3, 5, domains=2, classes=4) for model in (whole, second)]
    assert differing(*losses) == []
    assert differing(whole.state(), second.state()) == []


def test_a_state_with_fewer_codes_can_be_loaded() -> None:
    early, late = built(of=spec(HEADS[:1])), built()
    steps(early, 0, 1)
    steps(second_task(late), 0, 1, domains=2, classes=4)
    frozen = late.frozen()
    for model in (late, frozen):
        model.load(early.frozen().state() if model is frozen else early.state())
        assert (model.outputs, model.domains, model.seen) == (2, 1, 1)
        c, a = torch.eye(2), torch.ones(2, 1)
        assert torch.equal(model.decode(torch.ones(2, 32), c, a), early.decode(torch.ones(2, 32), c, a))
    assert not any(p.requires_grad for net in frozen.networks.values() for p in net.parameters())
    assert frozen.updates == {}


@pytest.mark.parametrize("generators", ["one", "two"])
def test_frozen_copy_stays_as_it_was(generators: Any) -> None:
    model = built(generators=generators)
    steps(model, 0, 2)
    frozen = model.frozen()
    before, x = hashes(frozen), rows().x
    assert torch.equal(images(frozen), images(model))
    assert torch.equal(frozen.reconstruct(x), model.reconstruct(x))
    steps(second_task(model), 2, 4, domains=2, classes=4)
    assert changed(before, frozen) == set()
    assert (frozen.domains, frozen.seen) == (1, 1)
    assert not torch.equal(images(frozen), images(model))
    assert not any(p.requires_grad for net in frozen.networks.values() for p in net.parameters())
    another = built(seed=5, generators=generators).frozen()
    another.load(frozen.state())
    assert torch.equal(images(another), images(frozen))


def test_bytes_and_flops() -> None:
    model = built()
    sizes = {name: 4 * sum(p.numel() for p in network.parameters()) for name, network in model.networks.items()}
    assert model.num_bytes() == sum(sizes.values())
    assert model.frozen().num_bytes() == model.num_bytes() - sizes["critic"]
    updated = [sizes[name] for name in ("critic", "generator", "generator", "encoder", "classes", "domains")]
    # Two moments of all, and the gradients of the largest update: the dream's.
    assert model.working_bytes() == 2 * sum(updated) + sizes["generator"] + sizes["encoder"]
    assert model.frozen().working_bytes() == 0
    # First layer (32 + 4 + 1 inputs), and two transposed convolutions that read every pixel before them 16 times.
    expected = 2 * 10 * ((32 + 4 + 1) * 64 * 4 + 4 * 64 * 32 * 16 + 16 * 32 * 1 * 16)
    plain = built(relabel=False)
    assert plain.flops(10, train=False) == expected
    looked = model.flops(10, train=False) - expected
    assert looked > 2 * 10 * sum(model.costs["classes"]) > 0
    assert model.rehearsal_flops(10) == plain.rehearsal_flops(10) == expected + looked
    assert math.isclose(model.flops(20), 2 * model.flops(10))
    # The decoder of two costs in the dream what the generator of one does.
    assert built(generators="two").flops(10) == model.flops(10)
    assert built(critic_steps=5).flops(10) < model.flops(10) < built(conditioning="auxiliary").flops(10)
    assert (
        model.smoothing_flops(20)
        == 2 * model.smoothing_flops(10)
        > 0
        == built(virtual_adversarial=0.0).smoothing_flops(10)
    )
    # As often again through the inference of classes, and through the generator before it.
    more = built(infer_generated=True).flops(10) - model.flops(10)
    assert math.isclose(more, expected + training_flops(model.costs["classes"], 10))
    plain.grow(4, 3)
    assert plain.flops(10, train=False) == expected + 2 * 10 * 2 * 256


# ------------------------------------------------------------------------------------------ what it is asked for


def test_reconstruction_is_the_decoding_of_what_is_inferred() -> None:
    model = second_task(built())
    steps(model, 0, 1, domains=2, classes=4)
    x = rows().x
    found = model.encode(x)
    assert torch.allclose(found.c.sum(dim=1), torch.ones(6))
    assert torch.allclose(found.a.sum(dim=1), torch.ones(6))
    assert found.std.min() > 0
    assert torch.equal(model.reconstruct(x), model.decode(found.mean, found.c, found.a))
    assert torch.equal(model.class_logits(x), found.class_logits)
    with torch.no_grad():
        assert torch.equal(model.networks["domains"](found.mean), found.domain_logits)
    assert model.reconstruct(x).min() >= 0
    assert model.reconstruct(x).max() <= 1


def test_what_is_sampled_and_what_reconstructs_may_be_two_networks() -> None:
    model = built(generators="two")
    steps(model, 0, 1)
    z, c, a = torch.randn(3, 32), torch.eye(4)[:3], torch.ones(3, 1)
    assert not torch.allclose(model.decode(z, c, a), model.decode(z, c, a, sampled=True))
    with torch.no_grad():
        assert torch.equal(model.decode(z, c, a), (model.networks["decoder"](z, c, a) + 1) / 2)
    one = built()
    assert torch.equal(one.decode(z, c, a), one.decode(z, c, a, sampled=True))


def test_what_is_recognised_was_taught() -> None:
    model = built()
    steps(model, 0, 1)
    with torch.no_grad():  # sure of a class that is still to come
        model.networks["classes"].head.bias.copy_(torch.tensor([0.0, 0.0, 50.0, 0.0]))
    x = rows().x
    found = model.recognise(x)
    logits = model.class_logits(x)[:, :2]
    assert torch.equal(found.classes, logits.argmax(dim=1))
    assert torch.allclose(found.sure, torch.softmax(logits, dim=1).max(dim=1).values)
    assert not found.domains.any()
    own = model.recognise(x, categories=True)
    assert set(own.classes.tolist()) == {2}


@pytest.mark.parametrize("relabel", [True, False])
def test_its_own_replay_is_learnt_as_what_it_is_taken_for(relabel: bool) -> None:
    model = second_task(built(relabel=relabel))
    steps(model, 0, 1, domains=2, classes=4)
    frozen = model.frozen()
    with torch.no_grad():
        frozen.networks["classes"].head.bias.add_(torch.tensor([0.0, 0.0, 0.0, 50.0]))
        frozen.networks["domains"].head.bias.add_(torch.tensor([0.0, 50.0]))
    asked = frozen.sample(8, torch.Generator().manual_seed(0), torch.tensor([0, 1] * 4))
    shown = frozen.relabelled(asked)
    assert shown.x is asked.x
    assert (shown.y.tolist(), shown.task.tolist()) == (
        ([3] * 8, [1] * 8) if relabel else (asked.y.tolist(), asked.task.tolist())
    )


def test_samples_know_what_they_were_asked_for() -> None:
    shared = second_task(built(of=spec(((0, 1), (1, 2)))))
    steps(shared, 0, 1, domains=2, classes=3)
    classes = torch.tensor([0, 1, 2]).repeat(40)
    batch = shared.sample(120, torch.Generator().manual_seed(0), classes)
    assert batch.x.shape == (120, *SHAPE)
    assert batch.y is classes
    assert batch.weight.sum().item() == pytest.approx(1)
    assert set(batch.task[classes == 0].tolist()) == {0}
    assert set(batch.task[classes == 1].tolist()) == {0, 1}  # both domains taught it
    assert set(batch.task[classes == 2].tolist()) == {1}
    again = shared.sample(120, torch.Generator().manual_seed(0), classes)
    assert torch.equal(batch.x, again.x)


def test_samples_that_it_takes_for_others_are_drawn_again() -> None:
    """But with relabel off, when they are rehearsed as what was asked for."""
    model = second_task(built())
    steps(model, 0, 1, domains=2, classes=4)
    classes = torch.tensor([0, 1, 2, 3] * 50)

    def sampled(relabel: bool) -> tuple[Batch, Tensor]:
        model.relabel = relabel
        batch = model.sample(200, torch.Generator().manual_seed(0), classes)
        assert torch.equal(batch.y, classes)
        found = model.recognise((batch.x * 255).round() / 255)
        return batch, (found.classes == classes) & (found.domains == batch.task)

    (once, right), (again, now) = sampled(False), sampled(True)
    assert 0 < right.sum() < now.sum()
    kept = (again.x - once.x).abs().flatten(1).amax(dim=1) <= 0.5 / 255 + 1e-6
    assert torch.equal(kept, right), "what was right stays, to the nearest byte, and all else is another image"


def test_class_and_domain_and_temperature_matter() -> None:
    model = second_task(built())
    steps(model, 0, 1, domains=2, classes=4)
    one = torch.zeros(3, dtype=torch.int64)

    def drawn(c: Tensor, d: Tensor, **options: Any) -> Tensor:
        return model.draw(c, d, torch.Generator().manual_seed(0), **options)

    assert not torch.equal(drawn(one, one), drawn(one + 1, one))
    assert not torch.equal(drawn(one, one), drawn(one, one + 1))
    still = drawn(one, one, temperature=0.0)
    assert torch.allclose(still, still[:1].expand_as(still), atol=1e-6)
    assert not torch.allclose(drawn(one, one), drawn(one, one)[:1], atol=1e-6)


def test_what_is_rehearsed_has_codes_of_its_own_spread() -> None:
    model, wide = built(relabel=False), built(relabel=False, replay_temperature=1.5)
    for each in (model, wide):
        steps(each, 0, 1)
    classes = torch.tensor([0, 1, 0])

    def drawn(of: AdversarialAutoencoder, **options: Any) -> Tensor:
        return of.draw(classes, torch.zeros_like(classes), torch.Generator().manual_seed(0), **options)

    rehearsed = wide.sample(3, torch.Generator().manual_seed(1), classes).x
    place = torch.Generator().manual_seed(1)
    torch.multinomial(torch.ones(3, 1), 1, generator=place)
    codes = 1.5 * torch.randn(3, wide.layout.latent, generator=place)
    c, a = torch.nn.functional.one_hot(classes, wide.outputs).float(), torch.ones(3, 1)
    assert torch.equal(rehearsed, wide.decode(codes, c, a, sampled=True))
    assert torch.equal(drawn(model), drawn(wide)), "what is drawn otherwise is as before"


def test_what_was_never_learnt_is_refused() -> None:
    model, rng, zero = built(), torch.Generator(), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(NotReadyError, match="never trained"):
        model.draw(zero, zero, rng)
    with pytest.raises(NotReadyError, match="never trained"):
        model.sample(2, rng, zero)
    steps(model, 0, 1)
    second_task(model)  # it has a code, and no row of it was seen
    with pytest.raises(OptionsError, match="domain 1: was never learnt; the model knows 0 to 0"):
        model.draw(zero, zero + 1, rng)
    with pytest.raises(OptionsError, match="class 4: was never learnt; the model knows 0 to 3"):
        model.draw(zero + 4, zero, rng)
    with pytest.raises(OptionsError, match="class 2: no domain that was learnt has taught it"):
        model.sample(2, rng, torch.tensor([0, 2]))
    with pytest.raises(OptionsError, match="must be told which classes"):
        model.sample(2, rng)


@pytest.mark.parametrize(("uniform", "generators"), [(False, "one"), (True, "two")])
def test_priors_of_domains_lie_apart(uniform: bool, generators: Any) -> None:
    model = built(prior="domain-shifted", uniform_noise=uniform, generators=generators)
    domains = torch.tensor([0, 1, 2]).repeat(2000)
    z = model._noise(domains, torch.Generator().manual_seed(0))
    means = [z[domains == k].mean().item() for k in range(3)]
    # Noise of the published kind is the same in all domains; the prior of the code is not.
    assert means == pytest.approx([0, 0, 0] if uniform else [0, 1, 2], abs=0.03)
    assert z[domains == 0].var().item() == pytest.approx(1 / 3 if uniform else 1, rel=0.05)
    assert (z.abs().max() <= 1) == uniform


def test_kl_is_from_the_shifted_prior() -> None:
    standard, shifted = (second_task(built(prior=prior)) for prior in ("standard", "domain-shifted"))
    first, second = (rows(domains=1), replace(rows(), task=torch.ones(6, dtype=torch.int64)))

    def kl(model: AdversarialAutoencoder, batch: Batch) -> float:
        a = nn.functional.one_hot(batch.task, 2).float()
        return model._dream(2 * batch.x - 1, a, batch.task, batch.weight)["kl"].item()

    kls = [[kl(model, batch) for batch in (first, second)] for model in (standard, shifted)]
    assert kls[0][0] == kls[1][0]
    assert kls[1][1] > kls[0][1] + 5  # 32 numbers, each about 1 from its centre


def test_uniform_noise_needs_a_generator_of_its_own_beside_a_shifted_prior() -> None:
    with pytest.raises(
        OptionsError, match="uniform_noise = True: z is drawn around no domain; use prior = 'standard' or"
    ):
        AdversarialAutoencoder(uniform_noise=True, prior="domain-shifted")


def test_options() -> None:
    options = {
        "name": "lgaa",
        "size": "tiny",
        "critic_steps": 5,
        "dream_optimiser": {"name": "adam", "betas": [0.5, 0.999]},
    }
    model = from_options(GENERATORS, options)
    assert to_options(from_options(GENERATORS, to_options(model))) == to_options(model)
    phase = model.set_params(phase_steps=7, phase_batch_size=5).phase("generator")
    assert (phase.name, phase.steps, phase.batch_size) == ("generator", 7, 5)


def test_it_learns_to_reconstruct_to_classify_and_to_generate() -> None:
    """Two classes of images, a bright left or right half."""
    y = torch.arange(80) % 2
    x = torch.zeros(80, *SHAPE)
    x[y == 0, :, :, :4], x[y == 1, :, :, 4:] = 0.9, 0.9
    x = (x + 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    fast = {f"{of}_optimiser": Adam(learning_rate=2e-3, betas=(0.5, 0.9)) for of in ("critic", "generator", "dream")}
    model = train(AdversarialAutoencoder(**fast), x, y, steps=90, batch_size=16)
    assert model.seen == 1
    assert (model.class_logits(x).argmax(dim=1) == y).float().mean() > 0.95
    assert (model.reconstruct(x) - x).square().mean() < 0.03
    drawn = model.sample(40, torch.Generator().manual_seed(0), torch.arange(40) % 2)
    left, right = drawn.x[..., :4].mean((1, 2, 3)), drawn.x[..., 4:].mean((1, 2, 3))
    assert ((left > right) == (drawn.y == 0)).float().mean() > 0.85
