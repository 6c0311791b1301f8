"""Networks of the adversarial autoencoder: sizes against the published ones, shapes, codes that grow."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from reverie.checks import OptionsError
from reverie.generators.lgaa_networks import (
    LAYOUTS,
    SLOPE,
    Affine,
    CodeColumns,
    CodeLinear,
    Critic,
    GaussianEncoder,
    ImageGenerator,
    LeakyGate,
    Norm,
    Size,
    chosen_layout,
    class_inference,
    domain_inference,
    start,
    trunk,
)
from reverie.nn.networks import Linear

# Millions of weights and biases of generator, critic, encoder, class and domain inference, and of all, to the digits that are published; what
# scales channels is not counted.
PUBLISHED: dict[Size, tuple[tuple[int, ...], dict[str, str]]] = {
    "tiny": ((1, 28, 28), {"G": "0.174", "D": "0.435", "q_s": "0.443", "q_d": "0.436", "q_e": "0.002", "all": "1.49"}),
    "faithful32": (
        (3, 32, 32),
        {"G": "6.77", "D": "3.65", "q_s": "4.17", "q_d": "4.26", "q_e": "0.07", "all": "18.9"},
    ),
    "faithful64": ((3, 64, 64), {"G": "6.87", "D": "9.94", "q_s": "10.47", "q_e": "0.1"}),
}
SHAPES: dict[Size, tuple[int, ...]] = {"tiny": (1, 12, 8), "small32": (3, 32, 32), "eccv28": (1, 28, 28)}


def networks(size: Size, shape: tuple[int, ...], norm: Norm | None = None, domains: int = 2) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    layout = LAYOUTS[size]
    norm = norm or layout.norm
    return {
        "G": ImageGenerator(layout, norm, shape, 10, domains, 0),
        "D": Critic(layout, norm, shape, "none", 10, domains, 1),
        "q_s": GaussianEncoder(layout, norm, shape),
        "q_d": class_inference(layout, norm, shape, 10, 2),
        "q_e": domain_inference(layout, domains, 3),
    }


def weights(network: nn.Module) -> int:
    scales = [
        p for m in network.modules() if isinstance(m, Affine | nn.BatchNorm1d | nn.BatchNorm2d) for p in m.parameters()
    ]
    return sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in scales)


@pytest.mark.parametrize("size", PUBLISHED)
def test_as_many_weights_as_published(size: Size) -> None:
    shape, expected = PUBLISHED[size]
    counts = {name: weights(network) for name, network in networks(size, shape).items()}
    if size == "faithful64":  # published without codes for the generator, which ours has
        counts["G"] -= 12 * 8 * 8 * 256
    counts["all"] = sum(counts.values())
    for name, millions in expected.items():
        assert f"{counts[name] / 1e6:.{len(millions.partition('.')[2])}f}" == millions, name


@pytest.mark.parametrize("size", SHAPES)  # the published ones have the layers of small32, only wider
@pytest.mark.parametrize("norm", get_args(Norm))
def test_shapes_and_ranges(size: Size, norm: Norm) -> None:
    shape = SHAPES[size]
    nets, latent = networks(size, shape, norm), LAYOUTS[size].latent
    x, z = torch.rand(3, *shape), torch.randn(3, latent)
    images = nets["G"](z, torch.eye(10)[:3], torch.eye(2)[[0, 1, 0]])
    assert images.shape == (3, *shape)
    assert images.abs().max() <= 1
    assert nets["D"](x).shape == (3,)
    mean, std = nets["q_s"](x)
    assert mean.shape == std.shape == (3, latent)
    assert std.min() > 0
    assert nets["q_d"](x).shape == (3, 10)
    assert nets["q_e"](z).shape == (3, 2)


def test_no_row_knows_of_another_in_critic_and_encoder() -> None:
    """Batch norm would break the penalty a row; it is the generator's alone."""
    for norm in get_args(Norm):
        nets = networks("small32", (3, 32, 32), norm)
        for name in ("D", "q_s"):
            assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in nets[name].modules())
    has = any(isinstance(m, nn.BatchNorm2d) for m in networks("tiny", (1, 8, 8), "batch")["G"].modules())
    assert has


def test_affine_is_batch_norm_that_never_saw_its_statistics() -> None:
    x = torch.randn(4, 3, 5, 5)
    ours, theirs = Affine(3), nn.BatchNorm2d(3, eps=0.0).eval()
    for layer in (ours, theirs):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
            layer.bias.copy_(torch.tensor([0.5, 0.0, 1.0]))
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_leaky_gate_is_a_leaky_relu() -> None:
    x = torch.randn(50, requires_grad=True)
    ours, theirs = LeakyGate()(x), nn.functional.leaky_relu(x, SLOPE)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)))


@pytest.mark.parametrize(
    ("size", "shape", "message"),
    [
        (None, (784,), r"needs images \(channels, height, width\), this stream's inputs have shape \(784,\)"),
        (None, (1, 10, 8), r"size = 'tiny': makes images whose sides are multiples of 4, this stream's are 10 x 8"),
        (
            "faithful32",
            (3, 28, 28),
            r"size = 'faithful32': makes images of 32 x 32, this stream's are 28 x 28; use size = 'tiny'",
        ),
        ("faithful64", (3, 64, 32), r"size = 'faithful64': makes images of 64 x 64, this stream's are 64 x 32"),
        ("eccv28", (1, 8, 8), r"size = 'eccv28': makes images of 28 x 28"),
    ],
)
def test_images_that_no_network_fits(size: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        chosen_layout(size, shape)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 64, 64), (3, 96, 96), (3, 64, 32)])
def test_the_size_that_is_chosen_for_images(shape: tuple[int, ...]) -> None:
    """One that a CPU can train, whatever larger ones there are for the shape."""
    assert chosen_layout(None, shape)[0] == "tiny"


# Of every layer of critic and encoder, in order: a convolution (C) or fully connected layer (F), with normalisation behind it (n) or not.
PLACED: dict[Size, tuple[tuple[int, ...], str]] = {
    "small32": ((3, 32, 32), "Cn Cn Cn Cn F"),
    "faithful32": ((3, 32, 32), "Cn Cn Cn Cn F"),
    "faithful64": ((3, 64, 64), "C Cn Cn Cn F"),
    "eccv28": ((1, 28, 28), "C Cn Fn"),
    "tiny": ((1, 8, 8), "C C F"),
}


@pytest.mark.parametrize("size", PLACED)
def test_layers_are_normalised_where_the_published_ones_are(size: Size) -> None:
    shape, expected = PLACED[size]
    nets = networks(size, shape)
    for name in ("D", "q_s"):
        marks = {nn.Conv2d: " C", Linear: " F", Affine: "n"}
        found = "".join(marks.get(type(layer), "") for layer in nets[name].trunk)
        assert found.strip() == expected, name


# ------------------------------------------------------------------------------------------ codes


def test_first_layer_is_a_linear_layer_of_all_codes_side_by_side() -> None:
    layer = CodeLinear(4, 6, 3, 2, seed=0)
    z, c, a = torch.randn(5, 4), torch.softmax(torch.randn(5, 3), 1), torch.softmax(torch.randn(5, 2), 1)
    whole = torch.cat([layer.z.weight, layer.c.weight.T, layer.a.weight.T], dim=1)
    expected = nn.functional.linear(torch.cat([z, c, a], dim=1), whole, layer.z.bias)
    assert torch.allclose(layer(z, c, a), expected, atol=1e-6)


def test_columns_grown_one_by_one_equal_those_made_at_once() -> None:
    whole, grown, again = CodeColumns(6, 4, 0.5, seed=3), CodeColumns(6, 1, 0.5, seed=3), CodeColumns(6, 9, 0.5, seed=3)
    for count in (2, 3, 3, 4):
        grown.grow(count)
    again.restart(4)
    assert torch.equal(whole.weight, grown.weight)
    assert torch.equal(whole.weight, again.weight)
    assert whole.weight.abs().max() <= 0.5
    assert len(whole.weight.unique()) == 24
    assert not torch.equal(whole.weight, CodeColumns(6, 4, 0.5, seed=4).weight)


def test_class_and_domain_codes_start_differently() -> None:
    layer = CodeLinear(4, 6, 3, 3, seed=0)
    assert not torch.equal(layer.c.weight, layer.a.weight)


def scores(critic: Critic, c: Tensor, a: Tensor) -> Tensor:
    return critic(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), c, a)


def test_projection_sees_the_codes_and_a_plain_critic_does_not() -> None:
    torch.manual_seed(0)
    layout = LAYOUTS["tiny"]
    plain, projection = (Critic(layout, "none", (1, 8, 8), kind, 3, 2, 0) for kind in ("none", "projection"))
    c, a = torch.eye(3)[[0, 1, 2, 0]], torch.eye(2)[[0, 1, 0, 1]]
    for other_c, other_a in ((c.roll(1, 0), a), (c, a.roll(1, 0))):
        assert torch.equal(scores(plain, c, a), scores(plain, other_c, other_a))
        assert not torch.equal(scores(projection, c, a), scores(projection, other_c, other_a))


def test_a_projection_critic_scores_as_published() -> None:
    """w^T f(x) + b + <V c, f(x)> + <U a, f(x)>, and a bias a code (Miyato and Koyama 2018, equation 3)."""
    torch.manual_seed(0)
    critic = Critic(LAYOUTS["tiny"], "none", (1, 8, 8), "projection", 3, 2, 0)
    x = torch.rand(4, 1, 8, 8)
    c, a = torch.tensor([0, 2, 1, 2]), torch.tensor([1, 0, 0, 1])
    f = critic.trunk(x)
    expected = f @ critic.score.weight[0] + critic.score.bias
    for head, codes in ((critic.classes, c), (critic.domains, a)):
        expected = expected + (f * head.weight[codes]).sum(dim=1) + head.bias[codes]
    found = critic(x, torch.nn.functional.one_hot(c, 3).float(), torch.nn.functional.one_hot(a, 2).float())
    assert torch.allclose(found, expected, atol=1e-5)


def test_start_as_published() -> None:
    torch.manual_seed(0)
    layers = trunk(((32, 3, 2), (64, 3, 2)), (512,), "affine", (3, 16, 16))
    start(layers, 0.02)
    made = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(made) == 3
    for layer in made:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert layer.bias is not None
        assert not layer.bias.any()
