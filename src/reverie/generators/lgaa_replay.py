"""How an adversarial autoencoder is rehearsed: images of the classes and domains asked for, drawn again while it takes them for others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from reverie.types import UNKNOWN

CHUNK = 1000  # images that are made at a time
ROUNDS = 5  # in which images are drawn until domains and classes have their shares; what is missing then is taken as it comes


@dataclass(frozen=True)
class Recognised:
    """What images are taken for: classes and domains (B,), and how probable the class is, sure (B,) in (0, 1]."""

    classes: Tensor
    domains: Tensor
    sure: Tensor


@dataclass(frozen=True)
class Drawn:
    """Replay: x (n, *shape) uint8, and what the model takes it for, classes (-1 where it is too unsure) and domains (n,). first: what it took the
    first drawing for, before anything was drawn again. images: that were drawn, over all rounds."""

    x: Tensor
    classes: Tensor
    domains: Tensor
    first: Recognised
    images: int

    def cpu(self) -> Drawn:
        """The same on the CPU."""
        first = Recognised(self.first.classes.cpu(), self.first.domains.cpu(), self.first.sure.cpu())
        return replace(self, x=self.x.cpu(), classes=self.classes.cpu(), domains=self.domains.cpu(), first=first)


class Rehearsed(Protocol):
    """What can be rehearsed: it draws images (n, *shape) in [0, 1], and says what it takes images for."""

    replay_temperature: float

    def draw(self, classes: Tensor, domains: Tensor, rng: torch.Generator, temperature: float) -> Tensor: ...

    def recognise(self, x: Tensor, categories: bool) -> Recognised: ...


def rehearse(
    model: Rehearsed,
    classes: Tensor,
    domains: Tensor,
    rng: torch.Generator,
    *,
    balance: bool = True,
    confidence: float = 0.0,
    categories: bool = False,
) -> Drawn:
    """Images of these classes and domains (n,), on the device of the model, where what is given lies and what is found will lie.

    balance: those of which the model finds another class or domain are drawn again, and so are those of whose class it is less sure than
    confidence. What still is in the last of some rounds stays under what is found, the unsure without a class. categories: as for ``recognise``.
    """
    y, a = torch.empty_like(classes), torch.empty_like(domains)
    missing = torch.arange(len(classes), device=classes.device)
    x, first, images = None, None, 0
    for round_ in range(ROUNDS):
        stored, found = _labelled(model, classes[missing], domains[missing], rng, categories)
        x = stored.new_empty(len(classes), *stored.shape[1:]) if x is None else x
        first = first or found
        images += len(missing)
        good = found.sure >= confidence
        labels = found.classes
        if balance:
            good &= (labels == classes[missing]) & (found.domains == domains[missing])
        if round_ == ROUNDS - 1:
            labels = torch.where(found.sure >= confidence, labels, UNKNOWN)
            good[:] = True
        filled = missing[good]
        x[filled], y[filled], a[filled] = stored[good], labels[good], found.domains[good]
        missing = missing[~good]
        if not len(missing):
            break
    assert x is not None
    assert first is not None
    return Drawn(x, y, a, first, images)


def _labelled(
    model: Rehearsed, classes: Tensor, domains: Tensor, rng: torch.Generator, categories: bool
) -> tuple[Tensor, Recognised]:
    """Images of these classes and domains as bytes, and what the model takes them for."""
    images, found = [], []
    for c, domain in zip(classes.split(CHUNK), domains.split(CHUNK), strict=True):
        stored = (model.draw(c, domain, rng, model.replay_temperature) * 255).round().to(torch.uint8)
        images.append(stored)
        found.append(model.recognise(stored.float() / 255, categories))
    parts = ([getattr(each, name) for each in found] for name in ("classes", "domains", "sure"))
    return torch.cat(images), Recognised(*(torch.cat(part) for part in parts))
