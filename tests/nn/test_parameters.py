"""One vector and back, and many networks at once: the same numbers and gradients as one network after another."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.nn import matmul
from reverie.nn.networks import EncoderAndHead, Head, Linear
from reverie.nn.parameters import Ensemble, ParameterSpec, Statistics, dense_chain, running
from reverie.seeding import Randomness
from reverie.solvers import CNN, MLP, Classifier, Module
from reverie.types import StreamSpec

SHAPE = (2, 6, 6)
WIDTH = 36 * 2


class Residual(nn.Module):
    """A user's network: no chain of layers, and a parameter that belongs to none of them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(shape[0], shape[0], 3, padding=1)
        self.norm = nn.GroupNorm(1, shape[0])
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.share * self.norm(self.convolution(x)).tanh()


class Doubled(nn.Linear):
    """Not what its base class computes."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Skipping(nn.Module):
    """Named like a classifier's parts, put together otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(WIDTH, 5), nn.Linear(5, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.head(self.encoder(x))


SOLVERS: dict[str, Callable[[], Classifier]] = {
    "mlp": lambda: MLP(hidden=(7, 5)),
    "cnn": lambda: CNN(channels=(3, 4), width=6),
    "cnn with max-pool": lambda: CNN(channels=(3,), width=6, halving="max-pool"),
    "module": lambda: Module(Residual),
}


def solver(name: str, outputs: int = 4) -> Classifier:
    classes = tuple(range(outputs))
    made = SOLVERS[name]()
    made.build(StreamSpec("test", "class", SHAPE, classes, (classes,), ("all",), (classes,)), Randomness(0), CPU)
    return made


def classifier(*layers: nn.Module, width: int = WIDTH, outputs: int = 3) -> EncoderAndHead:
    return EncoderAndHead(nn.Sequential(*layers), Head(width, outputs, seed=0))


def small(outputs: int = 3) -> EncoderAndHead:
    return classifier(nn.Flatten(), Linear(4, 5), nn.ReLU(), width=5, outputs=outputs)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------- the layout


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_what_a_module_holds_survives_the_way_into_a_vector_and_back(name: str) -> None:
    module = solver(name).module
    spec = ParameterSpec(module)
    vector = spec.flatten(module)
    assert vector.shape == (spec.numel,)
    assert spec.numel == sum(parameter.numel() for parameter in module.parameters())
    back = spec.unflatten(vector)
    assert back.keys() == dict(module.named_parameters()).keys()
    for key, parameter in module.named_parameters():
        assert torch.equal(back[key], parameter), key
    assert not vector.requires_grad


def test_any_vector_survives_the_way_into_parameters_and_back() -> None:
    module = small()
    spec = ParameterSpec(module)
    vector = numbers(spec.numel)
    with torch.no_grad():
        for name, value in spec.unflatten(vector).items():
            module.get_parameter(name).copy_(value)
    assert torch.equal(spec.flatten(module), vector)


def test_flatten_gives_a_copy_that_training_does_not_move() -> None:
    module = small()
    spec = ParameterSpec(module)
    before = spec.flatten(module)
    kept = before.clone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert torch.equal(before, kept)
    assert torch.equal(spec.flatten(module), kept + 1)


def test_unflatten_gives_views_whatever_comes_before_the_last_dimension() -> None:
    spec = ParameterSpec(solver("cnn").module)
    vectors = numbers(2, 3, spec.numel)
    found = spec.unflatten(vectors)
    assert found["encoder.0.0.weight"].shape == (2, 3, 3, 2, 3, 3)
    assert found["head.weight"].shape == (2, 3, 4, 6)
    assert found["head.bias"].shape == (2, 3, 4)
    assert found["encoder.0.0.weight"].data_ptr() == vectors.data_ptr()
    assert {value.untyped_storage().data_ptr() for value in found.values()} == {vectors.untyped_storage().data_ptr()}
    one = spec.unflatten(vectors[1, 2])
    for name, value in found.items():
        assert torch.equal(value[1, 2], one[name])


def test_the_head_lies_output_by_output_behind_the_body() -> None:
    module = small()
    spec = ParameterSpec(module)
    rows = spec.flatten(module)[spec.body :].view(3, 6)
    assert torch.equal(rows[:, :5], module.head.weight)
    assert torch.equal(rows[:, 5], module.head.bias)
    assert [entry.name for entry in spec.entries] == ["encoder.1.weight", "encoder.1.bias"]
    assert spec.body == 4 * 5 + 5


def test_the_places_of_each_tensor_are_in_the_order_of_the_tensor() -> None:
    module = solver("cnn").module
    spec = ParameterSpec(module)
    vector = spec.flatten(module)
    for places, parameter in zip(spec.tensors, module.parameters(), strict=True):
        assert torch.equal(vector[places].view(parameter.shape), parameter)
    assert torch.cat(spec.tensors).sort().values.tolist() == list(range(spec.numel))


def test_blocks_cover_the_vector_once_and_in_order() -> None:
    spec = ParameterSpec(small())
    assert spec.blocks() == [
        ("weight", 4, 0, 20),
        ("bias", 4, 20, 25),
        ("weight", 5, 25, 30),
        ("bias", 5, 30, 31),
        ("weight", 5, 31, 36),
        ("bias", 5, 36, 37),
        ("weight", 5, 37, 42),
        ("bias", 5, 42, 43),
    ]
    assert spec.numel == 43


def test_kinds_and_fan_in_of_every_sort_of_layer() -> None:
    module = nn.ModuleDict(
        {
            "conv": nn.Conv2d(6, 4, (3, 5), groups=2),
            "batch": nn.BatchNorm2d(4),
            "group": nn.GroupNorm(2, 4),
            "layer": nn.LayerNorm((4, 7)),
            "rms": nn.RMSNorm((4, 7)),
            "instance": nn.InstanceNorm1d(4, affine=True),
            "linear": nn.Linear(9, 2),
            "plain": nn.Linear(3, 2, bias=False),
        }
    )
    found = {entry.name: (entry.kind, entry.fan_in) for entry in ParameterSpec(module).entries}
    assert found == {
        "conv.weight": ("weight", 3 * 3 * 5),
        "conv.bias": ("bias", 3 * 3 * 5),
        "batch.weight": ("scale", 1),
        "batch.bias": ("shift", 1),
        "group.weight": ("scale", 1),
        "group.bias": ("shift", 1),
        "layer.weight": ("scale", 1),
        "layer.bias": ("shift", 1),
        "rms.weight": ("scale", 1),
        "instance.weight": ("scale", 1),
        "instance.bias": ("shift", 1),
        "linear.weight": ("weight", 9),
        "linear.bias": ("bias", 9),
        "plain.weight": ("weight", 3),
    }


def test_a_module_without_a_head_is_all_body() -> None:
    for module in (nn.Linear(3, 2), Skipping()):  # the second has a head, but not of the kind that grows
        spec = ParameterSpec(module)
        assert spec.outputs == 0
        assert spec.body == spec.numel == sum(parameter.numel() for parameter in module.parameters())
        assert torch.equal(spec.unflatten(spec.flatten(module))[spec.entries[-1].name], [*module.parameters()][-1])
        assert spec.mask([]).all()


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(OptionsError, match="no parameters"):
        ParameterSpec(nn.Sequential(nn.Flatten(), nn.ReLU()))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.data())
def test_the_mask_lets_through_the_body_and_the_rows_of_the_classes(outputs: int, data: st.DataObject) -> None:
    spec = ParameterSpec(small(outputs))
    classes = data.draw(st.lists(st.integers(0, outputs - 1)))
    mask = spec.mask(classes)
    assert mask.dtype == torch.bool
    seen = spec.unflatten(mask)
    for name, value in seen.items():
        if not name.startswith("head."):
            assert value.all()
    mine = torch.tensor([c in classes for c in range(outputs)])
    assert torch.equal(seen["head.bias"], mine)
    assert torch.equal(seen["head.weight"], mine[:, None].expand(-1, 5))


def test_layers_are_a_weight_its_bias_and_the_norms_behind_them() -> None:
    encoder = nn.Sequential(
        *(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()),
        *(Residual((4, 0, 0)), nn.Conv2d(4, 4, 3, bias=False)),
    )
    spec = ParameterSpec(EncoderAndHead(encoder, Head(7, 3, seed=0)))
    layers = spec.layers()
    names = [[entry.name[8:] for entry in spec.entries if start <= entry.start < stop] for _, start, stop in layers]
    assert names == [
        ["0.weight", "0.bias"],
        ["1.weight", "1.bias", "2.weight", "2.bias"],
        ["3.weight", "3.bias", "4.weight", "4.bias"],
        ["6.share"],
        ["6.convolution.weight", "6.convolution.bias", "6.norm.weight", "6.norm.bias"],
        ["7.weight"],
    ]
    assert [start for _, start, _ in layers] + [spec.body] == [0, *(stop for _, _, stop in layers)]
    assert (
        layers[2][0]
        == layers[4][0]
        == (
            *(("weight", (4, 4, 3, 3)), ("bias", (4,))),
            *(("scale", (4,)), ("shift", (4,))),
        )
    )
    assert layers[2][0] != layers[1][0]
    assert spec.with_outputs(9).layers() == layers


def test_parameters_in_a_list_are_layers_by_themselves() -> None:
    module = nn.ModuleDict({"first": nn.Linear(3, 2), "rest": nn.ParameterList([torch.zeros(4), torch.zeros(4)])})
    assert [stop - start for _, start, stop in ParameterSpec(module).layers()] == [8, 4, 4]


def test_what_would_not_be_the_same_network_is_refused() -> None:
    own = small()
    own.encoder[1].weight = nn.Parameter(torch.zeros(3, 5))  # type: ignore[index]
    own.head.weight = own.encoder[1].weight  # type: ignore[index]
    with pytest.raises(
        OptionsError, match=r"head\.weight is also encoder\.1\.weight: the head is made output by output"
    ):
        ParameterSpec(own)
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    two.weight = nn.Parameter(one.weight.detach())
    with pytest.raises(OptionsError, match=r"1\.weight lies in the memory of 0\.weight but is a parameter by itself"):
        ParameterSpec(nn.Sequential(one, two))
    two.weight = one.weight  # one parameter of two layers is made once
    assert ParameterSpec(nn.Sequential(one, two)).numel == 9 + 3 + 3
    with pytest.raises(
        OptionsError, match=r"0: instance norm that keeps running statistics.*track_running_stats=False"
    ):
        ParameterSpec(nn.Sequential(nn.InstanceNorm2d(2, affine=True, track_running_stats=True)))
    with pytest.raises(OptionsError, match=r"0\.parametrizations\.weight\.0: spectral norm"):
        ParameterSpec(nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2))))


def test_a_head_that_grows_only_makes_the_vector_longer() -> None:
    module = small(2)
    spec = ParameterSpec(module)
    before, places = spec.flatten(module), spec.tensors
    longer = spec.with_outputs(4)
    module.head.grow(4)
    made = ParameterSpec(module)
    assert longer.numel == made.numel == spec.numel + 2 * 6
    assert longer.entries == made.entries
    assert longer.blocks() == made.blocks()
    assert longer.blocks()[: len(spec.blocks())] == spec.blocks()
    assert all(torch.equal(a, b) for a, b in zip(longer.tensors, made.tensors, strict=True))
    assert torch.equal(longer.flatten(module)[: spec.numel], before)
    assert torch.equal(longer.flatten(module), made.flatten(module))
    assert spec.outputs == 2  # and the shorter one stays as it is
    assert spec.tensors is places


# ---------------------------------------------------------------------------------- many networks at once


def one_by_one(module: nn.Module, spec: ParameterSpec, weights: Tensor, x: Tensor) -> Tensor:
    found = []
    for vector in weights:
        own = {name: value.contiguous() for name, value in spec.unflatten(vector).items()}
        found.append(functional_call(module, own, (x,)))
    return torch.stack(found)


def assert_equals_a_loop(module: nn.Module, samples: int, dtype: torch.dtype = torch.float64) -> Ensemble:
    """Values, and gradients of a random direction by the weights and by the inputs."""
    spec = ParameterSpec(module)
    ensemble = Ensemble(module, spec)
    weights = (0.3 * numbers(samples, spec.numel)).to(dtype).requires_grad_()
    x = numbers(5, *SHAPE, seed=1).to(dtype).requires_grad_()
    mine, theirs = ensemble(weights, x), one_by_one(module, spec, weights, x)
    assert mine.shape == (samples, 5, theirs.shape[-1])
    close = 1e-6 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(mine, theirs, rtol=close, atol=close)
    assert samples == 1 or (mine[0] - mine[1]).abs().max() > 0.1  # the networks differ
    direction = numbers(*mine.shape, seed=2).to(dtype)
    for a, b in zip(
        torch.autograd.grad(mine, [weights, x], direction),
        torch.autograd.grad(theirs, [weights, x], direction),
        strict=True,
    ):
        assert b.abs().max() > 0.1
        torch.testing.assert_close(a, b, rtol=close, atol=close)
    return ensemble


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_many_networks_at_once_equal_one_after_another(name: str, samples: int) -> None:
    ensemble = assert_equals_a_loop(solver(name).module, samples)
    assert (ensemble.chain is not None) == (name == "mlp")


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", ["mlp", "cnn", "module"])
def test_many_networks_at_once_in_float32_and_through_the_own_product(
    name: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "WORTHWHILE", 1)
    assert_equals_a_loop(solver(name).module, samples, torch.float32)


def test_the_chain_of_an_mlp_names_its_parameters() -> None:
    module = solver("mlp").module
    chain = dense_chain(module)
    assert chain is not None
    linear = [prefix for prefix, layer in chain if isinstance(layer, nn.Linear | Head)]
    assert linear == ["encoder.1.0.", "encoder.1.2.", "head."]
    assert len(chain) == 5


@pytest.mark.parametrize("samples", [1, 3])
def test_a_head_alone_is_a_chain(samples: int) -> None:
    assert assert_equals_a_loop(classifier(nn.Flatten()), samples).chain is not None


def test_layers_without_a_bias_and_other_functions_are_a_chain() -> None:
    module = classifier(
        nn.Flatten(), nn.Tanh(), nn.Linear(WIDTH, 6, bias=False), nn.ReLU(inplace=True), nn.Linear(6, 5, bias=False), nn.GELU(), width=5
    )  # fmt: skip
    assert assert_equals_a_loop(module, 3).chain is not None


def test_a_layer_that_stands_in_a_chain_twice_runs_twice() -> None:
    relu = nn.ReLU()
    module = classifier(nn.Flatten(), nn.Linear(WIDTH, 6), relu, nn.Linear(6, 6), relu, width=6)
    chain = assert_equals_a_loop(module, 3).chain
    assert chain is not None
    assert sum(layer is relu for _, layer in chain) == 2


def tied() -> EncoderAndHead:
    module = classifier(nn.Flatten(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
    module.encoder[3].weight = module.encoder[1].weight  # type: ignore[index]
    return module


def shared() -> EncoderAndHead:
    layer = nn.Linear(WIDTH, WIDTH)
    return classifier(nn.Flatten(), layer, nn.Tanh(), layer)


NO_CHAINS: dict[str, Callable[[], nn.Module]] = {
    "a subclass with a forward of its own": lambda: classifier(nn.Flatten(), Doubled(WIDTH, 4), width=4),
    "an encoder and a head put together otherwise": lambda: classifier(nn.Flatten(), Skipping()),
    "a layer that mixes": lambda: classifier(nn.Flatten(), nn.Linear(WIDTH, 4), nn.Softmax(dim=-1), width=4),
    "a norm": lambda: classifier(nn.Flatten(), nn.Linear(WIDTH, 4), nn.LayerNorm(4), width=4),
    "not flattened first": lambda: classifier(nn.ReLU(), nn.Flatten()),
    "a weight of two layers": tied,
    "a layer that stands there twice": shared,
    "a weight that is computed": lambda: classifier(
        nn.Flatten(), nn.utils.parametrizations.orthogonal(nn.Linear(WIDTH, 4)), width=4
    ),
}


@pytest.mark.parametrize("name", [key for key in NO_CHAINS if key != "a weight that is computed"])
def test_what_is_no_chain_of_plain_layers_is_run_as_it_is(name: str) -> None:
    assert assert_equals_a_loop(NO_CHAINS[name](), 2).chain is None


def test_a_weight_that_is_computed_is_no_chain() -> None:
    assert dense_chain(NO_CHAINS["a weight that is computed"]()) is None


def test_the_ensemble_leaves_the_modules_own_weights_out_and_as_they_are() -> None:
    for name in ("mlp", "cnn"):
        module = solver(name).module
        spec = ParameterSpec(module)
        ensemble = Ensemble(module, spec)
        before = spec.flatten(module)
        weights, x = numbers(2, spec.numel), numbers(4, *SHAPE)
        first = ensemble(weights, x)
        assert torch.equal(spec.flatten(module), before)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(math.nan)
        assert torch.equal(ensemble(weights, x), first)


def test_dropout_is_off() -> None:
    module = classifier(nn.Flatten(), nn.Dropout(0.5)).train()
    spec = ParameterSpec(module)
    ensemble = Ensemble(module, spec)
    weights, x = numbers(2, spec.numel), numbers(4, *SHAPE)
    assert torch.equal(ensemble(weights, x), ensemble(weights, x))


def test_samples_that_share_their_memory_are_answered_too() -> None:
    """A point, seen as several samples."""
    for name in ("mlp", "cnn"):
        module = solver(name).module
        spec = ParameterSpec(module)
        x = numbers(4, *SHAPE)
        found = Ensemble(module, spec)(spec.flatten(module).expand(3, -1), x)
        torch.testing.assert_close(found, module(x).expand(3, -1, -1), rtol=1e-5, atol=1e-6)


def test_a_grown_head_answers_for_its_new_outputs() -> None:
    made = solver("mlp", outputs=2)
    spec = ParameterSpec(made.module)
    weights, x = numbers(2, spec.numel + 3 * 6), numbers(4, *SHAPE)
    before = Ensemble(made.module, spec)(weights[:, : spec.numel], x)
    made.grow(5)
    after = Ensemble(made.module, spec.with_outputs(5))(weights, x)
    assert after.shape == (2, 4, 5)
    torch.testing.assert_close(after[..., :2], before, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------- batch norm


class TwoPaths(nn.Module):
    """A block with a shortcut, as in a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.shortcut = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, eps=0.1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm(self.convolution(x)) + self.shortcut(x)).relu()


NORMED: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: classifier(
        nn.Flatten(), nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5), nn.BatchNorm1d(5), width=5
    ),
    "convolutions": lambda: classifier(
        nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), width=16
    ),
    "of the input": lambda: classifier(nn.BatchNorm2d(2), nn.Flatten()),
    "without scales": lambda: classifier(nn.Conv2d(2, 4, 5), nn.BatchNorm2d(4, affine=False), nn.Flatten(), width=16),
    "two paths": lambda: classifier(TwoPaths(), nn.Flatten(), width=3 * 36),
}


@pytest.fixture(params=sorted(NORMED))
def normed(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return NORMED[request.param]().double()


def twins(module: nn.Module, weights: Tensor) -> list[nn.Module]:
    """A module of its own for each row of weights."""
    found = []
    for vector in weights:
        twin = copy.deepcopy(module)
        with torch.no_grad():
            for name, value in ParameterSpec(module).unflatten(vector).items():
                twin.get_parameter(name).copy_(value)
        found.append(twin)
    return found


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def of_the_batch(modules: list[nn.Module]) -> Statistics:
    """What real batch norms have added to running statistics of 0 and 1 in one step of training, the mean over modules."""
    found: Statistics = {}
    for name, layer in modules[0].named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layers = [module.get_submodule(name) for module in modules]
            mean = torch.stack([layer.get_buffer("running_mean") for layer in layers]).mean(dim=0) / 0.1
            variance = (torch.stack([layer.get_buffer("running_var") for layer in layers]).mean(dim=0) - 0.9) / 0.1
            found[name] = mean, variance
    return found


def assert_same_statistics(left: Statistics, right: Statistics) -> None:
    assert list(left) == list(right)
    for name, (mean, variance) in left.items():
        torch.testing.assert_close(mean, right[name][0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(variance, right[name][1], rtol=1e-6, atol=1e-6)


def assert_same_scores_and_gradients(
    mine: Tensor, weights: Tensor, x: Tensor, modules: list[nn.Module], rows: Tensor, theirs: Tensor
) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    direction = numbers(*mine.shape, seed=2).double()
    by_weights, by_rows = torch.autograd.grad(mine, [weights, x], direction)
    (theirs * direction).sum().backward()
    for row, module in zip(by_weights, modules, strict=True):
        for name, value in ParameterSpec(module).unflatten(row).items():
            gradient = module.get_parameter(name).grad
            assert gradient is not None
            torch.testing.assert_close(value, gradient, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_rows, rows.grad, rtol=1e-6, atol=1e-6)
    assert by_weights.abs().max() > 0.1


@pytest.mark.parametrize("samples", [1, 3])
def test_batch_norms_in_training_go_by_the_batch_as_each_network_sees_it(normed: nn.Module, samples: int) -> None:
    before = buffers(normed)
    spec = ParameterSpec(normed)
    weights = (0.3 + 0.5 * numbers(samples, spec.numel)).double().requires_grad_()
    x = (1 + 2 * numbers(7, *SHAPE, seed=1)).double().requires_grad_()
    rows = x.detach().clone().requires_grad_()
    ensemble = Ensemble(normed, spec)
    scores, found = ensemble.train(weights, x)
    modules = [module.train() for module in twins(normed, weights)]
    theirs = torch.stack([module(rows) for module in modules])
    assert scores.shape == (samples, 7, 3)
    assert_same_scores_and_gradients(scores, weights, x, modules, rows, theirs)
    assert_same_statistics(found, of_the_batch(modules))
    assert not any(value.requires_grad for pair in found.values() for value in pair)
    assert not any(layer.training for layer in normed.modules())
    for name, value in buffers(normed).items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("samples", [1, 3])
def test_batch_norms_in_evaluation_go_by_the_statistics_that_are_given(normed: nn.Module, samples: int) -> None:
    spec = ParameterSpec(normed)
    weights = (0.3 + 0.5 * numbers(samples, spec.numel)).double().requires_grad_()
    x = numbers(7, *SHAPE, seed=1).double().requires_grad_()
    rows = x.detach().clone().requires_grad_()
    ensemble = Ensemble(normed, spec)
    start = ensemble.statistics
    given = {
        name: (numbers(len(mean), seed=4).double(), 0.5 + numbers(len(mean), seed=5).double().square())
        for name, (mean, _) in start.items()
    }
    modules = [module.eval() for module in twins(normed, weights)]
    for module in modules:
        for name, (mean, variance) in given.items():
            module.get_buffer(f"{name}.running_mean").copy_(mean)
            module.get_buffer(f"{name}.running_var").copy_(variance)
    theirs = torch.stack([module(rows) for module in modules])
    assert_same_scores_and_gradients(ensemble(weights, x, given), weights, x, modules, rows, theirs)
    torch.testing.assert_close(ensemble(weights, x), ensemble(weights, x, start))
    assert (ensemble(weights, x) - theirs).abs().max() > 0.1
    torch.testing.assert_close(ensemble(weights, x)[:, :2], ensemble(weights, x[:2]))  # rows do not see one another


def test_the_running_average_is_the_one_of_torch(normed: nn.Module) -> None:
    spec = ParameterSpec(normed)
    ensemble, (twin,) = Ensemble(normed, spec), twins(normed, spec.flatten(normed)[None])
    twin.train()
    kept = ensemble.statistics
    for step in range(4):
        x = numbers(5, *SHAPE, seed=step).double()
        kept = running(kept, ensemble.train(spec.flatten(normed)[None], x)[1])
        twin(x)
    found = {name: (twin.get_buffer(f"{name}.running_mean"), twin.get_buffer(f"{name}.running_var")) for name in kept}
    assert_same_statistics(kept, found)
    torch.testing.assert_close(ensemble(spec.flatten(normed)[None], x, kept)[0], twin.eval()(x))


def test_batch_norms_without_running_statistics_keep_none() -> None:
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    ensemble = assert_equals_a_loop(classifier(norm, nn.Flatten()), 2)
    assert ensemble.statistics == {}
    weights, x = numbers(2, ensemble.spec.numel), numbers(4, *SHAPE)
    scores, found = ensemble.train(weights, x)
    assert found == {}
    assert torch.equal(scores, ensemble(weights, x))


@pytest.mark.parametrize("name", ["mlp", "cnn", "module"])
def test_without_batch_norms_training_is_evaluation(name: str) -> None:
    module = solver(name).module
    ensemble = Ensemble(module, ParameterSpec(module))
    weights, x = numbers(2, ensemble.spec.numel), numbers(4, *SHAPE)
    scores, found = ensemble.train(weights, x)
    assert torch.equal(scores, ensemble(weights, x))
    assert found == {} == ensemble.statistics


def test_statistics_are_kept_in_single_precision_under_autocast() -> None:
    module = classifier(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), width=64)
    ensemble = Ensemble(module, ParameterSpec(module))
    weights, x = numbers(2, ensemble.spec.numel), 30 + numbers(9, *SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        _, low = ensemble.train(weights, x)
    _, high = ensemble.train(weights, x)
    for mean, variance in low.values():
        assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(low["encoder.1"][0], high["encoder.1"][0], rtol=2e-2, atol=2e-1)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_batch_norm_that_runs_twice_is_refused_and_leaves_no_trace(samples: int) -> None:
    norm = nn.BatchNorm2d(2)
    module = classifier(norm, nn.Conv2d(2, 2, 1), norm, nn.Flatten())
    ensemble = Ensemble(module, ParameterSpec(module))
    weights, x = numbers(samples, ensemble.spec.numel), numbers(4, *SHAPE)
    with pytest.raises(OptionsError, match=r"encoder\.0: a batch norm that is run twice a pass"):
        ensemble.train(weights, x)
    assert not norm.training
    assert norm.track_running_stats
    assert not norm._forward_pre_hooks


class Counting(nn.Module):
    def __init__(self, replaced: bool) -> None:
        super().__init__()
        self.replaced = replaced
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("shift", torch.ones(()))  # which is constant, and allowed

    def forward(self, x: Tensor) -> Tensor:
        if self.replaced:
            self.passes = self.get_buffer("passes") + 1
        else:
            self.get_buffer("passes").add_(1)
        return x + self.get_buffer("shift")


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_buffer_that_changes_is_refused(samples: int, replaced: bool) -> None:
    module = classifier(Counting(replaced), nn.Flatten())
    ensemble = Ensemble(module, ParameterSpec(module))
    with pytest.raises(OptionsError, match=r"encoder\.0\.passes: a buffer that changes as the network runs"):
        ensemble(numbers(samples, ensemble.spec.numel), numbers(4, *SHAPE))
