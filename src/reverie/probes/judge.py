"""A classifier of real rows that says what generated ones show: for evaluation alone, since it sees all training rows of all tasks at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reverie.checks import DataError
from reverie.device import CPU, Device
from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.metrics import frechet_distance
from reverie.nn.optimisers import Adam
from reverie.seeding import Randomness
from reverie.solvers import CNN
from reverie.streams.rows import ChosenRows, JoinedRows
from reverie.types import Rows, Stream, StreamSpec

STEPS, BATCH = 2500, 128
FIRST_RATE, LAST_RATE = 1e-3, 1e-4  # the last for a fifth of the steps
ROWS = 1000  # images that are judged, of a domain
CHUNK = 1000


@dataclass(frozen=True)
class Generated:
    """Images x (n, *shape) in [0, 1]; the domain and class asked for in each, asked (n, 2), and those that the learner's own inference gave it,
    labels (n, 2), class -1 where it is unsure; None where it gave none."""

    x: Tensor
    asked: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Judgement:
    """numbers: plain, for JSON. counts: (pairs, pairs) of images, by the domain and class asked for (down) and by those that are seen."""

    numbers: Mapping[str, Any]
    counts: Tensor


class Judge:
    """A small convolutional network that tells all pairs of a domain (task) and a class apart, trained on every labelled training row of a
    stream. The same seed gives the same judge. No learner may see it."""

    def __init__(
        self, stream: Stream, *, steps: int = STEPS, batch_size: int = BATCH, seed: int = 0, device: Device = CPU
    ) -> None:
        self.stream, self.device = stream, device
        heads = stream.spec.heads
        self.pairs = torch.tensor([(domain, c) for domain, classes in enumerate(heads) for c in classes])
        self.place = torch.full((len(heads), stream.spec.outputs), -1)  # of a domain and class among the pairs
        self.place[self.pairs[:, 0], self.pairs[:, 1]] = torch.arange(len(self.pairs))
        names = tuple(range(len(self.pairs)))
        spec = StreamSpec("judged", "class", stream.spec.input_shape, names, (names,), ("all",), (names,))
        rng = Randomness(seed, device.torch_device)
        self.network = CNN(optimiser=Adam(learning_rate=FIRST_RATE))
        self.network.build(spec, rng, device)
        self._learn(steps, batch_size, rng)

    def _learn(self, steps: int, batch_size: int, rng: Randomness) -> None:
        rows = _labelled(JoinedRows([task.train for task in self.stream])).to(self.device.torch_device)
        place = self.place.to(self.device.torch_device)
        per_epoch = max(len(rows) // batch_size, 1)
        order = torch.empty(0)
        for step in range(steps):
            epoch, batch_ = divmod(step, per_epoch)
            if batch_ == 0:
                order = torch.randperm(len(rows), generator=rng.at("order", epoch), device=rng.device)
            if step == steps - steps // 5:
                for group in self.network.network.optimiser.param_groups:
                    group["lr"] = LAST_RATE
            batch = rows.take(order[batch_ * batch_size : (batch_ + 1) * batch_size])
            assert batch.y is not None
            self.network.step(replace(batch, y=place[batch.task, batch.y]))

    def see(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, *shape) -> (n, 2) the domain and class that is seen in each, and features (n, width), on the CPU."""
        found, features = [], []
        with torch.no_grad():
            for part in x.split(CHUNK):
                part = part.to(self.device.torch_device)
                found.append(self.network.scores(part).argmax(dim=1).cpu())
                features.append(self.network.encode(part).cpu())
        return self.pairs[torch.cat(found)], torch.cat(features)

    def accuracy(self) -> list[dict[str, float]]:
        """On the test rows of each domain: the shares whose domain, whose class, and whose both it sees."""
        found = []
        for test in self.stream.tests:
            seen = torch.cat([self.see(chunk.x)[0] for chunk in test.rows.chunks(CHUNK)])
            head = torch.full((len(test.rows),), test.head)
            found.append(_shares(seen, torch.stack([head, test.rows.labels], dim=1)))
        return found

    def judge(self, images: Generated) -> Judgement:
        """frechet_distance, of each domain, is from the features of as many real test rows; None where fewer than two images were asked for."""
        seen, features = self.see(images.x)
        domains = range(len(self.stream.spec.heads))
        mine = [images.asked[:, 0] == domain for domain in domains]
        numbers: dict[str, Any] = {
            "images": len(seen),
            "as_asked": _shares(seen, images.asked),
            "as_asked_by_domain": [_shares(seen[m], images.asked[m]) if m.any() else None for m in mine],
            "frechet_distance": [self._frechet(domain, features[mine[domain]]) for domain in domains],
        }
        if images.labels is not None:
            known = images.labels[:, 1] >= 0
            right = _shares(seen[known], images.labels[known]) if bool(known.any()) else {}
            numbers["label_noise"] = {name: 1 - share for name, share in right.items()}
            numbers["without_label"] = float((~known).double().mean())
        asked, found = (self.place[rows[:, 0], rows[:, 1]] for rows in (images.asked, seen))
        asked, found = asked[asked >= 0], found[asked >= 0]  # categories of a model without labels may be of no class
        n = len(self.pairs)
        counts = torch.bincount(asked * n + found, minlength=n * n).view(n, n)
        return Judgement({**numbers, "counts": counts.tolist()}, counts)

    def _frechet(self, domain: int, features: Tensor) -> float | None:
        for test in self.stream.tests:
            count = min(len(features), len(test.rows))
            if test.head == domain and count > 1:
                real, other = (torch.linspace(0, n - 1, count).long() for n in (len(test.rows), len(features)))
                return frechet_distance(self.see(test.rows.take(real).x)[1], features[other])
        return None


def judged(learner: Any, judge: Judge, n: int = ROWS, seed: int = 0) -> dict[str, Judgement]:
    """What a judge sees in images of a learner's ``AdversarialAutoencoder``, n of a domain, evenly of the classes that it taught: "generated", as
    asked of it. Of the learner ``lgaa`` also "next": what a next task would rehearse, drawn again where the model takes it for
    something else; and, where the last task rehearsed any, "replay": of the set that it was learnt with."""
    return {name: judge.judge(images) for name, images in _generated(learner, n, seed)}


def _generated(learner: Any, n: int, seed: int) -> Iterator[tuple[str, Generated]]:
    model: AdversarialAutoencoder = learner.model
    device = model.device.torch_device
    rng = Randomness(seed, device)("judged")
    domains = torch.arange(model.seen).repeat_interleave(n)
    classes = torch.cat([mine.nonzero().flatten()[torch.arange(n) % int(mine.sum())] for mine in model.taught()])
    asked = torch.stack([domains, classes], dim=1)
    parts = [model.draw(part[:, 1].to(device), part[:, 0].to(device), rng).cpu() for part in asked.split(CHUNK)]
    yield "generated", Generated(torch.cat(parts), asked)
    if not hasattr(learner, "replay_set"):  # another learner, which draws replay in its own way
        return
    drawn = learner.rehearsed(model, classes, domains, rng)
    yield "next", Generated(drawn.x.float() / 255, asked, torch.stack([drawn.domains, drawn.classes], dim=1))
    replay = learner.replay_set()
    if replay is None:
        return
    some = torch.randperm(len(replay), generator=rng, device=device)[: n * learner.snapshot.seen]
    batch, index = replay.take(some), some.cpu()
    classes, domains = learner.asked(learner.snapshot, len(replay))
    labels = torch.stack([batch.task, batch.y], dim=1).cpu()
    yield "replay", Generated(batch.x.cpu(), torch.stack([domains, classes], dim=1)[index], labels)


def _shares(seen: Tensor, right: Tensor) -> dict[str, float]:
    """Of rows (n, 2) whose domain, whose class, and whose both is right."""
    hits = seen == right
    both = torch.cat([hits, hits.all(dim=1, keepdim=True)], dim=1).double().mean(dim=0).tolist()
    return dict(zip(("domain", "class", "both"), both, strict=True))


def _labelled(rows: Rows) -> Rows:
    known = (rows.labels >= 0).nonzero().flatten()
    if not len(known):
        raise DataError("no training row has a label, so no judge can be trained; label some rows")
    return rows if len(known) == len(rows) else ChosenRows(rows, known)
