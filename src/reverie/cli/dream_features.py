"""The features of ``reverie dream``: from a loaded run and what was asked for to a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reverie import dreams
from reverie.checks import DataError, OptionsError, Problems, StorageError, nearest
from reverie.cli.predict_command import read_inputs
from reverie.experiments.config import RunConfig
from reverie.experiments.judging import judge_run
from reverie.experiments.runs import Run, checked_inputs, stream_of
from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.probes.judge import BATCH, STEPS
from reverie.reports.dream_figures import confusions, histograms, scatter
from reverie.reports.grids import Block, draw_grid
from reverie.reports.words import listed, number, percent, plural
from reverie.types import Stream

ROWS = 1000  # images of a domain that are measured, at most, unless --n says otherwise
EMPTY = float("nan")


@dataclass(frozen=True)
class Options:
    """What the command line gave; None: the feature's own default."""

    seed: int
    n: int | None
    classes: Sequence[str] | None
    domain: Sequence[str] | None
    steps: int | None
    batch_size: int | None
    temperature: float | None
    path: str | None
    method: str | None
    images: Path | None
    data_dir: str | None


@dataclass(frozen=True)
class Dreamt:
    """png: the picture. numbers: for --json. said: a line for the terminal."""

    png: bytes
    numbers: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""


@dataclass(frozen=True)
class Images:
    """Images (n, *shape) to look at, with the name of where they come from; labels: (n,) classes, None where they are not known; domain: None
    where it is not."""

    name: str
    x: Tensor
    labels: Tensor | None = None
    domain: int | None = None


class Dreamer:
    """A loaded run and what is asked of it."""

    def __init__(self, run: Run, model: AdversarialAutoencoder, options: Options) -> None:
        self.run, self.model, self.options = run, model, options
        self.classes = [str(name) for name in run.spec.classes]
        self.merged = run.spec.tasks < len(
            run.spec.heads
        )  # learnt at once: tasks keep their names in the result's columns
        self.domains = [str(name) for name in (run.result["tasks"] if self.merged else run.spec.task_names)]

    # ------------------------------------------------------------------ what was asked for

    def chosen_domains(self) -> list[int]:
        """By number, from 0, or by name; all that were learnt, if none is given."""
        learnt = list(dreams.learnt_domains(self.model))
        if self.options.domain is None:
            return learnt
        known = listed([f"{k} ({self.domains[k]})" for k in learnt])
        found = []
        problems = Problems()
        for word in self.options.domain:
            names = [k for k, name in enumerate(self.domains) if word in (name, str(k))]
            if names and names[0] in learnt:
                found.append(names[0])
            else:
                problems.add(f"--domain {word}: was never learnt; this run has learnt {known}")
        problems.raise_as(DataError, "these domains cannot be used")
        return found

    def chosen_classes(self) -> list[int] | None:
        """By the labels of the training data; None if none is given."""
        if self.options.classes is None:
            return None
        learnt = {self.classes[c]: c for c in dreams.learnt_classes(self.model)}
        problems = Problems()
        for word in self.options.classes:
            if word not in learnt:
                rule = "was never learnt" if word in self.classes else "is no class of this run"
                problems.add(f"--classes {word}: {rule}; {nearest(word, learnt)}")
        problems.raise_as(DataError, "these classes cannot be used")
        return [learnt[word] for word in self.options.classes]

    def images(self, n: int) -> list[Images]:
        """At most n test images of each domain, whose classes take turns, or the first n of the file that was given."""
        file = self.options.images
        if file is not None:
            x = checked_inputs(read_inputs(file, self.run.spec.input_shape), self.run.spec)
            return [Images(file.name, x[:n])]
        found = []
        wanted = self.chosen_domains()
        for test in self.stream().tests:
            if test.head not in wanted:
                continue
            labels = test.rows.labels
            index = dreams.balanced(labels, n, "dream", self.options.seed, test.head)
            name = self.domains[test.head]
            found.append(Images(name, test.rows.take(index).x.cpu(), labels[index], test.head))
        return found

    def known_images(self, n: int) -> list[Images]:
        """At most n test images of each domain; none where the stream cannot be made again."""
        if self.from_python:
            return []
        return Dreamer(self.run, self.model, replace(self.options, images=None, domain=None)).images(n)

    @property
    def from_python(self) -> bool:
        """Whether the stream was given from Python, so that its images cannot be read again."""
        return "given" in self.run.config["stream"]

    def stream(self) -> Stream:
        """Made again, its tasks apart even where they were learnt at once."""
        config = self.run.config
        if self.from_python:
            raise OptionsError(
                f"{self.run.folder}: its stream was given from Python, so its images cannot be read again; give some with --images FILE.npy, where "
                "the feature takes them"
            )
        values = {name: config[name] for name in ("stream", "scenario", "seed", "data_dir")}
        if self.options.data_dir is not None:
            values["data_dir"] = self.options.data_dir
        return stream_of(RunConfig.from_dict(values))

    def kept(self, domain: int) -> dict[str, Tensor] | None:
        """Test images of a domain and their reconstructions right after its task, where the run saved them."""
        path = Path(self.run.folder or "") / "arrays" / f"task-{domain + 1}-dreams.safetensors"
        if self.merged or not path.exists():
            return None
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError, ValueError) as error:
            raise StorageError(f"the saved arrays are not readable: {path} ({error})") from error
        names = ("real", "reconstructed", "classes")
        found = {name: arrays[f"{name}_{domain}"] for name in names if f"{name}_{domain}" in arrays}
        return found if len(found) == len(names) else None

    # ------------------------------------------------------------------ words

    def title(self, domain: int) -> str:
        return f"domain {domain}: {self.domains[domain]}"

    def caption(self, what: str) -> str:
        """What is shown, and of which run: stream, tasks, seed, size of the networks, budget."""
        run, learner = self.run, self.run.config["learner"]
        learnt, tasks = len(dreams.learnt_domains(self.model)), len(self.domains)
        stopped = "" if run.result["status"] == "complete" else ", stopped on the way"
        if learner.get("steps"):
            budget = f"{plural(learner['steps'], 'step')} a task"
        elif learner.get("epochs"):
            budget = f"{plural(learner['epochs'], 'epoch')} a task"
        else:
            budget = plural(run.result["cost"]["steps"], "step")
        return (
            f"{what} Run: {run.result['learner']} on {run.spec.name} ({run.spec.scenario}-incremental), {learnt} of {plural(tasks, 'task')} learnt"
            f"{stopped}, seed {run.config['seed']}, networks {self.model.chosen!r}, {budget}; drawn with seed {self.options.seed}."
        )


# ------------------------------------------------------------------------------------------ features


def generate(asked: Dreamer) -> Dreamt:
    """samples: a row a class, a block a domain"""
    options, chosen = asked.options, asked.chosen_classes()
    n, temperature = options.n or 8, 1.0 if options.temperature is None else options.temperature
    blocks = []
    for domain in asked.chosen_domains():
        taught = dreams.learnt_classes(asked.model, [domain])
        classes = [c for c in chosen or taught if options.domain is not None or c in taught]
        if not classes:
            continue
        images = dreams.generate(asked.model, classes, [domain], n, seed=options.seed, temperature=temperature)[0]
        blocks.append(Block(images, asked.title(domain), [asked.classes[c] for c in classes]))
    what = f"Generated: a row a class; a column shares its continuous code; temperature {temperature:g}."
    return Dreamt(draw_grid(blocks, asked.caption(what)))


def reconstruct(asked: Dreamer) -> Dreamt:
    """real images, their reconstructions by the run as it is and, where it saved them, right after their own task"""
    n = asked.options.n or 10
    blocks, numbers = [], {}
    newest = len(dreams.learnt_domains(asked.model)) - 1
    done = asked.run.result["status"] == "complete" and not asked.merged
    last = f"after task {newest + 1}" if done else "as it is now"
    domains = [] if asked.options.images is not None else asked.chosen_domains()
    saved = {domain: kept for domain in domains if (kept := asked.kept(domain)) is not None}
    if saved and len(saved) == len(domains) and n <= min(len(kept["real"]) for kept in saved.values()):
        shown = [Images(asked.domains[d], kept["real"][:n], kept["classes"][:n], d) for d, kept in saved.items()]
    else:
        shown, saved = asked.images(n), {}
    for images in shown:
        found = dreams.reconstruct(asked.model, images.x)
        rows, names = [images.x, found.images], ["real", last]
        numbers[images.name] = {"mse": float(found.error.mean())}
        if images.domain != newest and (kept := saved.get(-1 if images.domain is None else images.domain)) is not None:
            before = kept["reconstructed"][:n]
            rows, names = [images.x, before, found.images], ["real", "after its own task", last]
            numbers[images.name]["mse_after_its_own_task"] = float((before - images.x).square().mean())
        blocks.append(Block(torch.stack(rows), _titled(asked, images), names, _labels(asked, images)))
    what = "Reconstructed: images and what the autoencoder makes of them."
    said = "; ".join(
        f"{name}: mean squared error {number(values['mse'])}"
        + (f" ({number(values['mse_after_its_own_task'])} after its own task)" if len(values) > 1 else "")
        for name, values in numbers.items()
    )
    return Dreamt(draw_grid(blocks, asked.caption(what)), numbers, said)


def replay(asked: Dreamer) -> Dreamt:
    """what the next task would rehearse: samples with the class, domain and confidence that the model gives them"""
    n = asked.options.n or 64
    found = dreams.replay(asked.model, n, asked.chosen_domains(), seed=asked.options.seed)
    order = (found.domains * len(asked.classes) + found.classes).argsort(stable=True)
    columns = min(8, n)
    tiles = torch.full((-(-n // columns) * columns, *found.images.shape[1:]), EMPTY)
    tiles[:n] = found.images[order]
    notes = [
        f"{asked.classes[found.classes[k]][:6]} · {found.domains[k]} · {100 * found.confidence[k]:.0f}%" for k in order
    ] + [""] * (len(tiles) - n)
    frames = [*found.classes[order].tolist(), *[0] * (len(tiles) - n)]
    block = Block(
        tiles.view(-1, columns, *tiles.shape[1:]), notes=_split(notes, columns), frames=_split(frames, columns)
    )
    kept = float((found.classes == found.asked).float().mean())
    names = "; ".join(f"{domain} {asked.domains[domain]}" for domain in dreams.learnt_domains(asked.model))
    what = f"Replay: below each sample the class, domain and confidence that the model gives it, framed by class; domains: {names}."
    said = f"{percent(kept)} of the samples are of the class that was asked for; mean confidence {percent(float(found.confidence.mean()))}"
    numbers = {"as_asked": kept, "confidence": float(found.confidence.mean())}
    return Dreamt(draw_grid([block], asked.caption(what)), numbers, said)


def interpolate(asked: Dreamer) -> Dreamt:
    """strips from one image to another, each end its reconstruction; of --images one strip for two images in a row"""
    n, steps = asked.options.n or 8, asked.options.steps or 9
    path: Any = asked.options.path or "linear"
    found = asked.images(2 * n)
    x = torch.cat([images.x for images in found])
    names = [f"{_short(asked, images, k)}" for images in found for k in range(len(images.x))]
    if len(found) > 1 or found[0].labels is not None:  # pairs from anywhere; those of a file as they stand
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(asked.options.seed))
        x, names = x[order], [names[k] for k in order.tolist()]
    count = min(n, len(x) // 2)
    if count == 0:
        raise DataError(f"{plural(len(x), 'image')}: an interpolation needs two")
    first, last = x[0 : 2 * count : 2], x[1 : 2 * count : 2]
    strips = dreams.interpolate(asked.model, first, last, steps, path)
    strips = torch.cat([first.cpu()[:, None], strips, last.cpu()[:, None]], dim=1)
    rows = [f"{names[2 * k]} to {names[2 * k + 1]}" for k in range(count)]
    columns = ["real", *(f"{step / (steps - 1):.2g}" for step in range(steps)), "real"]
    what = f"Interpolated, {path}: at 0 and 1 the reconstructions of the real images beside them."
    return Dreamt(draw_grid([Block(strips, "", rows, columns)], asked.caption(what)))


def traverse(asked: Dreamer) -> Dreamt:
    """one number of the code at a time moved by -3 to 3 deviations, a row each for those that say most of an image; a block a domain"""
    coordinates, steps = asked.options.n or 10, asked.options.steps or 7
    found = asked.images(1)
    rows = torch.cat([images.x for images in asked.known_images(ROWS) or found])
    blocks, numbers = [], {}
    for images in found:
        moved = dreams.traverse(asked.model, images.x[0], rows, coordinates, steps)
        names = [f"z{j}  {kl:.2f} nats" for j, kl in zip(moved.coordinates.tolist(), moved.kl.tolist(), strict=True)]
        columns = [f"{shift:+.2g}" if abs(shift) > 1e-9 else "0" for shift in moved.shifts.tolist()]
        blocks.append(Block(moved.images, _titled(asked, images), names, columns))
        numbers = {"coordinates": moved.coordinates.tolist(), "kl": moved.kl.tolist()}
    what = (
        "Traversed: one number of the code of an image moved by as many standard deviations of the aggregate posterior as the head says; those of "
        "highest KL from the prior."
    )
    return Dreamt(draw_grid(blocks, asked.caption(what)), numbers)


def translate(asked: Dreamer) -> Dreamt:
    """images decoded with the code of another domain or class (code swap)"""
    chosen = asked.chosen_classes()
    n, named = asked.options.n or 8, asked.options.domain is not None
    targets: list[tuple[int | None, int | None]] = [
        (domain, c)
        for domain in (asked.chosen_domains() if named or chosen is None else [None])
        for c in ([None] if chosen is None else chosen)
    ]
    source = Dreamer(asked.run, asked.model, replace(asked.options, domain=None))
    blocks = []
    for images in source.images(n):
        rows = [images.x.cpu()] + [dreams.translate(asked.model, images.x, domain=d, class_=c) for d, c in targets]
        names = [_target(asked, d, c) for d, c in targets]
        blocks.append(Block(torch.stack(rows), _titled(asked, images), ["real", *names], _labels(asked, images)))
    what = "Code swap: the same continuous code with the code of another domain or class; with its own it is the reconstruction."
    return Dreamt(draw_grid(blocks, asked.caption(what)))


def cluster(asked: Dreamer) -> Dreamt:
    """a row for each inferred class or category: generated images, and real ones that fall into it"""
    n = asked.options.n or 8
    found = asked.images(ROWS)
    x = torch.cat([images.x for images in found])
    labels = (
        None if found[0].labels is None else torch.cat([images.labels for images in found if images.labels is not None])
    )
    clusters = dreams.cluster(asked.model, x, labels)
    codes = dreams.learnt_classes(asked.model)
    made = torch.stack([_made(asked, c, n) for c in codes])
    real = torch.full((len(codes), n, *x.shape[1:]), EMPTY)
    for row, code in enumerate(codes):
        mine = (clusters.codes == code).nonzero().flatten()
        some = mine[torch.linspace(0, len(mine) - 1, min(n, len(mine))).long()] if len(mine) else mine
        real[row, : len(some)] = x[some].cpu()
    rows = [asked.classes[c] for c in codes]
    counts = [f"{int((clusters.codes == c).sum())} assigned" for c in codes]
    blocks = [Block(made, "generated", rows), Block(real, "real, assigned", counts)]
    said = f"{plural(len(x), 'image')} in {plural(len(clusters.codes.unique()), 'cluster')}"
    numbers: dict[str, Any] = {"images": len(x), "nmi": clusters.nmi, "accuracy": clusters.accuracy}
    if clusters.nmi is not None and clusters.accuracy is not None:
        said += f"; accuracy {percent(clusters.accuracy)} by the best match with the labels, NMI {clusters.nmi:.3f}"
    return Dreamt(draw_grid(blocks, asked.caption(f"Clustered by the most probable class: {said}.")), numbers, said)


def _made(asked: Dreamer, c: int, n: int) -> Tensor:
    """n samples of a class, of the domains that taught it in turn."""
    model = asked.model
    domains = [d for d in dreams.learnt_domains(model) if c in dreams.learnt_classes(model, [d])]
    each = dreams.generate(model, [c], domains, -(-n // len(domains)), seed=asked.options.seed)[:, 0]
    return each.transpose(0, 1).flatten(0, 1)[:n]


def embed(asked: Dreamer) -> Dreamt:
    """codes in two dimensions, coloured by domain; HSIC between code and domain"""
    found = asked.images(asked.options.n or 500)
    x = torch.cat([images.x for images in found])
    method: Any = asked.options.method or "pca"
    place = None
    if found[0].domain is not None:
        place = torch.cat([torch.full((len(images.x),), images.domain or 0) for images in found])
    embedded = dreams.embed(asked.model, x, place, method, seed=asked.options.seed)
    domains = [images.name for images in found for _ in range(len(images.x))]
    classes = [asked.classes[c] for images in found if images.labels is not None for c in images.labels.tolist()]
    said = f"HSIC(code, domain) = {embedded.hsic:.4g}, {plural(len(x), 'image')}"
    names = ("first principal component", "second") if method == "pca" else ("first dimension of t-SNE", "second")
    what = "Embedded: the mean continuous code of test images, coloured by domain, marked by class."
    png = scatter(embedded.points.numpy(), domains, classes, said, names, asked.caption(what))
    return Dreamt(png, {"hsic": embedded.hsic, "images": len(x)}, said)


def novelty(asked: Dreamer) -> Dreamt:
    """error of reconstruction, entropy of the domain and critic score: of test images and, beside them, of --images"""
    n = asked.options.n or ROWS
    found = asked.images(n)
    if asked.options.images is not None:
        found = asked.known_images(n) + found
    signs = {images.name: dreams.novelty(asked.model, images.x) for images in found}
    titles = {"error": "mean squared error a pixel", "entropy": "entropy of the domain, nats", "critic": "critic score"}
    values = {
        title: {name: getattr(sign, key).numpy() for name, sign in signs.items()} for key, title in titles.items()
    }
    numbers = {name: {key: float(getattr(sign, key).mean()) for key in titles} for name, sign in signs.items()}
    said = "; ".join(
        f"{name}: error {number(means['error'])}, entropy {number(means['entropy'])}, critic {number(means['critic'])}"
        for name, means in numbers.items()
    )
    what = "Novelty: high errors, high entropies and low scores are signs of images unlike those that were learnt."
    return Dreamt(histograms(values, asked.caption(what)), numbers, said)


def judge(asked: Dreamer) -> Dreamt:
    """what a classifier of all real training rows sees in what was generated and rehearsed; trains one, and writes judge.json"""
    options = asked.options
    steps, batch_size = options.steps or STEPS, options.batch_size or BATCH
    found = judge_run(
        asked.run, asked.stream(), steps=steps, batch_size=batch_size, n=options.n or ROWS, seed=options.seed
    )
    labels = [(domain, asked.classes[c]) for domain, c in found.judge.pairs.tolist()]
    titles = {"generated": "generated", "next": "replay of a next task", "replay": "replay of the last task"}
    tables = {titles[name]: judgement.counts.numpy() for name, judgement in found.found.items()}
    accuracy = found.numbers["judge"]["accuracy"]
    said = [f"the judge is right on {percent(each['class'])} of {name}" for each, name in zip(accuracy, asked.domains)]
    for name, judgement in found.found.items():
        shares = judgement.numbers["as_asked"]
        said.append(
            f"{titles[name]}: {percent(shares['class'])} of the class asked for, {percent(shares['domain'])} of the domain"
        )
    what = "Judged by a classifier of the real training rows: a row what was asked for, a column what is seen; darker is more."
    numbers = {name: value for name, value in found.numbers.items() if name != "schema"}
    return Dreamt(confusions(tables, labels, asked.domains, asked.caption(what)), numbers, "; ".join(said))


@dataclass(frozen=True)
class Feature:
    """make: what is shown. options: those that it takes, beside --out, --seed and --json."""

    make: Callable[[Dreamer], Dreamt]
    options: tuple[str, ...]


REAL = ("n", "domain", "images", "data_dir")  # options of features that look at real images
FEATURES: Mapping[str, Feature] = {
    "generate": Feature(generate, ("n", "classes", "domain", "temperature")),
    "reconstruct": Feature(reconstruct, REAL),
    "replay": Feature(replay, ("n", "domain")),
    "interpolate": Feature(interpolate, (*REAL, "steps", "path")),
    "traverse": Feature(traverse, (*REAL, "steps")),
    "translate": Feature(translate, (*REAL, "classes")),
    "cluster": Feature(cluster, REAL),
    "embed": Feature(embed, (*REAL, "method")),
    "novelty": Feature(novelty, REAL),
    "judge": Feature(judge, ("n", "steps", "batch_size", "data_dir")),
}


def _titled(asked: Dreamer, images: Images) -> str:
    return images.name if images.domain is None else asked.title(images.domain)


def _labels(asked: Dreamer, images: Images) -> list[str]:
    return [] if images.labels is None else [asked.classes[c][:8] for c in images.labels.tolist()]


def _short(asked: Dreamer, images: Images, k: int) -> str:
    """An image in a few letters: its class and domain, or its place in the file."""
    if images.labels is None:
        return str(k)
    return f"{asked.classes[int(images.labels[k])][:8]} ({images.domain})"


def _target(asked: Dreamer, domain: int | None, c: int | None) -> str:
    if domain is None or c is None:
        return f"as {asked.classes[c] if c is not None else asked.domains[domain or 0]}"
    return f"as {asked.classes[c]} in {asked.domains[domain]}"


def _split(values: Sequence[Any], columns: int) -> list[list[Any]]:
    return [list(values[k : k + columns]) for k in range(0, len(values), columns)]
