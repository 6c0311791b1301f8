"""Wasserstein GAN with gradient penalty (Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville 2017, arXiv 1704.00028)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reverie.checks import Problems
from reverie.device import Device
from reverie.generators.decoding import (
    CHANNELS,
    Positive,
    as_batch,
    check_channels,
    check_classes,
    check_trained,
    check_unit_range,
    class_code,
    conv_decoder,
    joined,
    mlp_decoder,
)
from reverie.nn.networks import (
    Network,
    conv_stack,
    forward_flops,
    mlp,
    multiplications,
    output_width,
    training_flops,
)
from reverie.nn.optimisers import Adam, Optimiser
from reverie.options import Part
from reverie.seeding import Randomness
from reverie.types import Batch, Level, Losses, Phase, Rows, State, StreamSpec

PenaltyNorm = Literal["row", "columns"]


class Gate(nn.Module):
    """ReLU written as a product with a constant 0-1 mask.

    ReLU has no second derivative, but torch's own sends the zeros of one through the whole network when its
    gradient is differentiated again; here there is nothing to send, which saves a quarter of a critic's step.
    The mask is made of signs: on the CPU a comparison, and a product with what it gives, take several times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * x.detach().sign().clamp_(min=0)


class Critic(nn.Module):
    """x (B, *shape), class code (B, classes) or None -> a score each (B,), high for rows that look real."""

    def __init__(self, features: nn.Module, layers: nn.Module) -> None:
        super().__init__()
        self.features, self.layers = features, layers

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        scores: Tensor = self.layers(joined(self.features(x), code)).squeeze(1)
        return scores


@dataclass(eq=False, repr=False)
class WGANGP(Part):
    """Generator G against critic D, trained in a phase of its own, one batch a step:

    critic: sum_i w_i [D(G(z_i)) - D(x_i)] + penalty_weight * sum_i w_i (|| grad D(x^_i) || - 1)^2, every step;
    generator: - sum_i w_i D(G(z_i)), once in ``critic_steps`` steps.

    x is the merged batch of new and replayed rows, so the critic's "real" distribution is r * new + (1 - r) * replay through the
    weights w. What is sampled, frozen and handed on is not G itself but a running mean of its weights over the phase, whose
    samples depend less on the moment at which training stops. No network has batch norm: in the critic it would break the penalty a
    sample, in the generator its statistics would not fit the mean weights.

    Penalty weight as in the paper, betas as in its authors' MNIST code; the other defaults are ours. Learning rate and mean
    were chosen on validation rows of class-incremental split MNIST: without the mean, replay of replay decays much faster.
    """

    hidden: Annotated[
        tuple[Positive, ...] | None,
        Field(description="widths of the critic, mirrored in the generator; None: the stream's"),
    ] = None
    latent_dim: Annotated[int | None, Field(gt=0, description="size of the noise z; None: the stream's")] = None
    architecture: Annotated[
        Literal["mlp", "conv"], Field(description="fully connected, or convolutions below the hidden layers")
    ] = "mlp"
    channels: Annotated[
        tuple[Positive, ...], Field(min_length=1, description="channels of the convolutions (conv)")
    ] = CHANNELS
    output: Annotated[
        Literal["sigmoid", "linear"], Field(description="sigmoid (inputs in [0, 1]) or linear, for inputs of any range")
    ] = "sigmoid"
    conditional: Annotated[
        bool, Field(description="class code joined to critic features and z, so that a class can be asked for")
    ] = False
    phase_steps: Annotated[int, Field(gt=0, description="critic updates a task")] = 2000
    phase_batch_size: Annotated[int, Field(gt=0, description="new rows a step of its phase")] = 64
    critic_steps: Annotated[int, Field(gt=0, description="critic updates for one generator update")] = 2
    penalty_weight: Annotated[float, Field(ge=0, description="weight of the gradient penalty (lambda)")] = 10.0
    averaging: Annotated[
        float,
        Field(
            ge=0, le=1, description="share of a phase that the mean of the generator's weights looks back over; 0: none"
        ),
    ] = 0.3
    optimiser: Annotated[Optimiser, Field(description="how the generator's weights are updated")] = field(
        default_factory=lambda: Adam(learning_rate=1e-3, betas=(0.5, 0.9))
    )
    critic_optimiser: Annotated[Optimiser, Field(description="how the critic's weights are updated")] = field(
        default_factory=lambda: Adam(learning_rate=1e-3, betas=(0.5, 0.9))
    )

    trains_by = "step"
    own_phase = True
    stores_real_samples = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.level: Level = "input"

    def check(self, problems: Problems) -> None:
        if self.hidden is not None and len(self.hidden) == 0:
            problems.add("hidden = (): needs at least one layer")
        check_channels(self.architecture, self.channels, problems)

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        if self.output == "sigmoid":
            check_unit_range(spec, "output = 'sigmoid'", "output = 'linear'")
        self.outputs = spec.outputs if self.conditional else 0
        self.latent = self.latent_dim or 100
        with rng.global_torch("generator weights"):
            generator, critic = self._modules(spec.input_shape)
        self._generator_costs = multiplications(generator, (self.latent + self.outputs,))
        self._critic_costs = multiplications(_Fixed(critic, self.outputs), spec.input_shape)
        self.networks = {
            "sampled": Network(copy.deepcopy(generator), None, device),
            "generator": Network(generator, self.optimiser, device),
            "critic": Network(critic, self.critic_optimiser, device),
        }
        self.trained = False

    # ------------------------------------------------------------------ training

    def phase(self, name: str) -> Phase:
        """Its own stretch of training, before the solver's."""
        return Phase(name, self.phase_batch_size, steps=self.phase_steps)

    def step(self, batch: Batch) -> Losses:
        """One critic update and, at the first of every ``critic_steps`` steps, one generator update."""
        code = self._code(batch.y)
        with torch.no_grad():
            fake = self._generate("critic noise", len(batch), code)
        losses = self._critic_losses(batch, fake, code)
        self.networks["critic"].update(losses["critic"] + losses["penalty"])
        update, rest = divmod(self.rng.position.step, self.critic_steps)
        if rest == 0:
            self._update_generator(batch, code)
            self._update_mean(update)
            self.trained = True
        return {name: value.detach() for name, value in losses.items()}

    def _critic_losses(self, batch: Batch, fake: Tensor, code: Tensor | None) -> Losses:
        critic = self.networks["critic"].module
        with self.device.autocast():
            scores = critic(torch.cat([batch.x, fake]), None if code is None else torch.cat([code, code])).float()
        real_score, fake_score = ((batch.weight * part).sum() for part in scores.chunk(2))
        # In float32 whatever the precision: this gradient is differentiated once more.
        penalty = gradient_penalty(
            lambda x: critic(x, code), batch.x, fake, batch.weight, self.rng("penalty interpolation")
        )
        return {
            "critic": fake_score - real_score,
            "penalty": self.penalty_weight * penalty,
            # Of the same samples, at every step, so that the record has it where the generator is not updated too.
            "generator": -fake_score,
        }

    def _update_generator(self, batch: Batch, code: Tensor | None) -> None:
        critic = self.networks["critic"].module
        critic.requires_grad_(False)  # its weights' gradients would be computed for nothing
        with self.device.autocast():
            scores = critic(self._generate("generator noise", len(batch), code), code).float()
        self.networks["generator"].update(-(batch.weight * scores).sum())
        critic.requires_grad_(True)

    def _update_mean(self, update: int) -> None:
        """A mean that starts anew in each phase and whose memory, 1 / (1 - decay) updates, grows with its length: with
        ``averaging`` 1 the plain mean of all G so far, with less the later ones weigh more (Shamir and Zhang 2013)."""
        decay = self.averaging * update / (self.averaging * update + 1)
        mean, latest = (tuple(self.networks[name].module.parameters()) for name in ("sampled", "generator"))
        get_ema_multi_avg_fn(decay)(mean, latest, None)

    def _generate(self, purpose: str, n: int, code: Tensor | None) -> Tensor:
        z = torch.randn(n, self.latent, generator=self.rng(purpose), device=self.device.torch_device)
        with self.device.autocast():
            samples: Tensor = self.networks["generator"].module(joined(z, code)).float()
        return samples

    def extend(self, spec: StreamSpec) -> None:
        check_classes(self.spec, spec, self.conditional)
        self.spec = spec

    def fit(self, rows: Rows) -> None:
        """Nothing to do: it is trained step by step."""

    def begin_task(self) -> None:
        self.networks["generator"].begin_task()
        self.networks["critic"].begin_task()

    # ------------------------------------------------------------------ sampling

    def sample(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        check_trained(self)
        z = torch.randn(n, self.latent, generator=rng, device=self.device.torch_device)
        with torch.no_grad(), self.device.autocast():
            x = self.networks["sampled"].module(joined(z, self._code(classes))).float()
        return as_batch(x, classes if self.conditional else None)

    def frozen(self) -> WGANGP:
        """Replay needs the mean generator alone; the frozen copy has no critic and cannot be trained."""
        twin = self.clone()
        for name in ("spec", "rng", "device", "outputs", "latent", "trained", "_generator_costs", "_critic_costs"):
            setattr(twin, name, getattr(self, name))
        twin.networks = {"sampled": self.networks["sampled"].frozen()}
        return twin

    # ------------------------------------------------------------------ state and cost

    def num_bytes(self) -> int:
        """All networks: sampling needs the mean generator, learning on needs the live one and the critic too."""
        return sum(network.num_bytes() for network in self.networks.values())

    def working_bytes(self) -> int:
        return sum(network.working_bytes() for network in self.networks.values())

    def flops(self, rows: int, train: bool = True) -> float:
        """Of a training step (generator updates shared out over the steps), or of sampling (``train`` False)."""
        generate = forward_flops(self._generator_costs, rows)
        if not train:
            return generate
        scores = training_flops(self._critic_costs, 2 * rows)
        # Forward, input gradient, and that gradient's own gradients towards weights and towards the layer before.
        penalty = 4 * forward_flops(self._critic_costs, rows)
        update = training_flops(self._generator_costs, rows) + 2 * forward_flops(self._critic_costs, rows)
        return generate + scores + penalty + update / self.critic_steps

    def state(self) -> State:
        return {"trained": self.trained, **{name: network.state() for name, network in self.networks.items()}}

    def load(self, state: State) -> None:
        self.trained = state["trained"]
        for name, network in self.networks.items():
            network.load(state[name])

    # ------------------------------------------------------------------ networks

    def _code(self, y: Tensor | None) -> Tensor | None:
        return class_code(y, self.outputs) if self.conditional else None

    def _modules(self, shape: tuple[int, ...]) -> tuple[nn.Module, Critic]:
        hidden = list(self.hidden or (400, 400))
        z = self.latent + self.outputs
        if self.architecture == "mlp":
            decoder = mlp_decoder(z, hidden, shape)
            features = nn.Sequential(nn.Flatten())
        else:
            decoder = conv_decoder(z, hidden, self.channels, shape, batch_norm=False)
            stack = conv_stack([shape[0], *self.channels], [2] * len(self.channels), batch_norm=False)
            features = nn.Sequential(*_gated(stack), nn.Flatten())
        head = _gated(mlp([output_width(features, shape) + self.outputs, *hidden, 1]))
        generator = nn.Sequential(decoder, nn.Sigmoid()) if self.output == "sigmoid" else decoder
        return generator, Critic(features, head)


class _Fixed(nn.Module):
    """A critic with a class code of zeros, for counting operations."""

    def __init__(self, critic: Critic, outputs: int) -> None:
        super().__init__()
        self.critic, self.outputs = critic, outputs

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.critic(x, torch.zeros(len(x), self.outputs) if self.outputs else None)
        return scores.unsqueeze(1)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    weight: Tensor,
    rng: torch.Generator,
    norm: PenaltyNorm = "row",
    one_place: bool = False,
) -> Tensor:
    """sum_i weight_i (|| grad critic(x^_i) ||_2 - 1)^2, the norm over all dimensions of a row (equation 3 of the paper).

    x^_i lies on the segment between real_i and fake_i (B, ...), at a place drawn uniformly for each row; weight: (B,). norm "columns", over the
    height alone, so that every column of every channel is drawn to 1, and one_place, one place for the whole batch, are what the code
    published with the lifelong adversarial autoencoder does.

    >>> row = torch.ones(2, 4)
    >>> gradient_penalty(lambda x: x.sum(dim=1), row, row, torch.full((2,), 0.5), torch.Generator()).item()
    1.0
    """
    place = torch.rand(1 if one_place else len(real), generator=rng, dtype=real.dtype, device=real.device)
    place = place.reshape(-1, *[1] * (real.dim() - 1))
    between = torch.lerp(real, fake, place).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    if norm == "columns":
        return (weight * (slope.norm(dim=-2) - 1).square().flatten(1).mean(dim=1)).sum()
    return (weight * (slope.flatten(1).norm(dim=1) - 1).square()).sum()


def _gated(layers: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*(Gate() if isinstance(layer, nn.ReLU) else layer for layer in layers))
