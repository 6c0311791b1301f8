"""Imports go one way (DESIGN section 3), none hides inside a function, and nothing can unpickle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import reverie

PACKAGE = Path(reverie.__file__).parent

# From the bottom up: a layer imports only from those before it. A learner names its probes, so these come first.
LAYERS = (
    *("checks", "seeding", "device", "storage", "options", "types"),
    *("nn", "streams", "metrics", "posteriors", "solvers", "generators", "replay", "penalties"),
    *("dreams", "probes", "learners", "engine", "experiments", "reports", "cli"),
)

FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of every module of ours that is imported; ``from reverie import x`` counts as reverie.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            module = node.module or ""
            if module == "reverie":
                yield from ((node.lineno, f"reverie.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_file_has_a_layer() -> None:
    assert len(FILES) > 40
    assert {layer_of(path) for path in FILES} - {"__init__", "__main__"} <= set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = layer_of(path)
    if here == "__main__":
        return
    allowed = set() if here == "__init__" else {*LAYERS[: LAYERS.index(here) + 1], "__version__"}
    wrong = [
        f"line {line}: {name}"
        for line, name in imports(parse(path))
        if name.split(".")[0] == "reverie" and name.split(".")[1] not in allowed
    ]
    assert wrong == []


def test_the_engine_knows_no_learner() -> None:
    for path in (PACKAGE / "engine").glob("*.py"):
        named = {name.split(".")[1] for _, name in imports(parse(path)) if name.startswith("reverie.")}
        assert named.isdisjoint({"learners", "posteriors", "solvers", "generators", "replay", "penalties", "probes"}), (
            path
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_inside_a_function(path: Path) -> None:
    functions = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    hidden = [
        inner.lineno for node in functions for inner in ast.walk(node) if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_loads_pickle(path: Path) -> None:
    """CIFAR's files alone are pickles; streams/formats.py reads them with an Unpickler that resolves no harmful name."""
    tree = parse(path)
    may = path == PACKAGE / "streams" / "formats.py"
    modules = {name.split(".")[0] for _, name in imports(tree)}
    assert modules.isdisjoint({"dill", "cloudpickle", "joblib", "shelve", "marshal"})
    assert may or "pickle" not in modules
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {
                ("torch", "load"),
                ("torch", "save"),
                ("pickle", "load"),
                ("pickle", "loads"),
            }, f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False, f"line {node.value.lineno}"
