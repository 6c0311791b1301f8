"""``reverie dream RUN FEATURE``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer

from reverie import dreams
from reverie.checks import NotReadyError, OptionsError, Problems, StorageError, nearest
from reverie.cli.arguments import make_app, several
from reverie.cli.display import print_json
from reverie.cli.dream_features import FEATURES, Dreamer, Options
from reverie.experiments.config import read_yaml
from reverie.experiments.runs import Run, load
from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.reports.words import listed


def prepare(words: Sequence[str]) -> list[str]:
    return several(words, ["--classes", "--domain"])


def dream(
    run: Annotated[Path, typer.Argument(help="the run folder")],
    feature: Annotated[
        str | None, typer.Argument(help=f"{listed(list(FEATURES))}; without one, they are listed")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="the picture; default: samples/dream-FEATURE.png in the run folder")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn, and of the images that are picked")] = 0,
    n: Annotated[
        int | None, typer.Option(min=1, help="samples of a class, images of a domain, strips, or rows of a traversal")
    ] = None,
    classes: Annotated[list[str] | None, typer.Option(help="labels to generate, or to translate into")] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="domains (tasks) by number, from 0, or name; those to translate into")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="images of a strip; updates of the judge")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="rows an update of the judge")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="deviation of sampled codes in that of the prior")
    ] = None,
    path: Annotated[
        str | None, typer.Option(help=f"of an interpolation: {' or '.join(get_args(dreams.Interpolation))}")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help=f"of an embedding: {' or '.join(get_args(dreams.Projection))}")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help=".npy or .npz of images, an image, or a folder of them, in place of test images")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="folder of data sets, if it moved")] = None,
    json: Annotated[bool, typer.Option("--json", help="print numbers and the picture's place as JSON")] = False,
) -> None:
    """What an adversarial autoencoder (learner lgaa) can show of what it learnt, as a picture.

    Real images are test images of the run's stream unless --images gives others. A feature without a name lists them all.
    """
    if feature is None:
        for name, entry in FEATURES.items():
            print(f"{name}: {entry.make.__doc__}")
        return
    if feature not in FEATURES:
        raise OptionsError(f"{feature!r}: no such feature; {nearest(feature, FEATURES)}")
    options = Options(
        *(seed, n, classes or None, domain or None, steps, batch_size, temperature, path, method, images, data_dir)
    )
    _check(feature, options)
    trained, model = _loaded(run)
    place = out or run / "samples" / f"dream-{feature}.png"
    if place.suffix.lower() != ".png":
        raise OptionsError(f"--out {place}: pictures are PNG files; give a name that ends in .png")
    shown = FEATURES[feature].make(Dreamer(trained, model, options))
    _write(place, shown.png)
    if json:
        print_json({**shown.numbers, "picture": str(place)})
        return
    if shown.said:
        print(shown.said)
    print(f"picture: {place}")


def _check(feature: str, options: Options) -> None:
    taken = FEATURES[feature].options
    given = {name: value for name, value in vars(options).items() if name != "seed"}
    problems = Problems()
    for name, value in given.items():
        if value is not None and name not in taken:
            rule = ", ".join(f"--{option.replace('_', '-')}" for option in taken)
            problems.add(f"--{name.replace('_', '-')}: {feature} does not take it; it takes {rule}")
    for name, values in (("path", get_args(dreams.Interpolation)), ("method", get_args(dreams.Projection))):
        value = given[name]
        problems.check(value is None or value in values, f"--{name} {value}: expected {' or '.join(values)}")
    both = given["images"] is not None and given["domain"] is not None and feature != "translate"
    problems.check(not both, "--images and --domain: images of a file are of no domain; give one of the two")
    problems.raise_as(OptionsError, "these options cannot be used")


def _loaded(folder: Path) -> tuple[Run, AdversarialAutoencoder]:
    config = read_yaml(folder / "config.yaml")
    if not (folder / "result.json").exists():
        raise NotReadyError(f"{folder}: this run has no result yet; reverie resume {folder} continues it")
    name = config["learner"]["name"]
    generator = config["learner"].get("generator")
    if name != "lgaa" and not (isinstance(generator, Mapping) and generator.get("name") == "lgaa"):
        raise OptionsError(
            f"{folder}: learner = {name!r} has no adversarial autoencoder to dream with; train one with reverie run --learner lgaa, or look at this "
            f"run with reverie report {folder}"
        )
    trained = load(folder, warn=lambda message: print(f"warning: {message}", file=sys.stderr))
    model = trained.learner.model
    assert isinstance(model, AdversarialAutoencoder)
    dreams.check_learnt(model)
    if model.shape[0] not in (1, 3):
        raise OptionsError(
            f"{folder}: images of {model.shape[0]} channels cannot be drawn; the functions of reverie.dreams give them as numbers"
        )
    return trained, model


def _write(place: Path, data: bytes) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    except OSError as error:
        raise StorageError(f"cannot write {place}: {error.strerror or error}; choose another with --out") from error


app = make_app(dream)
