"""The lifelong generative adversarial autoencoder: one generator, and inference of all that it is told (Ye and Bors, "Lifelong generative
adversarial autoencoder", IEEE TNNLS; its precursor ECCV 2020, arXiv 2007.10221)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.checks import DataError, OptionsError, Problems
from reverie.device import Device
from reverie.generators.decoding import check_trained, check_unit_range, squared_error
from reverie.generators.lgaa_losses import (
    code_cross_entropy,
    gumbel_softmax,
    normal_kl,
    uniform_kl,
    virtual_adversarial,
)
from reverie.generators.lgaa_networks import (
    CodeColumns,
    Conditioning,
    Critic,
    GaussianEncoder,
    ImageGenerator,
    Inference,
    Norm,
    Size,
    chosen_layout,
    class_inference,
    domain_inference,
    start,
)
from reverie.generators.lgaa_replay import Recognised, rehearse
from reverie.generators.wgan_gp import PenaltyNorm, gradient_penalty
from reverie.nn.networks import Head, channels_last, forward_flops, multiplications, training_flops
from reverie.nn.optimisers import Adam, Optimiser, load_optimiser, optimiser_state
from reverie.options import Part
from reverie.seeding import Randomness, derived_seed
from reverie.types import Batch, Level, Losses, Phase, Rows, State, StreamSpec

Labelled = Literal["all", "some", "none"]
OUTSIDE = 1e-3  # how far a value may lie outside [0, 1] by rounding


def _adam(rate: float) -> Adam:
    return Adam(learning_rate=rate, betas=(0.5, 0.9))


@dataclass(frozen=True)
class Codes:
    """What is inferred of images: mean and std (B, latent) of the continuous code z, logits of the class (B, classes) and, from the mean of z,
    of the domain (B, domains)."""

    mean: Tensor
    std: Tensor
    class_logits: Tensor
    domain_logits: Tensor

    @property
    def c(self) -> Tensor:
        return torch.softmax(self.class_logits, dim=1)

    @property
    def a(self) -> Tensor:
        return torch.softmax(self.domain_logits, dim=1)


@dataclass(eq=False, repr=False)
class AdversarialAutoencoder(Part):
    """A generator G(z, c, a) of images from a continuous code, a class and a domain (the task in which rows were met), a critic D, and
    three inference models: q(z|x) Gaussian, q(c|x), q(a|z). A step on rows x with class c and domain a has four updates, each of its own
    networks alone:

    wake, critic: D(G(z, c, a)|c, a) - D(x|c, a) + penalty_weight * gradient penalty, z from the prior; and, once in ``critic_steps`` steps,
    generator: -D(G(z, c, a)|c, a) + mutual_information * [cross-entropy of c under q(c|G) and of a under q(a|mean of q(z|G))];
    dream, G and q(z|x): reconstruction_weight * |G(z, c~, a~) - x|^2 + kl_weight * KL(q(z|x) || prior) + code_kl_weight * [KL(q(c|x) ||
    uniform) + KL(q(a|z) || uniform)] + (domain_shapes_encoder) cross-entropy of a under q(a|z), c~ and a~ drawn from q(c|x) and q(a|z) by
    Gumbel-softmax;
    labels: cross-entropy of c under q(c|x), and of a under q(a|z); (infer_generated) cross-entropy of c under q(c|G(z, c, a)), the mean of the two;
    for rows that lack a class, KL(q(c|x) || q(c|x + r)), r the small change of x that alters the answer most.

    "Wake" and "dream" are the authors' words, not those of the wake-sleep algorithm. Images are in [0, 1] outside, in [-1, 1] inside. Rows whose
    label is -1 have no class: they are reconstructed, generated with the class that is inferred, and teach no label.
    """

    size: Annotated[
        Size | None,
        Field(
            description="networks: tiny (any multiple of 4), or small32, faithful32, faithful64 and eccv28 for images of that side; None: tiny"
        ),
    ] = None
    norm: Annotated[
        Norm | None,
        Field(
            description="in generator, critic and encoder: none, affine (batch norm that never sees statistics, as published), layer, or batch "
            "(none in critic and encoder); None: the size's"
        ),
    ] = None
    initial_std: Annotated[
        float | None,
        Field(gt=0, description="deviation of the weights at the start, 0.02 as published; None: torch's own start"),
    ] = None
    conditioning: Annotated[
        Conditioning,
        Field(
            description="of the critic: none, as published; it sees class and domain (projection), or tells them (auxiliary)"
        ),
    ] = "projection"
    generators: Annotated[
        Literal["one", "two"],
        Field(description="two: what reconstructs is another network than what is sampled (the precursor of 2020)"),
    ] = "one"
    prior: Annotated[
        Literal["standard", "domain-shifted"],
        Field(description="of z: N(0, 1), or N(k, 1) in domain k, so that domains lie apart"),
    ] = "standard"
    critic_steps: Annotated[int, Field(gt=0, description="critic updates for one generator update")] = 1
    penalty_weight: Annotated[float, Field(ge=0, description="weight of the gradient penalty")] = 10.0
    penalty_norm: Annotated[
        PenaltyNorm, Field(description="norm of the gradient: of a whole row, or of columns, as in the published code")
    ] = "row"
    one_place: Annotated[
        bool,
        Field(description="the penalty looks at one place between real and generated for a whole batch, as published"),
    ] = False
    uniform_noise: Annotated[bool, Field(description="wake: z from U(-1, 1), as published, and not from the prior")] = (
        False
    )
    mutual_information: Annotated[
        float, Field(ge=0, description="weight of class and domain being found in what was generated with them")
    ] = 1.0
    reconstruction_weight: Annotated[float, Field(ge=0, description="weight of the reconstruction")] = 1.0
    kl_weight: Annotated[float, Field(ge=0, description="weight of KL(q(z|x) || prior)")] = 1.0
    code_kl_weight: Annotated[
        float,
        Field(ge=0, description="weight of the KLs of class and domain from uniform; 1 where nothing labels rows"),
    ] = 0.0
    temperature: Annotated[float, Field(gt=0, description="of the Gumbel-softmax")] = 0.5
    shape_inference: Annotated[
        bool, Field(description="dream: the inference of class and domain is updated too, as published")
    ] = False
    domain_shapes_encoder: Annotated[
        bool, Field(description="dream: the encoder learns to tell domains, beside q(a|z)")
    ] = True
    infer_generated: Annotated[
        bool,
        Field(
            description="the inference of classes learns what is generated, too, under the class that it was made with: where tasks bring classes of "
            "their own, to look generated then says nothing of the class"
        ),
    ] = False
    virtual_adversarial: Annotated[
        float,
        Field(
            ge=0,
            description="where some rows lack a class, the inference of classes learns to answer alike this far around each of them, whichever way "
            "is worst: root mean square a pixel, of images in [0, 1] (Miyato et al. 2018); 0: not at all",
        ),
    ] = 0.07
    replay_temperature: Annotated[
        float,
        Field(
            gt=0,
            description="what is rehearsed is drawn with z this many times as far from the prior's centre; 1 as published, more for rarer images",
        ),
    ] = 1.5
    relabel: Annotated[
        bool,
        Field(
            description="in generative replay: its samples are drawn again where it finds another class or domain in them than was asked for, and it "
            "rehearses them under those that it finds"
        ),
    ] = True
    critic_optimiser: Annotated[Optimiser, Field(description="of the critic")] = field(
        default_factory=lambda: _adam(2e-4)
    )
    generator_optimiser: Annotated[Optimiser, Field(description="of the generator, wake")] = field(
        default_factory=lambda: _adam(2e-4)
    )
    dream_optimiser: Annotated[Optimiser, Field(description="of generator and encoder, dream")] = field(
        default_factory=lambda: _adam(5e-4)
    )
    label_optimiser: Annotated[Optimiser, Field(description="of the inference of class and domain")] = field(
        default_factory=lambda: _adam(5e-4)
    )
    phase_steps: Annotated[
        int, Field(gt=0, description="updates a task, where another learner trains it in a phase of its own")
    ] = 2000
    phase_batch_size: Annotated[int, Field(gt=0, description="new rows a step of that phase")] = 64

    trains_by = "step"
    own_phase = True
    stores_real_samples = False
    conditional = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.level: Level = "input"

    def check(self, problems: Problems) -> None:
        problems.check(
            not (self.uniform_noise and self.prior == "domain-shifted" and self.generators == "one"),
            "uniform_noise = True: z is drawn around no domain; use prior = 'standard' or generators = 'two', or leave it out",
        )

    # ------------------------------------------------------------------ building and growing

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        if spec.kind == "regression":
            raise OptionsError("lgaa: needs classes, and this is regression")
        check_unit_range(spec, "lgaa", "another generator")
        self.spec, self.rng, self.device = spec, rng, device
        self.chosen, self.layout = chosen_layout(self.size, spec.input_shape)
        self.shape, self.outputs = spec.input_shape, spec.outputs
        self.domains = len(spec.heads) if len(spec.heads) > spec.tasks else 1  # of joint training all at once
        self.seen = 0  # domains that were learnt, or are being: a code may be there before the first step with it
        norm, seed = self.norm or self.layout.norm, rng.seed
        with rng.global_torch("lgaa weights"):
            codes = self.outputs, self.domains
            self.networks: dict[str, nn.Module] = {
                "generator": ImageGenerator(self.layout, norm, self.shape, *codes, derived_seed(seed, "codes")),
                "critic": Critic(
                    self.layout, norm, self.shape, self.conditioning, *codes, derived_seed(seed, "critic")
                ),
                "encoder": GaussianEncoder(self.layout, norm, self.shape),
                "classes": class_inference(self.layout, norm, self.shape, self.outputs, derived_seed(seed, "classes")),
                "domains": domain_inference(self.layout, self.domains, derived_seed(seed, "domains")),
            }
            if self.generators == "two":
                place = derived_seed(seed, "decoder codes")
                self.networks["decoder"] = ImageGenerator(self.layout, norm, self.shape, *codes, place)
            if self.initial_std is not None:
                for network in self.networks.values():
                    start(network, self.initial_std)
        self.costs = self._counted()
        for name, network in self.networks.items():
            self.networks[name] = channels_last(network.to(device.torch_device)).eval()
        self.updates = self._updates()

    def _updates(self) -> dict[str, Update]:
        nets = self.networks
        dream = [nets[self.decoder], nets["encoder"]]
        if self.shape_inference:
            dream += [nets["classes"], nets["domains"]]
        return {
            "critic": Update([nets["critic"]], self.critic_optimiser),
            "generator": Update([nets["generator"]], self.generator_optimiser),
            "dream": Update(dream, self.dream_optimiser),
            "classes": Update([nets["classes"]], self.label_optimiser),
            "domains": Update([nets["domains"]], self.label_optimiser),
        }

    @property
    def trained(self) -> bool:
        return self.seen > 0

    @property
    def decoder(self) -> str:
        """The network that reconstructs."""
        return "decoder" if self.generators == "two" else "generator"

    def extend(self, spec: StreamSpec) -> None:
        self.spec = spec

    def begin_task(self) -> None:
        """Codes for the classes and the domain of the task that begins."""
        self.grow(self.spec.outputs, self.rng.position.task + 1)
        for update in self.updates.values():
            update.begin_task()

    def grow(self, classes: int, domains: int) -> None:
        """Codes up to that many. What was made of the others stays as it was, and so do their moments."""
        classes, domains = max(classes, self.outputs), max(domains, self.domains)
        if (classes, domains) == (self.outputs, self.domains):
            return
        moments = {name: optimiser_state(update.optimiser) for name, update in self.updates.items()}
        for part, count in self._code_parts(classes, domains):
            part.grow(count)
        self._renew(classes, domains)
        for name, update in self.updates.items():
            load_optimiser(update.optimiser, moments[name])

    def _code_parts(self, classes: int, domains: int) -> Iterator[tuple[CodeColumns | Head, int]]:
        """Every layer that has a part for each code, and how many codes it is to have."""
        for name, network in self.networks.items():
            if isinstance(network, ImageGenerator):
                yield from ((network.codes.c, classes), (network.codes.a, domains))
            elif isinstance(network, Critic) and network.conditioning != "none":
                yield from ((network.classes, classes), (network.domains, domains))
            elif isinstance(network, Inference):
                yield network.head, classes if name == "classes" else domains

    def _renew(self, classes: int, domains: int) -> None:
        """What follows from the number of codes, after it has changed."""
        self.outputs, self.domains = classes, domains
        for network in self.networks.values():
            network.to(self.device.torch_device)
        self.costs = self._counted()
        if self.updates:
            self.updates = self._updates()
        else:  # a frozen copy
            for network in self.networks.values():
                network.requires_grad_(False)

    # ------------------------------------------------------------------ training

    def phase(self, name: str) -> Phase:
        """Its own stretch of training, before a solver's."""
        return Phase(name, self.phase_batch_size, steps=self.phase_steps)

    def step(self, batch: Batch, labelled: Labelled | None = None) -> Losses:
        """All updates on rows in [0, 1]; y: class indices (B,), -1 where not known, or soft (B, outputs); task: the domain.

        labelled: how many of the rows that the step is one of have a class; None: as in this batch. "all": this, and that every class and domain
        has a code, was checked once for all of them, so that an accelerator need not be waited for. "none": classes are categories of the
        model's own, be it that replay is labelled with them.
        Raises DataError for a class or domain without a code and, where the stream does not say their range, for values outside [0, 1].
        """
        if self.spec.value_range is None:
            self._check_values(batch.x)
        taught = "all" if labelled == "all" else self._checked(batch)
        x, weight = 2 * batch.x - 1, batch.weight
        known, c = self._class_codes(batch, taught)
        a = nn.functional.one_hot(batch.task, self.domains).float()
        if taught == "some":
            known = self._in_their_place(known, weight, batch.task)
        self.seen = self.domains
        losses = self._wake(x, c, a, batch.task, weight, weight * known)
        losses |= self._dream(x, a, batch.task, weight)
        made = None
        if self.infer_generated and taught != "none":
            made = self._generated("label noise", c, a, batch.task, train=False)
        losses["classes"] = self._label(x, c, weight, weight * known, taught, labelled or taught, made)
        return losses

    def _check_values(self, x: Tensor) -> None:
        low, high = torch.stack(x.aminmax()).tolist()
        if not (low >= -OUTSIDE and high <= 1 + OUTSIDE):  # nor for NaN
            raise DataError(f"lgaa: inputs must lie in [0, 1], these lie in [{low:g}, {high:g}]; rescale them")

    def _checked(self, batch: Batch) -> Labelled:
        """How many rows have a class. One look at the numbers, so that an accelerator is waited for once."""
        hard = batch.y is not None and not batch.y.is_floating_point()
        looked = [batch.task.max(), *(batch.y.aminmax() if hard and batch.y is not None else ())]
        domain, *rest = torch.stack(looked).tolist()
        if domain >= self.domains:
            raise DataError(
                f"lgaa: rows of domain {domain}, and there are codes for domains 0 to {self.domains - 1}; begin the task first"
            )
        if not hard:
            return "none" if batch.y is None else "all"
        least, most = rest
        if most >= self.outputs:
            raise DataError(
                f"lgaa: rows of class {most}, and there are codes for classes 0 to {self.outputs - 1}; extend the stream by the new "
                "classes and begin the task first"
            )
        return "none" if most < 0 else "all" if least >= 0 else "some"

    def _class_codes(self, batch: Batch, taught: str) -> tuple[Tensor, Tensor]:
        """(B,) 1 where the class is known, and codes (B, classes): of others one drawn as the class inference believes."""
        y = batch.y
        if y is not None and y.is_floating_point():
            return torch.ones_like(batch.weight), nn.functional.pad(y, (0, self.outputs - y.shape[1]))
        if y is not None and taught == "all":
            return torch.ones_like(batch.weight), nn.functional.one_hot(y, self.outputs).float()
        with torch.no_grad(), self.device.autocast():
            logits = self._ready("classes")(2 * batch.x - 1)
        drawn = gumbel_softmax(logits, 1.0, self.rng("unknown classes"), hard=True)
        if y is None or taught == "none":
            return torch.zeros_like(batch.weight), drawn
        known = y >= 0
        code = nn.functional.one_hot(y.clamp(min=0), self.outputs).float()
        return known.float(), torch.where(known[:, None], code, drawn)

    def _in_their_place(self, known: Tensor, weight: Tensor, domain: Tensor) -> Tensor:
        """(B,) how often a row whose class is known counts: for itself, and for its share of those of its domain whose class is not. Else the few
        labels of a new task would be lost among those of replay."""
        none = weight.new_zeros(self.domains)
        rows, labelled = (none.index_add(0, domain, part) for part in (weight, weight * known))
        return known * (rows / labelled.clamp(min=torch.finfo(weight.dtype).tiny))[domain]

    def _wake(self, x: Tensor, c: Tensor, a: Tensor, domain: Tensor, weight: Tensor, known: Tensor) -> Losses:
        """known: (B,) the weight of rows whose class is known, 0 for the others."""
        critic = cast(Critic, self._ready("critic"))
        fake = self._generated("critic noise", c, a, domain, train=False)
        with self.device.autocast():
            scores = critic(torch.cat([x, fake]), torch.cat([c, c]), torch.cat([a, a])).float()
            told = self._told(critic, x, c, a, known, weight) if self.conditioning == "auxiliary" else None
        real_score, fake_score = ((weight * part).sum() for part in scores.chunk(2))
        penalty = gradient_penalty(  # in float32 whatever the precision: this gradient is differentiated once more
            lambda between: critic(between, c, a),
            *(x, fake, weight, self.rng("penalty interpolation"), self.penalty_norm, self.one_place),
        )
        total = fake_score - real_score + self.penalty_weight * penalty
        self.updates["critic"](total if told is None else total + told)
        losses = {"critic": (fake_score - real_score).detach(), "penalty": penalty.detach()}
        if told is not None:
            losses["told"] = told.detach()
        if self.rng.position.step % self.critic_steps == 0:
            fake = self._generated("generator noise", c, a, domain, train=True)
            total, found = self._generator_loss(fake, c, a, weight)
            self.updates["generator"](total)
        else:  # what the record has at every step
            with torch.no_grad():
                _, found = self._generator_loss(fake, c, a, weight)
        return losses | found

    def _generated(self, purpose: str, c: Tensor, a: Tensor, domain: Tensor, train: bool) -> Tensor:
        """Images for a step; train: to be differentiated."""
        with torch.set_grad_enabled(train), self.device.autocast():
            z = self._noise(domain, self.rng(purpose))
            images: Tensor = self._ready("generator", train=True)(z, c, a).float()
        return images

    def _generator_loss(self, fake: Tensor, c: Tensor, a: Tensor, weight: Tensor) -> tuple[Tensor, Losses]:
        """Of images that were generated with codes c and a: what the generator is to lower, and the parts of it."""
        critic = cast(Critic, self._ready("critic"))
        with self.device.autocast():
            total = -(weight * critic(fake, c, a).float()).sum()
            losses = {"generator": total.detach()}
            if self.conditioning == "auxiliary":
                total = total + self._told(critic, fake, c, a, weight, weight)
            if self.mutual_information:
                mean, _ = self._ready("encoder")(fake)
                found = code_cross_entropy(self._ready("classes")(fake), c)
                found = found + code_cross_entropy(self._ready("domains")(mean), a)
                information = (weight * found).sum()
                losses["information"] = information.detach()
                total = total + self.mutual_information * information
        return total, losses

    def _told(self, critic: Critic, x: Tensor, c: Tensor, a: Tensor, known: Tensor, weight: Tensor) -> Tensor:
        """What an auxiliary critic loses in telling the class, of rows whose class is known, and the domain."""
        classes, domains = critic.codes(x)
        told = known * code_cross_entropy(classes.float(), c) + weight * code_cross_entropy(domains.float(), a)
        return told.sum()

    def _dream(self, x: Tensor, a: Tensor, domain: Tensor, weight: Tensor) -> Losses:
        with self.device.autocast():
            mean, std = self._ready("encoder", train=True)(x)
            z = mean + std * torch.randn(mean.shape, generator=self.rng("dream code"), device=mean.device)
            inferred = self._ready("classes", train=self.shape_inference)(x)
            if not self.shape_inference:
                inferred = inferred.detach()
            found = self._ready("domains", train=True)(z)
            soft_c = gumbel_softmax(inferred, self.temperature, self.rng("dream class"))
            soft_a = gumbel_softmax(found, self.temperature, self.rng("dream domain"))
            decoded = self._ready(self.decoder, train=True)(z, soft_c, soft_a).float()
        reconstruction = (weight * squared_error(decoded, x)).sum()
        kl = (weight * normal_kl(mean, std, self._centre(domain))).sum()
        total = self.reconstruction_weight * reconstruction + self.kl_weight * kl
        if self.code_kl_weight:
            total = total + self.code_kl_weight * (weight * (uniform_kl(inferred) + uniform_kl(found))).sum()
        told = (weight * code_cross_entropy(found, a)).sum()
        if self.domain_shapes_encoder:
            total = total + told
        gradient = torch.autograd.grad(told, self.updates["domains"].parameters, retain_graph=True)
        self.updates["dream"](total)
        self.updates["domains"].apply(gradient)
        return {"reconstruction": reconstruction.detach(), "kl": kl.detach(), "domains": told.detach()}

    def _label(
        self,
        x: Tensor,
        c: Tensor,
        weight: Tensor,
        known: Tensor,
        taught: Labelled,
        labelled: Labelled,
        made: Tensor | None = None,
    ) -> Tensor:
        """known: as for ``_wake``; taught: how many rows have a class here, labelled: and in all; made: images generated with these codes, to be
        learnt as well."""
        smooth = self.virtual_adversarial > 0 and labelled == "some"
        if taught == "none" and not smooth:
            return torch.zeros((), device=x.device)
        with self.device.autocast():
            seen = x if made is None else torch.cat([x, made])
            logits = self._ready("classes", train=True)(seen)
        loss = torch.stack([(known * code_cross_entropy(part, c)).sum() for part in logits.split(len(x))]).mean()
        loss = loss / known.sum().clamp(min=torch.finfo(known.dtype).tiny)
        without = (known == 0).nonzero()[:, 0] if smooth else ()
        # Rows whose class is known are left alone: labelled samples of the past that are smoothed, too, were forgotten faster.
        if len(without):  # in float32 whatever the precision, and without dropout: it looks at the smallest of changes
            radius = 2 * self.virtual_adversarial  # images are in [-1, 1] here
            classify, rng = self._ready("classes"), self.rng("virtual adversarial")
            loss = loss + (weight[without] * virtual_adversarial(classify, x[without], radius, rng)).sum()
        return self.updates["classes"](loss)

    def _ready(self, name: str, train: bool = False) -> nn.Module:
        network = self.networks[name]
        if network.training != train:
            network.train(train)
        return network

    def _noise(self, domain: Tensor, rng: torch.Generator, temperature: float = 1.0) -> Tensor:
        """(B, latent) the z of what is sampled: from U(-1, 1), or from the prior of these domains; temperature: times its distance from the
        centre."""
        n = len(domain), self.layout.latent
        if self.uniform_noise:
            return temperature * (2 * torch.rand(n, generator=rng, device=domain.device) - 1)
        return self._centre(domain) + temperature * torch.randn(n, generator=rng, device=domain.device)

    def _centre(self, domain: Tensor) -> Tensor | float:
        """Of the prior of z: (B, 1), or 0."""
        return domain[:, None].float() if self.prior == "domain-shifted" else 0.0

    def fit(self, rows: Rows) -> None:
        """Nothing to do: it is trained step by step."""

    # ------------------------------------------------------------------ inference and sampling, images in [0, 1]

    def encode(self, x: Tensor) -> Codes:
        """(B, *shape) in [0, 1]. No domain is found that was not learnt yet, whatever codes are there: its logit is -inf."""
        with torch.no_grad(), self.device.autocast():
            images = 2 * x - 1
            mean, std = self._ready("encoder")(images)
            domains = self._ready("domains")(mean)
            if self.trained:
                domains[:, self.seen :] = -torch.inf
            return Codes(mean, std, self._ready("classes")(images), domains)

    def recognise(self, x: Tensor, categories: bool = False) -> Recognised:
        """(B, *shape) in [0, 1], to be labelled: of the classes that were taught the most probable, and of the domains that were learnt.
        categories: of all outputs, where classes are categories of the model's own."""
        found = self.encode(x)
        logits = found.class_logits
        if not categories:
            untaught = ~self.taught().any(dim=0)
            logits = logits.masked_fill(untaught.to(logits.device), -torch.inf)
        sure, classes = torch.softmax(logits, dim=1).max(dim=1)
        return Recognised(classes, found.domain_logits.argmax(dim=1), sure)

    def class_logits(self, x: Tensor) -> Tensor:
        """(B, *shape) in [0, 1] -> (B, classes)."""
        with torch.no_grad(), self.device.autocast():
            logits: Tensor = self._ready("classes")(2 * x - 1)
        return logits.float()

    def decode(self, z: Tensor, c: Tensor, a: Tensor, sampled: bool = False) -> Tensor:
        """(B, latent), (B, classes), (B, domains) -> (B, *shape) in [0, 1]. sampled: by the network that is sampled, where there are two."""
        with torch.no_grad(), self.device.autocast():
            images = self._ready("generator" if sampled else self.decoder)(z, c, a).float()
        return ((images + 1) / 2).clamp(0, 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """(B, *shape) in [0, 1]: of the mean code, with the class and domain that are inferred, each as sure as they are."""
        found = self.encode(x)
        return self.decode(found.mean, found.c, found.a)

    def draw(self, classes: Tensor, domains: Tensor, rng: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Images (n, *shape) of these classes and domains (n,); temperature: how far from the prior's centre codes are drawn. Raises OptionsError for
        a class without a code or a domain that was never learnt."""
        check_trained(self)
        for what, asked, count in (("class", classes, self.outputs), ("domain", domains, self.seen)):
            wrong = asked[(asked < 0) | (asked >= count)]
            if len(wrong):
                raise OptionsError(f"{what} {wrong[0].item()}: was never learnt; the model knows 0 to {count - 1}")
        c = nn.functional.one_hot(classes, self.outputs).float()
        a = nn.functional.one_hot(domains, self.domains).float()
        return self.decode(self._noise(domains, rng, temperature), c, a, sampled=True)

    def sample(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        """To be rehearsed, of each class, in one of the domains that taught it; y: the classes that were asked for, task: the domains. With relabel
        drawn again, some times, where it finds others in them."""
        check_trained(self)
        if classes is None:
            raise OptionsError("classes = None: lgaa must be told which classes to sample")
        shares = self.taught()[:, classes.cpu()].T.float()  # (n, domains)
        unknown = (shares.sum(dim=1) == 0).nonzero().flatten()
        if len(unknown):
            raise OptionsError(f"class {classes[unknown[0]].item()}: no domain that was learnt has taught it")
        domains = torch.multinomial(shares, 1, generator=_on_cpu(rng))[:, 0].to(classes.device)
        x = (
            rehearse(self, classes, domains, rng).x.float() / 255
            if self.relabel
            else self.draw(classes, domains, rng, self.replay_temperature)
        )
        return Batch(x, classes, domains, torch.full((n,), 1 / n, device=x.device))

    def relabelled(self, batch: Batch) -> Batch:
        """Samples of it under the class and domain that it finds in them, or, with relabel off, as they are."""
        if not self.relabel:
            return batch
        found = self.recognise(batch.x)
        return replace(batch, y=found.classes, task=found.domains)

    def taught(self) -> Tensor:
        """(domains learnt, classes) bool: which domain taught which class."""
        taught = torch.zeros(self.seen, self.outputs, dtype=torch.bool)
        for domain, classes in enumerate(self.spec.heads[: self.seen]):
            taught[domain, list(classes)] = True
        return taught

    def frozen(self) -> AdversarialAutoencoder:
        """All that infers and generates as it is now: no critic, no optimisers."""
        twin = self.clone()
        for name in ("spec", "rng", "device", "chosen", "layout", "shape", "outputs", "domains", "seen", "costs"):
            setattr(twin, name, getattr(self, name))
        twin.networks = {
            name: copy.deepcopy(network).eval().requires_grad_(False)
            for name, network in self.networks.items()
            if name != "critic"
        }
        twin.updates = {}
        return twin

    # ------------------------------------------------------------------ state and cost

    def num_bytes(self) -> int:
        tensors = [t for net in self.networks.values() for t in (*net.parameters(), *net.buffers())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def working_bytes(self) -> int:
        """What the optimisers keep, and the gradients of the largest update: there are none of two at a time."""
        kept = sum(update.bytes_of_weights() * update.options.state_per_parameter for update in self.updates.values())
        return kept + max((update.bytes_of_weights() for update in self.updates.values()), default=0)

    def flops(self, rows: int, train: bool = True) -> float:
        """Of a training step, all updates of it (the generator's shared out over the steps), or of sampling as another learner does, where what is
        drawn again is not foreseen."""
        costs = self.costs
        generate = forward_flops(costs["generator"], rows)
        if not train:
            return self.rehearsal_flops(rows) if self.relabel else generate
        critic = training_flops(costs["critic"], 2 * rows) + 4 * forward_flops(costs["critic"], rows)
        generator_update = training_flops(costs["generator"], rows)
        judged = forward_flops(costs["critic"], rows)  # of what is generated; as much again for a gradient
        if self.conditioning == "auxiliary":
            critic += training_flops(costs["critic"], rows)
            judged += forward_flops(costs["critic"], rows)
        if self.mutual_information:
            judged += sum(forward_flops(costs[name], rows) for name in ("encoder", "classes", "domains"))
        wake = judged + (generator_update + judged) / self.critic_steps
        dream = training_flops(costs["generator"], rows, input_gradient=True) + training_flops(costs["encoder"], rows)
        dream += training_flops(costs["domains"], rows, input_gradient=True)
        dream += (training_flops if self.shape_inference else forward_flops)(costs["classes"], rows)
        labels = training_flops(costs["classes"], rows)
        if self.infer_generated:
            labels = 2 * labels + generate
        return generate + critic + wake + dream + labels

    def smoothing_flops(self, rows: int) -> float:
        """What virtual adversarial training adds to a step with so many rows that lack a class: one more update of the inference of classes on
        them, two passes and a gradient of rows."""
        if not self.virtual_adversarial:
            return 0.0
        return training_flops(self.costs["classes"], rows) + 3 * forward_flops(self.costs["classes"], rows)

    def rehearsal_flops(self, rows: int) -> float:
        """Of drawing images once, and finding their codes; or of reconstructing them."""
        found = sum(forward_flops(self.costs[name], rows) for name in ("encoder", "classes", "domains"))
        return forward_flops(self.costs["generator"], rows) + found

    def _counted(self) -> Mapping[str, Sequence[int]]:
        """Multiply-accumulates a row of each network, layer by layer."""
        counts: dict[str, Sequence[int]] = {}
        for name, network in self.networks.items():
            if isinstance(network, ImageGenerator):
                first, *others = multiplications(_Plain(network, self.outputs, self.domains), (self.layout.latent,))
                width = network.codes.c.width
                counts[name] = [first + width * (self.outputs + self.domains), *others]
            elif isinstance(network, Critic):
                counts[name] = multiplications(nn.Sequential(network.trunk, network.score), self.shape)
            else:
                counts[name] = multiplications(network, (self.layout.latent,) if name == "domains" else self.shape)
        return counts

    def state(self) -> State:
        return {
            "seen": self.seen,
            "codes": [self.outputs, self.domains],
            "networks": {name: dict(network.state_dict()) for name, network in self.networks.items()},
            "updates": {name: optimiser_state(update.optimiser) for name, update in self.updates.items()},
        }

    def load(self, state: State) -> None:
        classes, domains = state["codes"]
        if (classes, domains) != (self.outputs, self.domains):  # as many as there were, be it fewer
            for part, count in self._code_parts(classes, domains):
                part.restart(count)
            self._renew(classes, domains)
        self.seen = state["seen"]
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, update in self.updates.items():
            load_optimiser(update.optimiser, state["updates"][name])


class Update:
    """One optimiser over the weights of some networks: no gradient reaches, and no update changes, any other."""

    def __init__(self, networks: Sequence[nn.Module], options: Optimiser) -> None:
        self.parameters = [parameter for network in networks for parameter in network.parameters()]
        self.options = options
        self.optimiser = options.make(self.parameters)

    def __call__(self, loss: Tensor) -> Tensor:
        self.apply(torch.autograd.grad(loss, self.parameters, allow_unused=True))
        return loss.detach()

    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimiser.step()
        for parameter in self.parameters:
            parameter.grad = None

    def begin_task(self) -> None:
        if self.options.reset_each_task:
            self.optimiser = self.options.make(self.parameters)

    def bytes_of_weights(self) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)


class _Plain(nn.Module):
    """A generator with codes of zeros, for counting operations."""

    def __init__(self, network: ImageGenerator, classes: int, domains: int) -> None:
        super().__init__()
        self.network, self.classes, self.domains = network, classes, domains

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.network(z, torch.zeros(len(z), self.classes), torch.zeros(len(z), self.domains))
        return images


def _on_cpu(rng: torch.Generator) -> torch.Generator:
    """A generator on the CPU that follows from this one."""
    if rng.device.type == "cpu":
        return rng
    seed = torch.randint(1 << 62, (1,), generator=rng, device=rng.device).item()
    return torch.Generator().manual_seed(int(seed))
