"""A generator made of densities: one for each class, task, or class of each task, fitted when the task ends and kept."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import DataError, NotReadyError, OptionsError, Problems, ReverieError
from reverie.device import Device
from reverie.generators.decoding import as_batch
from reverie.generators.family import cached_bytes, triangle
from reverie.generators.gaussian import Gaussian
from reverie.generators.transforms import FittedTransforms, Step, Support, fit_transforms, restore_transforms
from reverie.options import Part
from reverie.seeding import Randomness
from reverie.types import Batch, Density, FittedDensity, Level, Losses, Rows, State, StreamSpec

Scope = Literal["class", "task", "task-class", "global"]
Allocation = Literal["task-balanced", "proportional", "inverse-frequency", "recency"]
Key = tuple[int, int]  # task and class; -1 where the scope does not tell them apart

CHUNK = 4096


@dataclass(frozen=True)
class Component:
    """One fitted density with the transforms around it."""

    task: int  # the latest that it was fitted to
    density: FittedDensity
    transforms: FittedTransforms


@dataclass(eq=False, repr=False)
class Densities(Part):
    """Densities of the rows of each class, task, class of each task, or of all rows.

    Each task's rows are seen once, at its end. A class that is met again is merged where its family merges exactly (no
    transforms, same width); else both fits are kept, weighted by their rows. Needs no training by gradients and does not forget.
    """

    density: Annotated[Density, Field(description="the family that is fitted")] = field(default_factory=Gaussian)
    scope: Annotated[
        Scope, Field(description="one density for each class, each task, each class of each task, or for everything")
    ] = "task-class"
    transforms: Annotated[
        tuple[Step, ...],
        Field(
            description="maps before the fit, in order, and back from samples: standardise, tukey (square root, x >= 0), log1p (x >= 0), "
            "whiten, normalise (to length 1; lengths come back as a lognormal of the density's own)"
        ),
    ] = ()
    support: Annotated[
        Support,
        Field(
            description="what samples are cut to: real; nonnegative; hurdle (each coordinate is 0 as often as it was); auto: "
            "nonnegative where all rows were"
        ),
    ] = "real"
    allocation: Annotated[
        Allocation,
        Field(
            description="how tasks share the samples: equally, by their rows, inversely to their rows, or by recency (each task half as "
            "often as the next)"
        ),
    ] = "task-balanced"
    class_balanced: Annotated[
        bool,
        Field(
            description="all classes are rehearsed alike often, and allocation shares the samples of a class among its tasks; false: "
            "allocation shares all samples among tasks and their classes"
        ),
    ] = True
    window: Annotated[
        int | None,
        Field(
            gt=0,
            description="only the densities of the last tasks, this many, are rehearsed, and no class without one among them; None: all",
        ),
    ] = None
    budget: Annotated[
        int | None, Field(gt=0, description="bytes that all densities together may take; None: no limit")
    ] = None

    trains_by: ClassVar[Literal["fit"]] = "fit"
    own_phase: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.level: Level = "input"

    def check(self, problems: Problems) -> None:
        if self.density.pooled and (self.transforms or self.scope in ("task", "global")):
            problems.add(
                f"scope = {self.scope!r}, transforms = {self.transforms}: a covariance shared by all classes needs scope 'class' or "
                "'task-class' and no transforms"
            )
        by_task, by_class = "task" in self.scope, "class" in self.scope
        by_rows = self.allocation in ("proportional", "inverse-frequency")
        for name, matters in (
            ("window", self.window is None or by_task),
            ("class_balanced", self.class_balanced or (by_class and (by_task or by_rows))),
            (
                "allocation",
                self.allocation == "task-balanced" or by_task or (by_class and by_rows and not self.class_balanced),
            ),
        ):
            problems.check(
                matters,
                f"{name} = {getattr(self, name)!r}: has no effect where scope = {self.scope!r} and class_balanced = {self.class_balanced}; "
                "use scope = 'task-class' or leave it out",
            )

    @property
    def conditional(self) -> bool:
        """Whether a class can be asked for."""
        return self.scope in ("class", "task-class")

    @property
    def stores_real_samples(self) -> bool:
        return self.density.stores_real_samples

    @property
    def has_density(self) -> bool:
        """Whether there is a ``log_prob``, as far as options tell."""
        return self.density.has_density and "normalise" not in self.transforms

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self._check_budget(spec)
        self.density.check_width(math.prod(spec.input_shape))
        taught = [c for classes in spec.task_classes for c in classes]
        shares = self.class_balanced and self.scope == "task-class" and self.allocation != "task-balanced"
        if shares and spec.tasks > 1 and len(set(taught)) == len(taught):
            raise OptionsError(
                f"allocation = {self.allocation!r}: has no effect where class_balanced = True and each class belongs to one task, as in "
                "this stream; set class_balanced = False or leave it out"
            )
        self.spec, self.rng, self.device = spec, rng, device
        self.components: dict[Key, list[Component]] = {}

    def extend(self, spec: StreamSpec) -> None:
        """Further classes have densities of their own. Raises OptionsError where the budget has no room for them."""
        self._check_budget(spec)
        self.spec = spec

    def fit(self, rows: Rows) -> None:
        parts = [chunk.to(self.device.torch_device) for chunk in rows.chunks(CHUNK)]
        z = torch.cat([part.x.flatten(1) for part in parts])
        y, task = rows.labels.to(z.device), torch.cat([part.task for part in parts])
        # The sum is one pass without a mask; it may overflow where all are finite.
        if not bool(torch.isfinite(z.sum())) and not bool(torch.isfinite(z).all()):
            raise DataError("the latents hold NaN or infinite values; a density cannot be fitted to them")
        keys = torch.stack(
            [task if "task" in self.scope else task * 0 - 1, y if "class" in self.scope else y * 0 - 1], dim=1
        )
        latest, before = int(task.max()), {key: list(members) for key, members in self.components.items()}
        try:
            for key in keys.unique(dim=0).tolist():
                mine = z[(keys == torch.tensor(key, device=z.device)).all(dim=1)]
                self._add((key[0], key[1]), latest, mine)
            if self.density.pooled:
                self._pool()
            self._check_fits(z.shape[1], latest)
        except ReverieError:
            self.components = before
            raise

    def step(self, batch: Batch) -> Losses:
        return {}

    def sample(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        """Classes (n,) where the scope tells them apart; each class is drawn from its densities as ``allocation`` says, one older than the
        window from its last."""
        self._check_fitted()
        if self.conditional and classes is None:
            raise OptionsError("classes = None: densities of single classes must be told which classes to sample")
        device = self.device.torch_device
        wanted = torch.full((n,), -1, device=device) if not self.conditional or classes is None else classes.to(device)
        x = torch.empty(n, *self.spec.input_shape, device=device)
        where = torch.zeros(n, dtype=torch.int64, device=device)
        weights = self._weights()
        for c in wanted.unique().tolist():
            places = (wanted == c).nonzero().flatten()
            members, weight = self._members(c), weights[c]
            if not bool(weight.any()):
                weight = torch.arange(len(members)) == len(members) - 1
            counts = apportioned(weight / weight.sum(), len(places), rng)
            # Which of the places a member fills is drawn, so that any slice of the rows has all tasks in it.
            order = places[torch.randperm(len(places), generator=rng, device=places.device)]
            for member, part in zip(members, order.split(counts), strict=True):
                if len(part):
                    drawn = member.transforms.inverse(member.density.sample(len(part), rng), rng)
                    x[part] = drawn.reshape(len(part), *self.spec.input_shape)
                    where[part] = member.task
        batch = as_batch(x, wanted if self.conditional else None)
        return Batch(batch.x, batch.y, where, batch.weight)

    def class_weights(self, classes: Tensor) -> Tensor | None:
        """How often each of the classes (k,) is to be rehearsed, up to a factor (k,); None: all alike."""
        if self.class_balanced and self.window is None:
            return None
        self._check_fitted()
        known = self._weights()
        for c in classes.tolist():
            self._members(c)
        weights = torch.stack([known[c].sum() for c in classes.tolist()])
        return (weights > 0).double() if self.class_balanced else weights

    def log_prob(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        """(B, ...) -> (B,) nats of the mixture of all members, or of those of the given classes (B,)."""
        z = x.flatten(1)
        if classes is None or not self.conditional:
            table = self.class_log_prob(z)
            return torch.logsumexp(table + self._log_shares(table), dim=1)
        self._check_fitted()
        found = z.new_empty(len(z))
        for c in classes.unique().tolist():
            mine = (classes == c).to(z.device)
            found[mine] = self._log_prob_of(c, z[mine])
        return found

    def known_classes(self) -> list[int]:
        """In ascending order; [-1] where the scope does not tell classes apart."""
        return sorted({c for _, c in self.components})

    def class_log_prob(self, z: Tensor) -> Tensor:
        """(B, known classes) log p(z | class)."""
        self._check_fitted()
        return torch.stack([self._log_prob_of(c, z) for c in self.known_classes()], dim=1)

    def _log_prob_of(self, c: int, z: Tensor) -> Tensor:
        """(B,) log p(z | class c): of all its densities, by their rows."""
        members = self._members(c)
        rows = sum(member.density.count for member in members)
        logs = [
            member.transforms.log_prob(member.density, z) + math.log(member.density.count / rows) for member in members
        ]
        return torch.logsumexp(torch.stack(logs), dim=0)

    def class_counts(self) -> dict[int, int]:
        """Rows that each class was fitted to."""
        counts: dict[int, int] = {}
        for (_, c), members in self.components.items():
            counts[c] = counts.get(c, 0) + sum(member.density.count for member in members)
        return counts

    def begin_task(self) -> None:
        pass

    def frozen(self) -> Densities:
        twin = self.clone()
        twin.level, twin.spec, twin.rng, twin.device = self.level, self.spec, self.rng, self.device
        twin.components = {key: list(members) for key, members in self.components.items()}  # the fits are values
        return twin

    # ------------------------------------------------------------------ state and cost

    def num_bytes(self) -> int:
        """Of all numbers kept, a covariance that several share counted once."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors()[0])

    def bytes_needed(self, spec: StreamSpec) -> int | None:
        """What ``num_bytes`` will be once all tasks of such a stream are fitted, where that follows from the options; else None."""
        width = math.prod(spec.input_shape)
        each = self.density.numbers(width)
        if each is None:
            return None
        around = {"standardise": 2 * width, "whiten": width + 2 * width**2, "normalise": 2}
        each += sum(around.get(step, 0) for step in self.transforms)
        each += 2 * width if self.support == "hurdle" else 0
        merges = self.density.merges and not self.transforms
        fits = {
            (task if "task" in self.scope or not merges else -1, c if "class" in self.scope else -1)
            for task, classes in enumerate(spec.task_classes)
            for c in classes
        }
        pooled = triangle(width) if self.density.pooled else 0
        return 4 * (len(fits) * each + pooled)

    def _check_fits(self, width: int, latest: int) -> None:
        """Raises OptionsError where the fits take too many bytes, or were made of too few rows; warns where those of the latest task are a
        row kept as it is."""
        needed = self.num_bytes() if self.budget is not None else 0
        if self.budget is not None and needed > self.budget:
            raise OptionsError(self._over_budget(f"those fitted so far need {needed:,}"))
        fits = [(c, member.task, member.density.count) for (_, c), parts in self.components.items() for member in parts]
        every = [count for _, _, count in fits]
        # A shared covariance has all rows; each mean takes one of them.
        fewest = sum(every) - len(every) + 1 if self.density.pooled else min(every)
        if fewest < (least := self.density.rows_needed(width)):
            raise OptionsError(
                f"shrinkage = 'none': a covariance of {width:,} latents needs {least:,} rows, and a density was fitted to {fewest:,}; use "
                "shrinkage = 'ledoit-wolf', or covariance = 'diagonal' or 'low-rank'"
            )
        alone = sorted({c for c, task, count in fits if task == latest and count == 1})
        if alone and not self.stores_real_samples:
            whose = f"class {', '.join(map(str, alone))}" if self.conditional else f"task {latest}"
            warnings.warn(
                f"one row alone of {whose} was fitted: its density is that row, a stored latent, with noise; give more rows if none may be "
                "kept",
                stacklevel=3,
            )

    def _check_budget(self, spec: StreamSpec) -> None:
        """Raises OptionsError where it is known before any training that the densities will not fit."""
        needed = None if self.budget is None else self.bytes_needed(spec)
        if self.budget is not None and needed is not None and needed > self.budget:
            width = math.prod(spec.input_shape)
            raise OptionsError(self._over_budget(f"those of this stream, of {width:,} numbers a row, need {needed:,}"))

    def _over_budget(self, need: str) -> str:
        return (
            f"budget = {self.budget:,} bytes for all densities: {need}; raise it, or try covariance = 'diagonal' or 'low-rank', fewer "
            "components, or a scope of fewer densities"
        )

    def working_bytes(self) -> int:
        """Of what sampling and likelihoods have made of the densities and kept."""
        return cached_bytes(member.density for members in self.components.values() for member in members)

    def flops(self, rows: int, train: bool = True) -> float:
        """Of sampling with full covariances, a bound for the other families; fitting happens once a task."""
        if train:
            return 0.0
        width = torch.Size(self.spec.input_shape).numel()
        dense = getattr(self.density, "covariance", "full") in ("full", "shared", "tied")
        return 2.0 * rows * (width**2 if dense else width)

    def state(self) -> State:
        tensors, members = self._tensors()
        return {"tensors": {str(i): tensor for i, tensor in enumerate(tensors)}, "members": members}

    def load(self, state: State) -> None:
        device = self.device.torch_device
        tensors = {int(i): tensor.to(device) for i, tensor in state["tensors"].items()}
        self.components = {}
        for member in state["members"]:
            values = {name: tensors[i] for name, i in member["density"].items()}
            density = self.density.restore({**member["settings"], **values})
            around = {name: tensors[i] for name, i in member["transforms"].items()}
            transforms = restore_transforms(self.transforms, member["support"], around)
            key = (member["key"][0], member["key"][1])
            self.components.setdefault(key, []).append(Component(member["task"], density, transforms))

    def _tensors(self) -> tuple[list[Tensor], list[dict[str, Any]]]:
        """Every tensor once, and the members with the tensors' numbers in place of them."""
        found: list[Tensor] = []
        number: dict[int, int] = {}

        def put(tensors: dict[str, Tensor]) -> dict[str, int]:
            for tensor in tensors.values():
                if id(tensor) not in number:
                    number[id(tensor)] = len(found)
                    found.append(tensor)
            return {name: number[id(tensor)] for name, tensor in tensors.items()}

        members = []
        for key, parts in self.components.items():
            for part in parts:
                members.append(
                    {
                        "key": list(key),
                        "task": part.task,
                        "density": put(part.density.tensors()),
                        "settings": part.density.settings(),
                        "transforms": put(part.transforms.tensors()),
                        "support": part.transforms.support,
                    }
                )
        return found, members

    # ------------------------------------------------------------------ fitting and sharing

    def _add(self, key: Key, task: int, z: Tensor) -> None:
        where = self.rng.at("density", task, *(index + 1 for index in key))
        fitted = fit_transforms(self.transforms, self.support, z)
        inner = fitted.forward(z)
        density = self.density.fit(inner, where)
        fitted = fitted.with_thresholds(density, where)
        before = self.components.get(key, [])
        if before and not self.transforms:
            union = before[-1].density.merge(density)
            if union is not None:
                around = before[-1].transforms.merge(fitted, before[-1].density.count, len(z))
                merged = Component(task, union, around.with_thresholds(union, where))
                self.components[key] = [*before[:-1], merged]
                return
        self.components[key] = [*before, Component(task, density, fitted)]

    def _pool(self) -> None:
        flat = [(key, member) for key, members in self.components.items() for member in members]
        pool = cast(Any, self.density).pool([member.density for _, member in flat])
        self.components = {}
        for (key, member), density in zip(flat, pool, strict=True):
            where = self.rng.at("pooled density", member.task, *(index + 1 for index in key))
            around = member.transforms.with_thresholds(density, where)
            self.components.setdefault(key, []).append(Component(member.task, density, around))

    def _check_fitted(self) -> None:
        if not getattr(self, "components", None):
            raise NotReadyError("no density was fitted yet, so there is nothing to replay; fit it to a task first")

    def _members(self, c: int) -> list[Component]:
        """Densities of a class."""
        members = [member for (_, mine), parts in self.components.items() if mine == c for member in parts]
        if not members:
            known = ", ".join(map(str, self.known_classes()))
            raise NotReadyError(f"class {c}: no density was fitted to it yet; those of classes {known} were")
        return members

    def _weights(self) -> dict[int, Tensor]:
        """By class how often each of its densities is to be drawn, up to one factor for all; 0 outside the window."""
        everything = [(c, member) for (_, c), parts in self.components.items() for member in parts]
        latest = max(member.task for _, member in everything)
        cells: dict[Key, int] = {}  # rows of each class in each task
        for c, member in everything:
            cells[member.task, c] = cells.get((member.task, c), 0) + member.density.count
        classes_of = Counter(task for task, _ in cells)

        def weight(c: int, member: Component) -> float:
            task, rows = member.task, cells[member.task, c]
            if self.window is not None and task <= latest - self.window:
                return 0.0
            share = member.density.count / rows  # several fits of one cell share by their rows
            if self.allocation == "proportional":
                return share * rows
            if self.allocation == "inverse-frequency":
                return share / rows
            among = 1 if self.class_balanced else classes_of[task]
            return share / among * (0.5 ** (latest - task) if self.allocation == "recency" else 1.0)

        weights: dict[int, list[float]] = {}
        for c, member in everything:
            weights.setdefault(c, []).append(weight(c, member))
        return {c: torch.tensor(values, dtype=torch.float64) for c, values in weights.items()}

    def _log_shares(self, table: Tensor) -> Tensor:
        counts = self.class_counts()
        shares = torch.tensor([float(counts[c]) for c in self.known_classes()], device=table.device)
        return (shares / shares.sum()).log()


def apportioned(shares: Tensor, n: int, rng: torch.Generator) -> list[int]:
    """n split by shares (k,): whole parts first, the rest by systematic sampling, so that the mean is exactly n times the share and
    each part within one of it.

    >>> apportioned(torch.tensor([0.5, 0.25, 0.25]), 8, torch.Generator())
    [4, 2, 2]
    """
    exact = shares.double() * n
    counts = (exact + 1e-9).floor()
    rest = n - int(counts.sum())
    if rest > 0:
        edges = (exact - counts).clamp(min=0).cumsum(0)
        points = torch.rand(1, generator=rng, device=rng.device).cpu().double() + torch.arange(rest)
        drawn = torch.searchsorted(edges, points * (edges[-1] / rest), right=True).clamp(max=len(edges) - 1)
        counts.index_add_(0, drawn, torch.ones_like(points))
    return [int(count) for count in counts]
