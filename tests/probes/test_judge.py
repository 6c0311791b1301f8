"""A judge of generated images: what it learns, and how what it sees is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from reverie.checks import DataError
from reverie.generators import AdversarialAutoencoder
from reverie.learners import LGAA, GenerativeReplay
from reverie.probes.judge import Generated, Judge, judged
from reverie.streams import ArrayStream, TensorRows
from tests.test_dreams import stream
from tests.tiny import bits, train


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(stream(), steps=60, batch_size=16, seed=3)


def real(of: ArrayStream) -> tuple[Tensor, Tensor]:
    """Test images and their domains and classes (n, 2)."""
    parts = [(test.head, test.rows.take(torch.arange(len(test.rows)))) for test in of.tests]
    pairs = [torch.stack([torch.full_like(batch.y, head), batch.y], dim=1) for head, batch in parts]
    return torch.cat([batch.x for _, batch in parts]), torch.cat(pairs)


def test_it_knows_real_rows(judge: Judge) -> None:
    x, pairs = real(stream())
    seen, features = judge.see(x)
    assert torch.equal(seen, pairs)
    assert features.shape == (len(x), 256)
    assert judge.accuracy() == [{"domain": 1.0, "class": 1.0, "both": 1.0}] * 2


def test_the_same_seed_gives_the_same_judge(judge: Judge) -> None:
    one, two, other = (Judge(stream(), steps=3, batch_size=16, seed=seed) for seed in (1, 1, 2))
    states = [bits(dict(made.network.module.state_dict())) for made in (one, two, other)]
    assert states[0] == states[1] != states[2]


def test_shares_and_counts_of_what_is_seen(judge: Judge) -> None:
    """All of domain 1 was asked for as class 0 of domain 0; the rest as what it is."""
    x, pairs = real(stream())
    asked = torch.where(pairs[:, :1] == 1, 0, pairs)
    found = judge.judge(Generated(x, asked))
    assert judge.pairs.tolist() == [[domain, c] for domain in (0, 1) for c in (0, 1, 2)]
    assert found.counts.tolist() == [[8, 0, 0, 8, 8, 8], [0, 8, 0, 0, 0, 0], [0, 0, 8, 0, 0, 0], *[[0] * 6] * 3]
    assert found.numbers["as_asked"] == pytest.approx({"domain": 0.5, "class": 32 / 48, "both": 0.5})
    assert found.numbers["as_asked_by_domain"][1] is None
    assert found.numbers["frechet_distance"][1] is None
    same = judge.judge(Generated(x[:24], pairs[:24]))
    assert same.numbers["frechet_distance"][0] == pytest.approx(0, abs=1e-3)
    assert found.numbers["frechet_distance"][0] > 1


def test_noise_of_labels_that_a_learner_gave(judge: Judge) -> None:
    x, pairs = real(stream())
    labels = pairs.clone()
    labels[:6, 1] = (labels[:6, 1] + 1) % 3
    labels[6:12, 0] = 1
    labels[12:24, 1] = -1  # it was not sure
    noise = judge.judge(Generated(x, pairs, labels)).numbers
    assert noise["label_noise"] == pytest.approx({"domain": 6 / 36, "class": 6 / 36, "both": 12 / 36})
    assert noise["without_label"] == 0.25
    none = replace(Generated(x, pairs), labels=torch.full_like(pairs, -1))
    assert judge.judge(none).numbers["label_noise"] == {}


def test_what_is_judged_of_a_learner(judge: Judge) -> None:
    learner = train(LGAA(steps=3, batch_size=8, replay_ratio=0.5), stream()).learner
    before = bits(learner.state())
    found = judged(learner, judge, n=9)
    assert {name: judgement.numbers["images"] for name, judgement in found.items()} == {
        "generated": 18,
        "next": 18,
        "replay": 9,
    }
    assert found["generated"].counts.sum(dim=1).tolist() == [3] * 6
    assert found["replay"].counts[:3].sum() == 9  # of the first domain
    assert bits(learner.state()) == before
    assert {name: bits(j.counts) for name, j in judged(learner, judge, n=9).items()} == {
        name: bits(j.counts) for name, j in found.items()
    }
    assert set(judged(train(LGAA(steps=1, batch_size=8, replay=False), stream()).learner, judge, n=3)) == {
        "generated",
        "next",
    }
    other = GenerativeReplay(generator=AdversarialAutoencoder(phase_steps=1, phase_batch_size=8), steps=1, batch_size=8)
    assert set(judged(train(other.set_params(labels="condition"), stream()).learner, judge, n=3)) == {"generated"}


def test_rows_without_a_label_teach_it_nothing() -> None:
    whole = stream()
    first = whole[0].train.take(torch.arange(len(whole[0].train)))
    assert first.y is not None
    some = replace(
        whole, trains=(TensorRows(first.x, first.y.where(torch.arange(len(first)) < 40, -1)), whole.trains[1])
    )
    kept = replace(whole, trains=(TensorRows(first.x[:40], first.y[:40]), whole.trains[1]))
    one, two = (Judge(each, steps=3, batch_size=16) for each in (some, kept))
    assert bits(dict(one.network.module.state_dict())) == bits(dict(two.network.module.state_dict()))
    none = replace(whole, trains=tuple(TensorRows(first.x, torch.full_like(first.y, -1)) for _ in range(2)))
    with pytest.raises(DataError, match="no training row has a label"):
        Judge(none, steps=3)
