"""Where and how precisely a run computes: device, precision and threads, chosen once and handed to every part."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch

from reverie.checks import OptionsError

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Device:
    """A place to compute.

    ``precision``: "float32", or "bf16" for matrix products in bfloat16 with float32 weights, losses and optimisers.
    """

    torch_device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"

    @classmethod
    def named(cls, name: str = "auto", precision: Precision = "float32") -> Device:
        """``name``: "cpu", "cuda", "cuda:1", or "auto" for an accelerator where there is one."""
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError:
            raise OptionsError(f"device = {name!r}: not a device name; try 'cpu', 'cuda' or 'auto'") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise OptionsError(f"device = {name!r}: no CUDA device is present here; try 'cpu' or 'auto'")
        if device.type not in ("cpu", "cuda"):
            raise OptionsError(f"device = {name!r}: only 'cpu' and 'cuda' are supported")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise OptionsError(f"device = {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s)")
        return cls(device, precision)

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which networks run forward; losses are reduced in float32 outside matrix products."""
        if self.precision == "bf16":
            return torch.autocast(self.torch_device.type, torch.bfloat16)
        return nullcontext()

    def __str__(self) -> str:
        return str(self.torch_device)


CPU = Device()
