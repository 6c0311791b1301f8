"""Options: a part's constructor signature is the only schema.

A *part* (solver, generator, learner, stream ...) is a dataclass whose fields are its options: numbers, booleans, strings,
tuples, None and other parts, with ranges as annotations. Fields keep what they were given (scikit-learn's rule, so
``get_params``, ``set_params`` and ``sklearn.base.clone`` work); networks and data are made later, in ``build``.

A ``Table`` names the parts of one kind. With it ``to_options`` turns a part into ``{"name": "vae", "latent_dim": 100}`` and
``from_options`` turns that back, reporting every mistake at once. YAML files and the command line are such dictionaries.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import typing
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Literal, TypeVar, cast

import numpy as np
import pydantic

from reverie.checks import OptionsError, Problems, nearest

PartType = TypeVar("PartType", bound="Part")

FROM_PYTHON = ", given from Python>"  # ends what stands in a file for a function
OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")  # pydantic's names


class Part:
    """Base of everything with options; subclasses are dataclasses (``eq=False``)."""

    def __post_init__(self) -> None:
        problems = Problems()
        params = self.get_params(deep=False)
        # Strict: what is kept is what was given, so 10.0 or "10" where an integer belongs would only fail later.
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in params.items()}
        _validate(type(self), given, "", problems, strict=True)
        for name, option in signature(type(self)).items():
            if option.table is not None and isinstance(params[name], str | Mapping | bool | int | float):
                problems.add(
                    f"{name} = {params[name]!r}: expected a {option.table.kind} object; names and dictionaries are "
                    "for from_options, files and the command line"
                )
        if not problems.found:
            self.check(problems)
        problems.raise_as(OptionsError, f"{type(self).__name__} cannot be made")

    def check(self, problems: Problems) -> None:
        """Adds the contradictions between options that single annotations cannot express."""

    def recommended(self, values: Mapping[str, Any], option: str | None = None) -> Mapping[str, Any]:
        """Which of a stream's recommended ``values`` fill this part's options left at None, or (``option``) those of the part it holds there."""
        return values

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Options by name; with ``deep`` also those of nested parts as ``generator__latent_dim``."""
        params = {name: getattr(self, name) for name in signature(type(self))}
        if deep:
            for name, value in list(params.items()):
                if isinstance(value, Part):
                    params.update({f"{name}__{key}": inner for key, inner in value.get_params().items()})
        return params

    def set_params(self: PartType, **params: Any) -> PartType:
        """Sets options by name; nested ones as ``generator__latent_dim``. Only before ``build``."""
        nested: dict[str, dict[str, Any]] = {}
        for key, value in params.items():
            name, _, rest = key.partition("__")
            if name not in signature(type(self)):
                raise OptionsError(
                    f"{type(self).__name__} has no option {name!r}; {nearest(name, signature(type(self)))}"
                )
            if rest:
                nested.setdefault(name, {})[rest] = value
            else:
                setattr(self, name, value)
        for name, inner in nested.items():
            part = getattr(self, name)
            if not isinstance(part, Part):
                raise OptionsError(f"{name} = {part!r}: has no options of its own to set: {', '.join(inner)}")
            part.set_params(**inner)
        self.__post_init__()
        return self

    def clone(self: PartType) -> PartType:
        """An unbuilt part with the same options."""
        params = self.get_params(deep=False)
        return type(self)(
            **{name: value.clone() if isinstance(value, Part) else value for name, value in params.items()}
        )

    def __repr__(self) -> str:
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name, option in signature(type(self)).items()
            if option.required or getattr(self, name) is not option.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True)
class Option:
    """One constructor argument: its annotation, default and one-line description. has_none: whether the word "none" is one of its choices; where it
    is not, options that were read from a file or a command mean None by it."""

    name: str
    annotation: Any
    default: Any
    required: bool
    description: str
    table: Table | None

    @functools.cached_property
    def has_none(self) -> bool:
        return "none" in (_choices(self.annotation) if self.table is None else self.table.names())


class Table(Mapping[str, type]):
    """The parts of one kind by kebab-case name.

    aliases: further names, a part with some options set. usual: the part that is meant where options are given without a
    name and no default says which (``--learner.generator.latent_dim 50``).
    """

    def __init__(
        self,
        kind: str,
        protocol: type,
        parts: Mapping[str, type],
        aliases: Mapping[str, Mapping[str, Any]] | None = None,
        usual: str | None = None,
    ) -> None:
        self.kind = kind
        self.usual = usual
        self.parts = dict(parts)
        self.aliases = {name: dict(options) for name, options in (aliases or {}).items()}
        _TABLES[protocol] = self

    def __getitem__(self, name: str) -> type:
        return self.parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def add(self, name: str, part: type) -> None:
        """Names a user's own part, from then on usable like the built-in ones."""
        self.parts[name] = part

    def name_of(self, part: object) -> str:
        for name, cls in self.parts.items():
            if type(part) is cls:
                return name
        raise OptionsError(
            f"{type(part).__name__} is not in the table of {self.kind}s; add it with Table.add(name, class)"
        )

    def names(self) -> list[str]:
        return [*self.aliases, *self.parts]


_TABLES: dict[type, Table] = {}


def signature(cls: type) -> dict[str, Option]:
    """The options of a part in order."""
    return _signature(cast(Hashable, cls))


@functools.cache
def _signature(cls: Any) -> dict[str, Option]:
    hints = typing.get_type_hints(cls, include_extras=True)
    options = {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        annotation = hints.get(name, Any)
        default = parameter.default
        for field in dataclasses.fields(cls):
            if field.name == name and field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
        options[name] = Option(
            name=name,
            annotation=annotation,
            default=default,
            required=default is inspect.Parameter.empty,
            description=_description(annotation),
            table=_table_of(annotation),
        )
    return options


def to_options(part: Part) -> dict[str, Any]:
    """The part as a plain dictionary, every option written out.

    >>> from reverie.nn.optimisers import Adam
    >>> to_options(Adam(learning_rate=0.01))["learning_rate"]
    0.01
    """
    table = _table_for(part)
    return {"name": table.name_of(part), **{name: _plain(value) for name, value in part.get_params(deep=False).items()}}


def from_options(table: Table, options: Mapping[str, Any] | str) -> Any:
    """The part that a dictionary describes; every mistake in it, however deep, is reported at once.

    Raises OptionsError.
    """
    problems = Problems()
    part = _make(table, {"name": options} if isinstance(options, str) else dict(options), table.kind, problems)
    problems.raise_as(OptionsError, "these options cannot be used")
    return part


def merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``override`` on top, level by level; where a part's name changes, its old options are dropped.

    >>> merged({"generator": {"name": "vae", "latent_dim": 100}}, {"generator": {"name": "oracle"}})
    {'generator': {'name': 'oracle'}}
    """
    result = copy.deepcopy(dict(base))
    for key, value in override.items():
        old = result.get(key)
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"name": old}
        if isinstance(old, Mapping) and isinstance(value, str):
            value = {"name": value}
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            renamed = "name" in value and value["name"] != old.get("name")
            result[key] = dict(value) if renamed else merged(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> list[str]:
    """The options in which two dictionaries differ, as ``name: old -> new``."""
    found = []
    for key in sorted({*a, *b}):
        name = f"{path}{key}"
        if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
            found += differences(a[key], b[key], f"{name}.")
        elif a.get(key) != b.get(key):
            found.append(f"{name}: {a.get(key)} -> {b.get(key)}")
    return found


def resolved(part: PartType, values: Mapping[str, Any]) -> PartType:
    """A copy in which every option left at None, however deep, takes the value of that name in ``values``, if any."""
    params = part.get_params(deep=False)
    mine = part.recommended(values)
    for name, value in params.items():
        if value is None and name in mine:
            value = mine[name]
        if isinstance(value, Part):
            value = resolved(value, part.recommended(values, name))
        params[name] = value
    return type(part)(**params)


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return to_options(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if callable(value):
        return f"<{getattr(value, '__qualname__', type(value).__name__)}{FROM_PYTHON}"
    return value


def _make(table: Table, options: dict[str, Any], path: str, problems: Problems) -> Any:
    name = options.pop("name", None)
    if name in table.aliases:
        alias = table.aliases[name]
        options = {**alias, **options}
        name = options.pop("name")
    if name not in table.parts:
        problems.add(f"{path} = {name!r}: no {table.kind} of this name; {nearest(name, table.names())}")
        return None
    cls = table.parts[name]
    before = len(problems.found)
    values = {}
    for key, value in options.items():
        option = signature(cls).get(key)
        if isinstance(value, str) and value == "none" and option is not None and not option.has_none:
            value = None
        if option is None:
            problems.add(f"{path}.{key}: {table.kind} {name!r} has no such option; {nearest(key, signature(cls))}")
        elif option.table is not None and isinstance(value, list | tuple):
            values[key] = tuple(_nested(option, item, f"{path}.{key}[{i}]", problems) for i, item in enumerate(value))
        elif option.table is not None and value is not None and not isinstance(value, Part):
            values[key] = _nested(option, value, f"{path}.{key}", problems)
        else:
            values[key] = value
    values = _validate(cls, values, path, problems)
    if len(problems.found) > before:
        return None
    try:
        return cls(**values)
    except OptionsError as error:
        problems.add(f"{path}: {error}")
        return None


def _nested(option: Option, value: Any, path: str, problems: Problems) -> Any:
    table = option.table
    assert table is not None
    if isinstance(value, Mapping) and "name" not in value:
        if isinstance(option.default, Part):
            value = merged(to_options(option.default), value)
        elif table.usual is not None:
            value = {"name": table.usual, **value}
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        problems.add(
            f"{path} = {value!r}: expected a {table.kind}: a name, or a dictionary with a name; {nearest('', table.names())}"
        )
        return None
    return _make(table, dict(value), path, problems)


def _validate(
    cls: type, values: Mapping[str, Any], path: str, problems: Problems, strict: bool = False
) -> dict[str, Any]:
    """Checks values against the annotations; returns them converted (text to number, list to tuple)."""
    try:
        model = _model(cls).model_validate(dict(values), strict=strict)
    except pydantic.ValidationError as error:
        for mistake in error.errors():
            where = ".".join(
                str(part) for part in mistake["loc"] if not isinstance(part, str) or part in signature(cls)
            )
            name = f"{path}.{where}" if path else where
            if mistake["type"] == "missing":
                problems.add(f"{name}: this option has no default and must be given")
            else:
                message = mistake["msg"][0].lower() + mistake["msg"][1:]
                option = signature(cls).get(str(mistake["loc"][0]))
                if mistake["type"] in OUT_OF_RANGE and option is not None and not option.required:
                    message += f"; leave {option.name} out for its default, {option.default!r}"
                if isinstance(mistake["input"], str) and mistake["input"].endswith(FROM_PYTHON):
                    message = (
                        "no file can hold it; repeat the run from Python with the same one: reverie.run with out = its folder "
                        "continues it, and reverie.load(folder, solver=...) opens it"
                    )
                text = f"{name} = {mistake['input']!r}: {message}"
                if text not in problems.found:
                    problems.add(text)
        return dict(values)
    return {name: getattr(model, name) for name in values}


@functools.cache
def _model(cls: type) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = {}
    for name, option in signature(cls).items():
        annotation = Any if option.table is not None else option.annotation
        fields[name] = (annotation, ... if option.required else option.default)
    config = pydantic.ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False
    )
    return pydantic.create_model(cls.__name__, __config__=config, **fields)


def _description(annotation: Any) -> str:
    for item in getattr(annotation, "__metadata__", ()):
        if isinstance(item, pydantic.fields.FieldInfo) and item.description:
            return item.description
    return ""


def _choices(annotation: Any) -> set[Any]:
    """The values of every ``Literal`` anywhere in an annotation."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return set(inner)
    return set().union(*map(_choices, inner))


def _table_of(annotation: Any) -> Table | None:
    """The table of the part kind named anywhere in an annotation such as ``Generator | None``."""
    if isinstance(annotation, type) and annotation in _TABLES:
        return _TABLES[annotation]
    for inner in typing.get_args(annotation):
        if (table := _table_of(inner)) is not None:
            return table
    return None


def _table_for(part: Part) -> Table:
    for table in _TABLES.values():
        if type(part) in table.parts.values():
            return table
    raise OptionsError(
        f"{type(part).__name__} is in no table, so it cannot be written to a file; add it with Table.add(name, class)"
    )
