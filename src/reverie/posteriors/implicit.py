"""Implicit posteriors: weights made by a generator network from noise, whose density nobody knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.checks import OptionsError, Problems
from reverie.device import CPU, Device
from reverie.nn.hypernetworks import ACTIVATIONS, Activation
from reverie.nn.matmul import linear
from reverie.nn.networks import Head
from reverie.nn.optimisers import Optimiser
from reverie.nn.parameters import Kind, ParameterSpec
from reverie.options import signature
from reverie.posteriors.adversarial import AdversarialRatio, Contrast
from reverie.posteriors.family import Divergence, Estimate, PosteriorFamily, SampledPrior
from reverie.posteriors.stein import score_surrogate, stein_score
from reverie.seeding import generator
from reverie.types import State

Width = Annotated[int, Field(gt=0)]

DRAWS = 1000  # of the noise, from which the sizes of hidden units at the start are measured
LEAST_SHARE = 0.1  # of a weight's first variance that the generator makes, however much the perturbation adds

# Options that one estimator has and the other has not.
OF_ESTIMATOR = {
    "stein": ("bandwidth", "keep", "stein_samples", "clip_score"),
    "adversarial": (
        "discriminator",
        "discriminator_activation",
        "batch_stats",
        "discriminator_steps",
        "discriminator_batch",
        "contrast_samples",
    ),
}


@dataclass(eq=False, repr=False)
class Implicit(PosteriorFamily):
    """weights = h(z_1 .. z_n; theta) + perturbation * z, z ~ N(0, latent_std^2) with as many numbers as weights; h is the generator network, of
    which the first n = latent_dim numbers are the input, and theta the vector of its own weights (``theta_spec``).

    All of R^numel is reached by the perturbation, however few numbers the generator sees (noise inflation), or, with latent_dim None, because
    the generator sees as many as it makes; its hidden layers must then be no narrower, and no classes may join. As the density of q is unknown,
    the divergence from the prior has to be estimated: "stein", by the score of q (Shi, Sun and Zhu 2018, arXiv 1806.02925), or "adversarial",
    by a discriminator (Mescheder, Nowozin and Geiger 2017, arXiv 1701.04722). Posteriors of this kind in continual learning: Henning et al.
    2021, arXiv 2103.01133.

    chunk_size: the weights are cut into chunks, each made by the same generator from the noise and an embedding of its own, which is part of
    theta too. clip_score: in the code of Henning et al. the score joins the gradient once that has been clipped.
    """

    latent_dim: Annotated[
        int | None,
        Field(gt=0, description="numbers of noise that the generator sees; None: as many as the network has weights"),
    ] = 32
    latent_std: Annotated[float, Field(gt=0, description="deviation of the noise")] = 1.0
    hidden: Annotated[
        tuple[Width, ...], Field(description="widths of the generator's hidden layers; none: linear in the noise")
    ] = (10, 10)
    activation: Annotated[Activation, Field(description="after each hidden layer of the generator")] = "relu"
    perturbation: Annotated[
        float, Field(ge=0, description="share of the noise that is added to the weights themselves (s)")
    ] = 0.02
    share_noise: Annotated[
        bool,
        Field(
            description="the noise that the generator sees is a part of that of the perturbation, as published; or drawn apart from it"
        ),
    ] = True
    chunk_size: Annotated[int | None, Field(gt=0, description="weights in a chunk; None: all made at once")] = None
    chunk_dim: Annotated[int, Field(gt=0, description="size of the embedding of a chunk (with chunk_size)")] = 32
    estimator: Annotated[
        Literal["stein", "adversarial"], Field(description="of the divergence between posterior and prior")
    ] = "stein"
    bandwidth: Annotated[
        Annotated[float, Field(gt=0)] | Literal["median"],
        Field(description="width of the kernel; median: of the distances between samples (estimator: stein)"),
    ] = "median"
    keep: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="share of the kernel's eigenvalues used: with less, directions in which samples differ little are missed, and shrink "
            "(estimator: stein)",
        ),
    ] = 0.99
    stein_samples: Annotated[
        int, Field(gt=0, description="weight samples that the score is estimated from (estimator: stein)")
    ] = 100
    clip_score: Annotated[
        bool,
        Field(description="the learner's clip holds for the gradient of estimated scores too (estimator: stein)"),
    ] = True
    discriminator: Annotated[
        tuple[Width, ...],
        Field(description="widths of its hidden layers; none: linear in the weights (estimator: adversarial)"),
    ] = (10, 10)
    discriminator_activation: Annotated[
        Activation, Field(description="after each of its hidden layers (estimator: adversarial)")
    ] = "relu"
    batch_stats: Annotated[
        bool, Field(description="joins the mean of the samples to each of them (estimator: adversarial)")
    ] = False
    discriminator_steps: Annotated[
        int, Field(gt=0, description="updates of the discriminator a step (estimator: adversarial)")
    ] = 1
    discriminator_batch: Annotated[
        int, Field(gt=0, description="samples of either kind in such an update (estimator: adversarial)")
    ] = 32
    contrast_samples: Annotated[
        int,
        Field(
            ge=0,
            description="samples whose Gaussian is what the discriminator compares with; 0: it compares with the prior (estimator: adversarial)",
        ),
    ] = 100

    names: ClassVar[tuple[str, ...]] = ("generator",)
    variances: ClassVar[tuple[float, ...]] = (0.003,)

    def recommended(self, values: Mapping[str, Any], option: str | None = None) -> Mapping[str, Any]:
        return {}  # the stream's latent_dim is that of a generator of rows, and None is an answer here

    def check(self, problems: Problems) -> None:
        problems.check(
            self.latent_dim is not None or self.perturbation == 0,
            f"perturbation = {self.perturbation}: a generator that sees as many numbers as it makes needs none; set perturbation = 0, or latent_dim",
        )
        problems.check(
            self.latent_dim is not None or self.chunk_size is None,
            f"latent_dim = None and chunk_size = {self.chunk_size}: all chunks are made from the same noise by the same layers, which need not reach "
            "all weights; set latent_dim and a perturbation, or chunk_size = None",
        )
        problems.check(
            self.share_noise or self.perturbation > 0,
            "share_noise = False: there is no perturbation to share it with; set perturbation, or leave share_noise out",
        )
        (other,) = OF_ESTIMATOR.keys() - {self.estimator}
        for name in OF_ESTIMATOR[other]:
            value = getattr(self, name)
            problems.check(
                value == signature(type(self))[name].default,
                f"{name} = {value!r}: concerns estimator = {other!r}; leave it out, or set estimator = {other!r}",
            )

    # ------------------------------------------------------------------ the generator

    def theta_spec(self, spec: ParameterSpec) -> ParameterSpec:
        """The layout of theta for a network of this layout. With a latent_dim, a network that grows only makes theta longer: what there is of it
        for each weight, or each chunk, comes last, in their order."""
        if self.chunk_size is not None and self.chunk_size > spec.numel:
            raise OptionsError(
                f"chunk_size = {self.chunk_size:,}: larger than the {spec.numel:,} parameters to generate; use a smaller one, or None"
            )
        if self.latent_dim is None and min(self.hidden, default=spec.numel) < spec.numel:
            raise OptionsError(
                f"hidden = {self.hidden}: with latent_dim = None no layer may be narrower than the {spec.numel:,} parameters to generate, or not "
                "all of their values are reached; use wider layers, none, or a latent_dim with a perturbation"
            )
        chunks = None if self.chunk_size is None else -(-spec.numel // self.chunk_size)
        return _layout(self._sizes(spec), spec.numel, chunks, self.chunk_dim)

    def noise(self, n: int, spec: ParameterSpec, rng: torch.Generator) -> Tensor:
        """(n, numel), of which the generator sees the first; or (n, latent_dim + numel), where it shares none."""
        width = spec.numel if self.share_noise else self._latent(spec) + spec.numel
        return self.latent_std * torch.randn(n, width, generator=rng, device=rng.device)

    def sample(self, theta: Tensor, spec: ParameterSpec, noise: Tensor) -> Tensor:
        z, layout = noise[:, : self._latent(spec)], self.theta_spec(spec)
        make = self._whole if self.chunk_size is None else self._chunked
        with torch.autocast(theta.device.type, enabled=False):  # weights are float32, whatever is made of them
            made = make(theta[0], layout, z)[:, : spec.numel]
        return torch.add(made, noise[:, -spec.numel :], alpha=self.perturbation) if self.perturbation else made

    def _whole(self, theta: Tensor, layout: ParameterSpec, z: Tensor) -> Tensor:
        h = self._hidden(layout.unflatten(theta), z)
        # A row holds the weights of an output and its bias: the weight of one more unit, which is always 1.
        rows = theta[layout.body :].view(layout.outputs, layout.width + 1)
        return linear(torch.cat([h, h.new_ones(len(h), 1)], dim=1), rows)

    def _chunked(self, theta: Tensor, layout: ParameterSpec, z: Tensor) -> Tensor:
        """All chunks in one vector, what the last one has too much included."""
        parameters = layout.unflatten(theta)
        h = self._last_hidden(parameters, z, self._embeddings(theta, layout))
        return linear(h, *_layer(parameters, len(self.hidden))).flatten(1)

    def _embeddings(self, theta: Tensor, layout: ParameterSpec) -> Tensor:
        first = next(entry.start for entry in layout.entries if entry.name.startswith("chunks."))
        return theta[first:].view(-1, self.chunk_dim)

    def _last_hidden(self, parameters: dict[str, Tensor], z: Tensor, embeddings: Tensor) -> Tensor:
        """(n, chunks, width) what the output layer sees: of noise and embedding, joined, where there is no hidden layer."""
        if not self.hidden:
            shape = (len(z), len(embeddings), -1)
            return torch.cat([z[:, None].expand(shape), embeddings.expand(shape)], dim=2)
        # The first layer is linear in [z, c]: its share of a sample is computed once, not once a chunk.
        weight, bias = _layer(parameters, 0)
        split = z.shape[1]
        h = linear(z, weight[:, :split], bias)[:, None] + linear(embeddings, weight[:, split:])
        return self._hidden(parameters, ACTIVATIONS[self.activation](h), first=1)

    def _hidden(self, parameters: dict[str, Tensor], h: Tensor, first: int = 0) -> Tensor:
        for index in range(first, len(self.hidden)):
            h = ACTIVATIONS[self.activation](linear(h, *_layer(parameters, index)))
        return h

    def multiplications(self, n: int, spec: ParameterSpec) -> int:
        """Multiply-accumulates of n samples."""
        sizes = self._sizes(spec)
        hidden = sum(a * b for a, b in pairwise(sizes))
        if self.chunk_size is None:
            return n * (hidden + sizes[-1] * spec.numel)
        return n * -(-spec.numel // self.chunk_size) * hidden

    def _latent(self, spec: ParameterSpec) -> int:
        if self.latent_dim is not None and self.latent_dim > spec.numel:
            raise OptionsError(
                f"latent_dim = {self.latent_dim:,}: more numbers of noise than the {spec.numel:,} parameters to generate; use fewer"
            )
        return self.latent_dim or spec.numel

    def _sizes(self, spec: ParameterSpec) -> tuple[int, ...]:
        """Widths of the layers, from the input on; the last one's is there where it is a chunk."""
        latent = self._latent(spec)
        if self.chunk_size is None:
            return (latent, *self.hidden)
        return (latent + self.chunk_dim, *self.hidden, self.chunk_size)

    # ------------------------------------------------------------------ where it starts

    def initial(self, spec: ParameterSpec, seed: int) -> Tensor:
        """(theta_spec(spec).numel,) a theta under which the weights made have the variances that layers are usually begun with, 2 / fan_in of
        weights and 1 / (3 fan_in) of biases, while scales are 1 and shifts 0: hyperfan-in of Chang, Flokas and Lipson (2020, "Principled weight
        initialization for hypernetworks").

        Hidden layers start as He et al. (2015) have them, biases at 0. How large the last of them is, is measured, not derived, so that
        it holds for any activation and however narrow they are; the perturbation's variance is taken off. A chunk cannot tell its tensors apart
        and has their mean variance, by the length of its embedding, where the activation is ReLU.
        """
        layout = self.theta_spec(spec)
        theta = torch.zeros(layout.numel)
        parameters = layout.unflatten(theta)
        sizes = self._sizes(spec)
        for index in range(len(self.hidden)):
            gain = 2 if index and self.activation == "relu" else 1
            weight = parameters[f"layers.{index}.weight"]
            weight.copy_(_normal(math.sqrt(gain / sizes[index]), weight.shape, seed, "layer", index))
        z = self.latent_std * _normal(1, (DRAWS, self._latent(spec)), seed, "measured noise")
        if self.chunk_size is None:
            size = self._hidden(parameters, z).square().mean().item()
            self._start_rows(theta[layout.body :].view(layout.outputs, -1), spec, size, seed)
        else:
            self._start_chunks(theta, layout, spec, z, seed)
        return theta

    def _start_rows(self, rows: Tensor, spec: ParameterSpec, size: float, seed: int) -> None:
        """size: mean square of the units in the last hidden layer."""
        inputs = rows.shape[1] - 1
        for kind, fan_in, start, stop in spec.blocks():
            std = math.sqrt(self._own(kind, fan_in) / (inputs * size))
            rows[start:stop, :-1] = _normal(std, (stop - start, inputs), seed, "output", start)
            rows[start:stop, -1] = float(kind == "scale")

    def _start_chunks(self, theta: Tensor, layout: ParameterSpec, spec: ParameterSpec, z: Tensor, seed: int) -> None:
        assert self.chunk_size is not None
        embeddings = self._embeddings(theta, layout)
        each = torch.cat([torch.full((stop - start,), self._own(k, f)) for k, f, start, stop in spec.blocks()])
        wanted = torch.stack([part.mean() for part in each.split(self.chunk_size)])
        wanted = wanted.clamp(min=LEAST_SHARE * wanted.mean())
        # Noise and embedding together are as large as the chunk wants it; the noise, in all chunks the same, is half of the smallest.
        noise = z.shape[1] * self.latent_std**2
        for chunk, share in enumerate((2 * wanted / wanted.min() - 1).tolist()):
            drawn = _normal(1, (self.chunk_dim,), seed, "chunk", chunk)
            embeddings[chunk] = drawn * (math.sqrt(noise * share) / drawn.norm())
        parameters = layout.unflatten(theta)
        last = self._last_hidden(parameters, z, embeddings)
        weight = parameters[f"layers.{len(self.hidden)}.weight"]
        std = math.sqrt(wanted.mean().item() / (weight.shape[1] * last.square().mean().item()))
        weight.copy_(_normal(std, weight.shape, seed, "output"))

    def _own(self, kind: Kind, fan_in: int) -> float:
        """Variance of a weight at the start that the generator itself makes."""
        if kind in ("scale", "shift"):
            return 0.0
        wanted = 2 / fan_in if kind == "weight" else 1 / (3 * fan_in)
        return max(wanted - (self.perturbation * self.latent_std) ** 2, LEAST_SHARE * wanted)

    # ------------------------------------------------------------------ divergence from the prior

    def prior_kl(self, theta: Tensor, spec: ParameterSpec, variance: float, weights: Tensor | None) -> Tensor:
        raise NotImplementedError(
            "the density of an implicit posterior is unknown: the learner must estimate its divergence from the prior, by "
            f"estimator = {self.estimator!r}"
        )

    def score(self, points: Tensor, samples: Tensor) -> Tensor:
        """grad log q at points (n, numel) from samples (m, numel), by the options of the estimator "stein"."""
        return stein_score(points, samples, self.bandwidth, self.keep)

    def theta_mask(self, spec: ParameterSpec, classes: Sequence[int]) -> Tensor:
        """A chunk cannot tell the outputs apart, so all of them count."""
        layout, mine = self.theta_spec(spec), spec.mask(classes)
        if self.chunk_size is not None:
            return torch.ones(layout.numel, dtype=torch.bool)
        return layout.mask(mine.nonzero()[:, 0].tolist())

    def estimate(
        self, spec: ParameterSpec, variance: float, optimiser: Optimiser, device: Device, seed: int
    ) -> Estimate:
        if self.estimator == "stein":
            return SteinEstimate(self, spec, variance)
        return AdversarialEstimate(self, spec, variance, self.ratio(spec, optimiser, device, seed))

    def ratio(
        self, spec: ParameterSpec, optimiser: Optimiser | None = None, device: Device = CPU, seed: int = 0
    ) -> AdversarialRatio:
        """A fresh discriminator, by the options of the estimator "adversarial"."""
        return AdversarialRatio(
            spec.numel,
            self.discriminator,
            self.discriminator_activation,
            self.batch_stats,
            optimiser,
            device,
            seed,
        )


class SteinEstimate:
    """By the scores of q and of the prior: a number with the gradient of KL(q || prior), not with its value."""

    def __init__(self, posterior: Implicit, spec: ParameterSpec, variance: float) -> None:
        self.posterior, self.spec, self.variance = posterior, spec, variance

    def term(
        self, theta: Tensor, weights: Tensor, rng: torch.Generator, prior: SampledPrior | None = None
    ) -> Divergence:
        """theta (1, k), weights (n, numel) drawn from it, differentiable."""
        samples = weights.detach()
        more = self.posterior.stein_samples - len(weights)
        if more > 0:
            noise = self.posterior.noise(more, self.spec, rng)
            samples = torch.cat([samples, self.posterior.sample(theta.detach(), self.spec, noise)])
        scores = self.posterior.score(weights.detach(), samples)
        if prior is None:
            scored = score_surrogate(weights, scores)
            rest = weights.square().sum(dim=1).mean() / (2 * self.variance)
        else:
            scored = score_surrogate(weights, scores - self._prior_score(weights.detach(), prior, len(samples), rng))
            rest = scored.new_zeros(())
        return Divergence(scored + rest) if self.posterior.clip_score else Divergence(rest, unclipped=scored)

    def _prior_score(self, points: Tensor, prior: SampledPrior, samples: int, rng: torch.Generator) -> Tensor:
        """grad log p at points (n, numel), p known by so many samples where weights were trained, and by its formula elsewhere."""
        trained = prior.trained
        drawn = prior.sample(samples, rng)[:, trained]
        scores = -points / prior.variance
        scores[:, trained] = self.posterior.score(points[:, trained], drawn) * (-1 if prior.repels else 1)
        return scores

    def state(self) -> State:
        return {}

    def load(self, state: State) -> None:
        pass

    def working_bytes(self) -> int:
        return 0


class AdversarialEstimate:
    """By a discriminator, which is trained a few steps before each answer."""

    def __init__(self, posterior: Implicit, spec: ParameterSpec, variance: float, ratio: AdversarialRatio) -> None:
        self.posterior, self.spec, self.variance, self.ratio = posterior, spec, variance, ratio

    def term(
        self, theta: Tensor, weights: Tensor, rng: torch.Generator, prior: SampledPrior | None = None
    ) -> Divergence:
        """KL(q || prior); theta (1, k), weights (n, numel) drawn from it, differentiable. A prior without a density is what the discriminator
        compares with: there is no contrast in between. losses: the discriminator's, a mean over its updates."""
        options = self.posterior

        def drawn(n: int) -> Tensor:
            return options.sample(theta.detach(), self.spec, options.noise(n, self.spec, rng))

        adaptive = options.contrast_samples > 0 and prior is None
        contrast = Contrast.of(drawn(options.contrast_samples)) if adaptive else None
        reference = prior or contrast or Contrast.prior(self.variance, weights.detach())
        n = options.discriminator_batch
        told = [self.ratio.update(drawn(n), reference.sample(n, rng)) for _ in range(options.discriminator_steps)]
        return Divergence(
            self.ratio.kl(weights, self.variance, contrast), losses={"discriminator": torch.stack(told).mean()}
        )

    def state(self) -> State:
        return self.ratio.state()

    def load(self, state: State) -> None:
        self.ratio.load(state)

    def working_bytes(self) -> int:
        return self.ratio.num_bytes()


class _Shapes(nn.Module):
    """The parameters of a generator, without numbers, in the order of theta."""

    def __init__(self, sizes: Sequence[int], chunks: int | None, chunk_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, device="meta") for a, b in pairwise(sizes))
        if chunks is None:
            self.head = Head(sizes[-1], 1, seed=0)
        else:
            # One by one, so that a hypernetwork that has made some of them can be asked for more.
            self.chunks = nn.ParameterList(torch.empty(chunk_dim, device="meta") for _ in range(chunks))


@lru_cache(maxsize=16)  # asked for at every step
def _layout(sizes: tuple[int, ...], numel: int, chunks: int | None, chunk_dim: int) -> ParameterSpec:
    spec = ParameterSpec(_Shapes(sizes, chunks, chunk_dim))
    return spec.with_outputs(numel) if chunks is None else spec


def _layer(parameters: dict[str, Tensor], index: int) -> tuple[Tensor, Tensor]:
    return parameters[f"layers.{index}.weight"], parameters[f"layers.{index}.bias"]


def _normal(std: float, shape: Sequence[int], seed: int, *where: object) -> Tensor:
    return std * torch.randn(*shape, generator=generator(seed, "implicit posterior", *where))
