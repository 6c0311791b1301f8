"""A run as a plain dictionary: what ``config.yaml`` holds and the command line builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import pydantic
import yaml
from pydantic import Field

from reverie.checks import OptionsError, Problems, StorageError, nearest
from reverie.device import Device
from reverie.engine import Settings
from reverie.learners import LEARNERS
from reverie.options import differences, from_options, merged, to_options
from reverie.storage import SCHEMA, check_schema, write_text
from reverie.streams import STREAMS
from reverie.types import Scenario

Options = dict[str, Any]


@dataclass(frozen=True)
class RunConfig:
    """One learner on one stream with one seed. ``stream`` and ``learner`` are options of a part, or the name of one."""

    stream: Annotated[Options, Field(description="the stream and its options")] = field(
        default_factory=lambda: {"name": "split"}
    )
    learner: Annotated[Options, Field(description="the learner and its options")] = field(
        default_factory=lambda: {"name": "generative-replay"}
    )
    scenario: Annotated[
        Scenario | None, Field(description="task, domain or class; default: the stream's usual one")
    ] = None
    seed: Annotated[int, Field(ge=0, description="everything random follows from it")] = 0
    device: Annotated[str, Field(description="cpu, cuda, or auto")] = "cpu"
    precision: Annotated[Literal["float32", "bf16"], Field(description="of matrix products")] = "float32"
    threads: Annotated[int | None, Field(gt=0, description="CPU threads; default: PyTorch's")] = None
    evaluate: Annotated[
        Literal["seen", "all"], Field(description="test sets after each task: those taught so far, or all")
    ] = "seen"
    evaluate_every: Annotated[int | None, Field(gt=0, description="also evaluate every so many steps")] = None
    checkpoint_seconds: Annotated[float, Field(gt=0, description="seconds between saved states")] = 60.0
    checkpoint_steps: Annotated[int | None, Field(gt=0, description="steps between saved states")] = None
    data_dir: Annotated[
        str | None, Field(description="folder of data sets; default: REVERIE_DATA, then the user's cache")
    ] = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Checks everything, the parts' options too, and reports all mistakes at once. Raises OptionsError."""
        problems = Problems()
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in values.items() if key != "schema"}
        for key in values:
            if key not in known:
                problems.add(f"{key}: no such option; {nearest(key, known)}")
        given: Options = {
            "stream": "split",
            "learner": "generative-replay",
        }  # so that their options are written out too
        given |= {key: value for key, value in values.items() if key in known}
        for name, table in (("stream", STREAMS), ("learner", LEARNERS)):
            if name in given and isinstance(given[name], str):
                given[name] = {"name": given[name]}
            if name in given and not isinstance(given[name], Mapping):
                problems.add(f"{name} = {given.pop(name)!r}: expected a name, or a dictionary with a name")
            if name in given and not (isinstance(given[name], Mapping) and given[name].get("given")):
                try:
                    part = from_options(table, given[name])
                    given[name] = to_options(part)
                except OptionsError as error:
                    problems.found.extend(mistakes(error))
        try:
            checked = _model()(**given)
        except pydantic.ValidationError as error:
            for mistake in error.errors():
                where = ".".join(map(str, mistake["loc"][:1]))
                problems.add(f"{where} = {mistake['input']!r}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}")
        else:
            try:
                Device.named(checked.device or "cpu")  # type: ignore[attr-defined]
            except OptionsError as error:
                problems.add(str(error))
        problems.raise_as(OptionsError, "these options cannot be used")
        return cls(**{key: getattr(checked, key) for key in given})

    def to_dict(self) -> Options:
        return {"schema": SCHEMA, **{f.name: _yaml_ready(getattr(self, f.name)) for f in fields(self)}}

    def settings(self) -> Settings:
        return Settings(self.evaluate, self.evaluate_every, self.checkpoint_seconds, self.checkpoint_steps)

    def write(self, path: Path) -> None:
        write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Raises StorageError when the file is not readable or of a newer schema, OptionsError when its options are wrong."""
        return cls.from_dict(read_yaml(path))


def read_yaml(path: Path) -> Options:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"config not found: {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StorageError(f"config is not readable: {path} ({error})") from error
    if not isinstance(values, dict):
        raise StorageError(f"config is not a dictionary of options: {path}")
    if "schema" in values:
        check_schema(values["schema"], "config", path)
    return values


def same_run(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two configs describe the same run; where and how often things are saved does not count."""
    ignored = ("schema", "data_dir", "checkpoint_seconds", "checkpoint_steps")
    return {k: v for k, v in a.items() if k not in ignored} == {k: v for k, v in b.items() if k not in ignored}


def _model() -> type[pydantic.BaseModel]:
    hints = get_type_hints(RunConfig, include_extras=True)
    defined: dict[str, Any] = {f.name: (hints[f.name], None) for f in fields(RunConfig)}
    return pydantic.create_model("RunConfig", __config__=pydantic.ConfigDict(allow_inf_nan=False), **defined)


def _yaml_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _yaml_ready(inner) for key, inner in value.items()}
    return [_yaml_ready(inner) for inner in value] if isinstance(value, list | tuple) else value


def mistakes(error: OptionsError) -> list[str]:
    """The single mistakes that an error reports."""
    head, *rest = str(error).splitlines()
    return [line.removeprefix("  - ") for line in rest] or [head.split(": ", 1)[1]]


__all__ = ["RunConfig", "differences", "merged", "mistakes", "read_yaml", "same_run"]
