"""The commands in README and docs name options that exist: each is parsed and checked as far as before any data are read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from reverie.cli import run_command
from reverie.cli.arguments import several, take_dotted
from reverie.options import merged

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    """Every ``reverie run`` line inside a fenced block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split("#")[0].strip() for line in lines if line.strip().startswith("reverie run")]
    return found


def test_there_are_some() -> None:
    assert len(commands()) >= 3


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_is_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words, dotted = take_dotted(several(shlex.split(line)[2:], ["--learner", "--seeds"]))
    learners = [words[k + 1] for k, word in enumerate(words) if word == "--learner"]
    preset = next((words[k + 1] for k, word in enumerate(words) if word == "--preset"), None)
    stream = next((words[k + 1] for k, word in enumerate(words) if word == "--stream"), None)
    monkeypatch.setattr(run_command, "_dotted", dotted)
    base = run_command._base(preset, None)
    override = {} if stream is None else {"stream": {"name": stream}}
    assert run_command._configs(base, merged({}, override), learners)
