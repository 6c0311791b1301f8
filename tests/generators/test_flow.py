"""Normalizing flows: an exact density, its change of variables, recovery of mixtures, and what happens without zuko."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from reverie.checks import NotReadyError, OptionsError
from reverie.device import CPU, Device
from reverie.generators import NormalizingFlow, flow, train
from reverie.learners import GenerativeReplay
from reverie.nn.optimisers import Adam
from tests.tiny import tiny_stream
from tests.tiny import train as learn

needs_zuko = pytest.mark.skipif(flow.zuko is None, reason="zuko is not installed (the extra 'flows')")
KINDS: dict[str, dict[str, Any]] = {
    "affine-autoregressive": {"transforms": 3},
    "coupling": {"transforms": 4},
    "spline": {"transforms": 2, "bins": 6},
}
every_kind = pytest.mark.parametrize("kind", KINDS)

QUICK = Adam(learning_rate=3e-3)
CENTRES = torch.tensor([[6.0, -2.0], [-6.0, 0.0], [2.0, 3.0]])
ROOTS = torch.tensor([[[2.0, 0.0], [0.5, 0.8]], [[4.0, 0.0], [-0.9, 1.0]], [[3.0, 0.0], [0.0, 1.5]]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n rows of three Gaussian classes, each with its own place, widths and correlation."""
    y = torch.arange(n) % 3
    noise = torch.randn(n, 2, generator=seeded(seed))
    return CENTRES[y] + (ROOTS[y] @ noise[:, :, None])[:, :, 0], y


def trained(kind: str, x: Tensor, y: Tensor, steps: int = 800, **options: Any) -> NormalizingFlow:
    options = {"hidden": (24,), "dequantise": 0.0, "optimiser": QUICK, **KINDS[kind], **options}
    return train(NormalizingFlow(kind=kind, **options), x, y, steps=steps, batch_size=256)  # type: ignore[arg-type]


def class_moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(classes, d) means and (classes, d, d) covariances."""
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    return means, torch.stack([x[y == c].T.cov() for c in range(3)])


def miss(x: Tensor, y: Tensor) -> tuple[float, float]:
    """How far class means and covariances are from the mixture's, in widths of the class."""
    means, covariances = class_moments(x, y)
    inverse = torch.linalg.inv(ROOTS)
    offset = (inverse @ (means - CENTRES)[:, :, None]).abs().max()
    spread = (inverse @ covariances @ inverse.mT - torch.eye(2)).abs().max()
    return float(offset), float(spread)


# ------------------------------------------------------------------------------------------ density


@needs_zuko
@every_kind
@pytest.mark.parametrize("d", [1, 2])
def test_density_integrates_to_one(kind: str, d: int) -> None:
    x, y = mixture(600)
    model = trained(kind, x[:, :d], y, steps=60)
    points = 4001 if d == 1 else 401
    axes = [torch.linspace(-50, 50, points), torch.linspace(-25, 25, points)][:d]
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    grid = torch.cartesian_prod(*axes).reshape(-1, d)
    for c in range(3):
        total = model.log_prob(grid, torch.full((len(grid),), c)).double().exp().sum() * cell
        assert abs(float(total) - 1) < 0.005


@needs_zuko
@every_kind
def test_log_prob_is_the_change_of_variables(kind: str) -> None:
    """Of the whole map from rows to noise, its Jacobian by automatic differentiation."""
    x, y = (part[:9] for part in mixture(300))
    model = trained(kind, *mixture(300), steps=20)
    log_prob = model.log_prob(x, y)
    assert log_prob.shape == (9,)
    assert not log_prob.requires_grad
    for i in range(9):
        told = model.module.classes(y[i : i + 1])

        def to_noise(row: Tensor, told: Tensor = told) -> Tensor:
            noise: Tensor = model.module.net(told)(model.module.scale(row[None]))[0]
            return noise

        jacobian = torch.autograd.functional.jacobian(to_noise, x[i])
        normal = MultivariateNormal(torch.zeros(2), torch.eye(2)).log_prob(to_noise(x[i]))
        torch.testing.assert_close(log_prob[i], normal + jacobian.det().abs().log(), rtol=1e-4, atol=1e-4)


@needs_zuko
@every_kind
def test_samples_are_noise_sent_backwards(kind: str) -> None:
    model = trained(kind, *mixture(300), steps=20)
    classes = torch.arange(50) % 3
    x = model.sample(50, seeded(4), classes).x
    noise = model.module.net(model.module.classes(classes))(model.module.scale(x))
    torch.testing.assert_close(noise.detach(), torch.randn(50, 2, generator=seeded(4)), rtol=1e-3, atol=1e-3)


@needs_zuko
@every_kind
def test_loss_is_minus_the_weighted_log_density_a_number(kind: str) -> None:
    x, y = mixture(30)
    model = trained(kind, x, y, steps=5)
    batch = model.sample(30, seeded(), y)
    weight = torch.rand(30, generator=seeded())
    batch = type(batch)(x, y, batch.task, weight / weight.sum())
    expected = -(batch.weight * model.log_prob(x, y)).sum() / 2
    torch.testing.assert_close(model.loss(batch)["nll"].detach(), expected)


@needs_zuko
def test_dequantising_adds_noise_of_that_share_of_the_deviation() -> None:
    """Rows that are exactly 0 half of the time: with noise their density is bounded by the noise's."""
    x = torch.randn(400, 2, generator=seeded()).relu()
    y = torch.zeros(400, dtype=torch.int64)
    model = trained("spline", x, y, steps=150, dequantise=0.2)
    sharpest = -math.log(2 * math.pi) - 2 * math.log(0.2) - float(model.module.scale.scale.log().sum())
    assert float(model.log_prob(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))) < sharpest
    zeros = (model.sample(4000, seeded(), torch.zeros(4000, dtype=torch.int64)).x.abs() < 0.3).float().mean()
    assert 0.4 < float(zeros) < 0.7


# ------------------------------------------------------------------------------------------ recovery


@needs_zuko
@every_kind
def test_moments_of_each_class_are_recovered(kind: str) -> None:
    n = 6000
    model = trained(kind, *mixture(n))
    y = mixture(n)[1]
    offset, spread = miss(model.sample(n, seeded(), y).x, y)
    error = 4 / math.sqrt(n / 3)  # four standard errors of a mean; the rest is what is not learnt in these steps
    assert offset < error + 0.15
    assert spread < math.sqrt(2) * error + 0.2


@needs_zuko
@every_kind
def test_fitted_to_its_own_samples_it_stays_where_it_is(kind: str) -> None:
    x, y = mixture(3000)
    for seed in range(2):
        x = trained(kind, x, y).sample(3000, seeded(seed), y).x
    offset, spread = miss(x, y)
    assert offset < 0.35
    assert spread < 0.5


@needs_zuko
def test_the_density_tells_classes_apart() -> None:
    model = trained("coupling", *mixture(1000), steps=150)
    x, y = mixture(300, seed=5)
    table = torch.stack([model.log_prob(x, torch.full((300,), c)) for c in range(3)], dim=1)
    assert float((table.argmax(1) == y).float().mean()) > 0.95


@needs_zuko
def test_likelihood_can_choose_what_is_rehearsed() -> None:
    learner = GenerativeReplay(generator=NormalizingFlow(hidden=(8,), transforms=2), selection="likelihood")
    assert learn(learner, tiny_stream("class")).result["status"] == "complete"


# ------------------------------------------------------------------------------------------ options


@needs_zuko
def test_it_is_exact_whatever_the_precision() -> None:
    x, y = mixture(60)
    exact, rough = (
        train(NormalizingFlow(hidden=(8,)), x, y, steps=3, device=device) for device in (CPU, Device(precision="bf16"))
    )
    assert torch.equal(exact.log_prob(x, y), rough.log_prob(x, y))


@needs_zuko
def test_autoregressive_samples_cost_a_pass_a_number() -> None:
    one, two = (NormalizingFlow(kind=kind, hidden=(8,), class_dim=3) for kind in ("affine-autoregressive", "coupling"))
    x, y = torch.randn(30, 6, generator=seeded()), torch.zeros(30, dtype=torch.int64)
    train(one, x, y, steps=1), train(two, x, y, steps=1)
    assert one.flops(10, train=False) == 2 * 10 * 6 * 4 * ((6 + 3) * 8 + 8 * 12)
    assert two.flops(10, train=False) == 2 * 10 * 4 * ((3 + 3) * 8 + 8 * 6)


@needs_zuko
def test_refusals() -> None:
    with pytest.raises(OptionsError, match="bins = 4: has no effect with kind = 'coupling'; set kind = 'spline'"):
        NormalizingFlow(bins=4)
    with pytest.raises(OptionsError, match="transforms = 1: a coupling changes half of the numbers"):
        NormalizingFlow(kind="spline", transforms=1)
    with pytest.raises(NotReadyError, match="never trained"):
        NormalizingFlow().log_prob(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))


def test_without_zuko_choosing_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "zuko", None)
    with pytest.raises(OptionsError, match=r"needs zuko, which is not installed; pip install 'reverie\[flows\]'"):
        NormalizingFlow()


def test_without_zuko_everything_else_works() -> None:
    script = (
        "import sys; sys.modules['zuko'] = None\n"
        "from reverie.cli import entry\n"
        "sys.argv = ['reverie', 'list', 'generators', *sys.argv[1:]]\n"
        "entry()"
    )
    for name in ([], ["normalizing-flow"]):
        done = subprocess.run([sys.executable, "-c", script, *name, "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "normalizing-flow" in done.stdout


@needs_zuko
def test_weights_are_of_the_seed_whatever_torch_s_global_generator_is_at() -> None:
    x, y = mixture(30)
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        found.append(train(NormalizingFlow(hidden=(8,)), x, y, steps=2).log_prob(x, y))
    assert torch.equal(*found)
