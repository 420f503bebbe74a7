"""The `growtool` command: its subcommands, its global options, and how errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Annotated

import typer

from growtool.algebra.memory import prepare_process
from growtool.cli.command import HELP_SETTINGS, Command, Group, Invocation, examples, global_options_first, help_of
from growtool.cli.commands.advise import advise
from growtool.cli.commands.compare import compare
from growtool.cli.commands.decompose import decompose, export
from growtool.cli.commands.evaluate import evaluate
from growtool.cli.commands.explain import explain
from growtool.cli.commands.finetune import finetune
from growtool.cli.commands.grow import grow
from growtool.cli.commands.inspect import inspect
from growtool.cli.commands.list import app as list_app
from growtool.cli.commands.protocol import protocol
from growtool.cli.commands.reference import import_reference
from growtool.cli.commands.schedule import report, schedule
from growtool.cli.commands.schema import schema
from growtool.cli.commands.verify import verify
from growtool.cli.console import describe_os_error, fetching, note, print_problems, set_quiet
from growtool.cli.training import note_once
from growtool.errors import GrowtoolError
from growtool.finetune.stopping import ENDING, Stopped
from growtool.hub.progress import shown_by

_EPILOG = """Examples:

growtool inspect ./vit_small --depth 2

growtool grow ./vit_small --width 2 -o ./vit_grown

growtool verify ./vit_small ./vit_grown --data ./images

`growtool COMMAND --help` has examples for each.
"""

app = typer.Typer(
    name="growtool",
    cls=Group,
    help="Grow pretrained timm and transformers checkpoints: wider, deeper, and computing the same function.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP_SETTINGS,
)


_EXAMPLES: dict[Callable[..., None], tuple[str, ...]] = {
    grow: (
        "growtool grow ./vit_small --width 2 --depth 2 -o ./vit_grown",
        "growtool grow ./vit_small plan.yaml --dry-run",
    ),
    advise: (
        "growtool advise ./vit_small --budget 2x-macs",
        "growtool advise ./vit_small --budget 1.5x-params -o plans",
    ),
    finetune: (
        "growtool finetune ./vit_grown --data ./images -o run --epochs 5",
        "growtool finetune ./vit_grown --data ./images --train new --lr 1e-4",
    ),
    evaluate: (
        "growtool evaluate ./vit_grown --data ./images",
        "growtool evaluate ./run/best --data ./images --split test --json",
    ),
    schedule: (
        "growtool schedule grow.yaml -o run",
        "growtool schedule grow.yaml -o run --resume",
    ),
    report: (
        "growtool report run",
        "growtool report run other -o both.html --png both.png",
    ),
    compare: (
        "growtool compare ./small --plan wide.yaml --data ./images --budget 3epochs",
        "growtool compare ./small --plan a.yaml --budget 2epochs --budget 6epochs --scratch-budget 20epochs --seeds 3",
    ),
    inspect: (
        "growtool inspect ./vit_small --depth 2",
        "growtool inspect ./vit_small ./vit_grown --picture growth.svg",
    ),
    explain: (
        "growtool explain tile",
        "growtool explain zero_out --json",
    ),
    schema: (
        "growtool schema plan > plan.schema.json",
        "growtool schema run > run.schema.json",
    ),
    verify: (
        "growtool verify ./vit_small ./vit_grown",
        "growtool verify ./vit_small ./vit_grown --data ./images --dtype float64",
    ),
    decompose: (
        "growtool decompose ./vit_small",
        "growtool decompose ./vit_small --bank svd --energy 0.95 -o ./vit_templates",
    ),
    export: (
        "growtool export ./vit_templates -o ./vit_small",
        "growtool export ./vit_templates -o vit_small.safetensors --force",
    ),
    protocol: (
        "growtool protocol members.yaml -o run",
        "growtool protocol members.yaml -o run --json",
    ),
    import_reference: (
        "growtool import model_best.pth.tar --model resnet18 --model-args num_classes=10 -o ./trained",
        "growtool import reference.pth --model resnet18 --plugin names.py -o ./templates",
    ),
}

for function, lines in _EXAMPLES.items():
    app.command(
        "import" if function is import_reference else function.__name__,
        cls=Command,
        help=help_of(function),
        epilog=examples(*lines),
        context_settings=HELP_SETTINGS,
    )(function)
app.add_typer(list_app, name="list")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"growtool {version('growtool')}")
        raise typer.Exit


@app.callback()
def _global_options(
    ctx: typer.Context,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="GROWTOOL_DEBUG", help="Show the traceback of an error. Anywhere."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no notes: results and errors. Anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    ctx.ensure_object(Invocation).debug = debug
    set_quiet(quiet)
    shown_by(fetching)


def _leave(number: int, frame: FrameType | None) -> None:
    """Turn a signal into SystemExit, so that `finally` blocks clear unfinished outputs away."""
    sys.exit(128 + number)


@contextlib.contextmanager
def _all_printed() -> Iterator[None]:
    """Flush stdout at the end, so that a full disk is an error of the command and not one of Python's shutdown."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            # What is left goes to the null device, or Python would fail once more to write it at its shutdown.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


_INTERRUPTED = 130  # exit code: 128 + SIGINT


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 an error, 2 wrong usage, 128 + N ended by signal N."""
    prepare_process()
    invocation = Invocation()
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and it has to stay so
            signal.signal(number, _leave)
    try:
        with _all_printed():
            app(global_options_first(sys.argv[1:]), obj=invocation, prog_name="growtool")
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        sys.exit(1)
    except (GrowtoolError, OSError) as error:
        if invocation.debug:
            raise
        print_problems(error.problems if isinstance(error, GrowtoolError) else (describe_os_error(error),))
        sys.exit(1)
    except Stopped as stopped:
        note_once(str(stopped))
        sys.exit(stopped.code)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:  # typer ends with this code after Ctrl-C, and prints nothing
            note("interrupted")
        raise
