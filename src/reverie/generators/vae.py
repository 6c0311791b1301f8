"""Variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114; Rezende et al. 2014), optionally conditional on the class."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.checks import Problems
from reverie.device import Device
from reverie.generators.decoding import (
    CHANNELS,
    Decoder,
    Likelihood,
    Positive,
    as_batch,
    check_channels,
    check_classes,
    check_trained,
    check_unit_range,
    class_code,
    conv_decoder,
    conv_trunk,
    joined,
    mlp_decoder,
    mlp_trunk,
    reconstruction_nll,
    squared_error,
)
from reverie.nn.networks import Linear, Network, forward_flops, multiplications, training_flops
from reverie.nn.optimisers import Adam, Optimiser
from reverie.options import Part
from reverie.seeding import Randomness
from reverie.types import Batch, Level, Losses, Rows, State, StreamSpec

MEMORY = 100  # steps that the mean squared error looks back over, about
LEAST_VARIANCE = 1e-6


class Encoder(nn.Module):
    """x (B, ...) -> mean and log-variance (B, latent_dim) of q(z | x), after the class code where there is one."""

    def __init__(self, trunk: nn.Module, width: int, latent_dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.mean = Linear(width, latent_dim)
        self.log_variance = Linear(width, latent_dim, bias=False)  # no bias, as in the reference realisation

    def forward(self, x: Tensor, code: Tensor | None) -> tuple[Tensor, Tensor]:
        features = joined(self.trunk(x), code)
        return self.mean(features), self.log_variance(features)


class SharedVariance(nn.Module):
    """One variance of p(x | z) for all numbers of all rows: a running mean of the squared error.

    For given means that error is the likeliest variance (sigma-VAE, Rybkin, Daniilidis and Levine 2021, arXiv 2006.13202). A closed form has no
    learning rate to be too slow for it and no weight decay to pull it to 1; a mean over many batches, unlike that of each batch, is also
    what samples need.
    """

    value: Tensor
    updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.ones(()))
        self.register_buffer("updates", torch.zeros(()))

    def nll(self, error: Tensor, numbers: int) -> Tensor:
        """-log p(x | z) a row (B,) without the constant, of squared errors (B,) summed over so many numbers."""
        return 0.5 * (error / self.value + numbers * self.value.log())

    def update(self, error: Tensor, weight: Tensor, numbers: int) -> None:
        """error, weight: (B,). The plain mean of all steps at first, so that the initial 1 is forgotten at once."""
        mean = (weight * error).sum() / (numbers * weight.sum().clamp(min=torch.finfo(weight.dtype).tiny))
        self.updates += 1
        self.value.lerp_(mean.clamp(min=LEAST_VARIANCE), (1 / self.updates).clamp(min=1 / MEMORY))


class Autoencoder(nn.Module):
    def __init__(self, encoder: Encoder, decoder: Decoder, variance: SharedVariance | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.variance = variance

    def forward(self, x: Tensor, code: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded z = mean + exp(log_variance / 2) * noise, with mean and log-variance."""
        mean, log_variance = self.encoder(x, code)
        z = mean + torch.exp(0.5 * log_variance) * noise
        return self.decoder(joined(z, code)), mean, log_variance


@dataclass(eq=False, repr=False)
class VAE(Part):
    """Symmetric VAE with a standard normal prior; loss a row = reconstruction + kl_weight * KL(q(z | x) || N(0, I)).

    Defaults follow the generator of deep generative replay in van de Ven et al. 2022: widths of the solver,
    z of 100, sigmoid output with binary cross-entropy, both terms divided by the number of input units.
    """

    hidden: Annotated[
        tuple[Positive, ...] | None,
        Field(description="widths of the encoder, mirrored in the decoder; None: the stream's"),
    ] = None
    latent_dim: Annotated[int | None, Field(gt=0, description="size of the code z; None: the stream's")] = None
    architecture: Annotated[
        Literal["mlp", "conv"], Field(description="fully connected, or convolutions below the hidden layers")
    ] = "mlp"
    channels: Annotated[
        tuple[Positive, ...], Field(min_length=1, description="channels of the convolutions (conv)")
    ] = CHANNELS
    likelihood: Annotated[
        Likelihood,
        Field(description="p(x | z): bernoulli (inputs in [0, 1]) or gaussian, 0.5 * squared error / variance"),
    ] = "bernoulli"
    variance: Annotated[
        Literal["unit", "learned"],
        Field(
            description="of the gaussian p(x | z): unit, and samples are its means; or learned, one number for all inputs (the mean squared error, "
            "at least 1e-6), and samples have noise of that variance"
        ),
    ] = "unit"
    reduction: Annotated[
        Literal["mean", "sum"],
        Field(description="terms of a row divided by the number of input units, or summed (nats)"),
    ] = "mean"
    kl_weight: Annotated[float | None, Field(ge=0, description="weight of the KL term; None: the stream's, or 1")] = (
        None
    )
    conditional: Annotated[
        bool, Field(description="class code joined to encoder features and z, so that a class can be asked for")
    ] = False
    optimiser: Annotated[Optimiser, Field(description="how its weights are updated")] = field(default_factory=Adam)

    trains_by = "step"
    own_phase = False
    stores_real_samples = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.level: Level = "input"

    def check(self, problems: Problems) -> None:
        if self.hidden is not None and len(self.hidden) == 0:
            problems.add("hidden = (): needs at least one layer")
        check_channels(self.architecture, self.channels, problems)
        problems.check(
            self.variance == "unit" or self.likelihood == "gaussian",
            f"variance = {self.variance!r}: likelihood = {self.likelihood!r} has none of its own; set likelihood = 'gaussian' or leave it out",
        )

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        if self.likelihood == "bernoulli":
            check_unit_range(spec, "likelihood = 'bernoulli'", "likelihood = 'gaussian'")
        self.outputs = spec.outputs if self.conditional else 0
        self.latent = self.latent_dim or 100
        self._kl_weight = 1.0 if self.kl_weight is None else self.kl_weight
        with rng.global_torch("generator weights"):
            module = self._module(spec.input_shape)
        self.network = Network(module, self.optimiser, device)
        self.trained = False
        # Layer by layer in the order they run, so that the first one's input gradient can be left out.
        one = torch.zeros(1, self.outputs) if self.conditional else None
        self._encoder_costs = multiplications(_Fixed(module.encoder, one), spec.input_shape)
        self._decoder_costs = multiplications(module.decoder, (self.latent + self.outputs,))

    @property
    def module(self) -> Autoencoder:
        return cast(Autoencoder, self.network.module)

    def loss(self, batch: Batch) -> Losses:
        """reconstruction and kl, weighted over the rows; their sum is what ``step`` descends."""
        return self._loss(batch)[0]

    def step(self, batch: Batch) -> Losses:
        losses, decoded = self._loss(batch)
        self.network.update(losses["reconstruction"] + losses["kl"])
        if self.module.variance is not None:
            self.module.variance.update(squared_error(decoded.detach(), batch.x), batch.weight, batch.x[0].numel())
        self.trained = True
        return {name: value.detach() for name, value in losses.items()}

    def _loss(self, batch: Batch) -> tuple[Losses, Tensor]:
        """The losses, and what the rows were decoded to."""
        noise = torch.randn(len(batch), self.latent, generator=self.rng("generator noise"), device=batch.x.device)
        with self.device.autocast():
            self.network.ready(train=True)
            decoded, mean, log_variance = self.module(batch.x, self._code(batch.y), noise)
        decoded = decoded.float()
        # Both terms, so that their sum stays minus the ELBO up to a factor.
        scale = 1 / math.prod(self.spec.input_shape) if self.reduction == "mean" else 1.0
        reconstruction = self.reconstruction(decoded, batch.x)
        kl = kl_to_standard_normal(mean.float(), log_variance.float())
        losses = {
            "reconstruction": scale * (batch.weight * reconstruction).sum(),
            "kl": scale * self._kl_weight * (batch.weight * kl).sum(),
        }
        return losses, decoded

    def reconstruction(self, decoded: Tensor, x: Tensor) -> Tensor:
        """-log p(x | z) in nats a row (B,), up to the constant of the gaussian."""
        if self.module.variance is not None:
            return self.module.variance.nll(squared_error(decoded, x), x[0].numel())
        return reconstruction_nll(self.likelihood, decoded, x)

    def elbo(self, x: Tensor, rng: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Evidence lower bound of log p(x) in nats a row (B,), one draw of z each."""
        noise = torch.randn(len(x), self.latent, generator=rng, device=x.device)
        self.network.ready(train=False)
        with torch.no_grad(), self.device.autocast():
            decoded, mean, log_variance = self.module(x, self._code(y), noise)
        constant = 0.0 if self.likelihood == "bernoulli" else 0.5 * math.log(2 * math.pi) * x[0].numel()
        return -(
            self.reconstruction(decoded.float(), x)
            + constant
            + kl_to_standard_normal(mean.float(), log_variance.float())
        )

    def sample(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        check_trained(self)
        z = torch.randn(n, self.latent, generator=rng, device=self.device.torch_device)
        self.network.ready(train=False)
        with torch.no_grad(), self.device.autocast():
            decoded = self.module.decoder(joined(z, self._code(classes))).float()
        x = torch.sigmoid_(decoded) if self.likelihood == "bernoulli" else decoded
        if self.module.variance is not None:
            noise = torch.randn(x.shape, generator=rng, device=x.device)
            x = x + self.module.variance.value.sqrt() * noise
        return as_batch(x, classes if self.conditional else None)

    def extend(self, spec: StreamSpec) -> None:
        check_classes(self.spec, spec, self.conditional)
        self.spec = spec

    def fit(self, rows: Rows) -> None:
        """Nothing to do: it is trained step by step."""

    def begin_task(self) -> None:
        self.network.begin_task()

    def frozen(self) -> VAE:
        twin = self.clone()
        for name in (
            "spec",
            "rng",
            "device",
            "outputs",
            "latent",
            "trained",
            "_kl_weight",
            "_encoder_costs",
            "_decoder_costs",
        ):
            setattr(twin, name, getattr(self, name))
        twin.network = self.network.frozen()
        return twin

    def num_bytes(self) -> int:
        return self.network.num_bytes()

    def working_bytes(self) -> int:
        return self.network.working_bytes()

    def flops(self, rows: int, train: bool = True) -> float:
        """Of a training step, or of sampling (``train`` False)."""
        if train:
            return training_flops([*self._encoder_costs, *self._decoder_costs], rows)
        return forward_flops(self._decoder_costs, rows)

    def state(self) -> State:
        return {"network": self.network.state(), "trained": self.trained}

    def load(self, state: State) -> None:
        self.network.load(state["network"])
        self.trained = state["trained"]

    def _code(self, y: Tensor | None) -> Tensor | None:
        return class_code(y, self.outputs) if self.conditional else None

    def _module(self, shape: tuple[int, ...]) -> Autoencoder:
        hidden = list(self.hidden or (400, 400))
        z = self.latent + self.outputs
        if self.architecture == "mlp":
            trunk = mlp_trunk(hidden, shape)
            decoder = mlp_decoder(z, hidden, shape)
        else:
            decoder = conv_decoder(z, hidden, self.channels, shape, batch_norm=True)
            trunk = conv_trunk(hidden, self.channels, shape)
        variance = SharedVariance() if self.variance == "learned" else None
        return Autoencoder(Encoder(trunk, hidden[-1] + self.outputs, self.latent), decoder, variance)


class _Fixed(nn.Module):
    """An encoder with its class code held fixed, for counting operations."""

    def __init__(self, encoder: Encoder, code: Tensor | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.encoder(x, self.code), dim=1)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag exp(log_variance)) || N(0, I)) in nats a row (B,) (Kingma and Welling 2014, appendix B).

    >>> kl_to_standard_normal(torch.zeros(1, 3), torch.zeros(1, 3)).item()
    0.0
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
