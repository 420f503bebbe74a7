"""Base classes and helpers of all commands: the look of their help, late parameters, and the global options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

GLOBAL_OPTIONS = ("--debug", "--quiet", "-q")
HELP_SETTINGS = {"help_option_names": ["-h", "--help"]}
_LATE = "late"  # attribute of a command's function: makes the same function with all its parameters


@dataclass
class Invocation:
    """The global options of a call, which `main` reads after the command has ended."""

    debug: bool = False


class Command(TyperCommand):
    """A command whose flags are shown without a type, and whose parameters may be `late`."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of a call; if the parameters are `late`, make them and parse `args` by them."""
        make_full = getattr(self.callback, _LATE, None)
        if make_full is None:
            return super().make_context(info_name, args, parent, **extra)
        # typer reads a signature only when a function is registered: the full one needs an app of its own. An app with
        # one command is that command, not a group.
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        texts: dict[str, Any] = {"help": self.help, "epilog": self.epilog, "context_settings": HELP_SETTINGS}
        app.command(self.name, cls=Command, **texts)(make_full())
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose flags are shown without a type."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def from_settings(*names: str) -> Callable[..., Callable[..., Any]]:
    """Decorate a command's function whose options are settings of a training, made only when the command is called.

    All commands are registered when growtool starts, which must not import what the settings need, pydantic above all.
    So a function without parameters is registered; `Command` puts the full one in its place.

    Args:
        names: the parameters that become options as the settings say; without any, all settings stand for `**options`.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        def full() -> Callable[..., Any]:
            from growtool.cli.run_options import with_borrowed, with_run_options

            signature = with_borrowed(function, names) if names else with_run_options(function)
            return _with_signature(function, signature)

        registered = _with_signature(function, inspect.Signature())
        setattr(registered, _LATE, full)
        return registered

    return decorated


def _with_signature(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    return wrapper


def _without_types(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def help_of(function: Callable[..., Any]) -> str:
    """Return the docstring with each paragraph on one line, as the terminal wraps the lines anew."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def examples(*lines: str) -> str:
    """Return the end of a command's help: calls that can be copied, one a paragraph."""
    return "\n\n".join(["Examples:", *lines, "--quiet and --debug go with every command."])


def show_all_options(ctx: typer.Context, wanted: bool) -> None:
    """Print the help with all options, the hidden ones included, and end the command."""
    if wanted:
        for param in ctx.command.params:
            param.hidden = False  # type: ignore[attr-defined]
        typer.echo(ctx.get_help())
        raise typer.Exit


def global_options_first(words: Sequence[str]) -> list[str]:
    """Return the command line with its global options moved to the front; words after a `--` stay as they are.

    typer takes options of the whole program only before the command.
    """
    end = words.index("--") if "--" in words else len(words)
    front = [word for word in words[:end] if word in GLOBAL_OPTIONS]
    rest = [word for word in words[:end] if word not in GLOBAL_OPTIONS]
    return [*front, *rest, *words[end:]]
