"""What a trained adversarial autoencoder can be asked for: pure functions of it, of images and of a seed.

Images are (n, channels, height, width) in [0, 1] and come back on the CPU. Classes are indices of ``spec.classes``, domains numbers of tasks, from 0.
"Own" class or domain of an image: the most probable one to the model, which is never told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn import functional

from reverie.checks import DataError, OptionsError, Problems
from reverie.generators.decoding import check_trained
from reverie.generators.lgaa import AdversarialAutoencoder, Codes
from reverie.metrics import clustering_accuracy, hsic, normalized_mutual_information
from reverie.seeding import generator

Interpolation = Literal["linear", "spherical"]
Projection = Literal["pca", "t-sne"]

CHUNK = 1000  # images that are encoded at a time
PARALLEL = 1e-4  # sine of the angle below which an arc is a line
PERPLEXITY = 30.0  # of t-SNE, or a third of the rows where these are few
FEWEST = 4  # rows that a projection needs
ACTIVE = 0.01  # nats, of a number of the code that is used


# ------------------------------------------------------------------------------------------ what was learnt


def learnt_domains(model: AdversarialAutoencoder) -> range:
    return range(model.seen)


def learnt_classes(model: AdversarialAutoencoder, domains: Sequence[int] | None = None) -> tuple[int, ...]:
    """Classes that these domains taught; None: all domains learnt so far."""
    taught = model.taught()
    if domains is not None:
        taught = taught[list(domains)]
    return tuple(taught.any(dim=0).nonzero().flatten().tolist())


def check_learnt(model: AdversarialAutoencoder, classes: Sequence[int] = (), domains: Sequence[int] = ()) -> None:
    """Raises NotReadyError for a model without training, DataError for a class or a domain that it did not learn."""
    check_trained(model)
    problems = Problems()
    known = {"class": learnt_classes(model), "domain": learnt_domains(model)}
    for what, asked in (("class", classes), ("domain", domains)):
        for value in asked:
            if value not in known[what]:
                learnt = ", ".join(map(str, known[what]))
                problems.add(f"{what} = {value}: was never learnt; learnt so far: {learnt}")
    problems.raise_as(DataError, "this cannot be generated")


def balanced(labels: Tensor, n: int, *key: object) -> Tensor:
    """Indices of at most n rows whose classes (N,) take turns; which rows of a class, follows from the key.

    >>> labels = torch.tensor([0, 0, 0, 5, 5, 9])
    >>> labels[balanced(labels, 4, "seed")].tolist()
    [0, 5, 9, 0]
    """
    order = torch.randperm(len(labels), generator=generator(*key))
    shuffled = labels.cpu()[order]
    turn = torch.zeros(len(labels), dtype=torch.int64)
    for c in shuffled.unique().tolist():
        mine = shuffled == c
        turn[mine] = torch.arange(int(mine.sum()))
    rank = turn * (int(labels.max()) + 1 if len(labels) else 1) + shuffled
    return order[rank.argsort(stable=True)][:n]


# ------------------------------------------------------------------------------------------ dreaming


def generate(
    model: AdversarialAutoencoder,
    classes: Sequence[int],
    domains: Sequence[int],
    n: int = 8,
    *,
    seed: int = 0,
    temperature: float = 1.0,
) -> Tensor:
    """(domains, classes, n, *shape) samples. The n continuous codes are the same for every class and domain, so that a column differs in these
    alone. temperature: deviation of the codes in that of the prior; 0: its centre."""
    check_learnt(model, classes, domains)
    device = model.device.torch_device

    def drawn(c: int, domain: int) -> Tensor:
        asked = torch.full((n,), c, device=device), torch.full((n,), domain, device=device)
        return model.draw(*asked, generator(seed, "generate", device=device), temperature).cpu()

    return torch.stack([torch.stack([drawn(c, domain) for c in classes]) for domain in domains])


@dataclass(frozen=True)
class Reconstructions:
    """images: (n, *shape). error: (n,) mean squared difference from the image a number, images in [0, 1]."""

    images: Tensor
    error: Tensor


def reconstruct(model: AdversarialAutoencoder, x: Tensor) -> Reconstructions:
    """x: (n, *shape). Of mean codes, with class and domain as they are inferred, each as sure as they are."""
    check_trained(model)
    x = _checked(model, x)
    images = torch.cat([model.reconstruct(part) for part in x.split(CHUNK)])
    return Reconstructions(images.cpu(), (images - x).square().flatten(1).mean(dim=1).cpu())


@dataclass(frozen=True)
class Replayed:
    """images: (n, *shape). classes, domains: (n,) as the model finds them in its own samples. confidence: (n,) of the class, in (0, 1]. asked: (n,)
    the classes that were asked for."""

    images: Tensor
    classes: Tensor
    domains: Tensor
    confidence: Tensor
    asked: Tensor


def replay(model: AdversarialAutoencoder, n: int, domains: Sequence[int] | None = None, *, seed: int = 0) -> Replayed:
    """n samples as the next task would rehearse them: evenly of all domains (None: all learnt) and of the classes that each taught, labelled by
    the model itself. With a single domain there is nothing to be inferred of it. What the learner then draws again (unsure, or too many of
    a class) is still here."""
    chosen = list(learnt_domains(model) if domains is None else domains)
    check_learnt(model, domains=chosen)
    device = model.device.torch_device
    place = torch.tensor(chosen)[torch.arange(n) % len(chosen)]
    asked = torch.empty(n, dtype=torch.int64)
    for domain in chosen:
        taught = torch.tensor(learnt_classes(model, [domain]))
        mine = place == domain
        asked[mine] = taught[torch.arange(int(mine.sum())) % len(taught)]
    rng = generator(seed, "replay", device=device)
    parts = []
    for c, d in zip(asked.split(CHUNK), place.split(CHUNK), strict=True):
        x = model.draw(c.to(device), d.to(device), rng, model.replay_temperature)
        found = model.recognise(x)
        parts.append([each.cpu() for each in (x, found.classes, found.domains, found.sure)])
    images, classes, domains_found, confidence = (torch.cat(part) for part in zip(*parts, strict=True))
    return Replayed(images, classes, domains_found if len(chosen) > 1 else place, confidence, asked)


def interpolate(
    model: AdversarialAutoencoder, x1: Tensor, x2: Tensor, steps: int = 9, path: Interpolation = "linear"
) -> Tensor:
    """(n, steps, *shape) from images x1 (n, *shape) to x2 (n, *shape): the mean codes along a line, or along an arc around 0 (White 2016, arXiv
    1609.04468), class and domain along the line between what is inferred of both. The first and the last are the reconstructions of
    x1 and x2."""
    check_trained(model)
    if x1.shape != x2.shape:
        raise DataError(
            f"images of shape {tuple(x1.shape)} and {tuple(x2.shape)}: both ends of an interpolation must have the same shape"
        )
    if steps < 2:
        raise OptionsError(f"steps = {steps}: an interpolation has at least its 2 ends")
    if path not in get_args(Interpolation):
        raise OptionsError(f"path = {path!r}: expected {' or '.join(get_args(Interpolation))}")
    first, last = model.encode(_checked(model, x1)), model.encode(_checked(model, x2))
    frames = []
    for step in range(steps):
        t = step / (steps - 1)
        move = _arc if path == "spherical" and 0 < t < 1 else _line
        z = move(first.mean, last.mean, t)
        frames.append(model.decode(z, _line(first.c, last.c, t), _line(first.a, last.a, t)).cpu())
    return torch.stack(frames, dim=1)


def _line(start: Tensor, end: Tensor, t: float) -> Tensor:
    return (1 - t) * start + t * end


def _arc(start: Tensor, end: Tensor, t: float) -> Tensor:
    cosine = functional.cosine_similarity(start, end, dim=1).clamp(-1, 1)
    angle = cosine.acos()[:, None]
    across = angle.sin()
    bent = (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / across.clamp(min=PARALLEL)
    return torch.where(across < PARALLEL, _line(start, end, t), bent)


@dataclass(frozen=True)
class Traversal:
    """images: (coordinates, steps, *shape). coordinates: (coordinates,) which numbers of the code, by falling kl. kl: (coordinates,) nats, the mean
    KL_j of q(z_j|x) from the prior. shifts: (steps,) in standard deviations."""

    images: Tensor
    coordinates: Tensor
    kl: Tensor
    shifts: Tensor


def traverse(
    model: AdversarialAutoencoder, x: Tensor, rows: Tensor, coordinates: int = 10, steps: int = 7, span: float = 3.0
) -> Traversal:
    """The image x (*shape) with one number of its mean code moved by -span to span standard deviations, all else as it is; a shift of 0 gives its
    reconstruction. rows: (N, *shape) images whose aggregate posterior mean_i q(z|x_i) gives the deviations, and the coordinates that
    matter: those of highest mean KL_j."""
    check_trained(model)
    if steps < 2 or coordinates < 1:
        raise OptionsError(
            f"coordinates = {coordinates}, steps = {steps}: at least 1 coordinate and 2 steps are needed"
        )
    known = _codes(model, _checked(model, rows))
    kl = _kl(model, known)
    spread = (known.mean.var(dim=0, unbiased=False) + known.std.square().mean(dim=0)).sqrt()
    highest = kl.argsort(descending=True, stable=True)[:coordinates]
    codes = model.encode(_checked(model, x[None]))
    count = len(highest)
    c, a = codes.c.expand(count, -1), codes.a.expand(count, -1)
    shifts = [span * (2 * step / (steps - 1) - 1) for step in range(steps)]
    moves = functional.one_hot(highest, codes.mean.shape[1]) * spread
    images = torch.stack([model.decode(codes.mean + shift * moves, c, a) for shift in shifts], dim=1)
    return Traversal(images.cpu(), highest.cpu(), kl[highest].cpu(), torch.tensor(shifts))


def _kl(model: AdversarialAutoencoder, codes: Codes) -> Tensor:
    """(latent,) nats, the mean KL_j of q(z_j|x) from the prior."""
    centre = codes.a.argmax(dim=1)[:, None].float() if model.prior == "domain-shifted" else 0.0
    return 0.5 * ((codes.mean - centre).square() + codes.std.square() - 2 * codes.std.log() - 1).mean(dim=0)


def translate(
    model: AdversarialAutoencoder, x: Tensor, *, domain: int | None = None, class_: int | None = None
) -> Tensor:
    """(n, *shape) images decoded from the mean codes of x (n, *shape), with the code of another domain, of another class, or both in
    place of those that were inferred ("code swap"). An image whose own domain or class is the one that is asked for keeps the code as
    inferred: with nothing to swap it is its reconstruction. Nothing in training asks for content to be kept."""
    check_learnt(model, [] if class_ is None else [class_], [] if domain is None else [domain])
    codes = model.encode(_checked(model, x))
    return model.decode(codes.mean, _swapped(codes.c, class_), _swapped(codes.a, domain)).cpu()


def _swapped(code: Tensor, target: int | None) -> Tensor:
    if target is None:
        return code
    corner = functional.one_hot(torch.tensor(target, device=code.device), code.shape[1]).to(code)
    return torch.where(code.argmax(dim=1, keepdim=True) == target, code, corner)


# ------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Clusters:
    """codes: (n,) the most probable class of q(c|x). accuracy, nmi: against labels, None where there are none."""

    codes: Tensor
    accuracy: float | None
    nmi: float | None


def cluster(model: AdversarialAutoencoder, x: Tensor, labels: Tensor | None = None) -> Clusters:
    """x: (n, *shape), labels: (n,) any numbers. Of a model that learnt with labels its codes are classes; without, they are categories of its
    own, which accuracy matches to the labels one to one."""
    check_trained(model)
    logits = torch.cat([model.class_logits(part) for part in _checked(model, x).split(CHUNK)])
    codes = logits.argmax(dim=1).cpu()
    if labels is None:
        return Clusters(codes, None, None)
    return Clusters(codes, clustering_accuracy(labels, codes), normalized_mutual_information(labels, codes))


@dataclass(frozen=True)
class Embedding:
    """points: (n, 2). hsic: how much the continuous code depends on the domain, low where it is free of it."""

    points: Tensor
    hsic: float


def embed(
    model: AdversarialAutoencoder,
    x: Tensor,
    domains: Tensor | None = None,
    method: Projection = "pca",
    *,
    seed: int = 0,
) -> Embedding:
    """Mean codes of x (n, *shape) in two dimensions, by principal components or t-SNE (van der Maaten and Hinton 2008). domains: (n,), None: as
    inferred."""
    check_trained(model)
    if method not in get_args(Projection):
        raise OptionsError(f"method = {method!r}: expected {' or '.join(get_args(Projection))}")
    if len(x) < FEWEST:
        raise DataError(f"{len(x)} images: a projection needs at least {FEWEST}")
    codes = _codes(model, _checked(model, x))
    z = codes.mean.cpu()
    place = codes.a.argmax(dim=1) if domains is None else domains
    if method == "pca":
        projection = PCA(2, svd_solver="full")
    else:
        projection = TSNE(2, perplexity=min(PERPLEXITY, (len(z) - 1) / 3), init="pca", random_state=seed)
    points = torch.from_numpy(projection.fit_transform(z.double().numpy())).float()
    return Embedding(points, hsic(z, functional.one_hot(place.cpu().long()).float()))


@dataclass(frozen=True)
class Novelty:
    """Three signs that an image is new, (n,) each. error: of its reconstruction, as in ``Reconstructions``. entropy: of q(a|z) in nats. critic:
    its score, higher for what looks real; comparable within one model alone."""

    error: Tensor
    entropy: Tensor
    critic: Tensor


def novelty(model: AdversarialAutoencoder, x: Tensor) -> Novelty:
    """x: (n, *shape)."""
    error = reconstruct(model, x).error
    entropy, critic = [], []
    for part in _checked(model, x).split(CHUNK):
        codes = model.encode(part)
        entropy.append(torch.special.entr(codes.a).sum(dim=1).cpu())
        critic.append(_scores(model, part, codes))
    return Novelty(error, torch.cat(entropy), torch.cat(critic))


def _scores(model: AdversarialAutoencoder, x: Tensor, codes: Codes) -> Tensor:
    """(n,) of the critic, on the CPU."""
    with torch.no_grad(), model.device.autocast():
        scores: Tensor = model.networks["critic"](2 * x - 1, codes.c, codes.a).float().cpu()
    return scores


@dataclass(frozen=True)
class Health:
    """active_units: numbers of the continuous code that say anything of x, those whose mean KL from the prior is above 0.01 nats; none: the code
    has collapsed. critic_gap: mean score of the critic of x minus that of samples; below 0 it takes samples for more real than x."""

    active_units: int
    critic_gap: float


def health(model: AdversarialAutoencoder, x: Tensor, *, seed: int = 0) -> Health:
    """x: (n, *shape), real images; compared with as many samples of all domains."""
    check_trained(model)
    x = _checked(model, x)
    samples = replay(model, len(x), seed=seed).images.to(x.device)
    codes, others = _codes(model, x), _codes(model, samples)
    gap = _scores(model, x, codes).mean() - _scores(model, samples, others).mean()
    return Health(int((_kl(model, codes) > ACTIVE).sum()), float(gap))


# ------------------------------------------------------------------------------------------ images in


def _checked(model: AdversarialAutoencoder, x: Tensor) -> Tensor:
    """x (n, *shape) where the model is. Raises DataError."""
    if tuple(x.shape[1:]) != tuple(model.shape) or len(x) == 0:
        expected = ", ".join(map(str, model.shape))
        raise DataError(f"images of shape {tuple(x.shape)}: expected (n, {expected}), one or more")
    x = x.to(model.device.torch_device, torch.float32)
    low, high = x.aminmax()
    if not (low >= 0 and high <= 1):  # nor for NaN
        raise DataError(f"images with numbers from {float(low):g} to {float(high):g}: expected 0 to 1")
    return x


def _codes(model: AdversarialAutoencoder, x: Tensor) -> Codes:
    parts = [model.encode(part) for part in x.split(CHUNK)]
    names = ("mean", "std", "class_logits", "domain_logits")
    return Codes(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
