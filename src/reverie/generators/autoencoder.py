"""Regularised autoencoder with a density of its codes fitted afterwards (Ghosh, Sajjadi, Vergari, Black and Schölkopf 2020, arXiv 1903.12436)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.checks import NotReadyError, Problems
from reverie.device import Device
from reverie.generators.decoding import (
    CHANNELS,
    Decoder,
    Likelihood,
    Positive,
    as_batch,
    check_channels,
    check_unit_range,
    conv_decoder,
    conv_trunk,
    mlp_decoder,
    mlp_trunk,
    reconstruction_nll,
)
from reverie.generators.densities import CHUNK, Densities
from reverie.generators.gmm import GaussianMixture
from reverie.nn.networks import Linear, Network, forward_flops, multiplications, training_flops
from reverie.nn.optimisers import Adam, Optimiser
from reverie.options import Part
from reverie.seeding import Randomness
from reverie.streams.rows import TensorRows
from reverie.types import Batch, Density, Level, Losses, Recommended, Rows, State, StreamSpec


@dataclass(eq=False, repr=False)
class RegularisedAutoencoder(Part):
    """Deterministic encoder and decoder; loss a row = reconstruction + code_weight * |z|^2 / 2 + decoder_weight * |decoder's weights|^2.

    The penalty of the code keeps it bounded, that of the decoder keeps it from undoing this, and makes it smooth between codes. When a
    task ends, a density is fitted to the codes of each class; a sample is a code of its class, decoded.

    One network serves all tasks, so it must be trained on replay too. Densities of old classes are fitted anew at the end of each
    task, to codes of rows that a copy frozen at its start generates: the encoder that they were fitted to is no more.
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
        Field(
            description="reconstruction: bernoulli (inputs in [0, 1], cross-entropy) or gaussian, 0.5 * squared error"
        ),
    ] = "bernoulli"
    reduction: Annotated[
        Literal["mean", "sum"],
        Field(description="all terms divided by the number of input units, or as they are"),
    ] = "mean"
    code_weight: Annotated[float, Field(ge=0, description="weight of half the squared norm of a code")] = 0.1
    decoder_weight: Annotated[
        float, Field(ge=0, description="weight of the squared norm of the decoder's weights, without biases")
    ] = 1e-3
    density: Annotated[Density, Field(description="the family that is fitted to the codes of each class")] = field(
        default_factory=lambda: GaussianMixture(components=10)
    )
    optimiser: Annotated[Optimiser, Field(description="how its weights are updated")] = field(default_factory=Adam)

    trains_by: ClassVar[Literal["step"]] = "step"
    own_phase: ClassVar[bool] = False
    conditional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.level: Level = "input"

    def check(self, problems: Problems) -> None:
        if self.hidden is not None and len(self.hidden) == 0:
            problems.add("hidden = (): needs at least one layer")
        check_channels(self.architecture, self.channels, problems)

    @property
    def stores_real_samples(self) -> bool:
        """A density may keep codes as they are."""
        return self.density.stores_real_samples

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        if self.likelihood == "bernoulli":
            check_unit_range(spec, "likelihood = 'bernoulli'", "likelihood = 'gaussian'")
        self.latent = self.latent_dim or 100
        with rng.global_torch("generator weights"):
            encoder, decoder = self._modules(spec.input_shape)
        self._encoder_costs = multiplications(encoder, spec.input_shape)
        self._decoder_costs = multiplications(decoder, (self.latent,))
        self.network = Network(nn.ModuleDict({"encoder": encoder, "decoder": decoder}), self.optimiser, device)
        self.decoder: nn.Module = decoder
        self.codes = self._unfitted()
        self.past: RegularisedAutoencoder | None = None  # as it was when the task began

    def extend(self, spec: StreamSpec) -> None:
        """Further classes need nothing: each has a density of its own."""
        self.spec = spec

    def begin_task(self) -> None:
        self.network.begin_task()
        self.past = self.frozen() if self.codes.components else None

    def loss(self, batch: Batch) -> Losses:
        """The three terms, the first two weighted over the rows; their sum is what ``step`` descends."""
        with self.device.autocast():
            module = cast(nn.ModuleDict, self.network.ready(train=True))
            code = module["encoder"](batch.x)
            decoded = module["decoder"](code).float()
        scale = 1 / math.prod(self.spec.input_shape) if self.reduction == "mean" else 1.0
        size = 0.5 * code.float().square().sum(dim=1)
        weights = [weight.square().sum() for weight in self.decoder.parameters() if weight.dim() > 1]
        return {
            "reconstruction": scale * (batch.weight * reconstruction_nll(self.likelihood, decoded, batch.x)).sum(),
            "code": scale * self.code_weight * (batch.weight * size).sum(),
            "decoder": scale * self.decoder_weight * torch.stack(weights).sum(),
        }

    def step(self, batch: Batch) -> Losses:
        losses = self.loss(batch)
        self.network.update(torch.stack(list(losses.values())).sum())
        return {name: value.detach() for name, value in losses.items()}

    def fit(self, rows: Rows) -> None:
        """Densities of the classes of the rows and of all classes before, for the encoder as it is now.

        An old class gets as many generated rows as its density was fitted to, so that one met again keeps the right shares.
        """
        device, task = self.device.torch_device, 0
        codes, labels = [], [rows.labels]
        for chunk in rows.chunks(CHUNK):
            codes.append(self.encode(chunk.x.to(device)))
            task = int(chunk.task.max())
        if self.past is not None:
            rng = self.rng.at("past rows", task)
            for c, count in self.past.codes.class_counts().items():
                for part in torch.full((count,), c, device=device).split(CHUNK):
                    codes.append(self.encode(self.past.sample(len(part), rng, part).x))
                    labels.append(part.cpu())
        self.codes = self._unfitted()
        self.codes.fit(TensorRows(torch.cat(codes).cpu(), torch.cat(labels)))
        self.past = None

    def encode(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, latent_dim) codes."""
        module = cast(nn.ModuleDict, self.network.ready(train=False))
        with torch.no_grad(), self.device.autocast():
            code: Tensor = module["encoder"](x).float()
        return code

    def sample(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        """Rows of the given classes (n,)."""
        if not getattr(self, "codes", None) or not self.codes.components:
            raise NotReadyError(
                "the autoencoder has no density of its codes, so it has nothing to replay; fit it to a task first"
            )
        z = self.codes.sample(n, rng, classes).x
        self.network.ready(train=False)
        with torch.no_grad(), self.device.autocast():
            decoded = self.decoder(z).float()
        return as_batch(torch.sigmoid_(decoded) if self.likelihood == "bernoulli" else decoded, classes)

    def frozen(self) -> RegularisedAutoencoder:
        """Replay needs decoder and densities alone; the frozen copy has no encoder and cannot be trained."""
        twin = self.clone()
        for name in ("level", "spec", "rng", "device", "latent", "_encoder_costs", "_decoder_costs"):
            setattr(twin, name, getattr(self, name))
        twin.network = Network(copy.deepcopy(self.decoder), None, self.device)
        twin.decoder = twin.network.module
        twin.codes, twin.past = self.codes.frozen(), None
        return twin

    # ------------------------------------------------------------------ state and cost

    def num_bytes(self) -> int:
        return self.network.num_bytes() + self.codes.num_bytes()

    def working_bytes(self) -> int:
        return self.network.working_bytes() + (0 if self.past is None else self.past.num_bytes())

    def flops(self, rows: int, train: bool = True) -> float:
        """Of a training step, or of sampling (``train`` False); densities are fitted once a task."""
        if train:
            return training_flops([*self._encoder_costs, *self._decoder_costs], rows)
        return forward_flops(self._decoder_costs, rows) + self.codes.flops(rows, train=False)

    def state(self) -> State:
        past = None if self.past is None else self.past.state()
        return {"network": self.network.state(), "codes": self.codes.state(), "past": past}

    def load(self, state: State) -> None:
        self.network.load(state["network"])
        self.codes = self._unfitted()
        self.codes.load(state["codes"])
        self.past = None
        if state["past"] is not None:
            self.past = self.frozen()
            self.past.load(state["past"])

    def _unfitted(self) -> Densities:
        codes = Densities(density=self.density, scope="class")
        spec = replace(self.spec, input_shape=(self.latent,), value_range=None, recommended=Recommended())
        codes.build(spec, self.rng, self.device)
        return codes

    def _modules(self, shape: tuple[int, ...]) -> tuple[nn.Module, Decoder]:
        hidden = list(self.hidden or (400, 400))
        if self.architecture == "mlp":
            trunk, decoder = mlp_trunk(hidden, shape), mlp_decoder(self.latent, hidden, shape)
        else:
            trunk = conv_trunk(hidden, self.channels, shape)
            decoder = conv_decoder(self.latent, hidden, self.channels, shape, batch_norm=True)
        return nn.Sequential(trunk, Linear(hidden[-1], self.latent)), decoder
