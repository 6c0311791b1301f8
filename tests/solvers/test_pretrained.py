"""Weights from elsewhere: what fits is taken, what does not is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reverie.checks import OptionsError, StorageError
from reverie.device import CPU
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.solvers.pretrained import read_pretrained, write_pretrained
from tests.tiny import tiny_stream

SPEC = tiny_stream().spec


def built(hidden: tuple[int, ...] = (7,), seed: int = 0) -> MLP:
    solver = MLP(hidden=hidden)
    solver.build(SPEC, Randomness(seed), CPU)
    return solver


def written(path: Path, **about: object) -> Path:
    write_pretrained(path, built(seed=1).module.state_dict(), {"solver": {"name": "mlp"}, **about})
    return path


def test_all_but_the_output_layer_is_taken(tmp_path: Path) -> None:
    solver = built()
    head = solver.module.head.weight.clone()
    pretrained = read_pretrained(written(tmp_path / "w.safetensors"))
    pretrained.load_into(solver)
    given = built(seed=1).module.state_dict()
    for name, value in solver.module.state_dict().items():
        assert torch.equal(value, given[name]) or name.startswith("head.")
    assert torch.equal(solver.module.head.weight, head)


def test_weights_that_do_not_fit_are_named_and_nothing_is_changed(tmp_path: Path) -> None:
    solver = built(hidden=(7, 5))
    before = {name: value.clone() for name, value in solver.module.state_dict().items()}
    pretrained = read_pretrained(written(tmp_path / "w.safetensors"))
    with pytest.raises(OptionsError, match=r"do not fit.*encoder\.1\.2\.weight is missing.*trained as.*mlp"):
        pretrained.load_into(solver)
    with pytest.raises(OptionsError, match=r"encoder\.1\.0\.weight has shape \(7, 6\), the backbone needs \(9, 6\)"):
        pretrained.load_into(built(hidden=(9,)))
    assert all(torch.equal(value, before[name]) for name, value in solver.module.state_dict().items())


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no such file; reverie pretrain"):
        read_pretrained(tmp_path / "absent.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"not at all")
    with pytest.raises(StorageError, match="not a readable safetensors file"):
        read_pretrained(tmp_path / "torn.safetensors")
    write_pretrained(tmp_path / "new.safetensors", {}, {"solver": {}})
    text = (tmp_path / "new.safetensors").read_bytes().replace(b'schema\\": 1', b'schema\\": 9')
    (tmp_path / "new.safetensors").write_bytes(text)
    with pytest.raises(StorageError, match="schema 9"):
        read_pretrained(tmp_path / "new.safetensors")
    with pytest.raises(StorageError, match="cannot write"):
        write_pretrained(Path("/proc/none/w.safetensors"), {}, {})


def test_weights_of_another_program(tmp_path: Path) -> None:
    save_file(built(seed=1).module.state_dict(), tmp_path / "w.safetensors")
    pretrained = read_pretrained(tmp_path / "w.safetensors")
    pretrained.load_into(built())
    assert "w.safetensors': the file does not say on which classes they were trained" in (
        pretrained.overlap(SPEC, {}) or ""
    )


def test_overlap_of_data_and_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    same = read_pretrained(written(path, stream="split-mnist", classes=["0", "1"], data={"mnist": "abc"}))
    assert "the very data" in (same.overlap(SPEC, {"digits": "abc"}) or "")
    assert same.overlap(SPEC, {"zoo": "xyz"}) is None  # digits 0 and 1 are numbers, not names
    named = read_pretrained(written(path, stream="zoo", classes=["cat", "dog"], data={"zoo": "1"}))
    spec = tiny_stream().spec
    cats = type(spec)(**{**vars(spec), "classes": ("cat", "bird")})
    assert "shares classes with this stream (cat)" in (named.overlap(cats, {"other": "2"}) or "")


@pytest.mark.parametrize(
    ("trained", "shown", "shared"),
    [
        ("mnist", "digits", True),
        ("mnist", "usps", True),
        ("mnist", "svhn", True),
        ("mnist", "mnist", True),
        ("kmnist", "kmnist-7000", True),
        ("mnist", "kmnist", False),
        ("fashion-mnist", "mnist", False),
        ("task 1", "task 1", False),
    ],
)
def test_numbers_for_names_are_the_same_classes_within_a_family(
    tmp_path: Path, trained: str, shown: str, shared: bool
) -> None:
    path = written(tmp_path / "w.safetensors", stream="split", classes=["0", "1"], data={trained: "abc"})
    spec = replace(SPEC, classes=("1", "2"))
    message = read_pretrained(path).overlap(spec, {shown: "xyz"})
    assert (message is not None) == shared
    assert not shared or "shares classes with this stream (1): accuracies are flattered" in message
    assert read_pretrained(path).overlap(replace(SPEC, classes=("2", "3")), {shown: "xyz"}) is None
