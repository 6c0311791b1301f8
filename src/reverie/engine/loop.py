"""The training loop. It knows streams, phases and steps; which method is trained it does not know."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from reverie.checks import ReverieError, StorageError, TrainingError
from reverie.device import Device
from reverie.engine.evaluation import Evaluate, Evaluation, Evaluator
from reverie.engine.record import LOSS_WINDOW, Record
from reverie.options import differences
from reverie.seeding import Position, Randomness
from reverie.storage import has_tree, read_tree, write_tree
from reverie.streams.augmentation import augmented
from reverie.types import Batch, Learner, Phase, Rows, Stream, Task


@dataclass(frozen=True)
class Settings:
    """How the loop evaluates and saves; nothing here changes what is learnt."""

    evaluate: Evaluate = "seen"
    evaluate_every: int | None = None  # steps between points of the accuracy curve
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None


@dataclass(frozen=True)
class Cursor:
    """What is done. ``phase`` None: the task has not begun. Otherwise it has, the phases before are ended, and ``step`` steps of
    this one are done."""

    task: int = 0
    phase: int | None = None
    step: int = 0


class Observer(Protocol):
    """Sees progress; it gets copies and can change nothing."""

    def phase_started(self, task: int, tasks: int, name: str, phase: str, steps: int, done: int) -> None: ...

    def progress(self, step: int, losses: dict[str, float]) -> None: ...

    def evaluated(self, task: int, measure: str, values: tuple[float | None, ...]) -> None: ...

    def warned(self, message: str) -> None: ...


class Silent:
    def phase_started(self, task: int, tasks: int, name: str, phase: str, steps: int, done: int) -> None: ...

    def progress(self, step: int, losses: dict[str, float]) -> None: ...

    def evaluated(self, task: int, measure: str, values: tuple[float | None, ...]) -> None: ...

    def warned(self, message: str) -> None: ...


class Interrupted(ReverieError):
    """The user asked to stop; the state is saved."""

    exit_code = 130


def batches(
    rows: Rows, phase: Phase, rng: Randomness, task: int, number: int, start: int = 0
) -> Iterator[tuple[int, Batch]]:
    """(step, batch) from step ``start`` on. Each epoch is a shuffle seeded by its position, so any step can be reached directly."""
    n = len(rows)
    per_epoch = phase.steps_per_epoch(n)
    order = None
    for step in range(start, phase.length(n)):
        epoch, place = divmod(step, per_epoch)
        if order is None or place == 0:
            order = torch.randperm(n, generator=rng.at("order", task, number, epoch), device=rng.device)
        yield step, rows.take(order[place * phase.batch_size : (place + 1) * phase.batch_size])


class Loop:
    """Trains ``learner`` on ``stream``. With a folder it saves as it goes and continues from what is there.

    from_files: whether the folder's files say all that is needed to continue, so that ``reverie resume`` can.
    """

    def __init__(
        self,
        learner: Learner,
        stream: Stream,
        rng: Randomness,
        device: Device,
        record: Record,
        settings: Settings,
        observer: Observer | None = None,
        from_files: bool = True,
    ) -> None:
        self.learner, self.stream = learner, stream
        self.rng, self.device = rng, device
        self.record, self.settings = record, settings
        self.observer: Observer = observer or Silent()
        self.tests = tuple(stream.tests)
        spec = stream.spec
        noise_std = spec.noise_std if spec.kind == "regression" else None
        self.evaluator = Evaluator(self.tests, spec.scenario, device, settings.evaluate, noise_std)
        self.cursor = Cursor()
        self.saved_at = time.monotonic()
        self.steps_at_save = 0
        self.stop = False
        self.from_files = from_files

    # ------------------------------------------------------------------ the main path

    def run(self, start: Cursor | None = None) -> dict[str, Any]:
        """Trains to the end and returns the result; ``start``: where a learner begins that knows earlier tasks already.

        Raises Interrupted, TrainingError or StorageError; earlier results stay readable.
        """
        self.cursor = start or self.cursor
        with self._interruptible(), torch.random.fork_rng(devices=[]):
            try:
                if not self.resume():
                    self.record.start_over()
                self._train()
                result = self.record.write_result("complete", self.stream.spec, self.tests)
            except Interrupted:
                self.record.write_result("interrupted", self.stream.spec, self.tests)
                raise
            except ReverieError as error:
                error = _explained(error, self.learner)
                error.exit_code = 1
                if not isinstance(error, StorageError):  # a disk that is full would refuse this too
                    self.record.write_result("failed", self.stream.spec, self.tests, str(error))
                raise error
            except Exception as error:  # a part of the user's own broke: the result says so too
                message = f"{type(error).__name__}: {error}"
                self.record.write_result("failed", self.stream.spec, self.tests, message)
                raise
        if self.stop:  # asked for during the last evaluation: this run is whole, what comes after it is not begun
            raise Interrupted("stopped on request; this run is finished")
        return result

    def _train(self) -> None:
        stream, learner = self.stream, self.learner
        for message in getattr(learner, "warnings", ()):  # what can be said before the first step
            self.record.warn(message)
            self.observer.warned(message)
        if self.cursor == Cursor() and self.settings.evaluate == "all" and self.record.initial is None:
            self.record.add_initial(self._evaluate(-1))
        for number in range(self.cursor.task, len(stream) + 1):
            task = stream[number] if number < len(stream) else None
            if task is not None and self.cursor.phase is None:
                self.rng.position = Position(number)
                learner.begin_task(task)
            phases = learner.phases(task)
            self._check_augmented(phases)
            for index in range(self.cursor.phase or 0, len(phases)):
                start = self.cursor.step if index == self.cursor.phase else 0
                self._train_phase(phases[index], task, number, index, start)
                learner.end_phase(phases[index], task)
            if task is not None:
                learner.end_task(task)
                self._look(task)
            elif phases:  # what was learnt after the last task takes the place of what was seen after it
                self._look(stream[len(stream) - 1], again=True)
            self.cursor = Cursor(number + 1)
            self.save()

    def _check_augmented(self, phases: Sequence[Phase]) -> None:
        """Warns where a task is learnt without the augmentation that its stream asks for."""
        augment = self.stream.spec.augment
        if augment != "none" and phases and not any(phase.augmented for phase in phases):
            names = ", ".join(repr(phase.name) for phase in phases)
            self.record.warn(
                f"augment = {augment!r}: images stay as they are in {names}, where no network is trained on images alone, but latents, "
                "statistics or a generator are made of them"
            )

    def _train_phase(self, phase: Phase, task: Task | None, number: int, index: int, start: int) -> None:
        learner, rng, record = self.learner, self.rng, self.record
        rows = learner.rows(phase, task).to(self.device.torch_device)
        steps, name = phase.length(len(rows)), task.name if task is not None else "after the last task"
        per_epoch = phase.steps_per_epoch(len(rows))
        self.observer.phase_started(number, len(self.stream), name, phase.name, steps, start)
        flops = learner.flops(phase, task)
        began = time.perf_counter()
        stopped = start > 0 and start % per_epoch == 0 and learner.finished(phase)  # saved just before the phase's end
        if stopped:
            record.read_losses(number, name, phase.name, start)
        for step, batch in () if stopped else batches(rows, phase, rng, number, index, start):
            rng.position = Position(number, index, step)
            rng.seed_torch()
            batch = augmented(batch, self.stream.spec, phase, rng)
            record.add_step(learner.step(phase, batch), len(batch), flops)
            done = step + 1
            self.cursor = Cursor(number, index, done)
            if done % LOSS_WINDOW == 0 or done == steps:
                self.observer.progress(done, record.read_losses(number, name, phase.name, done))
            every = self.settings.evaluate_every
            if self._due() or (every is not None and done % every == 0) or self.stop:
                record.train_seconds += time.perf_counter() - began
                if every is not None and done % every == 0 and task is not None:
                    record.add_curve_point(number, phase.name, done, self._evaluate(number))
                if self._due() or self.stop:
                    self._save_and_stop_if_asked()
                began = time.perf_counter()
            if done % per_epoch == 0 and learner.finished(phase):
                record.read_losses(number, name, phase.name, done)
                break
        record.train_seconds += time.perf_counter() - began
        self.save()

    def _look(self, task: Task, again: bool = False) -> None:
        """Evaluation and probes after a task: they read the learner and draw from random streams of their own."""
        if again:
            self.record.drop_row(task.index)
        found = self._evaluate(task.index)
        self.record.add_row(task.index, found, self.learner)
        with torch.no_grad():
            for probe in self.learner.probes():
                finding = probe(self.learner, self.stream, task, self.rng.fork(f"{probe.name} {task.index}"))
                self.record.add_finding(task.index, probe.name, finding)
        self.observer.evaluated(task.index, self.record.measure, found.prescribed)
        self.record.write_result("interrupted", self.stream.spec, self.tests)

    def _evaluate(self, task: int) -> Evaluation:
        return self.evaluator(self.learner, task)

    # ------------------------------------------------------------------ saving and stopping

    def save(self) -> None:
        if self.record.folder is not None:
            state = {"cursor": asdict(self.cursor), "learner": self.learner.state(), "record": self.record.state()}
            write_tree(self.record.folder / "checkpoint", {**state, "made_by": self._made_by()})
        self.saved_at = time.monotonic()
        self.steps_at_save = self.record.steps

    def resume(self) -> bool:
        """Continues from the folder's checkpoint, if there is one; says whether there was."""
        folder = self.record.folder
        if folder is None or not has_tree(folder / "checkpoint"):
            return False
        messages: list[str] = []
        state = read_tree(folder / "checkpoint", messages.append)
        restore(self.learner, state, self._made_by(), folder)
        self.cursor = Cursor(**state["cursor"])
        self.record.load(state["record"], self.device.torch_device)
        self.steps_at_save = self.record.steps
        for message in messages:
            self.record.warn(message)
        return True

    def _made_by(self) -> dict[str, Any]:
        """What a saved state follows from, besides the data."""
        facts = self.record.facts
        return {"learner": facts["options"].get("learner"), "seed": facts["seed"]}

    def _due(self) -> bool:
        every = self.settings.checkpoint_steps
        if every is not None and self.record.steps - self.steps_at_save >= every:
            return True
        return time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds

    def _save_and_stop_if_asked(self) -> None:
        self.save()
        folder = self.record.folder
        if self.stop and folder is None:
            raise Interrupted("stopped on request; nothing was saved, for this run has no folder")
        if self.stop:
            how = f"reverie resume {folder}" if self.from_files else f"the same call from Python with out = {folder}"
            raise Interrupted(f"stopped on request; everything so far is saved, {how} continues")

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C lets the step finish and saves; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = True

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _explained(error: ReverieError, learner: Any) -> ReverieError:
    """With what the learner found out about it, if it did."""
    found = getattr(learner, "trouble", "")
    return TrainingError(f"{error}; {found}") if found and isinstance(error, TrainingError) else error


def checkpoint_state(folder: Path, warn: Any = lambda message: None) -> dict[str, Any]:
    """The learner's saved state and how far it got. Raises StorageError."""
    if not has_tree(folder / "checkpoint"):
        raise StorageError(f"{folder} holds no saved state; it stopped before its first checkpoint")
    state: dict[str, Any] = read_tree(folder / "checkpoint", warn)
    return state


def restore(learner: Learner, state: dict[str, Any], made_by: dict[str, Any], folder: Path) -> None:
    """Loads what ``checkpoint_state`` read. Raises StorageError where it is not the state of such a learner."""
    changes = differences(state.get("made_by", made_by), made_by)
    if changes:
        raise StorageError(
            f"{folder / 'config.yaml'} was changed since the state beside it was saved ({'; '.join(changes[:6])}); "
            "change it back, or train in another folder"
        )
    try:
        learner.load(state["learner"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise StorageError(
            f"the state saved in {folder} is not that of the learner in its config.yaml ({type(error).__name__}: {error}); "
            "give the options it was trained with, or train in another folder"
        ) from error
