"""The command. A plain table from name to module; a module is imported when its command is asked for, so help needs no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from rich.console import Console

from reverie import __version__
from reverie.checks import OptionsError, ReverieError, nearest

COMMANDS = {
    "run": "train learners on a stream; without options: the demonstration",
    "resume": "continue a run that was interrupted",
    "predict": "labels for new inputs from a finished run",
    "dream": "pictures of what a finished autoencoder (lgaa) learnt",
    "report": "one HTML page from one or more runs",
    "reproduce": "run a published table again and compare",
    "cuts": "where a network can be cut and frozen, and what a latent costs there",
    "pretrain": "train a backbone on other data, to be frozen",
    "list": "streams, learners, generators, solvers, presets, and their options",
    "data": "find, fetch and verify data sets",
}

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 2 bad usage or input, 1 failed later, 130 interrupted and resumable."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE
    if words[0] == "--version":
        print(f"reverie {__version__}")
        return DONE
    errors = Console(stderr=True)
    name = words[0]
    try:
        if name not in COMMANDS:
            raise OptionsError(f"{name!r} is no command; {nearest(name, COMMANDS)} (reverie --help lists them)")
        module = importlib.import_module(f"reverie.cli.{name}_command")
        module.app(args=module.prepare(words[1:]), prog_name=f"reverie {name}")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE
    except KeyboardInterrupt:
        errors.print("interrupted", style="yellow")
        return INTERRUPTED
    except ReverieError as error:
        return _report(error, errors)
    return DONE


def _report(error: ReverieError, errors: Console) -> int:
    code = error.exit_code
    style, word = ("yellow", "interrupted:") if code == INTERRUPTED else ("bold red", "error:")
    errors.print(word, style=style, end=" ")
    errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "Reverie: keep a model learning on new data, without keeping the old data.",
        "",
        "usage: reverie COMMAND [OPTIONS]",
        "",
        *(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()),
        "",
        "reverie COMMAND --help shows a command's options; reverie list learners NAME those of a part.",
    ]
    return "\n".join(lines)


def entry() -> None:
    """For the installed command."""
    sys.exit(main())
