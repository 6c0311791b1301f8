"""Options: signatures as schemas, dictionaries there and back, and every mistake at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import numpy as np
import pytest
import sklearn.base
import yaml
from pydantic import Field

from reverie.checks import OptionsError, Problems
from reverie.generators import DENSITIES, GENERATORS, VAE, Oracle
from reverie.learners import LEARNERS, GenerativeReplay, LearningWithoutForgetting, Naive, Replay, with_recommended
from reverie.nn.optimisers import OPTIMISERS, SGD, Adam
from reverie.options import Part, Table, from_options, merged, resolved, signature, to_options
from reverie.replay import BUFFERS, Buffer
from reverie.solvers import CNN, MLP, SOLVERS, Module
from reverie.streams import STREAMS, Blobs, Folder, Permuted, Rotated, Split

TABLES = [STREAMS, SOLVERS, GENERATORS, OPTIMISERS, LEARNERS, BUFFERS]
REQUIRED = {"folder": {"path": "data"}}  # options without a default
ENTRIES = [(table, name) for table in TABLES for name in table.names() if name != "module"]


def entry_id(value: object) -> str:
    return value.kind if isinstance(value, Table) else str(value)


def made(table: Table, name: str) -> Any:
    return from_options(table, {"name": name, **REQUIRED.get(name, {})})


def written(part: Part) -> dict[str, Any]:
    """As a file would give it back: only lists, numbers, strings, booleans and null."""
    return yaml.safe_load(yaml.safe_dump(to_options(part)))


# ---------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize(("table", "name"), ENTRIES, ids=entry_id)
def test_every_entry_goes_through_a_file_and_back(table: Table, name: str) -> None:
    part = made(table, name)
    options = written(part)
    back = from_options(table, options)
    assert type(back) is type(part)
    assert to_options(back) == to_options(part)
    assert set(options) == {"name", *signature(type(part))}
    assert options["name"] in table.parts  # an alias is written out as what it stands for


@pytest.mark.parametrize(("table", "name"), ENTRIES, ids=entry_id)
def test_every_entry_is_a_scikit_learn_citizen(table: Table, name: str) -> None:
    part = made(table, name)
    twin = sklearn.base.clone(part)
    assert type(twin) is type(part)
    assert twin is not part
    assert to_options(twin) == to_options(part) == to_options(part.clone())
    params = part.get_params(deep=False)
    assert list(params) == list(signature(type(part)))
    assert all(getattr(part, key) is value for key, value in params.items())
    assert part.set_params(**params) is part
    for key, value in params.items():
        if isinstance(value, Part):
            assert getattr(twin, key) is not value


@pytest.mark.parametrize(("table", "name"), ENTRIES, ids=entry_id)
def test_every_option_says_what_it_is(table: Table, name: str) -> None:
    assert table[made(table, name) and to_options(made(table, name))["name"]].__doc__
    for option in signature(type(made(table, name))).values():
        assert len(option.description) > 5, f"{option.name} has no description"


def test_non_default_values_survive(tmp_path: Any) -> None:
    learner = GenerativeReplay(
        solver=CNN(channels=(4, 8), optimiser=SGD(learning_rate=0.3, momentum=0.5)),
        generator=VAE(hidden=(7, 5), likelihood="gaussian", kl_weight=0.25),
        importance=0.3,
        replay_size="doubling",
        epochs=3,
        distill=True,
        temperature_squared=True,
    )
    back = from_options(LEARNERS, written(learner))
    assert back.solver.channels == (4, 8)  # a list in the file, a tuple again here
    assert back.solver.optimiser.momentum == 0.5
    assert back.generator.hidden == (7, 5)
    assert (back.importance, back.replay_size, back.epochs) == (0.3, "doubling", 3)
    assert to_options(back) == to_options(learner)
    split = Split(class_order=(2, 0, 1), tasks=3)
    assert from_options(STREAMS, written(split)).class_order == (2, 0, 1)
    assert from_options(STREAMS, written(Rotated(tasks=2, angles=(0.0, 45.0)))).angles == (0.0, 45.0)


def test_text_becomes_numbers_as_a_command_line_needs_it() -> None:
    learner = from_options(LEARNERS, {"name": "replay", "steps": "12", "importance": "0.25", "replay_size": "64"})
    assert (learner.steps, learner.importance, learner.replay_size) == (12, 0.25, 64)
    assert from_options(LEARNERS, {"name": "replay", "replay_size": "linear"}).replay_size == "linear"


def test_the_word_none_is_none_unless_it_is_a_choice() -> None:
    made = from_options(LEARNERS, {"name": "lgaa", "epochs": "none", "autoencoder": {"name": "lgaa", "norm": "none"}})
    assert (made.epochs, made.autoencoder.norm) == (None, "none")
    assert from_options(LEARNERS, {"name": "lgaa", "autoencoder": "none"}).autoencoder is None
    # A choice beside None, and one that numbers may stand for.
    assert from_options(LEARNERS, {"name": "frozen-backbone", "normalise": "none"}).normalise == "none"
    assert from_options(DENSITIES, {"name": "gaussian", "shrinkage": "none"}).shrinkage == "none"


def test_names_stand_for_parts_with_their_defaults() -> None:
    learner = from_options(LEARNERS, {"name": "generative-replay", "generator": "conditional-vae", "solver": "cnn"})
    assert isinstance(learner.generator, VAE)
    assert learner.generator.conditional
    assert isinstance(learner.solver, CNN)
    assert isinstance(from_options(GENERATORS, "oracle"), Oracle)


def test_an_alias_can_be_changed_further() -> None:
    stream = from_options(STREAMS, {"name": "split-mnist", "tasks": 2})
    assert (stream.dataset, stream.tasks) == ("mnist", 2)
    assert from_options(STREAMS, "split-mnist").tasks == 5


def test_the_dictionary_given_is_not_changed() -> None:
    options = {"name": "generative-replay", "generator": {"name": "vae", "latent_dim": 3}}
    from_options(LEARNERS, options)
    assert options == {"name": "generative-replay", "generator": {"name": "vae", "latent_dim": 3}}


def test_a_function_from_python_is_written_as_what_it_is() -> None:
    assert to_options(Module(factory=len))["factory"] == "<len, given from Python>"
    with pytest.raises(
        OptionsError, match=r"solver\.factory = '<len, given from Python>': no file can hold it; repeat"
    ):
        from_options(SOLVERS, to_options(Module(factory=len)))


# ---------------------------------------------------------------------------------------------- mistakes


def test_all_mistakes_come_at_once_with_dotted_names_and_near_names() -> None:
    with pytest.raises(OptionsError) as caught:
        from_options(
            LEARNERS,
            {
                "name": "generative-replay",
                "stepz": 10,
                "batch_size": 0,
                "importance": "by-tusk",
                "solver": {"name": "mpl"},
                "generator": {"name": "vae", "latent": 5, "likelihood": "poisson", "optimiser": {"learning_rat": 1}},
            },
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "these options cannot be used:"
    expected = [
        "learner.stepz: learner 'generative-replay' has no such option; did you mean 'steps'?",
        "learner.batch_size = 0: input should be greater than 0",
        "learner.importance = 'by-tusk': ",
        "learner.solver = 'mpl': no solver of this name; did you mean 'mlp'?",
        "learner.generator.latent: generator 'vae' has no such option; did you mean 'latent_dim'?",
        "learner.generator.likelihood = 'poisson': input should be 'bernoulli' or 'gaussian'",
        "learner.generator.optimiser.learning_rat: optimiser 'adam' has no such option; did you mean 'learning_rate'?",
    ]
    for text in expected:
        assert any(text in line for line in lines), f"{text!r} is not among {lines}"


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (STREAMS, "split-mnst", r"stream = 'split-mnst': .*did you mean 'split-mnist'\?"),
        (LEARNERS, "generativereplay", r"did you mean 'generative-replay'\?"),
        (GENERATORS, "zzz", r"valid: autoencoder, .*densities, .*vae, wgan-gp"),
        (LEARNERS, {}, "learner = None: no learner of this name"),
        (STREAMS, {"name": "folder"}, r"stream\.path: this option has no default and must be given"),
        (LEARNERS, {"name": "naive", "solver": 3}, r"learner\.solver = 3: expected a solver: a name, or a dictionary"),
        (LEARNERS, {"name": "naive", "steps": 5, "epochs": 2}, "steps = 5 and epochs = 2: give one of the two"),
        (GENERATORS, {"name": "vae", "hidden": []}, r"hidden = \(\): needs at least one layer"),
        (SOLVERS, {"name": "mlp", "hidden": [10, 0]}, r"solver\.hidden\.1 = 0: input should be greater than 0"),
        (OPTIMISERS, {"name": "adam", "betas": [0.9, 1.0]}, r"optimiser\.betas\.1 = 1\.0: .*less than 1"),
        (OPTIMISERS, {"name": "adam", "learning_rate": float("nan")}, "learning_rate = nan: .*finite"),
        (OPTIMISERS, {"name": "sgd", "momentum": 1}, "momentum = 1: input should be less than 1"),
        (BUFFERS, {"name": "buffer", "budget": 0}, "budget = 0: input should be greater than 0"),
        (BUFFERS, {"name": "buffer", "strategy": "best"}, "strategy = 'best': .*'ring' or 'k-centre'"),
        (STREAMS, {"name": "split", "tasks": 0}, "tasks = 0: input should be greater than or equal to 1"),
        (STREAMS, {"name": "split", "validation_fraction": 1}, "validation_fraction = 1: .*less than 1"),
        (STREAMS, {"name": "rotated", "tasks": 3, "angles": [0, 90]}, r"2 angles for 3 tasks"),
        (STREAMS, {"name": "rotated", "tasks": 2, "angles": [0, 700]}, r"angles = \[700.*between -360 and 360"),
        (
            STREAMS,
            {"name": "rotated", "tasks": 2, "angles": [0, 90], "max_angle": 90},
            "max_angle = 90: has no effect where angles are given; give one of the two",
        ),
        (
            GENERATORS,
            {"name": "vae", "channels": [8, 16]},
            r"channels = \(8, 16\): has no effect with architecture = 'mlp'; set architecture = 'conv' or leave it out",
        ),
        (
            GENERATORS,
            {"name": "wgan-gp", "channels": [8]},
            r"channels = \(8,\): has no effect with architecture = 'mlp'",
        ),
        (STREAMS, {"name": "sequence", "datasets": []}, "datasets = .*at least 1 item"),
        (LEARNERS, {"name": "replay", "importance": 0.0}, "importance = 0.0: .*greater than 0"),
        (LEARNERS, {"name": "replay", "importance": 1.5}, "importance = 1.5: .*less than or equal to 1"),
        (LEARNERS, {"name": "replay", "replay_size": -1}, "replay_size = -1"),
        (LEARNERS, {"name": "generative-replay", "temperature": 0}, "temperature = 0: .*greater than 0"),
        (
            LEARNERS,
            {"name": "generative-replay", "labels": "agreement", "generator": "vae"},
            "cannot be asked for a class",
        ),
        (LEARNERS, {"name": "generative-replay", "labels": "agreement", "generator": "oracle"}, "needs a conditional"),
        (
            LEARNERS,
            {"name": "generative-replay", "distill": True, "labels": "condition", "generator": "conditional-vae"},
            "distill = True and labels = 'condition'",
        ),
    ],
)
def test_options_that_cannot_be_used(table: Table, options: Any, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        from_options(table, options)


def test_python_users_hear_the_same() -> None:
    with pytest.raises(OptionsError, match=r"(?s)MLP cannot be made: .*hidden\.0 = -3: input should be greater than 0"):
        MLP(hidden=(-3,))
    with pytest.raises(OptionsError, match="Replay cannot be made: steps = 1 and epochs = 1"):
        Replay(steps=1, epochs=1)
    with pytest.raises(OptionsError, match="generator = 'vae': expected a generator object"):
        GenerativeReplay(generator="vae")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword"):
        MLP(hiden=(3,))  # type: ignore[call-arg]


# -------------------------------------------------------------------------------------- sets and merges


def test_params_of_nested_parts() -> None:
    learner = GenerativeReplay(generator=VAE(latent_dim=4))
    assert learner.get_params()["generator__latent_dim"] == 4
    assert learner.get_params()["generator__optimiser__learning_rate"] is None
    learner.set_params(generator__latent_dim=9, generator__optimiser__learning_rate=0.5, steps=3)
    assert (learner.generator.latent_dim, learner.generator.optimiser.learning_rate, learner.steps) == (9, 0.5, 3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stps": 1}, r"GenerativeReplay has no option 'stps'; did you mean 'steps'\?"),
        ({"generator__latnt_dim": 1}, r"VAE has no option 'latnt_dim'; did you mean 'latent_dim'\?"),
        ({"solver__hidden": (3,)}, "solver = None: has no options of its own to set: hidden"),
        ({"steps": 0}, "steps = 0: input should be greater than 0"),
        ({"steps": 4, "epochs": 2}, "steps = 4 and epochs = 2"),
    ],
)
def test_params_that_cannot_be_set(params: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        GenerativeReplay(generator=VAE()).set_params(**params)


def test_merging_keeps_a_part_s_options_until_its_name_changes() -> None:
    base = {
        "steps": 5,
        "generator": {"name": "vae", "latent_dim": 7, "optimiser": {"name": "adam", "betas": (0.5, 0.9)}},
    }
    deeper = merged(base, {"generator": {"optimiser": {"learning_rate": 0.1}}})
    assert deeper["generator"]["latent_dim"] == 7
    assert deeper["generator"]["optimiser"] == {"name": "adam", "betas": (0.5, 0.9), "learning_rate": 0.1}
    assert merged(base, {"generator": {"name": "vae", "hidden": (3,)}})["generator"]["latent_dim"] == 7
    assert merged(base, {"generator": "oracle"})["generator"] == {"name": "oracle"}
    assert merged(base, {"generator": {"name": "wgan-gp", "hidden": (3,)}})["generator"] == {
        "name": "wgan-gp",
        "hidden": (3,),
    }
    assert merged({"generator": "vae"}, {"generator": {"latent_dim": 2}})["generator"] == {
        "name": "vae",
        "latent_dim": 2,
    }
    deeper["generator"]["optimiser"]["betas"] = None
    assert base["generator"]["optimiser"]["betas"] == (0.5, 0.9)  # type: ignore[index]


def test_what_is_left_at_none_takes_the_stream_s_value_and_nothing_else_does() -> None:
    values = {"steps": 70, "hidden": (9,), "latent_dim": 6, "batch_size": 5, "learning_rate": 0.25}
    learner = GenerativeReplay(solver=MLP(), generator=VAE(latent_dim=2), batch_size=11)
    full = resolved(learner, values)
    assert (full.steps, full.batch_size) == (70, 11)
    assert full.solver.hidden == full.generator.hidden == (9,)
    assert full.solver.optimiser.learning_rate == 0.25
    assert full.generator.latent_dim == 2
    assert learner.steps is learner.solver.hidden is None


def test_recommended_parts_and_epochs() -> None:
    spec = Blobs().build("class", 0).spec
    full = with_recommended(GenerativeReplay(), spec)
    assert isinstance(full.solver, MLP)
    assert isinstance(full.generator, VAE)
    assert (full.solver.hidden, full.generator.latent_dim, full.steps) == ((32, 32), 4, 100)
    by_epochs = with_recommended(Naive(epochs=2), spec)
    assert (by_epochs.steps, by_epochs.epochs) == (None, 2)
    assert isinstance(with_recommended(Naive(solver=CNN()), spec).solver, CNN)


# ------------------------------------------------------------------------------------------ own parts


class Animal(Protocol):
    def speak(self) -> str: ...


@dataclass(eq=False, repr=False)
class Dog(Part):
    """Barks."""

    age: Annotated[int, Field(ge=0, description="years")] = 3


@dataclass(eq=False, repr=False)
class Zoo(Part):
    """Holds animals."""

    head: Annotated[Animal | None, Field(description="the first")] = None
    rest: Annotated[tuple[Animal, ...], Field(description="the others")] = field(default_factory=tuple)
    open_from: Annotated[int, Field(description="hour")] = 9
    open_to: Annotated[int, Field(description="hour")] = 18

    def check(self, problems: Problems) -> None:
        problems.check(self.open_from < self.open_to, f"open_from = {self.open_from}: after open_to = {self.open_to}")
        problems.check(self.open_to <= 24, f"open_to = {self.open_to}: a day has 24 hours")


class Place(Protocol):
    pass


def test_a_user_s_own_parts_in_lists_of_parts() -> None:
    animals = Table("animal", Animal, {"dog": Dog})
    zoos = Table("zoo", Place, {"zoo": Zoo})
    zoo = from_options(zoos, {"name": "zoo", "head": "dog", "rest": ["dog", {"name": "dog", "age": 7}]})
    assert [dog.age for dog in zoo.rest] == [3, 7]
    assert written(zoo)["rest"] == [{"name": "dog", "age": 3}, {"name": "dog", "age": 7}]
    assert to_options(from_options(zoos, written(zoo))) == to_options(zoo)
    assert repr(zoo.rest[1]) == "Dog(age=7)"
    with pytest.raises(OptionsError, match=r"zoo\.rest\[1\]\.age = -1: .*greater than or equal to 0"):
        from_options(zoos, {"name": "zoo", "rest": ["dog", {"name": "dog", "age": -1}]})
    with pytest.raises(OptionsError, match=r"(?s)open_from = 30: after open_to = 25.*open_to = 25: a day has 24"):
        Zoo(open_from=30, open_to=25)
    with pytest.raises(OptionsError, match=r"no animal of this name; valid: dog"):
        from_options(zoos, {"name": "zoo", "head": "elephant"})

    class Puppy(Dog):
        """Smaller."""

    with pytest.raises(OptionsError, match=r"Puppy is in no table.*Table\.add"):
        to_options(Puppy())
    animals.add("puppy", Puppy)
    assert to_options(Puppy()) == {"name": "puppy", "age": 3}
    assert len(animals) == 2
    assert list(animals) == ["dog", "puppy"]


def test_signatures_tell_order_defaults_and_tables() -> None:
    options = signature(GenerativeReplay)
    assert list(options)[:2] == ["solver", "steps"]
    assert options["generator"].table is GENERATORS
    assert options["solver"].table is SOLVERS
    assert options["temperature"].default == 2.0
    assert signature(Folder)["path"].required
    assert not signature(Permuted)["tasks"].required
    assert isinstance(signature(MLP)["optimiser"].default, Adam)
    assert signature(Replay)["buffer"].table is BUFFERS


def test_parts_do_not_share_their_default_parts() -> None:
    assert MLP().optimiser is not MLP().optimiser
    assert isinstance(Replay().buffer, Buffer)
    assert Replay().buffer is not Replay().buffer
    assert LearningWithoutForgetting().importance is None


@pytest.mark.parametrize(
    ("options", "path", "expected"),
    [
        ({"name": "generative-replay", "generator": {"latent_dim": 7}}, ("model", "generator", "latent_dim"), 7),
        ({"name": "naive", "solver": {"hidden": [5]}}, ("solver", "solver", "hidden"), (5,)),
        ({"name": "naive", "solver": {"optimiser": {"learning_rate": 0.5}}}, ("solver", "solver", "optimiser"), None),
        ({"name": "replay", "buffer": {"budget": 3}}, ("buffer", "buffer", "budget"), 3),
    ],
)
def test_options_without_a_name_are_those_of_the_default_part(options: dict, path: tuple, expected: object) -> None:
    _, part, option = path
    value = getattr(getattr(from_options(LEARNERS, options), part), option)
    assert value.learning_rate == 0.5 if expected is None else value == expected


def test_options_without_a_name_keep_the_rest_of_a_default_part() -> None:
    part = from_options(GENERATORS, {"name": "wgan-gp", "critic_optimiser": {"learning_rate": 0.5}})
    assert (part.critic_optimiser.learning_rate, part.critic_optimiser.betas) == (0.5, (0.5, 0.9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Naive(steps=10.0), r"steps = 10.0: input should be a valid integer"),
        (lambda: Naive(steps="10"), r"steps = '10': input should be a valid integer"),
        (lambda: Naive(steps=True), r"steps = True: input should be a valid integer"),
        (lambda: Adam(learning_rate="0.01"), r"learning_rate = '0.01': input should be a valid number"),
    ],
)
def test_a_constructor_takes_no_value_that_would_fail_later(make: Any, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        make()


def test_numbers_of_numpy_and_lists_are_as_good_as_pythons() -> None:
    part = MLP(hidden=[20, 10], optimiser=Adam(learning_rate=np.float64(0.5)))
    written = yaml.safe_dump(to_options(part))
    assert from_options(SOLVERS, yaml.safe_load(written)).optimiser.learning_rate == 0.5
    assert to_options(part)["hidden"] == [20, 10]
