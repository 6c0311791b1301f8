"""What all tests share: one thread, so that workers do not fight for cores, and no waiting for the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # for fixtures of whole modules, which are made before those of single tests


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests kill processes, never the machine, so what is written need not have reached the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
