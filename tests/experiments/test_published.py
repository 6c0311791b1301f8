"""The tables that are published, as data: options that are valid, conditions that can be decided."""

from __future__ import annotations

import math

import pytest

from reverie.experiments.conditions import VALUES
from reverie.experiments.config import RunConfig, merged
from reverie.experiments.presets import PRESETS
from reverie.experiments.published import GROUPS, TABLES
from reverie.experiments.tables import SCENARIOS


@pytest.mark.parametrize("name", TABLES)
def test_every_entry_is_a_preset_with_valid_options(name: str) -> None:
    table = TABLES[name]
    assert len(set(table.seeds)) == len(table.seeds) > 0
    for key, entry in table.entries.items():
        assert table.seeds_of(key)
        for scenario in entry.scenarios:
            values = merged(PRESETS[entry.preset].options, {**entry.override, "scenario": scenario})
            assert RunConfig.from_dict(values).scenario == scenario
        assert set(entry.published) <= {*SCENARIOS, *VALUES}
    assert set(table.layout.columns) <= set(VALUES)
    variants = {entry.variant for entry in table.entries.values()}
    assert table.is_ablation == ("" not in variants)
    assert {*table.reference, *table.reference.values()} <= variants


@pytest.mark.parametrize("name", TABLES)
def test_every_condition_can_be_decided(name: str) -> None:
    table = TABLES[name]
    assert len(set(table.conditions)) == len(table.conditions)
    for condition in table.conditions:
        entry, beside = table.entries[condition.entry], table.entries[condition.beside or condition.entry]
        scenario = condition.scenario or entry.scenarios[0]
        assert condition.scenario or len(entry.scenarios) == 1
        assert scenario in entry.scenarios
        assert scenario in beside.scenarios
        assert {condition.value, condition.other or condition.value} <= set(VALUES)
        assert condition.low > -math.inf or condition.high < math.inf
        assert not (condition.minus and condition.over)
        assert condition.beside or not condition.other
        assert not (condition.errors and condition.median)
        seeds = set(table.seeds_of(condition.entry)) & set(table.seeds_of(condition.beside or condition.entry))
        assert len(seeds) > (1 if condition.errors else 0)
        if condition.value == "gap":
            assert entry.variant in table.reference


def test_a_group_is_some_tables_under_a_name_of_its_own() -> None:
    for name, members in GROUPS.items():
        assert name not in TABLES
        assert set(members) <= set(TABLES)


def test_what_is_slow_takes_fewer_seeds() -> None:
    often = ("pr-bbb", "pr-bbb-wide", "pr-bbb-anew", "vcl", "fine-tuning", "pr-avb", "pr-ssge")
    curves = TABLES["pmr-curves"]
    assert {key: len(curves.seeds_of(key)) for key in curves.entries} == {
        key: 10 if key in often else 1 for key in curves.entries
    }
    modes = TABLES["pmr-modes"]
    assert {key: len(modes.seeds_of(key)) for key in ("pr-bbb", "pr-avb", "pr-ssge")} == {
        "pr-bbb": 10,
        "pr-avb": 5,
        "pr-ssge": 5,
    }


def test_a_model_a_task_may_stay_a_little_below_what_was_published_and_one_for_all_near_it() -> None:
    bounds = {(c.entry, c.value): (c.low, c.high) for c in TABLES["pmr-split-mnist"].conditions}
    assert bounds["pr-dirac", "given"] == pytest.approx((98.72, math.inf))
    assert bounds["pr-dirac", "entropy"] == pytest.approx((59.41, math.inf))
    assert bounds["vcl", "entropy"] == pytest.approx((46.45, 56.45))
    assert bounds["ewc-growing", "one head"] == pytest.approx((23.15, 33.15))
    assert bounds["ewc-multi", "given"] == pytest.approx((92.79, 100))
