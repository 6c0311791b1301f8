"""The command as a process: few of them, because importing torch takes seconds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = [
    "--stream",
    "blobs",
    "--stream.tasks",
    "2",
    "--stream.dimensions",
    "6",
    "--stream.rows_per_class",
    "24",
    "--threads",
    "1",
]
COMMAND = [sys.executable, "-m", "reverie"]


def test_help_does_not_load_torch() -> None:
    """Nor does a word that is no command."""
    script = (
        "import sys\n"
        "from reverie.cli import main\n"
        "codes = [main(['--help']), main(['--version']), main(['rnu'])]\n"
        "heavy = sorted({'torch', 'numpy', 'sklearn', 'matplotlib', 'typer'} & set(sys.modules))\n"
        "print(codes, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 0, 2] []"
    assert "did you mean 'run'?" in done.stderr


def test_a_grid_in_two_processes_is_the_same_as_in_one(tmp_path: Path) -> None:
    """Cells in spawned workers give what this process gives, and are not run twice."""
    from reverie.cli import main

    words = ["run", *TINY, *["--learner", "naive", "replay", "--seeds", "0", "1", "--learner.steps", "5", "--json"]]
    two = [*COMMAND, *words, "--workers", "2", "--out", str(tmp_path / "two")]
    many = subprocess.run(two, capture_output=True, text=True, timeout=300)
    assert many.returncode == 0, many.stderr
    results = json.loads(many.stdout)
    assert [(r["learner"], r["seed"]) for r in results] == [("naive", 0), ("naive", 1), ("replay", 0), ("replay", 1)]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    for result in results:
        name = f"{result['learner']}-seed{result['seed']}"
        alone = json.loads((tmp_path / "one" / name / "result.json").read_text())
        assert alone["matrices"] == result["matrices"]
        assert alone["options"] == result["options"]
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "two").glob("*/metrics.jsonl")}
    assert len(stamps) == 4
    assert main([*words, "--out", str(tmp_path / "two")]) == 0
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are listed from /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    words = ["run", *TINY, *["--learner", "naive", "--seeds", "0", "1", "--learner.steps", "200000", "--json"]]
    process = subprocess.Popen(
        [*COMMAND, *words, "--workers", "2", "--out", str(tmp_path)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_until(lambda: len(list(tmp_path.glob("*/metrics.jsonl"))) == 2, 120)
        assert _of_session(process.pid) - {process.pid}
        process.kill()
        process.wait(30)
        _wait_until(lambda: not _of_session(process.pid), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _of_session(leader: int) -> set[int]:
    """Living processes of a session, by its leader."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = file.read_text().rpartition(") ")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found.add(int(file.parent.name))
    return found


def test_ctrl_c_on_a_real_process(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["run", *TINY, *["--learner", "generative-replay", "--learner.steps", "4000", "--out"], str(out)]
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert f"reverie resume {out} continues" in " ".join(err.split())
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert 0 < result["cost"]["steps"] < 8000
    assert (out / "checkpoint" / "manifest.json").exists()
