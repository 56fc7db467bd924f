"""Entry: the verbs as one program; every error ends in one sentence and its exit code."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from allot.cli import looking, machine, making, points, published, stream, tails, using
from allot.errors import AllotError

STOPPED = 130

# verb and an example of it, in the order in which a newcomer meets them
VERBS: tuple[tuple[Callable[..., None], str], ...] = (
    (making.compress, "compress digits-resnet --budget size=12% --max-drop 2 --out runs/mine"),
    (published.recipes, "recipes --json"),
    (looking.analyze, "analyze digits-resnet --target openvino-cpu"),
    (points.apply, "apply runs/mine --point 7 --out runs/mine7"),
    (points.certify, "certify runs/mine --data fresh.npz"),
    (points.verify, "verify runs/mine"),
    (using.export, "export runs/mine mine.onnx"),
    (using.run, "run runs/mine input.npz --out output.npz"),
    (tails.profile, "profile runs/mine input.npz"),
    (using.report, "report runs/mine runs/other"),
    (machine.bench, "bench main --json figures.json --quick"),
    (machine.doctor, "doctor"),
)


def program() -> typer.Typer:
    """The command line with all its verbs."""
    app = typer.Typer(
        name="allot",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog="Start with: allot compress digits-resnet --budget size=12% --max-drop 2")(
        _top
    )
    for verb, example in VERBS:
        app.command(help=_paragraphs(verb), epilog=f"Example: allot {example}")(verb)
    return app


def _paragraphs(verb: Callable[..., None]) -> str:
    """The docstring with its lines joined, so that help fills the terminal."""
    return "\n\n".join(" ".join(p.split()) for p in (verb.__doc__ or "").split("\n\n"))


def _version(asked: bool) -> None:
    if asked:
        stream.out(f"allot {metadata.version('allot')}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """One budget, every axis: make a trained network small and fast, and prove what was lost."""


def call(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code.

    0 done, 1 a job failed, 2 bad input, 3 not certified, 130 stopped.  What was not raised on
    purpose goes through with its traceback.
    """
    typed = list(arguments) or ["--help"]
    try:
        code: Any = program()(typed, prog_name="allot", standalone_mode=False)
    except AllotError as e:
        stream.say(f"allot: {e}")
        return e.exit_code
    except typer.TyperException as e:
        stream.say(f"allot: {e.format_message()}{_hint(arguments)}")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    if code == STOPPED:
        stream.say(_stopped(arguments))
    return code if isinstance(code, int) else 0


def _hint(arguments: Sequence[str]) -> str:
    verbs = [v.__name__ for v, _ in VERBS]
    verb = next((f"{x} " for x in arguments if x in verbs), "")
    return f" (see: allot {verb}--help)"


def _stopped(arguments: Sequence[str]) -> str:
    if "compress" not in arguments or "--dry-run" in arguments:
        return "allot: stopped before the end; nothing half-written was left"
    again = [x for x in arguments if x != "--resume"]
    return f"allot: stopped; go on with: allot {shlex.join([*again, '--resume'])}"


def main() -> None:
    """The program `allot`; a termination is taken like Ctrl-C, so that nothing is half-written."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(call(sys.argv[1:]))
