"""The `growtool` command: its subcommands, its global options, and what becomes of errors."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.markup import escape

from growtool.cli.advise import advise
from growtool.cli.compare import compare
from growtool.cli.console import describe_os_error, note, print_problems
from growtool.cli.decompose import decompose, export
from growtool.cli.evaluate import evaluate
from growtool.cli.finetune import finetune
from growtool.cli.grow import grow
from growtool.cli.inspect import inspect
from growtool.cli.list import app as list_app
from growtool.cli.protocol import protocol
from growtool.cli.reference import import_reference
from growtool.cli.schedule import report, schedule
from growtool.cli.verify import verify
from growtool.errors import GrowtoolError
from growtool.finetune.stopping import Stopped

_EPILOG = """Examples:

growtool inspect ./vit_small --depth 2

growtool grow ./vit_small plan.yaml -o ./vit_grown

growtool verify ./vit_small ./vit_grown --data ./images
"""


@dataclass
class Invocation:
    """What the options before the subcommand said."""

    debug: bool = False


app = typer.Typer(
    name="growtool",
    help="Grow pretrained timm checkpoints: wider, deeper, and computing the same function.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"growtool {version('growtool')}")
        raise typer.Exit


app.command()(grow)
app.command()(advise)
app.command()(finetune)
app.command()(evaluate)
app.command()(schedule)
app.command()(report)
app.command()(compare)
app.command()(inspect)
app.command()(verify)
app.command()(decompose)
app.command()(export)
app.command()(protocol)
app.command("import")(import_reference)
app.add_typer(list_app, name="list")


@app.callback()
def _global_options(
    ctx: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="GROWTOOL_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    ctx.ensure_object(Invocation).debug = debug


def main() -> None:
    """Entry point of the console script. Exit codes: 0 done, 1 an error, 2 wrong usage, 130 or 143 interrupted."""
    invocation = Invocation()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that unfinished outputs are cleared away
    try:
        app(obj=invocation, prog_name="growtool")
    except (GrowtoolError, OSError) as error:
        if invocation.debug:
            raise
        print_problems(error.problems if isinstance(error, GrowtoolError) else (describe_os_error(error),))
        sys.exit(1)
    except Stopped as stopped:
        note(escape(str(stopped)))
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        sys.exit(130)
