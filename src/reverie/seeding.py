"""Randomness by position: every random draw is a pure function of the seed and of where training stands.

Nothing is advanced from one step to the next, so there is no random state to store: a resumed run draws what the
unbroken run draws, and evaluation, probes and checkpoints cannot move training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


def derived_seed(*key: object) -> int:
    """A 63-bit seed that depends on every element of ``key`` and on nothing else (BLAKE2b of its text)."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` for ``key``; two calls with the same key give the same numbers."""
    return torch.Generator(device=device).manual_seed(derived_seed(*key))


@dataclass(frozen=True)
class Position:
    """Where training stands: task and phase by index, step within the phase."""

    task: int = 0
    phase: int = 0
    step: int = 0


class Randomness:
    """The random streams of one run. ``rng("noise")`` is a fresh generator for that purpose at the present position.

    The engine alone moves ``position``; parts only ask. Purposes are independent of one another: a part that draws
    more numbers moves no other part.

    >>> rng = Randomness(seed=3)
    >>> bool((torch.randn(4, generator=rng("noise")) == torch.randn(4, generator=rng("noise"))).all())
    True
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)
        self.position = Position()

    def __call__(self, purpose: str) -> torch.Generator:
        """For what changes at every step: noise, dropout, a draw from a buffer."""
        here = self.position
        return generator(self.seed, purpose, here.task, here.phase, here.step, device=self.device)

    def at(self, purpose: str, *where: int) -> torch.Generator:
        """For a place named by the caller, whatever the position: the first step of a chunk, an epoch, a class."""
        return generator(self.seed, purpose, "at", *where, device=self.device)

    def seed_torch(self) -> None:
        """Seeds torch's own global generator by position, for what draws from it: dropout in a user's module."""
        here = self.position
        seed = derived_seed(self.seed, "torch", here.task, here.phase, here.step)
        # Not torch.manual_seed: without an accelerator that keeps a note for a later one at every call.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def fork(self, purpose: str) -> Randomness:
        """An independent set of streams, for evaluation and probes."""
        return Randomness(derived_seed(self.seed, "fork", purpose), self.device)

    @contextmanager
    def global_torch(self, purpose: str) -> Iterator[None]:
        """Seeds torch's own global generator by position inside the block (dropout in a user's module), then puts it back."""
        devices = [self.device] if self.device.type == "cuda" else []
        here = self.position
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derived_seed(self.seed, purpose, here.task, here.phase, here.step))
            yield
