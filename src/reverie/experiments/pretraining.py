"""A backbone trained on another data set, saved with what it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reverie.checks import OptionsError
from reverie.engine import Observer
from reverie.experiments.runs import run
from reverie.learners import Joint
from reverie.options import Part, from_options, to_options
from reverie.solvers import SOLVERS
from reverie.solvers.pretrained import write_pretrained
from reverie.streams import STREAMS
from reverie.streams.datasets import available


def pretrain(
    stream: Any,
    backbone: Part | None,
    out: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Trains ``backbone`` (None: what the stream recommends) on all of a stream at once, writes its weights to ``out`` and says what they are.

    stream: a stream, its name or options, or the name of a data set. The file is what ``FrozenBackbone(weights=...)`` reads.
    Raises OptionsError, DataError before training; TrainingError, StorageError later.
    """
    path = Path(out)
    if path.suffix != ".safetensors":
        raise OptionsError(f"out = {str(out)!r}: weights are a .safetensors file; give it that ending")
    if isinstance(stream, str) and stream not in STREAMS.names() and stream in available(settings.get("data_dir")):
        stream = {"name": "split", "dataset": stream, "tasks": 1}
    source = from_options(STREAMS, stream) if not hasattr(stream, "build") and not hasattr(stream, "spec") else stream
    if hasattr(source, "build"):
        source = source.build("class", seed, settings.get("data_dir"))
    recommended = source.spec.recommended.backbone or {"name": "mlp"}
    chosen: Any = backbone if backbone is not None else from_options(SOLVERS, recommended)
    learner = Joint(solver=chosen, steps=steps, epochs=epochs, batch_size=batch_size)
    done = run(source, learner, seed=seed, observer=observer, **settings)
    network = done.learner.network
    about = {
        "solver": to_options(network),
        "stream": done.spec.name,
        "classes": list(done.spec.classes),
        "data": dict(source.checksums),
        "seed": seed,
        "steps": done.result["cost"]["steps"],
        "accuracy": done.summary["average_accuracy"],
    }
    write_pretrained(path, network.module.state_dict(), about)
    return about
