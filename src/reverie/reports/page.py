"""The report page: one HTML file that needs no network and runs no script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import jinja2

from reverie.checks import StorageError
from reverie.reports import figures, latents, posterior_figures, posteriors, tables, words
from reverie.reports.figures import Picture
from reverie.reports.records import RunRecord, find_runs, read_run
from reverie.reports.tables import Group, OptionRow, SummaryRow
from reverie.reports.words import Estimate, Quantity, percent_estimate, plural
from reverie.storage import write_text

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Image:
    """A grid of generated samples, as a ``data:`` address."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Key:
    """A group's entry in the key of all figures."""

    swatch: str
    label: str


@dataclass(frozen=True)
class Agreement:
    """One probe's numbers: a row of cells a group, a column a task."""

    title: str
    meaning: str
    tasks: tuple[int, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Latents:
    """Generated latents of a group: whose they are, the tables, and the projection of its first seed that has one."""

    label: str
    tables: latents.Quality
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Models:
    """What probes found of the models of a group's tasks; what is drawn in the plane is of its first seed that has it."""

    label: str
    matrices: tuple[Picture, ...]
    histograms: tuple[Picture, ...]
    answers: tuple[Picture, ...]
    plane: tuple[tuple[str, list[Picture]], ...]


@dataclass(frozen=True)
class Setting:
    """Everything the page says about the groups of one stream and scenario."""

    anchor: str
    title: str
    lead: str
    quantity: Quantity
    columns: tuple[tables.Column, ...]
    keys: tuple[Key, ...]
    summary: tuple[SummaryRow, ...]
    task_titles: tuple[str, ...]
    finals: tuple[tuple[str, tuple[str, ...]], ...]
    progress: tuple[Picture, ...]
    by_task: tuple[Picture, ...]
    heat_maps: tuple[Picture, ...]
    forgetting: Picture | None
    losses: tuple[Picture, ...]
    samples: tuple[tuple[str, tuple[Image, ...]], ...]
    histograms: tuple[tuple[str, str, tuple[Picture, ...]], ...]
    agreements: tuple[Agreement, ...]
    latents: tuple[Latents, ...]
    fans: tuple[Picture, ...]
    fans_by_task: tuple[tuple[str, tuple[Picture, ...]], ...]
    inference: posteriors.InferenceTable | None
    models: tuple[Models, ...]
    memory: Picture | None
    time: Picture | None
    costs: tuple[tuple[str, tuple[str, ...]], ...]
    labels: tuple[str, ...]
    differences: tuple[OptionRow, ...]
    shared: tuple[OptionRow, ...]


@dataclass(frozen=True)
class Environment:
    """One machine and set of versions, and the runs that were made there."""

    runs: int
    rows: tuple[tuple[str, str], ...]


HISTOGRAMS = (  # what is drawn, meaning
    (
        figures.REPLAY,
        "Share of each class among replay. Dashed: what each past class would get in equal parts.",
    ),
    (
        figures.BUFFER,
        "Rows of each class in the buffer. Dashed: what each class so far would get in equal parts.",
    ),
)

AGREEMENTS = (  # probe, its number, title, meaning
    (
        "replay-quality",
        "label_agreement",
        "Are the labels right?",
        "Share of replayed rows whose label is that of most of their nearest real test rows, while each task was learnt.",
    ),
    (
        "replay-quality",
        "solver_agreement",
        "Does the solver still agree?",
        "Share of replayed rows on which the solver, after each task, answers as the frozen one before it.",
    ),
    (
        "solver-agreement",
        "solver_agreement",
        "Does the solver still agree on new rows?",
        "Share of each task's training rows on which the solver, after that task, answers as the frozen one before it.",
    ),
)

COSTS: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (  # heading, name in the record's cost, text
    ("Rows a second", "rows_per_second", words.whole),
    ("Arithmetic (estimate)", "flops_estimate", words.operations),
    ("Peak memory", "peak_memory_bytes", words.size),
)


def write_report(folders: Sequence[Path], out: Path, pictures: Path | None = None) -> Path:
    """Writes the page about all runs at or inside ``folders`` to ``out``, whole or not at all; with ``pictures`` also each of its figures as an
    SVG file into that folder. Raises StorageError."""
    runs, waiting = find_runs(folders)
    records = [read_run(folder) for folder in runs]
    notes = [f"{folder}: started, but without a result yet; left out of this page" for folder in waiting]
    settings = _settings(records)
    write_text(out, render(records, notes, settings))
    if pictures is not None:
        try:
            pictures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {pictures}: {error.strerror or error}") from error
        for name, picture in _pictures(settings, ""):
            write_text(pictures / f"{name}.svg", picture.standalone())
    return out


def _pictures(value: Any, name: str) -> Iterator[tuple[str, Picture]]:
    """Every figure in a value and what it is made of, named by where it is found: s1-progress-1."""
    if isinstance(value, Picture):
        yield name, value
    elif is_dataclass(value):
        inside = value.anchor if isinstance(value, Setting) else name
        for each in fields(value):
            yield from _pictures(getattr(value, each.name), f"{inside}-{each.name.replace('_', '-')}")
    elif isinstance(value, list | tuple):
        found = [each for each in value if not isinstance(each, str)]
        for number, each in enumerate(found, 1):
            yield from _pictures(each, f"{name}-{number}" if len(found) > 1 else name)


def render(records: Sequence[RunRecord], notes: Sequence[str] = (), settings: Sequence[Setting] | None = None) -> str:
    """The page as text. notes: what else the reader should be warned of; settings: what ``_settings`` made of these records."""
    groups = tables.group_runs(records)
    settings = _settings(records) if settings is None else settings
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # everything but our own <svg>, which escapes the names in it
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    return template.render(
        title=settings[0].title if len(settings) == 1 else f"Continual learning in {len(settings)} settings",
        lead=_lead(groups, settings),
        settings=settings,
        measures=latents.MEASURES,
        cost_headings=[heading for heading, _, _ in COSTS],
        warnings=[*_warnings(groups), *notes],
        runs=_runs(groups),
        result_heading=" or ".join(dict.fromkeys(group.quantity.mean for group in groups)).capitalize(),
        environments=_environments(records),
    )


# ------------------------------------------------------------------------------------------ a setting


def _settings(records: Sequence[RunRecord]) -> list[Setting]:
    by_setting = tables.by_setting(tables.group_runs(records))
    return [_setting(f"s{number}", key, members) for number, (key, members) in enumerate(by_setting.items(), 1)]


def _setting(anchor: str, key: tuple[str, str, bool], groups: list[Group]) -> Setting:
    options = tables.option_rows(groups)
    stream, scenario, regression = key
    quantity = groups[0].quantity
    fans = [(group.label, of_tasks) for group in groups if (of_tasks := posteriors.fans(group))]
    names = tables.task_names(groups)
    reached = {len(record.result.matrix) for group in groups for record in group.shown if not record.merged}
    count = max(group.tasks for group in groups)
    lead = f"{plural(count, 'task')}, {plural(len(groups), 'learner')}, {plural(sum(len(g.records) for g in groups), 'run')}."
    if reached and min(reached) < count:
        lead += f" Not every run is complete: the shortest has learnt {min(reached)} of {plural(count, 'task')}."
    return Setting(
        anchor=anchor,
        title=f"{stream}, {words.SCENARIOS.get(scenario, scenario)}{' regression' if regression else ''}",
        lead=lead,
        quantity=quantity,
        columns=tables.REGRESSION_COLUMNS if regression else tables.COLUMNS,
        keys=tuple(Key(figures.swatch(k, group), group.label) for k, group in enumerate(groups)),
        summary=tuple(tables.summary_row(group) for group in groups),
        task_titles=tuple(
            f"{k}: {name}" if name and name != f"task {k}" else f"{k}" for k, name in enumerate(names, 1)
        ),
        finals=tuple(
            (group.label, tuple(map(quantity.text, tables.final_estimates(group))))
            for group in groups
            if group.complete
        ),
        progress=_present(figures.progress_after_tasks(groups), figures.progress_over_steps(groups)),
        by_task=tuple(figures.progress_by_task(groups)),
        heat_maps=tuple(figures.heat_maps(groups)),
        forgetting=figures.forgetting_bars(groups),
        losses=tuple(figures.losses(groups)),
        samples=tuple((_whose(group), images) for group in groups if (images := _samples(group))),
        histograms=tuple(
            (group.label, meaning, tuple(panels))
            for group in groups
            for kind, meaning in HISTOGRAMS
            if (panels := figures.histograms(group, kind))
        ),
        agreements=tuple(found for entry in AGREEMENTS if (found := _agreement(groups, *entry))),
        latents=tuple(latent for group in groups if (latent := _latents(group))),
        fans=tuple(posterior_figures.fan(of_tasks[-1], label, label) for label, of_tasks in fans),
        fans_by_task=tuple((label, tuple(posterior_figures.fan_strip(of_tasks, label))) for label, of_tasks in fans),
        inference=posteriors.inference_table(groups),
        models=tuple(models for group in groups if (models := _models(group))),
        memory=figures.memory_bars(groups),
        time=figures.cost_bars(groups),
        costs=tuple((group.label, _costs(group)) for group in groups),
        labels=tuple(group.label for group in groups),
        differences=tuple(sorted((row for row in options if row.differs), key=lambda row: not row.others)),
        shared=tuple(row for row in options if not row.differs),
    )


def _present(*pictures: Picture | None) -> tuple[Picture, ...]:
    return tuple(picture for picture in pictures if picture is not None)


def _pictured(group: Group) -> RunRecord | None:
    """The run whose samples are shown: of the first seed that has some."""
    return next((record for record in group.shown if record.samples), None)


def _whose(group: Group) -> str:
    record = _pictured(group)
    return f"{group.label}, seed {record.result.seed}" if record else group.label


def _samples(group: Group) -> tuple[Image, ...]:
    record = _pictured(group)
    if record is None:
        return ()
    images = []
    several = len({sample.name for sample in record.samples}) > 1
    for place in figures.spread(len(record.samples)):
        sample = record.samples[place]
        moment = f"after task {sample.task + 1}"
        caption = f"{sample.name}, {moment}" if several else moment
        count = f": a grid of {plural(sample.images, 'image')}" if sample.images is not None else ""
        alt = f"{sample.name[:1].upper()}{sample.name[1:]} of {_whose(group)}, {moment}{count}."
        images.append(Image(sample.data_uri(), alt, caption))
    return tuple(images)


def _agreement(groups: Sequence[Group], probe: str, number: str, title: str, meaning: str) -> Agreement | None:
    most = max(group.tasks for group in groups)
    found = {
        group.label: {
            task: estimate for task in range(most) if (estimate := tables.finding_estimate(group, task, probe, number))
        }
        for group in groups
    }
    tasks = sorted({task for estimates in found.values() for task in estimates})
    rows = tuple(
        (label, tuple(percent_estimate(estimates[task]) if task in estimates else words.MISSING for task in tasks))
        for label, estimates in found.items()
        if estimates
    )
    return Agreement(title, meaning, tuple(task + 1 for task in tasks), rows) if rows else None


def _latents(group: Group) -> Latents | None:
    found = latents.quality(group)
    if found is None:
        return None
    for record in group.shown:
        if view := latents.projection(record):
            whose = f"{group.label}, seed {record.result.seed}"
            return Latents(group.label, found, tuple(figures.projections(view, whose)))
    return Latents(group.label, found, ())


def _models(group: Group) -> Models | None:
    found, plane = posteriors.entropies(group), posteriors.plane(group)
    if found is None and plane is None:
        return None
    matrices = [posterior_figures.entropy_map(found, group.label)] if found else []
    return Models(
        group.label,
        (*matrices, *(posterior_figures.confusion_maps(found, group.label) if found else ())),
        tuple(posterior_figures.entropy_histograms(found, group.label)) if found else (),
        tuple(posterior_figures.plane_answers(plane, group.label)) if plane else (),
        tuple(posterior_figures.plane_models(plane, group.label)) if plane else (),
    )


def _costs(group: Group) -> tuple[str, ...]:
    def mean(name: str) -> float | None:
        return Estimate.of([getattr(record.result.cost, name) for record in group.shown]).mean

    return tuple(text(mean(name)) for _, name, text in COSTS)


# ------------------------------------------------------------------------------------------ the whole page


def _lead(groups: Sequence[Group], settings: Sequence[Setting]) -> str:
    if len(settings) == 1:
        return settings[0].lead
    return f"{plural(len(groups), 'group')} of runs that differ in their seed alone, on {len(settings)} settings."


def _warnings(groups: Sequence[Group]) -> list[str]:
    found = []
    for group in groups:
        stream, scenario = group.setting
        for record in group.records:
            where = f"{group.label}, {stream}, {words.SCENARIOS.get(scenario, scenario)}, seed {record.result.seed}"
            if not record.complete:
                found.append(
                    f"{where}: {record.result.status}{': ' if record.result.error else ''}{record.result.error or ''}"
                )
            found += [f"{where}: {message}" for message in record.result.warnings]
        for record in group.repeated:
            found.append(f"{record.folder}: same options and seed as another run here; left out")
    return found


def _runs(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Cells of the table of runs."""
    return [
        (
            group.label,
            *group.setting,
            str(record.result.seed),
            record.result.status,
            group.quantity.text(
                Estimate.of(
                    [tables.final_error(record) if group.regression else record.result.number("average_accuracy")]
                )
            ),
            str(record.folder),
        )
        for group in groups
        for record in group.records
    ]


def _environments(records: Sequence[RunRecord]) -> list[Environment]:
    """Each different environment once."""
    found: dict[tuple[tuple[str, str], ...], int] = {}
    for record in records:
        rows = tuple(_flat({key: value for key, value in record.environment.items() if key != "schema"}))
        found[rows] = found.get(rows, 0) + 1
    return [Environment(count, rows) for rows, count in found.items()]


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key} · ")
        else:
            yield f"{path}{key}", words.MISSING if value is None else str(value)
