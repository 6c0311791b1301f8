"""Randomness by position: a draw depends on where training stands, and on nothing that was drawn before."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.seeding import Position, Randomness, derived_seed, generator


def draw(rng: torch.Generator) -> list[float]:
    return torch.rand(3, generator=rng).tolist()


def test_the_seed_of_a_key_is_fixed_for_all_time() -> None:
    """A saved run is resumed by a later version: these numbers must never change."""
    assert derived_seed(0, "noise", 1, 2, 3) == 3014177370745936676
    assert draw(generator(7, "x")) == draw(torch.Generator().manual_seed(derived_seed(7, "x")))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.integers(), st.text(alphabet="abc", max_size=3)), min_size=1, max_size=4))
def test_a_seed_fits_and_depends_on_every_element(key: list[object]) -> None:
    seed = derived_seed(*key)
    assert 0 <= seed < 2**63
    for place in range(len(key)):
        changed = [*key[:place], f"{key[place]}!", *key[place + 1 :]]
        assert derived_seed(*changed) != seed
    assert derived_seed(*key, 0) != seed


def test_order_of_calls_does_not_matter() -> None:
    one, other = Randomness(3), Randomness(3)
    a, b = draw(one("a")), draw(one("b"))
    assert draw(other("b")) == b
    torch.rand(1000, generator=other("b"))  # a part that draws more moves no other
    assert draw(other("a")) == a
    assert draw(other("a")) == a
    assert a != b


def test_every_coordinate_of_the_position_matters() -> None:
    rng = Randomness(3)
    seen = []
    for position in (Position(), Position(task=1), Position(phase=1), Position(step=1), Position(1, 1, 1)):
        rng.position = position
        seen.append(tuple(draw(rng("noise"))))
    assert len(set(seen)) == len(seen)
    rng.position = Position(task=1)
    assert tuple(draw(rng("noise"))) == seen[1]


def test_a_named_place_does_not_depend_on_the_position() -> None:
    rng = Randomness(3)
    first = draw(rng.at("chunk", 1, 2))
    rng.position = Position(4, 5, 6)
    assert draw(rng.at("chunk", 1, 2)) == first
    assert draw(rng.at("chunk", 2, 1)) != first
    assert draw(rng.at("other", 1, 2)) != first


def test_forks_and_seeds_are_independent() -> None:
    rng = Randomness(3)
    fork = rng.fork("evaluation")
    assert draw(fork("noise")) != draw(rng("noise"))
    assert draw(fork("noise")) == draw(Randomness(3).fork("evaluation")("noise"))
    assert draw(fork("noise")) != draw(rng.fork("probes")("noise"))
    assert draw(Randomness(4)("noise")) != draw(rng("noise"))
    fork.position = Position(9, 9, 9)
    assert rng.position == Position()


def test_torch_s_global_generator_is_seeded_by_position_and_put_back() -> None:
    rng = Randomness(3)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    drawn = []
    for step in (0, 1, 0):
        rng.position = Position(step=step)
        with rng.global_torch("dropout"):
            drawn.append(torch.rand(2).tolist())
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] == drawn[2] != drawn[1]


def test_draws_of_neighbouring_positions_look_independent() -> None:
    """Means and correlations of 400 streams, each read once, within five standard errors."""
    rng = Randomness(0)
    rows = []
    for step in range(400):
        rng.position = Position(step=step)
        rows.append(torch.randn(8, generator=rng("noise")))
    table = torch.stack(rows)
    assert table.mean(0).abs().max() < 5 / 20
    assert (table[:-1] * table[1:]).mean(0).abs().max() < 5 / 20
