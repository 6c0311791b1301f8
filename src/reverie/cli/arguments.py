"""From the words of the command line to dictionaries of options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
import yaml

from reverie.checks import OptionsError

PARTS = ("stream", "learner")


def make_app(function: Any) -> typer.Typer:
    """A Typer application of one command whose errors are ours to print."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(function)
    return app


def several(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """``--seeds 0 1 2`` as ``--seeds 0 --seeds 1 --seeds 2``, for the named options.

    >>> several(["--seeds", "0", "1", "--json"], ["--seeds"])
    ['--seeds', '0', '--seeds', '1', '--json']
    """
    result: list[str] = []
    current = None
    for word in words:
        if word.startswith("-") and not _is_number(word):
            current = word if word in options else None
            result.append(word)
        elif current is not None and result[-1] != current:
            result += [current, word]
        else:
            result.append(word)
    return result


def take_dotted(words: Sequence[str], parts: Sequence[str] = PARTS) -> tuple[list[str], dict[str, Any]]:
    """Separates part options such as ``--learner.generator.latent_dim 100`` from the rest.

    >>> take_dotted(["--learner.generator", "vae", "--learner.generator.latent_dim=50", "--seed", "1"])
    (['--seed', '1'], {'learner': {'generator': {'name': 'vae', 'latent_dim': 50}}})
    """
    rest: list[str] = []
    tree: dict[str, Any] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        name, equals, text = word.partition("=")
        if not (name.startswith("--") and "." in name and name[2:].split(".")[0] in parts):
            rest.append(word)
            continue
        if not equals:
            if not words:
                raise OptionsError(f"{name}: needs a value after it")
            text = words.pop(0)
        _put(tree, name[2:].split("."), value_of(text), name)
    return rest, tree


def value_of(text: str) -> Any:
    """A number, boolean, None or text; a list where there are commas (``400,400``) or brackets. "none" stays a word: it is a
    choice of some options, and elsewhere read as None."""
    if "," in text and not text.startswith(("[", "{")):
        return [value_of(item) for item in text.split(",") if item]
    if text == "None":
        return None
    try:
        return float(text) if _is_number(text) and not text.lstrip("+-").isdigit() else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _put(tree: dict[str, Any], path: list[str], value: Any, name: str) -> None:
    for key in path[:-1]:
        inner = tree.setdefault(key, {})
        if not isinstance(inner, dict):  # --learner.generator vae came before --learner.generator.latent_dim
            inner = tree[key] = {"name": inner}
        tree = inner
    old = tree.get(path[-1])
    if isinstance(old, dict):
        old["name"] = value
    elif path[-1] in tree:
        raise OptionsError(f"{name}: given twice")
    else:
        tree[path[-1]] = value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
