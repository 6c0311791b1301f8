"""What hypernetworks make at the start, what belongs to a task or a place alone, and growth that equals having been made whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reverie.checks import OptionsError
from reverie.nn import matmul
from reverie.nn.hypernetworks import (
    ACTIVATIONS,
    LEAST,
    Chunked,
    ChunkedModule,
    EmbeddingHypernet,
    Full,
    Hypernet,
    HypernetworkOptions,
    Piecewise,
    PiecewiseModule,
    Separate,
    SeparateHypernetworks,
    Single,
    Structured,
    StructuredModule,
    hyperfan_variance,
    leading,
)
from reverie.nn.networks import EncoderAndHead, Head, Linear
from reverie.nn.parameters import ParameterSpec

VARIANCES = (0.003, 0.083)
INPUTS, WIDTH, OUTPUTS = 6, 8, 4
NUMEL = (INPUTS + 1) * WIDTH + (WIDTH + 1) * OUTPUTS  # 92
SIZE = 13  # of a chunk: the last has 12 too much


def network(outputs: int = OUTPUTS, inputs: int = INPUTS, width: int = WIDTH) -> EncoderAndHead:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder = nn.Sequential(nn.Flatten(), Linear(inputs, width), nn.ReLU())
    return EncoderAndHead(encoder, Head(width, outputs, seed=3))


OPTIONS: dict[str, HypernetworkOptions] = {
    "full": Full(hidden=(5,), task_dim=3),
    "full linear": Full(task_dim=3, init="xavier"),
    "full xavier": Full(hidden=(5, 4), activation="tanh", task_dim=3, init="xavier"),
    "full gaussian": Full(hidden=(5,), task_dim=3, init="gaussian"),
    "chunked": Chunked(SIZE, hidden=(7, 5), activation="tanh", task_dim=3, chunk_dim=4),
    "chunked linear": Chunked(SIZE, task_dim=3, chunk_dim=4),
    "chunked gaussian": Chunked(SIZE, hidden=(7,), activation="sigmoid", task_dim=3, chunk_dim=4, init="gaussian"),
    "chunked hyperfan": Chunked(SIZE, hidden=(7,), task_dim=3, chunk_dim=4, init="hyperfan"),
    "full hyperfan": Full(hidden=(5, 4), task_dim=3, init="hyperfan"),
    "structured": Structured(SIZE, hidden=(7, 5), activation="tanh", task_dim=3, chunk_dim=4),
    "structured linear": Structured(9, task_dim=3, chunk_dim=4),
    "structured gaussian": Structured(8, hidden=(7,), activation="sigmoid", task_dim=3, chunk_dim=4, init="gaussian"),
    "structured hyperfan": Structured(SIZE, hidden=(7,), task_dim=3, chunk_dim=4, init="hyperfan"),
    "layers of a task": Structured(SIZE, hidden=(7,), task_dim=3, chunk_dim=4, chunks_per_task=True),
    "chunks of a task": Chunked(SIZE, hidden=(7,), task_dim=3, chunk_dim=4, chunks_per_task=True),
}
CHUNKED = [name for name, options in OPTIONS.items() if isinstance(options, Chunked)]


def made(
    options: HypernetworkOptions,
    tasks: int = 0,
    *,
    main: nn.Module | None = None,
    variances: Sequence[float] = VARIANCES,
    seed: int = 0,
    first: int | None = None,
) -> Hypernet:
    main = main or network()
    spec = ParameterSpec(main)
    hypernet = options.make(spec, variances, spec.flatten(main), seed, first)
    for _ in range(tasks):
        hypernet.add_task()
    return hypernet


def grown(hypernet: Hypernet, outputs: int) -> Hypernet:
    main = network(outputs)
    spec = ParameterSpec(main)
    hypernet.grow(spec, spec.flatten(main))
    return hypernet


def shaken(hypernet: Hypernet, seed: int = 9) -> Hypernet:
    """As after some training: no weight is where it started, none is 0."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return hypernet


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture(params=sorted(OPTIONS))
def options(request: pytest.FixtureRequest) -> HypernetworkOptions:
    return OPTIONS[request.param]


# ------------------------------------------------------------------------------- what holds for every kind


@pytest.mark.parametrize("n", [1, 4, 5])
def test_the_first_numbers_have_the_gradient_of_a_slice_and_may_be_changed_in_place(n: int) -> None:
    x, direction = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, n)
    found = leading(3 * x, n)
    assert torch.equal(found, 3 * x[..., :n])
    found[:, 0].add_(1)
    (gradient,) = torch.autograd.grad(found, x, direction)
    assert torch.equal(gradient, torch.autograd.grad(3 * x[..., :n], x, direction)[0])


def test_each_task_has_its_row_in_the_order_asked_for(options: HypernetworkOptions) -> None:
    hypernet = shaken(made(options, 3))
    every = hypernet([0, 1, 2])
    assert every.shape == (3, 2, NUMEL)
    assert every.isfinite().all()
    assert (every[0] - every[1]).abs().max() > 1e-2
    torch.testing.assert_close(hypernet([2, 0]), every[[2, 0]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hypernet([1]), every[[1]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_there_are_as_many_parts_as_variances(options: HypernetworkOptions, parts: int) -> None:
    hypernet = shaken(made(options, 1, variances=(0.01,) * parts))
    (row,) = hypernet([0])
    assert row.shape == (parts, NUMEL)
    assert all((row[i] - row[j]).abs().max() > 1e-2 for i in range(parts) for j in range(i))


def test_the_seed_decides_all_and_nothing_else_does(options: HypernetworkOptions) -> None:
    first = made(options, 2)
    torch.randn(17)  # the global generator is not asked, and not moved
    before = torch.get_rng_state()
    again, other = made(options, 2), made(options, 2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_weights(first, again)
    for (name, mine), theirs in zip(first.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs) == (not mine.any()), (
            name
        )  # all that is drawn differs, what starts at 0 does not


def test_a_mixture_of_one_task_is_that_task_and_of_more_what_lies_between(options: HypernetworkOptions) -> None:
    hypernet = cast(EmbeddingHypernet, shaken(made(options, 3)))
    every = hypernet([0, 1, 2])
    for task, alone in enumerate(torch.eye(3)):
        torch.testing.assert_close(hypernet.mixed(alone), every[task], rtol=1e-5, atol=1e-6)
    shares = torch.tensor([0.5, 0.2, 0.3])
    mixed = hypernet.mixed(shares)
    assert mixed.shape == (2, NUMEL)
    own = [dict(hypernet.of(task)) for task in range(3)]
    with torch.no_grad():
        for name, parameter in hypernet.of(0).items():
            parameter.copy_(sum(share * each[name] for share, each in zip(shares, own, strict=True)))
    torch.testing.assert_close(mixed, hypernet([0])[0], rtol=1e-5, atol=1e-6)
    if not options.hidden:  # type: ignore[attr-defined]
        torch.testing.assert_close(mixed, torch.tensordot(shares, every, 1), rtol=1e-5, atol=1e-6)


def test_an_embedding_changes_its_own_task_and_no_other(options: HypernetworkOptions) -> None:
    hypernet = shaken(made(options, 3))
    before = hypernet([0, 1, 2])
    with torch.no_grad():
        hypernet.of(1)["embedding"].add_(1)
    after = hypernet([0, 1, 2])
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] - before[1]).abs().amax(dim=1).min() > 1e-3  # in each part


def test_gradients_reach_the_embedding_of_the_task_and_all_that_is_shared(options: HypernetworkOptions) -> None:
    hypernet = shaken(made(options, 2))
    made_of_both = hypernet([0, 1])
    made_of_both[1].square().sum().backward()
    for name, parameter in hypernet.named_parameters():
        assert parameter.grad is not None
        if name.startswith("own.0."):
            assert not parameter.grad.any(), name
        else:
            assert parameter.grad.any(), name


def test_a_task_added_later_starts_as_one_added_earlier(options: HypernetworkOptions) -> None:
    early = grown(made(options, 3), OUTPUTS + 2)
    late = made(options, 1)
    grown(late, OUTPUTS + 2)
    late.add_task()
    late.add_task()
    assert late.tasks == 3
    assert_same_weights(early, late)


def test_a_task_that_joins_moves_nothing_that_is_there(options: HypernetworkOptions) -> None:
    hypernet = shaken(made(options, 1))
    before, names = hypernet([0]), [name for name, _ in hypernet.named_parameters()]
    hypernet.add_task()
    assert torch.equal(hypernet([0]), before)
    after = [name for name, _ in hypernet.named_parameters()]
    assert after[: len(names)] == names  # what joins comes last, where an optimiser that lives on expects it
    assert all(name.startswith("own.1.") for name in after[len(names) :])


@pytest.mark.parametrize("steps", [[OUTPUTS + 1, OUTPUTS + 2, OUTPUTS + 9], [OUTPUTS + 9]])
def test_a_head_grown_bit_by_bit_equals_one_made_whole(options: HypernetworkOptions, steps: list[int]) -> None:
    hypernet = made(options, 2)
    for outputs in steps:
        grown(hypernet, outputs)
    whole = made(options, 2, main=network(steps[-1]))
    assert_same_weights(hypernet, whole)
    assert hypernet([0, 1]).shape == (2, 2, NUMEL + 9 * (WIDTH + 1))
    assert torch.equal(hypernet([0, 1]), whole([0, 1]))


def test_growth_keeps_what_was_learnt(options: HypernetworkOptions) -> None:
    hypernet = shaken(made(options, 2))
    before = hypernet([0, 1])
    after = grown(hypernet, OUTPUTS + 5)([0, 1])
    torch.testing.assert_close(after[..., :NUMEL], before, rtol=1e-5, atol=1e-6)


def test_weights_can_be_put_into_a_twin(options: HypernetworkOptions) -> None:
    hypernet = shaken(grown(made(options, 2), OUTPUTS + 1))
    twin = grown(made(options, 2, seed=8), OUTPUTS + 1)
    twin.load_state_dict(hypernet.state_dict())
    assert torch.equal(twin([1, 0]), hypernet([1, 0]))


@pytest.mark.parametrize("tasks", [1, 3])
def test_multiplications_are_those_that_are_done(options: HypernetworkOptions, tasks: int) -> None:
    hypernet = made(options, tasks)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hypernet(range(tasks))
    assert hypernet.multiplications(tasks) == counter.get_total_flops() / 2 > 0


@pytest.mark.parametrize("std", [0.1, 2.0])
@pytest.mark.parametrize("kind", [Full, Chunked])
def test_embeddings_of_tasks_have_the_deviation_that_is_set(kind: type, std: float) -> None:
    hypernet = made(kind(task_dim=4000, task_std=std, **({"chunk_size": SIZE} if kind is Chunked else {})), 2)
    for task in range(2):
        embedding = hypernet.of(task)["embedding"]
        assert embedding.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * 4000))
        assert abs(embedding.mean().item()) < 5 * std / math.sqrt(4000)
    one, two = (hypernet.of(task)["embedding"] for task in range(2))
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1].item()) < 5 / math.sqrt(4000)


# ------------------------------------------------------------------------------------------------- full


def test_the_means_start_as_the_main_networks_own_parameters() -> None:
    main = network()
    hypernet = made(Full(hidden=(5,), init="main"), 2, main=main)
    spec = ParameterSpec(main)
    for task in range(2):
        mean = hypernet([task])[0, 0]
        assert torch.equal(mean, spec.flatten(main))
        for name, value in spec.unflatten(mean).items():
            assert torch.equal(value, main.get_parameter(name))


def test_new_outputs_start_as_the_main_networks_own_and_what_was_learnt_stays() -> None:
    hypernet = shaken(made(Full(init="main"), 1))
    learnt = hypernet([0])
    main = network(OUTPUTS + 2)
    after = grown(hypernet, OUTPUTS + 2)([0])
    assert torch.equal(after[0, 0, NUMEL:], ParameterSpec(main).flatten(main)[NUMEL:])
    torch.testing.assert_close(after[..., :NUMEL], learnt)


@pytest.mark.parametrize("init", ["main", "gaussian"])
def test_each_part_varies_at_the_start_as_its_family_says(init: str) -> None:
    main = network(inputs=60, width=100)
    (theta,) = made(Full(init=cast(Any, init)), 1, main=main)([0])
    n = theta.shape[1]
    for part, variance in enumerate(VARIANCES):
        if part == 0 and init == "main":
            continue
        assert theta[part].square().mean().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / n))
        assert abs(theta[part].mean().item()) < 5 * math.sqrt(variance / n)
    assert abs(torch.corrcoef(theta)[0, 1].item()) < 5 / math.sqrt(n)


def test_xavier_sees_each_tensor_as_a_layer_of_its_own() -> None:
    main = network(inputs=50, width=40)
    hypernet = made(Full(hidden=(30,), init="xavier"), main=main)
    for _, _, start, stop in ParameterSpec(main).blocks():
        bound = math.sqrt(6 / (30 + stop - start))
        for part in range(2):
            rows = cast(Tensor, hypernet.weight)[part, start:stop]
            assert 0.8 * bound < rows.abs().max() <= bound
    assert not cast(Tensor, hypernet.bias).any()


# ---------------------------------------------------------------------------------------------- chunked


def assembled(hypernet: ChunkedModule, task: int) -> Tensor:
    """(parts, numel), chunk after chunk, as it is written down."""
    parts = []
    for part in range(len(hypernet.variances)):
        chunks = hypernet.common if hypernet.common is not None else hypernet.of(task)["chunks"]
        pieces = []
        for embedding in chunks[part]:
            h = torch.cat([hypernet.of(task)["embedding"], embedding])
            for layer in hypernet.layers[:-1]:
                h = ACTIVATIONS[hypernet.options.activation](cast(nn.Linear, layer)(h))
            pieces.append(cast(nn.Linear, hypernet.layers[-1])(h))
        parts.append(torch.cat(pieces)[: hypernet.spec.numel])
    return torch.stack(parts)


@pytest.mark.parametrize("size", [SIZE, 23, 46, 91, NUMEL, 1])
@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_are_put_together_in_order_and_the_surplus_is_cut(name: str, size: int) -> None:
    options = cast(Chunked, OPTIONS[name]).clone().set_params(chunk_size=size)
    hypernet = cast(ChunkedModule, shaken(made(options, 2)))
    assert hypernet.count == math.ceil(NUMEL / size)
    found = hypernet([1, 0])
    for row, task in enumerate([1, 0]):
        torch.testing.assert_close(found[row], assembled(hypernet, task), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize(("part", "chunk"), [(0, 0), (1, 3), (0, 7), (1, 7)])
def test_the_embedding_of_a_chunk_changes_that_chunk_of_that_part_alone(name: str, part: int, chunk: int) -> None:
    hypernet = cast(ChunkedModule, shaken(made(OPTIONS[name], 2)))
    chunks = hypernet.common if hypernet.common is not None else cast(nn.Parameter, hypernet.of(0)["chunks"])
    before = hypernet([0, 1])
    with torch.no_grad():
        chunks[part, chunk] += 1
    changed = (hypernet([0, 1]) != before).nonzero()
    assert set(changed[:, 1].tolist()) == {part}
    places = set(changed[:, 2].tolist())
    mine = set(range(chunk * SIZE, min((chunk + 1) * SIZE, NUMEL)))
    assert places <= mine
    assert len(places) > len(mine) / 2
    assert set(changed[:, 0].tolist()) == ({0} if hypernet.common is None else {0, 1})


def test_chunk_embeddings_of_a_task_are_its_own() -> None:
    hypernet = cast(ChunkedModule, made(OPTIONS["chunks of a task"], 2))
    shared = cast(ChunkedModule, made(OPTIONS["chunked"], 2))
    assert hypernet.common is None
    one, two = (hypernet.of(task)["chunks"] for task in range(2))
    assert one.shape == two.shape == (2, 8, 4)
    assert (one != two).all()
    assert set(shared.of(0).keys()) == {"embedding"}
    assert cast(nn.Parameter, shared.common).shape == (2, 8, 4)


@pytest.mark.parametrize("own", [False, True])
def test_chunk_embeddings_have_the_deviation_that_is_set(own: bool) -> None:
    options = Chunked(1, chunk_dim=200, chunk_std=0.3, chunks_per_task=own)
    hypernet = cast(ChunkedModule, made(options, 1))
    chunks = hypernet.of(0)["chunks"] if own else cast(nn.Parameter, hypernet.common)
    assert chunks.std().item() == pytest.approx(0.3, rel=5 / math.sqrt(2 * chunks.numel()))
    flat = chunks.flatten(0, 1)
    assert len({tuple(row[:4].tolist()) for row in flat}) == len(flat)  # no two are drawn alike


@pytest.mark.parametrize("init", ["xavier", "gaussian"])
def test_layers_start_within_their_bounds_and_without_biases(init: str) -> None:
    options = Chunked(80, hidden=(50, 70), task_dim=20, chunk_dim=30, init=cast(Any, init))
    hypernet = cast(ChunkedModule, made(options))
    for layer, (inputs, outputs) in zip(hypernet.layers, [(50, 50), (50, 70), (70, 80)], strict=True):
        bound = math.sqrt(6 / (inputs + outputs)) if init == "xavier" else math.sqrt(3 / inputs)
        linear = cast(nn.Linear, layer)
        assert 0.97 * bound < linear.weight.abs().max() <= bound
        assert not linear.bias.any()


def test_gaussian_chunks_vary_at_the_start_as_the_family_says() -> None:
    options = Chunked(200, task_dim=16, task_std=0.02, chunk_dim=48, init="gaussian")
    main = network(inputs=100, width=400)
    (theta,) = made(options, 1, main=main)([0])
    for part, variance in enumerate(VARIANCES):
        assert theta[part].var().item() == pytest.approx(variance, rel=0.08)


def test_gaussian_chunks_of_loud_tasks_vary_as_little_as_they_can() -> None:
    """Where embeddings of tasks alone already vary too much."""
    options = Chunked(4, task_dim=16, task_std=1.0, chunk_dim=48, init="gaussian")
    hypernet = cast(ChunkedModule, made(options, 1))
    chunks = cast(nn.Parameter, hypernet.common)
    assert chunks.var().item() == pytest.approx(LEAST, rel=5 * math.sqrt(2 / chunks.numel()))


@pytest.mark.parametrize(
    "options", [Chunked(), Chunked(hidden=(10, 10)), Chunked(chunk_dim=8, task_dim=4), Chunked(chunks_per_task=True)]
)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("width", [40, 61, 97])
def test_a_size_of_its_own_makes_the_hypernetwork_no_larger_than_what_it_makes(
    options: Chunked, parts: int, width: int
) -> None:
    main = network(inputs=300, width=width)
    outputs = parts * ParameterSpec(main).numel
    assert 0.7 * outputs < count(made(options, 1, main=main, variances=VARIANCES[:parts])) <= outputs


@settings(max_examples=100, deadline=None)
@given(st.integers(2_000, 100_000), st.integers(1, 2))
def test_of_the_sizes_that_fit_the_largest_is_taken(numel: int, parts: int) -> None:
    options = Chunked(hidden=(9,), task_dim=5, chunk_dim=7)

    def parameters(chunks: int) -> int:
        """With chunks as small as so many need to be."""
        size = math.ceil(numel / chunks)
        return 5 + parts * math.ceil(numel / size) * 7 + (5 + 7 + 1) * 9 + (9 + 1) * size

    chunks = math.ceil(numel / options.fitting_size(numel, parts))
    assert parameters(chunks) <= parts * numel
    assert all(parameters(fewer) > parts * numel for fewer in range(1, chunks))


def test_where_no_size_fits_the_hypernetwork_is_as_small_as_can_be() -> None:
    main = network()
    sizes = list(range(1, NUMEL + 1))
    counts = [count(made(Chunked(size), 1, main=main)) for size in sizes]
    automatic = made(Chunked(), 1, main=main)
    assert min(counts) > 2 * NUMEL
    assert count(automatic) == min(counts)


def test_a_chunk_larger_than_the_output_is_refused_with_the_number() -> None:
    made(Chunked(NUMEL))
    with pytest.raises(OptionsError, match=r"chunk_size = 93: larger than the 92 parameters .* 'full'"):
        made(Chunked(NUMEL + 1))


def test_a_growing_head_fills_the_surplus_of_the_last_chunk_before_it_asks_for_another() -> None:
    main = network()
    hypernet = cast(ChunkedModule, shaken(made(Chunked(100 - 8, task_dim=3, chunk_dim=4), 1)))
    assert hypernet.count == 1
    twin = cast(ChunkedModule, shaken(made(Chunked(NUMEL - 1, task_dim=3, chunk_dim=4), 1)))
    assert twin.count == 2  # one place is used, all but one are not
    embeddings = cast(nn.Parameter, twin.common).detach().clone()
    whole = assembled_without_cut(twin)
    grown(twin, OUTPUTS + 1)
    assert torch.equal(cast(nn.Parameter, twin.common), embeddings)
    torch.testing.assert_close(twin([0])[0], whole[:, : NUMEL + WIDTH + 1], rtol=1e-5, atol=1e-5)
    grown(hypernet, OUTPUTS + 1)
    assert hypernet.count == 2
    assert ParameterSpec(main).numel == NUMEL


def assembled_without_cut(hypernet: ChunkedModule) -> Tensor:
    longer = hypernet.spec
    try:
        hypernet.spec = longer.with_outputs(10 * OUTPUTS)
        return assembled(hypernet, 0)
    finally:
        hypernet.spec = longer


def test_options_out_of_range_are_refused() -> None:
    for wrong in ({"chunk_size": 0}, {"hidden": (4, 0)}, {"task_dim": 0}, {"chunk_std": 0.0}, {"init": "main"}):
        with pytest.raises(OptionsError, match=next(iter(wrong))):
            Chunked(**wrong)
    with pytest.raises(OptionsError, match="activation"):
        Full(activation="softmax")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- structured


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x)).relu()


BLOCKS = ((2, 4), (4, 4), (4, 4), (4, 6), (6, 6), (4, 4))  # channels
LAYERS = (2 * 4 * 9 + 3 * 4, 4 * 4 * 9 + 3 * 4, 4 * 6 * 9 + 3 * 6, 6 * 6 * 9 + 3 * 6)  # weights, biases, scales, shifts


def convolutional(outputs: int = OUTPUTS, blocks: Sequence[tuple[int, int]] = BLOCKS) -> EncoderAndHead:
    """Of which nothing is run."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder = nn.Sequential(*(Block(a, b) for a, b in blocks))
    return EncoderAndHead(encoder, Head(WIDTH, outputs, seed=3))


def convolutional_grown(hypernet: Hypernet, outputs: int) -> Hypernet:
    main = convolutional(outputs)
    spec = ParameterSpec(main)
    hypernet.grow(spec, spec.flatten(main))
    return hypernet


def test_layers_of_one_shape_have_one_network_and_embeddings_of_their_own() -> None:
    hypernet = cast(StructuredModule, made(Structured(1000, task_dim=3, chunk_dim=5), 1, main=convolutional()))
    assert [units.size for units in hypernet.units] == [*LAYERS, OUTPUTS * (WIDTH + 1)]
    assert [units.count for units in hypernet.units] == [1, 3, 1, 1, 1]
    lasts = [cast(nn.Linear, cast(nn.ModuleList, layers)[-1]) for layers in hypernet.networks]
    assert [len(last.weight) for last in lasts] == [units.size for units in hypernet.units]
    assert cast(nn.Parameter, hypernet.common).shape == (2, 7, 5)
    assert not torch.equal(lasts[0].weight[:9], lasts[1].weight[:9])


def test_the_layers_of_a_resnet_are_made_in_the_sizes_of_the_source() -> None:
    """ResNet-32: 16, 32 and 64 channels, ten convolutions each; the source makes its head at once."""
    stages = [(3, 16), *[(16, 16)] * 10, (16, 32), *[(32, 32)] * 9, (32, 64), *[(64, 64)] * 9]
    main = EncoderAndHead(nn.Sequential(*(Block(a, b) for a, b in stages)), Head(64, 10, seed=0))
    spec = ParameterSpec(main)
    assert spec.numel == 465_290
    hypernet = cast(StructuredModule, made(Structured(40_000, hidden=(4,)), main=main, variances=(0.003,)))
    assert [(units.numel, units.count) for units in hypernet.units] == [
        *((480, 1), (2352, 10), (4704, 1), (9312, 9), (18624, 1), (37056, 9), (650, 1))
    ]
    halves = cast(StructuredModule, made(Structured(9312, hidden=(4,)), main=main, variances=(0.003,)))
    assert [units.size for units in halves.units] == [480, 2352, 4704, 9312, 9312, 9264, 650]
    assert [units.count for units in halves.units] == [1, 10, 1, 9, 2, 36, 1]


@pytest.mark.parametrize("size", [1000, 160, 70, 9, 4])
@pytest.mark.parametrize("own", [False, True])
def test_layers_are_put_together_in_order(size: int, own: bool) -> None:
    options = Structured(size, hidden=(7,), task_dim=3, chunk_dim=4, chunks_per_task=own)
    hypernet = cast(StructuredModule, shaken(made(options, 2, main=convolutional())))
    found = hypernet([1, 0])
    for row, task in enumerate([1, 0]):
        chunks = hypernet.of(task)["chunks"] if own else cast(nn.Parameter, hypernet.common)
        expected = torch.full(found.shape[1:], math.nan)
        for part in range(2):
            piece = 0
            for units, layers in zip(hypernet.units, hypernet.networks, strict=True):
                one, two = cast(nn.ModuleList, layers)
                for _ in range(units.count):
                    h = one(torch.cat([hypernet.of(task)["embedding"], chunks[part, piece]])).relu()
                    start, stop = hypernet.span(piece)
                    stop = min(stop, hypernet.spec.numel)
                    expected[part, start:stop] = two(h)[: stop - start]
                    piece += 1
            assert piece == hypernet.count
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


def test_the_embedding_of_a_layer_changes_that_layer_alone() -> None:
    hypernet = cast(StructuredModule, shaken(made(Structured(1000), 1, main=convolutional())))
    before = hypernet([0])
    with torch.no_grad():
        cast(nn.Parameter, hypernet.common)[1, 2] += 1  # the second layer of the second shape, the third in the network
    places = (hypernet([0]) != before).nonzero()
    start = LAYERS[0] + LAYERS[1]
    assert places[:, 1].unique().tolist() == [1]
    assert places[:, 2].tolist() == list(range(start, start + LAYERS[1]))


@pytest.mark.parametrize("size", [None, 1000, 20, 9, 5])
@pytest.mark.parametrize("init", ["xavier", "hyperfan"])
@pytest.mark.parametrize("steps", [[OUTPUTS + 1, OUTPUTS + 2, OUTPUTS + 9], [OUTPUTS + 9]])
def test_a_grown_network_of_layers_equals_one_made_whole(size: int | None, init: str, steps: list[int]) -> None:
    options = Structured(size, task_dim=3, chunk_dim=4, init=cast(Any, init))
    first = ParameterSpec(convolutional(2)).numel  # of the first task's two classes
    hypernet = made(options, 2, main=convolutional(), first=first)
    shaken(hypernet), shaken(whole := made(options, 2, main=convolutional(), first=first))
    before = hypernet([0, 1])
    for outputs in steps:
        convolutional_grown(hypernet, outputs)
    after = hypernet([0, 1])
    torch.testing.assert_close(after[..., : before.shape[2]], before, rtol=1e-5, atol=1e-6)
    assert torch.equal(after, convolutional_grown(whole, steps[-1])([0, 1]))
    fresh = made(options, 2, main=convolutional(), first=first)
    for outputs in steps:
        convolutional_grown(fresh, outputs)
    assert_same_weights(fresh, made(options, 2, main=convolutional(steps[-1]), first=first))


def test_as_many_outputs_are_made_at_a_time_as_the_first_task_has() -> None:
    first = ParameterSpec(convolutional(2)).numel
    for size, rows, count in ((None, 1, 4), (1000, 2, 2), (2 * (WIDTH + 1) - 1, 1, 4), (5, 1, 8)):
        hypernet = cast(StructuredModule, made(Structured(size), 1, main=convolutional(), first=first))
        assert (hypernet.rows, hypernet.units[-1].count) == (rows, count)


class Listed(nn.Module):
    """As a generator of weights in chunks lays out its own: a layer, then a vector for each chunk."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 20)
        self.chunks = nn.ParameterList(torch.zeros(7) for _ in range(chunks))


@pytest.mark.parametrize("size", [None, 4, 150])
def test_lists_that_grow_ask_for_further_pieces(size: int | None) -> None:
    main, longer = ParameterSpec(Listed(3)), ParameterSpec(Listed(8))
    options = Structured(size, task_dim=3, chunk_dim=4, init="hyperfan")
    grown = options.make(main, VARIANCES, torch.zeros(main.numel), 0, main.numel)
    grown.add_task()
    grown.grow(longer, torch.zeros(longer.numel))
    whole = options.make(longer, VARIANCES, torch.zeros(longer.numel), 0, main.numel)
    whole.add_task()
    assert_same_weights(grown, whole)
    assert torch.equal(grown([0]), whole([0]))
    assert [units.numel for units in cast(StructuredModule, grown).units] == [140, 7]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("hidden", [(), (10, 10)])
def test_layers_are_cut_until_the_hypernetwork_is_no_larger_than_what_it_makes(
    parts: int, hidden: tuple[int, ...]
) -> None:
    main = convolutional(blocks=[(3, 16), *[(16, 16)] * 6, (16, 32), *[(32, 32)] * 5])
    hypernet = made(Structured(hidden=hidden), 1, main=main, variances=VARIANCES[:parts])
    assert 0.5 < hypernet.compression <= 1
    assert hypernet.outputs == parts * ParameterSpec(main).numel


# --------------------------------------------------------------------------------------------- hyperfan


def wide(inputs: int = 100, width: int = 300) -> EncoderAndHead:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU())
    return EncoderAndHead(encoder, Head(width, 50, seed=3))


@pytest.mark.parametrize("hidden", [(), (300,), (200, 100)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_each_tensor_of_a_full_network_varies_at_the_start_as_its_layer_wants(
    hidden: tuple[int, ...], activation: str
) -> None:
    main = wide()
    spec = ParameterSpec(main)
    options = Full(hidden, cast(Any, activation), task_dim=100, task_std=0.7, init="hyperfan")
    theta = made(options, 60, main=main)(range(60)).detach()
    tensors = spec.unflatten(theta[:, 0])
    for name, fan_in in (("encoder.0", 100), ("head", 300)):
        weights, biases = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        assert weights.var().item() == pytest.approx(2 / fan_in, rel=0.1)
        assert biases.square().mean().item() == pytest.approx(1 / (3 * fan_in), rel=0.3)
        assert abs(weights.mean().item()) < 0.01
    assert (tensors["encoder.1.weight"] == 1).all()
    assert not tensors["encoder.1.bias"].any()
    assert theta[:, 1].var().item() == pytest.approx(VARIANCES[1], rel=0.05)  # rho, as a mean-field network starts


def wanted(spec: ParameterSpec) -> Tensor:
    """(numel,) variances."""
    return torch.cat([torch.full((stop - start,), hyperfan_variance(k, n)) for k, n, start, stop in spec.blocks()])


@pytest.mark.parametrize("std", [0.02, 1.0, 3.0])  # quieter than the outputs, and far louder
@pytest.mark.parametrize("hidden", [(), (400,)])
@pytest.mark.parametrize("kind", [Chunked, Structured])
def test_pieces_vary_at_the_start_as_their_layers_want(
    kind: type[Piecewise], hidden: tuple[int, ...], std: float
) -> None:
    main = wide()
    spec = ParameterSpec(main)
    options = kind(500, hidden, task_dim=150, task_std=std, chunk_dim=150, init="hyperfan")
    hypernet = cast(PiecewiseModule, made(options, 1, main=main))
    theta = hypernet([0])[0]
    scales, shifts = (spec.unflatten(theta[0])[f"encoder.1.{own}"] for own in ("weight", "bias"))
    assert scales.mean().item() == pytest.approx(1, abs=0.05)
    assert abs(shifts.mean().item()) < 0.05
    each = wanted(spec)
    apart = theta[0] - torch.cat([p.flatten() for p in spec.unflatten(theta[0]).values()]).mean()
    for fan_in in (100, 300):
        pieces = [slice(*hypernet.span(piece)) for piece in range(hypernet.count)]
        mine = [span for span in pieces if (each[span] == torch.tensor(2 / fan_in)).all() and span.stop <= spec.numel]
        if fan_in == 300:  # rows of the head hold a bias each
            mine = [span for span in pieces if span.start >= spec.body and span.stop <= spec.numel]
        found = torch.cat([apart[span] for span in mine]).var().item()
        assert len(mine) > 3
        assert found == pytest.approx(torch.cat([each[span] for span in mine]).mean().item(), rel=0.15)
    assert theta[1].var().item() == pytest.approx(VARIANCES[1], rel=0.1)


def test_chunk_embeddings_vary_as_published_where_tasks_are_quiet() -> None:
    """[(n_e + n_c) target - n_e std^2] / n_c, the target averaged over the chunk."""
    main = wide()
    spec = ParameterSpec(main)
    std, size = 0.05, 1000
    options = Chunked(size, task_dim=40, task_std=std, chunk_dim=2000, init="hyperfan")
    hypernet = cast(ChunkedModule, made(options, 1, main=main))
    chunks = cast(nn.Parameter, hypernet.common)[0]
    each = wanted(spec)
    for piece in (0, 30, 35):  # the second holds biases and norms too
        target = each[piece * size : (piece + 1) * size].mean().item()
        expected = ((40 + 2000) * target - 40 * std**2) / 2000
        assert chunks[piece].var().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / 2000))
    assert hypernet.shrink == 1


@pytest.mark.parametrize("kind", [Chunked, Structured])
def test_what_is_added_to_scales_stays_through_training_and_loading(
    kind: type[Piecewise], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "WORTHWHILE", 1)
    hypernet = made(kind(50, init="hyperfan", task_std=0.1), 2, main=convolutional())
    spec = ParameterSpec(convolutional())
    direction = torch.randn(2, 2, spec.numel, generator=torch.Generator().manual_seed(1))
    (hypernet([0, 1]) * direction).sum().backward()
    gradients = [cast(Tensor, parameter.grad).clone() for parameter in hypernet.parameters()]
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter.zero_()
    for task in (0, 1):
        theta = hypernet([task])[0]
        for entry in spec.entries:
            assert (theta[0, entry.start : entry.stop] == float(entry.kind == "scale")).all()
        assert not theta[1].any()
    twin = made(kind(50, init="hyperfan", task_std=0.1), 2, main=convolutional(), seed=4)
    twin.load_state_dict(hypernet.state_dict())
    assert torch.equal(twin([0, 1]), hypernet([0, 1]))
    plain = made(kind(50, init="hyperfan", task_std=0.1), 2, main=convolutional())
    plain.scales = None
    (plain([0, 1]) * direction).sum().backward()
    for mine, parameter in zip(gradients, plain.parameters(), strict=True):
        assert torch.equal(mine, cast(Tensor, parameter.grad))  # a constant has no gradient


# ------------------------------------------------------------------------------------------ compression


def test_compression_is_trained_numbers_for_each_that_is_made(options: HypernetworkOptions) -> None:
    hypernet = made(options, 2)
    assert hypernet.trained == count(hypernet)
    assert hypernet.outputs == hypernet([0]).numel() == 2 * NUMEL
    assert hypernet.compression == count(hypernet) / (2 * NUMEL)
    grown(hypernet, OUTPUTS + 3)
    assert hypernet.outputs == hypernet([0]).numel()


def test_compression_counts_what_the_source_counts() -> None:
    """Split MNIST, small network, five tasks: points and Gaussians."""
    main = EncoderAndHead(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100)), Head(100, 10, 0)
    )
    points = made(Chunked(8000, hidden=(10,) * 4), 5, main=main, variances=(0.003,))
    gaussians = made(Chunked(2500, chunks_per_task=True), 5, main=main)
    assert (points.trained, points.outputs) == (89_524, 89_610)
    assert (gaussians.trained, gaussians.outputs) == (174_180, 179_220)
    assert points.compression_warning() is gaussians.compression_warning() is None


@pytest.mark.parametrize("kind", [Chunked, Structured])
def test_a_hypernetwork_larger_than_what_it_makes_is_told_with_the_numbers(kind: type[Piecewise]) -> None:
    hypernet = made(kind(46), 1)
    text = hypernet.compression_warning()
    assert text is not None
    assert f"hypernetwork: {count(hypernet):,} numbers make 184, {count(hypernet) / 184:.3g} for one" in text
    assert "more than compression = 1; use 'chunked' or 'structured' with chunk_size = None" in text
    assert "compression = 30;" in cast(str, made(kind(46, compression=30, hidden=(300,)), 1).compression_warning())
    assert made(kind(46, compression=None), 1).compression_warning() is None
    assert made(kind(46, compression=100), 1).compression_warning() is None


def test_all_that_are_larger_are_told_whoever_chose_their_size_and_tables_are_not() -> None:
    for small in (Chunked(), Structured(), Full()):  # no size of chunks is small enough for a network like this
        assert "more than compression = 1" in cast(str, made(small, 3).compression_warning())
    assert cast(str, made(Full(compression=2), 1).compression_warning()).startswith("hypernetwork: 1,664 numbers make")
    assert made(Full(compression=None), 1).compression_warning() is None
    for table in (Separate(), Single()):
        assert made(table, 3).compression >= 1
        assert made(table, 3).compression_warning() is None


@pytest.mark.parametrize("kind", [Chunked, Structured])
@pytest.mark.parametrize("wanted", [0.3, 1.0, None])
def test_chunks_of_no_given_size_obey_the_compression_that_is_asked_for(
    kind: type[Piecewise], wanted: float | None
) -> None:
    main = convolutional(blocks=[(3, 16), *[(16, 16)] * 6, (16, 32), *[(32, 32)] * 5])
    hypernet = made(kind(compression=wanted, chunk_dim=8), 1, main=main)
    assert 0.4 * (wanted or 1.0) < hypernet.compression <= (wanted or 1.0)
    assert hypernet.compression_warning() is None


@pytest.mark.parametrize("kind", [Chunked, Structured])
def test_chunks_larger_than_what_there_is_to_make_are_refused(kind: type[Piecewise]) -> None:
    with pytest.raises(
        OptionsError, match="chunk_size = 10,000,000: larger than the 92 parameters to generate; use a smaller"
    ):
        made(kind(10**7), 1)
    assert made(kind(92), 1).outputs == 184
    with pytest.raises(
        OptionsError, match=r"chunk_size = 0: .* greater than 0; leave chunk_size out for its default, None"
    ):
        kind(0)


@pytest.mark.parametrize("options", [Chunked(30), Structured(), Full(init="hyperfan")])
def test_a_hypernetwork_of_its_own_for_each_task_is_one_made_alone_and_grows_as_one_made_whole(options: Any) -> None:
    main, longer = ParameterSpec(network(2)), ParameterSpec(network(4))
    base = torch.arange(float(longer.numel))

    def each(spec: ParameterSpec) -> Any:
        return SeparateHypernetworks(options).make(spec, VARIANCES, base[: spec.numel], 0, main.numel)

    grown, whole = each(main), each(longer)
    grown.add_task()
    before = grown([0]).detach()
    grown.grow(longer, base)
    grown.add_task()
    for _ in range(2):
        whole.add_task()
    assert_same_weights(grown, whole)
    made_for = whole([1, 0, 1])
    assert made_for.shape == (3, 2, longer.numel)
    assert torch.equal(made_for[0], made_for[2])
    assert not torch.equal(made_for[0], made_for[1])
    torch.testing.assert_close(made_for[1, :, : main.numel], before[0])
    assert whole.multiplications(2) == 2 * whole.hypernet(0).multiplications(1)
    assert whole.compression == pytest.approx(2 * whole.hypernet(0).compression)
    whole([1]).sum().backward()
    assert all(parameter.grad is None for parameter in whole.hypernet(0).parameters())
    assert any(bool(parameter.grad.any()) for parameter in whole.hypernet(1).parameters())


# -------------------------------------------------------------------------------------- no hypernetwork

TABLES: dict[str, HypernetworkOptions] = {
    "separate": Separate(),
    "separate gaussian": Separate("gaussian"),
    "single": Single(),
    "single gaussian": Single("gaussian"),
}


@pytest.fixture(params=sorted(TABLES))
def table(request: pytest.FixtureRequest) -> HypernetworkOptions:
    return TABLES[request.param]


def test_numbers_of_a_table_are_those_of_each_task_or_the_same_for_all(table: HypernetworkOptions) -> None:
    hypernet = shaken(made(table, 3))
    every = hypernet([0, 1, 2])
    assert every.shape == (3, 2, NUMEL)
    assert torch.equal(hypernet([2, 0]), every[[2, 0]])
    assert torch.equal(every[0], every[1]) == isinstance(table, Single)
    assert count(hypernet) == (1 if isinstance(table, Single) else 3) * 2 * NUMEL
    assert hypernet.multiplications(3) == 0


def test_only_the_numbers_of_the_task_are_trained(table: HypernetworkOptions) -> None:
    hypernet = made(table, 2)
    direction = torch.ones(2, NUMEL)
    (hypernet([0, 1])[1] * direction).sum().backward()
    for name, parameter in hypernet.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.zeros_like(direction) if name.startswith("own.0") else direction)


def test_a_table_starts_as_the_main_network_or_as_its_family_varies(table: HypernetworkOptions) -> None:
    main = network(inputs=60, width=100)
    spec = ParameterSpec(main)
    n = spec.numel
    for theta in made(table, 2, main=main)([0, 1]):
        for part, variance in enumerate(VARIANCES):
            if part == 0 and cast(Any, table).start == "main":
                assert torch.equal(theta[0], spec.flatten(main))
                continue
            # The variance of x^2 is 0.8 variance^2 for a uniform x around 0.
            assert theta[part].square().mean().item() == pytest.approx(variance, rel=5 * math.sqrt(0.8 / n))
            assert abs(theta[part].mean().item()) < 5 * math.sqrt(variance / n)
            assert theta[part].abs().max() <= math.sqrt(3 * variance)


def test_the_seed_alone_decides_how_a_table_starts(table: HypernetworkOptions) -> None:
    assert_same_weights(made(table, 2), made(table, 2))
    assert (made(table, 1)([0]) != made(table, 1, seed=1)([0]))[:, 1].all()
    one, two = made(table, 2)([0, 1])
    assert (one[1] != two[1]).all() == isinstance(table, Separate)  # each task has a draw of its own


def test_a_table_grown_bit_by_bit_equals_one_made_whole_whenever_its_tasks_came(table: HypernetworkOptions) -> None:
    hypernet = made(table, 1)
    grown(hypernet, OUTPUTS + 1)
    hypernet.add_task()
    grown(hypernet, OUTPUTS + 3)
    assert_same_weights(hypernet, made(table, 2, main=network(OUTPUTS + 3)))


def test_a_table_that_grows_keeps_what_was_learnt(table: HypernetworkOptions) -> None:
    hypernet = shaken(made(table, 2))
    before = hypernet([0, 1]).detach().clone()
    assert torch.equal(grown(hypernet, OUTPUTS + 5)([0, 1])[..., :NUMEL], before)
