"""What the probe leaves after each task: samples and reconstructions of the same images, as pictures and as arrays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from reverie import dreams
from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.learners import LGAA
from reverie.probes.dreams import Dreams, _lost, fixed_rows
from tests.test_dreams import stream
from tests.tiny import Trained, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    folder = tmp_path_factory.mktemp("dreams")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LGAA, "probes", lambda self: (Dreams(),))
        return train(LGAA(steps=4, batch_size=8), stream(), folder=folder), folder


def test_reconstructions_of_every_domain_seen(trained: tuple[Trained, Path]) -> None:
    first, last = (load_file(trained[1] / "arrays" / f"task-{k}-dreams.safetensors") for k in (1, 2))
    model = trained[0].learner.model
    assert set(first) == {"real_0", "reconstructed_0", "classes_0"}
    assert set(last) == {f"{name}_{k}" for name in ("real", "reconstructed", "classes") for k in (0, 1)}
    assert torch.equal(first["real_0"], last["real_0"])
    assert not torch.equal(first["reconstructed_0"], last["reconstructed_0"])
    for k, test in enumerate(stream().tests):
        real, classes = fixed_rows(test)
        assert torch.equal(last[f"real_{k}"], real)
        assert torch.equal(last[f"classes_{k}"], classes)
        assert torch.equal(last[f"reconstructed_{k}"], model.reconstruct(real))


def test_pictures(trained: tuple[Trained, Path]) -> None:
    sizes = {}
    for file in (trained[1] / "samples").iterdir():
        with Image.open(file) as picture:
            sizes[file.name] = ((picture.width + 1) // 9, (picture.height + 1) // 9)
    assert sizes == {
        "task-1-generated-samples.png": (10, 3),
        "task-1-reconstructions.png": (10, 2),
        "task-2-generated-samples.png": (10, 6),
        "task-2-reconstructions.png": (10, 4),
    }


def test_numbers(trained: tuple[Trained, Path]) -> None:
    found = [line["numbers"] for line in trained[0].lines if line["kind"] == "finding" and line["probe"] == "dreams"]
    x = torch.cat([test.rows.take(torch.arange(24)).x for test in stream().tests])
    assert found[-1]["active_units"] == dreams.health(trained[0].learner.model, x).active_units
    assert set(found[0]) == {"active_units", "critic_gap"}


def test_a_critic_that_has_lost_is_told() -> None:
    task = stream()[1]
    (warning,) = _lost(task, -0.25, steps=200)
    assert warning.startswith("task 'task 2': the critic of the autoencoder scores samples above real images (by 0.25)")
    assert _lost(task, -0.25, steps=199) == _lost(task, 0.0, steps=500) == ()


def test_it_changes_nothing(trained: tuple[Trained, Path]) -> None:
    alone = train(LGAA(steps=4, batch_size=8), stream())
    mine, other = (t.learner.model.networks["generator"].state_dict() for t in (trained[0], alone))
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_joint_training_has_all_domains_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(LGAA, "probes", lambda self: (Dreams(),))
    train(LGAA(AdversarialAutoencoder(), steps=2, batch_size=8, joint=True), stream(), folder=tmp_path)
    arrays = load_file(tmp_path / "arrays" / "task-1-dreams.safetensors")
    assert {"real_0", "real_1"} <= set(arrays)
