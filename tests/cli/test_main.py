"""The command inside this process: what it accepts, prints and answers for mistakes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import reverie
from reverie.checks import DataError
from reverie.cli import BAD_USAGE, COMMANDS, DONE, FAILED, INTERRUPTED, main
from reverie.cli.arguments import several, take_dotted, value_of
from reverie.cli.list_command import TABLES
from reverie.cli.predict_command import read_inputs
from reverie.experiments.presets import PRESETS
from reverie.learners import GenerativeReplay, Naive
from reverie.options import signature

TINY = [
    *("--stream", "blobs", "--stream.tasks", "2", "--stream.dimensions", "6", "--stream.rows_per_class", "24"),
    *("--threads", "1"),
]
SMALL = ["--learner.steps", "6", "--learner.batch_size", "8"]


@dataclass
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def call(*words: object) -> Answer:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


Command = Callable[..., Answer]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the command, shared by the tests that read one."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert (
        main(["run", *TINY, "--learner", "generative-replay", *SMALL, "--seed", "3", "--out", str(out), "--json"])
        == DONE
    )
    return out


def tree(folder: Path) -> dict[str, bytes]:
    """What is in a folder, but for the page, which is written anew at every look."""
    names = (file for file in folder.rglob("*") if file.is_file() and file.name not in (".lock", "report.html"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in names}


# ---------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], command: Command) -> None:
    answer = command(*words)
    assert answer.code == DONE
    assert all(f"  {name} " in answer.out for name in COMMANDS)


def test_version(command: Command) -> None:
    assert command("--version").out == f"reverie {reverie.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, command: Command) -> None:
    answer = command(name, "--help")
    assert answer.code == DONE
    assert f"reverie {name}" in answer.out
    assert "--help" in answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "'rnu' is no command; did you mean 'run'?"),
        (["list", "learner"], "'learner': no such list; did you mean 'learners'?"),
        (["list", "learners", "niave"], "'niave': no such entry among the learners; did you mean 'naive'?"),
        (["list", "presets", "dmo"], "did you mean 'demo'?"),
        (["data", "ftech"], "'ftech': no such action; did you mean 'fetch'?"),
        (["data", "verify", "minst"], "'minst': no such data set, did you mean 'mnist'?"),
        (["data", "fetch"], "name the data sets to fetch"),
        (["run", "--stream", "blosb"], "stream = 'blosb': no stream of this name; did you mean 'blobs'?"),
        (["run", "--learner", "relay"], "learner = 'relay': no learner of this name; did you mean 'replay'?"),
        (["run", "--preset", "dem"], "preset = 'dem': no preset of this name; did you mean 'demo'?"),
        (["run", "--preset", "demo", "--config", "x.yaml"], "--preset and --config: give one of the two"),
        (["run", "--seed", "1", "--seeds", "2", "3"], "--seed 1 and --seeds [2, 3]: give one of the two"),
        (["run", *TINY, "--scenario", "clas"], "scenario = 'clas'"),
        (["run", *TINY, "--learner.stepz", "3"], "has no such option; did you mean 'steps'?"),
        (["run", *TINY, "--learner.steps", "0"], "learner.steps = 0: input should be greater than 0"),
        (["run", *TINY, "--learner.steps", "9", "--learner.epochs", "2"], "give one of the two"),
        (["run", *TINY, "--learner.steps"], "--learner.steps: needs a value after it"),
        (["run", *TINY, "--learner.steps", "1", "--learner.steps", "2"], "--learner.steps: given twice"),
        (["run", *TINY, "--device", "tpu"], "device = 'tpu'"),
        (["run", *TINY, "--precision", "float8"], "precision = 'float8'"),
        (["run", *TINY, "--evaluate-every", "0"], "evaluate_every = 0"),
        (["run", *TINY, "--checkpoint-steps", "-1"], "checkpoint_steps = -1"),
        (["run", "--config", "/nowhere/config.yaml"], "config not found"),
        (
            ["run", *TINY, "--learner", "naive", "replay", "--learner.bufer.budget", "3"],
            "none of naive, replay has this option",
        ),
        (["resume", "/nowhere"], "config not found"),
        (["predict", "/nowhere", "x.npy"], "config not found"),
        (["report", "/nowhere"], "/nowhere"),
        (["reproduce", "split-minst"], "did you mean 'split-mnist'?"),
    ],
)
def test_bad_usage_is_told_with_what_to_try(
    words: list[str], message: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = command(*words)
    assert answer.code == BAD_USAGE
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["run", "--sceed", "1"], ["run", "--workers", "0"], ["run", "--seed", "one"], ["predict"]]
)
def test_words_that_the_parser_refuses(words: list[str], command: Command) -> None:
    answer = command(*words)
    assert answer.code == BAD_USAGE
    assert "Traceback" not in answer.err + answer.out


def test_several_mistakes_are_told_at_once(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = command(
        *[
            "run",
            "--stream",
            "blobs",
            "--stream.tasks",
            "0",
            "--learner",
            "generative-replay",
            "--learner.temperature",
            "-2",
        ],
        *["--learner.generator.latent_dm", "3", "--learner.generator", "vae", "--scenario", "clas", "--out"],
        out,
    )
    assert answer.code == BAD_USAGE
    for part in ("stream.tasks = 0", "learner.temperature = -2", "did you mean 'latent_dim'?", "scenario = 'clas'"):
        assert part in answer.err
    assert not out.exists()


# ---------------------------------------------------------------------------------------------- run


def test_a_run_with_dotted_options(folder: Path, command: Command) -> None:
    result = json.loads((folder / "result.json").read_text())
    options = result["options"]
    assert (options["stream"]["tasks"], options["learner"]["steps"], options["learner"]["batch_size"]) == (2, 6, 8)
    assert (result["seed"], result["learner"], result["generator"]) == (3, "generative-replay", "vae")
    assert (folder / "report.html").exists()
    # The same command again shows the finished result at once, and prints nothing but JSON.
    before = tree(folder)
    again = command("run", *TINY, "--learner", "generative-replay", *SMALL, "--seed", "3", "--out", folder, "--json")
    assert again.code == DONE
    assert json.loads(again.out) == result
    assert tree(folder) == before


def test_other_options_in_the_same_folder(folder: Path, command: Command) -> None:
    before = tree(folder)
    words = ["run", *TINY, "--learner", "generative-replay", *SMALL, "--out", folder]
    answer = command(*words, "--seed", "4")
    assert answer.code == BAD_USAGE
    assert "seed: 3 -> 4" in answer.err
    assert "--overwrite" in answer.err
    assert tree(folder) == before


def test_the_table_shows_accuracy_bytes_and_what_is_stored(folder: Path, command: Command) -> None:
    answer = command("run", *TINY, "--learner", "generative-replay", *SMALL, "--seed", "3", "--out", folder)
    assert answer.code == DONE
    for word in ("generative-replay", "blobs", "no data", "kB"):
        assert word in answer.out
    assert f"report: {folder / 'report.html'}" in answer.out


def test_parts_and_their_options_in_any_order(command: Command, tmp_path: Path) -> None:
    answer = command(
        *("run", *TINY, "--learner.generator.hidden", "7,7", "--learner=generative-replay", *SMALL),
        *("--learner.generator", "vae", "--learner.generator.latent_dim=2", "--learner.solver.hidden=[5]", "--json"),
        *["--learner.solver", "mlp", "--learner.distill", "true", "--learner.importance", "0.25", "--out"],
        tmp_path / "run",
    )
    assert answer.code == DONE, answer.err
    learner = json.loads(answer.out)["options"]["learner"]
    assert (learner["generator"]["hidden"], learner["generator"]["latent_dim"]) == ([7, 7], 2)
    assert (learner["solver"]["hidden"], learner["distill"], learner["importance"]) == ([5], True, 0.25)


def test_a_config_runs_again_with_something_overridden(folder: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "again"
    answer = command("run", "--config", folder / "config.yaml", "--learner.chunk", "1", "--out", out, "--json")
    assert answer.code == DONE, answer.err
    first, second = (json.loads((f / "result.json").read_text())["options"] for f in (folder, out))
    assert second["learner"].pop("chunk") == 1
    assert first["learner"].pop("chunk") == 25
    assert first == second


def test_a_grid_of_learners_and_seeds(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["run", *TINY, "--learner", "naive", "replay", "--seeds", "0", "1", *SMALL, "--learner.importance", "0.3"]
    answer = command(*words, "--out", tmp_path, "--json")
    assert answer.code == DONE, answer.err
    results = json.loads(answer.out)
    assert [(r["learner"], r["seed"]) for r in results] == [("naive", 0), ("naive", 1), ("replay", 0), ("replay", 1)]
    assert results[2]["options"]["learner"]["importance"] == 0.3  # naive has no such option and is run all the same
    assert {f.name for f in tmp_path.iterdir()} == {
        *("naive-seed0", "naive-seed1", "replay-seed0", "replay-seed1", "report.html"),
    }
    monkeypatch.setattr(Naive, "step", lambda *arguments: pytest.fail("it trained again"))
    again = command(*words, "--out", tmp_path, "--json")
    assert json.loads(again.out) == results


def test_a_conflict_in_a_later_run_of_a_grid_is_told_at_once(command: Command, tmp_path: Path) -> None:
    words = ["run", *TINY, *SMALL, "--out", tmp_path, "--learner", "naive", "replay"]
    budget = ["--learner.buffer.budget", "3", "--learner.buffer.unit", "items"]
    answer = command(*words, *budget)
    assert answer.code == BAD_USAGE
    assert "replay: budget = 3 items: holds 3 rows, fewer than the 4 classes" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_exits_1_and_says_where(command: Command, tmp_path: Path) -> None:
    optimiser = ["--learner.solver.optimiser", "sgd", "--learner.solver.optimiser.learning_rate", "1e30"]
    words = ["run", *TINY, "--learner", "naive", "--learner.solver", "mlp", *optimiser, "--learner.steps", "60"]
    answer = command(*words, "--out", tmp_path / "run")
    assert answer.code == FAILED
    assert "solver.cross-entropy stopped being finite at step" in " ".join(answer.err.split())
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def test_a_folder_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = command("run", *TINY, "--learner", "naive", *SMALL, "--out", tmp_path / "file" / "run")
    assert answer.code == BAD_USAGE
    assert "cannot write to the run folder" in answer.err


def interrupting(monkeypatch: pytest.MonkeyPatch, learner: type, at: int) -> None:
    real, count = learner.step, []

    def step(self: Any, phase: Any, batch: Any) -> Any:
        count.append(phase)
        if len(count) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, phase, batch)

    monkeypatch.setattr(learner, "step", step)


def test_ctrl_c_says_how_to_resume_and_resume_finishes(command: Command, tmp_path: Path) -> None:
    words = ["run", *TINY, "--learner", "generative-replay", *SMALL]
    for at, resumed in ((4, False), (9, True)):
        out = tmp_path / str(at)
        for attempt in ("run", "resume") if resumed else ("run",):
            with pytest.MonkeyPatch.context() as patch:
                interrupting(patch, GenerativeReplay, at if attempt == "run" else 2)
                answer = command(*words, "--out", out) if attempt == "run" else command("resume", out)
            assert answer.code == INTERRUPTED
            assert f"reverie resume {out} continues" in answer.err
            assert json.loads((out / "result.json").read_text())["status"] == "interrupted"
        assert command("resume", out, "--json").code == DONE
    whole = command(*words, "--out", tmp_path / "whole", "--json")
    for at in ("4", "9"):
        done = command("resume", tmp_path / at, "--json")
        assert json.loads(done.out)["accuracy"] == json.loads(whole.out)["accuracy"]
        assert json.loads(done.out)["matrices"] == json.loads(whole.out)["matrices"]


def test_ctrl_c_in_a_grid_says_how_far_it_got(command: Command, tmp_path: Path) -> None:
    words = ["run", *TINY, "--learner", "naive", "--seeds", "0", "1", *SMALL, "--out", tmp_path, "--json"]
    with pytest.MonkeyPatch.context() as patch:
        interrupting(patch, Naive, 15)
        answer = command(*words)
    assert answer.code == INTERRUPTED
    assert "1 of 2 runs are finished; run the same command again to continue" in answer.err
    again = command(*words)
    assert again.code == DONE
    assert [result["status"] for result in json.loads(again.out)] == ["complete", "complete"]


def test_resume_of_a_finished_run_shows_it(folder: Path, command: Command) -> None:
    before = tree(folder)
    answer = command("resume", folder, "--json")
    assert answer.code == DONE
    assert json.loads(answer.out) == json.loads((folder / "result.json").read_text())
    assert tree(folder) == before


# ---------------------------------------------------------------------------------------------- predict


def test_predict_prints_a_label_a_row(folder: Path, command: Command, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((5, 6), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    expected = reverie.load(folder).predict(x).tolist()
    assert json.loads(command("predict", folder, tmp_path / "x.npy", "--json").out) == expected
    assert command("predict", folder, tmp_path / "x.npy").out.split() == [str(label) for label in expected]
    assert command("predict", folder, tmp_path / "x.npz").out.split() == [str(label) for label in expected]
    given = json.loads(command("predict", folder, tmp_path / "x.npy", "--task", "0", "--json").out)
    assert set(given) <= {0, 1}


def test_predict_refuses_what_it_cannot_read(folder: Path, command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((2, 7), np.float32))
    np.save(tmp_path / "nan.npy", np.full((2, 6), np.nan))
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    Image.new("L", (4, 4)).save(tmp_path / "image.png")
    for name, message in (
        ("wide.npy", "expected (N, 6)"),
        ("nan.npy", "NaN or infinite"),
        ("pickle.npy", "not a readable .npy"),
        ("text.npy", "not a readable .npy"),
        ("empty.npz", "not a readable .npy"),
        ("image.png", "not from images"),
        ("nothing.npy", "file not found"),
    ):
        answer = command("predict", folder, tmp_path / name)
        assert answer.code == BAD_USAGE
        assert message in answer.err
        assert answer.out == ""


def test_images_are_read_as_the_run_saw_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    assert np.array_equal(read_inputs(tmp_path, (1, 4, 5)), pixels[:, None])
    assert np.array_equal(read_inputs(tmp_path / "1.png", (1, 4, 5)), pixels[1][None, None])
    assert read_inputs(tmp_path / "1.png", (3, 4, 5)).shape == (1, 3, 4, 5)
    np.save(tmp_path / "grey.npy", pixels)
    assert np.array_equal(read_inputs(tmp_path / "grey.npy", (1, 4, 5)), pixels[:, None])
    np.save(tmp_path / "one.npy", pixels[0][None])
    assert np.array_equal(read_inputs(tmp_path / "one.npy", (1, 4, 5)), pixels[:1, None])
    with pytest.raises(DataError, match="resize it first"):
        read_inputs(tmp_path / "1.png", (1, 5, 5))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no images"):
        read_inputs(tmp_path / "none", (1, 4, 5))


# ---------------------------------------------------------------------------------------------- report, list, data


def test_report_writes_a_page(folder: Path, command: Command, tmp_path: Path) -> None:
    answer = command("report", folder, "--out", tmp_path / "page.html")
    assert answer.code == DONE
    assert answer.out == f"report: {tmp_path / 'page.html'}\n"
    assert "generative-replay" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("kind", [*TABLES, "presets"])
def test_list_names_every_entry(kind: str, command: Command) -> None:
    names = list(PRESETS) if kind == "presets" else TABLES[kind].names()
    listed = json.loads(command("list", kind, "--json").out)
    assert list(listed) == names
    assert all(listed.values())
    plain = command("list", kind)
    assert plain.code == DONE
    assert all(name[:12] in plain.out for name in names)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in TABLES.items() for name in table.names()])
def test_list_shows_an_entrys_options(kind: str, name: str, command: Command) -> None:
    table = TABLES[kind]
    alias = table.aliases.get(name, {"name": name})
    shown = json.loads(command("list", kind, name, "--json").out)
    assert shown["description"]
    assert set(shown["options"]) == set(signature(table[alias["name"]]))
    assert all(option["description"] or kind == "solvers" for option in shown["options"].values())
    for key, value in alias.items():
        if key != "name":
            assert shown["options"][key]["default"] == (list(value) if isinstance(value, tuple) else value)
    plain = command("list", kind, name)
    assert plain.code == DONE
    assert plain.out.startswith(name)


def test_list_names_the_parts_of_a_tuple(command: Command) -> None:
    shown = json.loads(command("list", "densities", "likeliest", "--json").out)["options"]["candidates"]
    assert shown["default"] == ["gaussian", "gaussian", "gaussian", "gmm"]
    assert shown["type"] == "a density, ..."


@pytest.mark.parametrize("name", PRESETS)
def test_list_shows_a_preset(name: str, command: Command) -> None:
    shown = json.loads(command("list", "presets", name, "--json").out)
    assert shown == json.loads(
        json.dumps({"source": PRESETS[name].source, "cost": PRESETS[name].cost, "options": PRESETS[name].options})
    )
    assert PRESETS[name].source.split()[0] in command("list", "presets", name).out


def test_data_says_what_is_here(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REVERIE_DATA", raising=False)
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    found = json.loads(command("data", "list", "--data-dir", tmp_path, "--json").out)
    assert found["digits"]
    assert found["mnist"] is None
    answer = command("data", "list", "digits", "--data-dir", tmp_path)
    assert answer.code == DONE
    assert "digits" in answer.out
    assert "mnist" not in answer.out


# ---------------------------------------------------------------------------------------------- words to options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("3", 3),
            ("-3", -3),
            ("1e-3", 0.001),
            ("0.5", 0.5),
            ("true", True),
            ("null", None),
            ("none", "none"),
            ("None", None),
        ),
        *(
            ("400,400", [400, 400]),
            ("[1, 2]", [1, 2]),
            ("a,b", ["a", "b"]),
            ("400,", [400]),
            ("split-mnist", "split-mnist"),
        ),
        *(("1e30", 1e30), ("[1", "[1"), ("", None)),
    ],
)
def test_values_of_words(text: str, value: Any) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_dotted_words_leave_the_others_alone() -> None:
    words = [
        "--stream",
        "blobs",
        "--stream.tasks=2",
        "--out",
        "runs/a.b",
        "--learner.solver.hidden",
        "4,4",
        "--seed",
        "1",
    ]
    rest, tree = take_dotted(words)
    assert rest == ["--stream", "blobs", "--out", "runs/a.b", "--seed", "1"]
    assert tree == {"stream": {"tasks": 2}, "learner": {"solver": {"hidden": [4, 4]}}}


def test_several_values_of_one_option() -> None:
    assert several(["--seeds", "0", "-1", "2", "--out", "a"], ["--seeds"]) == [
        *("--seeds", "0", "--seeds", "-1", "--seeds", "2", "--out", "a"),
    ]


# ---------------------------------------------------------------------------------------------- cuts and pretrain


def test_cuts_are_listed_with_their_cost(command: Command) -> None:
    answer = command("cuts", "--stream", "blobs", "--backbone", "mlp", "--backbone.hidden", "12,8", "--json")
    assert answer.code == DONE
    found = json.loads(answer.out)
    assert [cut["name"] for cut in found] == [f"encoder.{name}" for name in ("0", "1.0", "1.1", "1.2", "1.3")]
    assert [cut["usual"] for cut in found] == [False] * 4 + [True]
    assert [cut["width"] for cut in found][1:] == [12, 12, 8, 8]
    assert [cut["latent_bytes"] for cut in found][1:] == [48, 48, 32, 32]
    text = command("cuts", "--stream", "blobs", "--backbone", "mlp", "--backbone.hidden", "12,8").out
    assert "encoder.1.3*" in text
    assert "a rehearsed latent is spared" in " ".join(text.split())


def test_a_backbone_from_other_data_is_frozen_from_the_start(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "backbone.safetensors"
    pretrained = command(
        "pretrain", *TINY, "--backbone", "mlp", "--backbone.hidden", "7,", "--steps", "6", "--out", file, "--json"
    )
    assert pretrained.code == DONE, pretrained.err
    about = json.loads(pretrained.out)
    assert (about["steps"], about["solver"]["hidden"], about["stream"]) == (6, [7], "blobs")
    frozen = ["--learner.frozen", "from-start", "--learner.weights", str(file)]
    words = [
        "run",
        *TINY,
        "--learner",
        "latent-replay",
        "--learner.method.steps",
        "5",
        *frozen,
        "--out",
        tmp_path / "run",
    ]
    answer = command(*words, "--learner.backbone", "mlp", "--learner.backbone.hidden", "7,", "--json")
    assert answer.code == DONE, answer.err
    result = json.loads(answer.out)
    assert (result["status"], result["memory"]["stores"], result["cost"]["steps"]) == ("complete", "latents", 10)
    other = command(*words[:-1], tmp_path / "other", "--learner.backbone", "mlp", "--learner.backbone.hidden", "9,")
    assert other.code == BAD_USAGE
    assert "do not fit the backbone" in other.err


def test_pretrain_writes_safetensors_alone(command: Command, tmp_path: Path) -> None:
    answer = command("pretrain", *TINY, "--out", tmp_path / "weights.pt")
    assert answer.code == BAD_USAGE
    assert "give it that ending" in answer.err


# ---------------------------------------------------------------------------------------------- regression


def test_a_run_of_regression_from_start_to_answers(command: Command, tmp_path: Path) -> None:
    for number in range(2):
        x = np.linspace(number, number + 1, 30, dtype=np.float32)[:, None]
        (tmp_path / "data").mkdir(exist_ok=True)
        np.savez(tmp_path / "data" / f"{number}.npz", x_train=x, y_train=np.concatenate([x, -x], axis=1))
    words = ["--stream", "folder", "--stream.path", tmp_path / "data", "--stream.noise_std", "0.1", "--threads", "1"]
    answer = command("run", *words, "--learner", "naive", *SMALL, "--out", tmp_path / "no")
    assert answer.code == BAD_USAGE
    assert "scenario = 'class': regression has no classes to tell apart; use scenario = 'domain'" in answer.err
    words += ["--scenario", "domain"]
    answer = command(
        "run", *words, "--learner", "naive", "replay", *SMALL, "--seeds", "1", "2", "--out", tmp_path / "all"
    )
    assert answer.code == DONE, answer.err
    assert "mean squared error after the last task" in " ".join(answer.out.split())
    assert "replay-seed2: after task 2: mean squared error" in answer.err + answer.out
    folder = tmp_path / "all" / "replay-seed1"
    result = json.loads((folder / "result.json").read_text())
    assert (result["kind"], result["classes"], result["status"]) == ("regression", ["y1", "y2"], "complete")

    np.save(tmp_path / "x.npy", np.array([[0.5], [1.5], [0.25]], dtype=np.float32))
    expected = reverie.load(folder).predict(np.load(tmp_path / "x.npy"))
    answer = command("predict", folder, tmp_path / "x.npy")
    assert [[float(value) for value in line.split()] for line in answer.out.splitlines()] == [
        pytest.approx(row, rel=1e-6) for row in expected.tolist()
    ]
    assert json.loads(command("predict", folder, tmp_path / "x.npy", "--json").out) == expected.tolist()
    before = (folder / "result.json").read_bytes()
    assert command("resume", folder).code == DONE
    assert (folder / "result.json").read_bytes() == before


def test_the_stream_of_curves_is_listed_and_refuses_learners_of_classes(command: Command, tmp_path: Path) -> None:
    assert "regression-1d" in command("list", "streams").out
    options = command("list", "streams", "regression-1d").out
    assert "noise_std" in options
    assert "scenarios" not in options
    answer = command("run", "--stream", "regression-1d", "--learner", "ranpac", "--out", tmp_path / "run")
    assert answer.code == BAD_USAGE
    assert "learner = 'ranpac': learns classification, and regression-1d is a stream of regression; try naive" in (
        " ".join(answer.err.split())
    )
    assert not (tmp_path / "run").exists()
