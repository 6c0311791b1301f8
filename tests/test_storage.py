"""Trees on disk: what is written is read back, whole or not at all, and a damaged one gives way to the one before it."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverie import storage
from reverie.checks import StorageError
from reverie.storage import check_schema, has_tree, read_json, read_tree, write_json, write_text, write_tree

OLD, NEW = {"step": 1, "w": torch.arange(3)}, {"step": 2, "w": torch.arange(4)}

tensors = st.builds(
    lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4), tensors)
keys = st.text(alphabet="ab.0", max_size=3) | st.sampled_from(["tensor", "dict", "list"])
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=6,
)


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(equal(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_any_tree_comes_back_as_it_was(tmp_path: Path, tree: Any) -> None:
    with mock.patch("os.fsync"):  # the slow part, of no use here
        write_tree(tmp_path / "tree", tree)
    assert equal(read_tree(tmp_path / "tree"), tree)


def test_keys_with_dots_do_not_run_into_nested_ones(tmp_path: Path) -> None:
    tree = {"a.b": torch.ones(1), "a": {"b": torch.zeros(2)}}
    write_tree(tmp_path / "tree", tree)
    assert equal(read_tree(tmp_path / "tree"), tree)


def test_tensors_that_share_memory_and_views_are_saved_by_value(tmp_path: Path) -> None:
    base = torch.arange(6).reshape(2, 3)
    tree = {"whole": base, "transposed": base.t(), "row": base[1], "grad": torch.ones(2, requires_grad=True)}
    write_tree(tmp_path / "tree", tree)
    back = read_tree(tmp_path / "tree")
    assert equal({name: tensor.detach() for name, tensor in tree.items()}, back)
    back["whole"].zero_()
    assert back["row"].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"b": {1, 2}}}, r"cannot save a set at a\.b"),
        ({"a": [object()]}, r"cannot save a object at a\.0"),
        ({1: 2}, r"keys of a saved tree are strings, at the root: \[1\]"),
    ],
)
def test_what_cannot_be_saved_is_named_and_the_earlier_tree_stays(tmp_path: Path, tree: Any, message: str) -> None:
    write_tree(tmp_path / "tree", OLD)
    with pytest.raises(TypeError, match=message):
        write_tree(tmp_path / "tree", tree)
    assert equal(read_tree(tmp_path / "tree", warn=pytest.fail), OLD)


def test_the_newest_is_read_and_the_one_before_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "tree"
    assert not has_tree(folder)
    for step in range(4):
        write_tree(folder, {"step": step})
        assert has_tree(folder)
        assert read_tree(folder, warn=pytest.fail) == {"step": step}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tree", "tree.previous"]
    assert read_tree(folder.with_name("tree.previous")) == {"step": 2}


# ----------------------------------------------------------------------------------------- interrupted


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def on_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, but full at that call (from 1)."""
    calls = iter(range(1, 1000))
    return lambda *args, **kwargs: full() if next(calls) == number else function(*args, **kwargs)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (storage, "save_file", 1),
        (Path, "write_text", 1),
        (Path, "write_text", 2),
        (storage, "_fsync", 1),
        (storage, "_fsync", 3),
        (Path, "mkdir", 1),
        (os, "replace", 1),
        (os, "replace", 2),
    ],
)
def test_a_full_disk_leaves_the_earlier_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int
) -> None:
    folder = tmp_path / "tree"
    write_tree(folder, {"step": 0})
    write_tree(folder, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, on_call(call, getattr(owner, name)))
        with pytest.raises(StorageError, match=r"cannot write .*tree: .*No space left.*before it is unchanged"):
            write_tree(folder, NEW)
    assert equal(read_tree(folder), OLD)
    assert not (tmp_path / "tree.next").exists()
    write_tree(folder, NEW)  # and once there is room again
    assert equal(read_tree(folder, warn=pytest.fail), NEW)


class Killed(BaseException):
    """The process ends here; nothing that would tidy up runs any more."""


@pytest.mark.parametrize("call", range(1, 9))
def test_death_at_any_moment_leaves_a_whole_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    folder = tmp_path / "tree"
    write_tree(folder, OLD)
    count = 0

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                raise Killed
            return function(*args, **kwargs)

        return inner

    with monkeypatch.context() as patch:
        for owner, name in ((storage, "save_file"), (Path, "write_text"), (storage, "_fsync"), (os, "replace")):
            patch.setattr(owner, name, deadly(getattr(owner, name)))
        with pytest.raises(Killed):
            write_tree(folder, NEW)
    assert equal(read_tree(folder), OLD)
    write_tree(folder, NEW)
    assert equal(read_tree(folder, warn=pytest.fail), NEW)


# --------------------------------------------------------------------------------------------- damaged


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def tampered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["tensors.safetensors", "tree.json", "manifest.json"])
@pytest.mark.parametrize("damage", [truncated, tampered, Path.unlink])
def test_a_damaged_tree_gives_way_to_the_one_before_and_says_so(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "tree"
    write_tree(folder, OLD)
    write_tree(folder, NEW)
    damage(folder / file)
    said: list[str] = []
    assert equal(read_tree(folder, said.append), OLD)
    assert len(said) == 1
    assert file in said[0]
    assert said[0].endswith("the state saved before it is used instead")


@pytest.mark.parametrize("manifest", [{}, {"sha256": 3}, {"sha256": {}}, {"sha256": {"tree.json": "0" * 64}}])
def test_a_list_of_checksums_that_lists_nothing_protects_nothing(tmp_path: Path, manifest: dict[str, Any]) -> None:
    folder = tmp_path / "tree"
    write_tree(folder, OLD)
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, **manifest}))
    with pytest.raises(StorageError, match=r"manifest\.json|damaged"):
        read_tree(folder)


def test_if_both_are_damaged_the_newest_one_s_fault_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    write_tree(folder, OLD)
    write_tree(folder, NEW)
    tampered(folder / "tree.json")
    tampered(folder.with_name("tree.previous") / "tensors.safetensors")
    with pytest.raises(StorageError, match=r"tree/tree\.json is damaged: its checksum"):
        read_tree(folder)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"the list of checksums not found: .*manifest\.json"):
        read_tree(tmp_path / "tree")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    write_tree(folder, OLD)
    (folder / "manifest.json").write_text(json.dumps({"schema": 2, "sha256": {}}))
    with pytest.raises(StorageError, match=r"has schema 2, this version of Reverie reads up to 1: .*; update Reverie"):
        read_tree(folder)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("exploded",))


def test_a_pickle_in_place_of_the_tensors_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with a checksum that fits, what is read is safetensors or nothing."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "tree"
    write_tree(folder, OLD)
    (folder / "tensors.safetensors").write_bytes(pickle.dumps(Bomb()))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["tensors.safetensors"] = storage.sha256(folder / "tensors.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match=r"tensors\.safetensors"):
        read_tree(folder)
    assert not (tmp_path / "exploded").exists()


# ----------------------------------------------------------------------------------------- text and JSON


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"schema": 1, "accuracy": [[0.5, None]], "name": "größer"}
    write_json(tmp_path / "result.json", value)
    assert read_json(tmp_path / "result.json", "the result") == value
    assert os.listdir(tmp_path) == ["result.json"]


def test_not_a_number_never_reaches_a_json_file(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"schema": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "result.json", {"schema": 1, "loss": math.nan})
    assert read_json(tmp_path / "result.json", "the result") == {"schema": 1}


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_full_disk_leaves_the_earlier_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_text(tmp_path / "a.txt", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        with pytest.raises(StorageError, match=r"cannot write .*a\.txt: No space left .*what was there before"):
            write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": 1', "the result is not readable"),
        (b"\xff\xfe", "the result is not readable"),
        (b"[1]", "the result is not a JSON object"),
        (b'{"a": 1}', "the result has no schema number"),
        (b'{"schema": true}', "the result has no schema number"),
        (b'{"schema": "1"}', "the result has no schema number"),
        (b'{"schema": 99}', "the result has schema 99, this version of Reverie reads up to 1"),
    ],
)
def test_json_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(StorageError, match=message):
        read_json(tmp_path / "result.json", "the result")


def test_json_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"the result not found: .*result\.json"):
        read_json(tmp_path / "result.json", "the result")


def test_schemas_up_to_ours_are_read(tmp_path: Path) -> None:
    check_schema(storage.SCHEMA, "the result", tmp_path)
    with pytest.raises(StorageError, match="update Reverie"):
        check_schema(storage.SCHEMA + 1, "the result", tmp_path)
