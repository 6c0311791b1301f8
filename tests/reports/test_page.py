"""The page: what it says, that it is safe and whole, and that a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import reverie
from reverie.checks import StorageError
from reverie.reports import write_report

Write = Callable[..., Path]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ATTACK = "<script>alert(1)</script>"


@pytest.fixture
def folders(write_run: Write, write_replay_run: Write) -> list[Path]:
    """Generative replay with two seeds (90 and 95 %), joint, and naive with two seeds of which one was interrupted."""
    return [
        write_replay_run("gr-0", 0, warnings=["task '2': the solver agrees on 60% of replay"]),
        write_replay_run("gr-1", 1),
        write_run("joint", "joint", accuracy=[[0.9, 0.7]], summary={"average_accuracy": 0.8}),
        write_run("naive-0"),
        write_run("naive-1", seed=1, status="interrupted", accuracy=[[1.0, None]]),
    ]


class Page(HTMLParser):
    """What the tests ask of the page: its elements, and whether they are closed in order."""

    VOID = frozenset({"meta", "img", "br", "link", "hr", "input", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_holds_every_section_and_number(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert write_report(folders, out) == out
    text = out.read_text(encoding="utf-8")
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert headings == [
        *("Summary", "Accuracy", "Accuracy matrices", "Forgetting", "Generated samples", "Replay", "Losses"),
        *("Memory and cost", "Options", "Warnings", "Runs", "Environment"),
    ]
    assert "<h1>split-toy, class-incremental</h1>" in text
    for number in ("92.5 ± 2.5 %", "80.0 %", "60.0 %", "1 of 2", "all at once", "10.5 s ± 0.5 s", "75.0 ± 0.0 %"):
        assert number in text, number
    for said in (
        "agrees on 60% of replay",
        "seed 1: interrupted",
        "machine · cores",
        "learner.<wbr>name",
        "real test rows",
    ):
        assert said in text, said
    assert list(tmp_path.glob("*.partial")) == []


def test_the_page_is_well_formed_and_described(folders: list[Path], tmp_path: Path) -> None:
    page = Page(write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("img")) == 2
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in cell for cell in page.all("th"))
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [link["href"] for link in page.all("a")]
    assert links
    assert all(link is not None and link[0] == "#" and link[1:] in anchors for link in links)
    assert len(page.all("section")) == 12


def test_the_page_needs_no_network_and_no_script(folders: list[Path], tmp_path: Path) -> None:
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script")
    assert not page.all("link")
    assert outside(text) == []
    assert "default-src 'none'" in str(page.all("meta"))


def outside(text: str) -> list[str]:
    """Addresses that a browser would fetch, other than ``data:`` and places in the page itself."""
    found = re.findall(r"""(?:src|href|srcset|poster)\s*=\s*["']?([^"'\s>]+)""", text)
    found += re.findall(r"""url\(\s*["']?([^"')]+)""", text) + re.findall(r"@import\s+(\S+)", text)
    return [address for address in found if not address.startswith(("#", "data:image/png"))]


def test_everything_from_a_run_is_escaped(write_run: Write, write_replay_run: Write, tmp_path: Path) -> None:
    numbers = {"histogram": [0.5, 0.5], "label_agreement": 0.5}
    findings = [{"task": 1, "probe": probe, "numbers": numbers} for probe in (ATTACK, "replay-quality")]
    told = {
        "stream": ATTACK,
        "scenario": ATTACK,
        "learner": ATTACK,
        "generator": ATTACK,
        "tasks": [ATTACK, f"' onload='alert(1) {ATTACK}"],
        "classes": [ATTACK, "]]>" + ATTACK],
        "warnings": [ATTACK],
        "error": ATTACK,
        "findings": findings,
    }
    memory = {"persistent": {ATTACK: 1}, "persistent_bytes": 1, "working_bytes": 1, "stores": ATTACK}
    options = {"learner": {"name": ATTACK, ATTACK: f'"{ATTACK}'}, "seed": 0}
    folders = [write_run("a", options=options, memory=memory, **told), write_run("b", **{**told, "status": "failed"})]
    replay = write_replay_run("c", **told)
    (replay / "samples" / "task-1-generated-samples.png").rename(replay / "samples" / "task-1-<b onclick='x'>.png")
    (replay / "environment.json").write_text('{"schema": 1, "python": "<script>alert(1)</script>"}')
    lines = f'{{"kind": "losses", "task": 0, "phase": "train", "step": 50, "losses": {{"{ATTACK}": 1.0}}}}\n'
    (folders[0] / "metrics.jsonl").write_text(lines)
    text = write_report([*folders, replay], tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not page.all("script")
    assert not page.all("b")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_every_probe_has_its_own_part(write_run: Write, tmp_path: Path) -> None:
    def found(probe: str, **numbers: object) -> list[dict[str, object]]:
        return [{"task": 1, "probe": probe, "numbers": numbers}]

    folders = [
        write_run("buffer", "replay", findings=found("buffer-classes", histogram=[7, 9, 0, 0])),
        write_run("lwf", "learning-without-forgetting", findings=found("solver-agreement", solver_agreement=0.625)),
    ]
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Rows of each class in the buffer" in text
    assert "in the buffer of replay after task 2: cat 7, dog 9" in text
    assert "Does the solver still agree on new rows?" in text
    assert text.count("62.5 %") == 1
    assert "Share of each class among replay" not in text  # neither of them rehearses samples
    assert "Share of replayed rows" not in text
    Page(text)


def test_several_settings_have_a_part_each(write_run: Write, tmp_path: Path) -> None:
    for scenario in ("class", "domain"):
        write_run(f"grid/{scenario}", scenario=scenario)
    (tmp_path / "grid" / "started").mkdir()
    (tmp_path / "grid" / "started" / "config.yaml").write_text("schema: 1\n")
    text = write_report([tmp_path / "grid"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<h2 class="setting">split-toy, class-incremental</h2>' in text
    assert '<h2 class="setting">split-toy, domain-incremental</h2>' in text
    assert "started, but without a result yet" in text
    Page(text)


def test_runs_that_failed_at_once_still_make_a_page(write_run: Write, tmp_path: Path) -> None:
    folder = write_run("a", status="failed", error="the loss <x> stopped being finite", accuracy=[], memory={})
    (folder / "metrics.jsonl").unlink()
    text = write_report([folder], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "failed: the loss &lt;x&gt; stopped being finite" in text
    Page(text)


def test_a_page_that_cannot_be_made_leaves_the_old_one(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("before")
    (folders[0] / "result.json").write_text("{")
    with pytest.raises(StorageError, match="the result is not readable"):
        write_report(folders, out)
    assert out.read_text() == "before"
    with pytest.raises(StorageError, match="cannot write"):
        write_report(folders[1:], tmp_path / "no such folder" / "report.html")


def test_a_real_run(tmp_path: Path) -> None:
    run = reverie.run("blobs", {"name": "naive", "steps": 5}, out=tmp_path / "run", evaluate_every=5)
    text = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{100 * run.summary['average_accuracy']:.1f} %" in text
    Page(text)


def test_every_figure_can_also_be_a_file(folders: list[Path], tmp_path: Path) -> None:
    page = write_report(folders, tmp_path / "report.html", tmp_path / "new" / "pictures")
    files = sorted((tmp_path / "new" / "pictures").iterdir())
    shown = [tag for tag in Page(page.read_text(encoding="utf-8")).all("svg") if tag.get("role") == "img"]
    assert len(files) == len(shown) > 5
    assert "s1-forgetting.svg" in [file.name for file in files]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in text
        assert "currentColor" not in text
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        write_report(folders, tmp_path / "report.html", tmp_path / "taken" / "pictures")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_page(folders: list[Path], tmp_path: Path) -> None:
    out = write_report(folders, tmp_path / "report.html")
    dom = browse(tmp_path, "--dump-dom", out.as_uri())
    for expected in ("split-toy, class-incremental</h1>", "92.5 ± 2.5 %", "Accuracy matrices", "1 of 2"):
        assert expected in dom
    assert outside(dom) == []
    for name, size in (("desktop", "1280,1600"), ("phone", "500,1600")):
        shot = tmp_path / f"{name}.png"
        browse(tmp_path, "--hide-scrollbars", f"--window-size={size}", f"--screenshot={shot}", out.as_uri())
        assert shot.stat().st_size > 20_000


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_phone_does_not_scroll_sideways(folders: list[Path], tmp_path: Path) -> None:
    out = write_report(folders, tmp_path / "report.html")
    # The page runs no script, so a copy without its policy measures itself, in a frame of a phone's width.
    too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    measure = f"<script>document.title = {too_wide} + ' pixels too wide'</script></body>"
    text = re.sub(r"<meta http-equiv[^>]*>", "", out.read_text(encoding="utf-8")).replace("</body>", measure)
    (tmp_path / "inside.html").write_text(text, encoding="utf-8")
    frame = "<iframe src='inside.html' width=390 height=800 onload='document.title = contentDocument.title'></iframe>"
    (tmp_path / "frame.html").write_text(f"<!DOCTYPE html>{frame}", encoding="utf-8")
    dom = browse(tmp_path, "--allow-file-access-from-files", "--dump-dom", (tmp_path / "frame.html").as_uri())
    assert "<title>0 pixels too wide</title>" in dom


def browse(folder: Path, *arguments: str) -> str:
    """Chromium's answer, without anything it would do on its own."""
    assert CHROMIUM is not None
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    alone = ("--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}")
    done = subprocess.run([CHROMIUM, *quiet, *alone, *arguments], capture_output=True, timeout=120, check=True)
    return done.stdout.decode("utf-8")
