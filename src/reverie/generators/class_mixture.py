"""The generator of the published code of generative latent replay: a mixture a task, sampled once, whose components are the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from reverie.checks import DataError, NotReadyError
from reverie.device import Device
from reverie.generators.decoding import as_batch
from reverie.generators.gmm import FittedMixture, Mixture, expectation_maximisation
from reverie.options import Part
from reverie.seeding import Randomness
from reverie.types import Batch, Level, Losses, Rows, State, StreamSpec

CHUNK = 4096


@dataclass(eq=False, repr=False)
class ClassMixture(Part):
    """For each task a mixture of diagonal Gaussians of all its rows, a component a class, and a buffer of rows drawn from the mixtures.

    Components start at the class means, with equal weights and variances of ``variance``; expectation maximisation, which is not told
    the classes, may move them elsewhere. A drawn row has the class that its component started at. After task t (counted from 1)
    ``samples`` / t rows, never more than the task has, are drawn from its mixture, once, and take random places in the buffer, which the
    first task fills; replay takes rows from the buffer alone. It is here for comparison: ``densities`` fits each class by itself and draws
    anew at every step.

    Source: the code published with Armstrong, Thakur and Clifton, "Generative Latent Replay for Continual Learning".
    """

    samples: Annotated[int, Field(gt=0, description="rows in the buffer")] = 6000
    variance: Annotated[float, Field(gt=0, description="of each coordinate and component at the start")] = 1.0
    floor: Annotated[float, Field(gt=0, description="added to every variance")] = 1e-6
    tolerance: Annotated[
        float, Field(ge=0, description="stops where the mean log-likelihood gains less than this, in nats a row")
    ] = 1e-3
    iterations: Annotated[int, Field(gt=0, description="most iterations")] = 100

    trains_by = "fit"
    own_phase = False
    stores_real_samples = False
    conditional = False
    labelled = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.level: Level = "input"

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.mixtures: list[FittedMixture] = []
        self.x = torch.empty(0, *spec.input_shape, device=device.torch_device)
        self.y = torch.empty(0, dtype=torch.int64, device=device.torch_device)
        self.task = self.y.clone()

    def extend(self, spec: StreamSpec) -> None:
        self.spec = spec

    def fit(self, rows: Rows) -> None:
        parts = [chunk.to(self.device.torch_device) for chunk in rows.chunks(CHUNK)]
        z, y = torch.cat([part.x.flatten(1) for part in parts]), rows.labels.to(self.device.torch_device)
        if not bool(torch.isfinite(z).all()):
            raise DataError("the latents hold NaN or infinite values; a mixture cannot be fitted to them")
        task = int(parts[0].task[0])
        rng = self.rng.at("class mixture", task)
        classes, component = y.unique(return_inverse=True)
        mixture = self._mixture(z, component, len(classes)).cast(len(z), z)
        count = min(self.samples // (len(self.mixtures) + 1), len(z))
        which = torch.multinomial(mixture.weights, count, replacement=True, generator=rng)
        noise = torch.randn(count, z.shape[1], generator=rng, device=z.device)
        x = (mixture.means[which] + noise * mixture.spread[which].sqrt()).reshape(count, *self.spec.input_shape)
        fresh = (x, classes[which], torch.full_like(which, task))
        if self.mixtures:
            places = torch.randperm(len(self.y), generator=rng, device=z.device)[:count]
            kept = []
            for before, values in zip((self.x, self.y, self.task), fresh, strict=True):
                after = before.clone()
                after[places] = values[: len(places)]
                kept.append(after)
            fresh = (kept[0], kept[1], kept[2])
        self.x, self.y, self.task = fresh
        self.mixtures = [*self.mixtures, mixture]

    def _mixture(self, z: Tensor, component: Tensor, k: int) -> Mixture:
        share = one_hot(component, k).to(z)
        means = (share.T @ z / share.sum(dim=0)[:, None]).double()
        start = Mixture("diagonal", means.new_full((k,), 1 / k), means, torch.full_like(means, self.variance))
        found = expectation_maximisation(z, start, self.floor, self.tolerance, self.iterations, reseeds=0)[0]
        return found if len(found.weights) == k else start  # a component that lost its rows would take a class with it

    def step(self, batch: Batch) -> Losses:
        return {}

    def sample(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        if not getattr(self, "mixtures", None):
            raise NotReadyError("no mixture was fitted yet, so there is nothing to replay; fit it to a task first")
        index = torch.randint(len(self.y), (n,), generator=rng, device=self.y.device)
        batch = as_batch(self.x[index], self.y[index])
        return Batch(batch.x, batch.y, self.task[index], batch.weight)

    def begin_task(self) -> None:
        pass

    def frozen(self) -> ClassMixture:
        twin = self.clone()
        twin.spec, twin.rng, twin.device = self.spec, self.rng, self.device
        twin.mixtures, twin.x, twin.y, twin.task = self.mixtures, self.x, self.y, self.task  # fit replaces them
        return twin

    def num_bytes(self) -> int:
        """Of the buffer and of all mixtures, which the source keeps although it never samples them again."""
        tensors = [self.x, self.y, self.task, *(t for mixture in self.mixtures for t in mixture.tensors().values())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def working_bytes(self) -> int:
        return 0

    def flops(self, rows: int, train: bool = True) -> float:
        return 0.0

    def state(self) -> State:
        mixtures: list[Any] = [{**mixture.tensors(), **mixture.settings()} for mixture in self.mixtures]
        return {"mixtures": mixtures, "x": self.x, "y": self.y, "task": self.task}

    def load(self, state: State) -> None:
        device = self.device.torch_device
        self.x, self.y, self.task = (state[name].to(device) for name in ("x", "y", "task"))
        self.mixtures = []
        for saved in state["mixtures"]:
            weights, means, spread = (saved[name].to(device) for name in ("weights", "means", "spread"))
            self.mixtures.append(FittedMixture(saved["count"], weights, means, spread, saved["form"]))
