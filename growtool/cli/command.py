"""What all commands have in common: how their help looks, and the options that may stand anywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

GLOBAL_OPTIONS = ("--debug", "--quiet", "-q")
HELP_SETTINGS = {"help_option_names": ["-h", "--help"]}
_LATE = "late"


@dataclass
class Invocation:
    """What the global options said."""

    debug: bool = False


class Command(TyperCommand):
    """A command whose flags are shown without a type."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of a call; that of the whole command where its parameters are `late`."""
        whole = getattr(self.callback, _LATE, None)
        if whole is None:
            return super().make_context(info_name, args, parent, **extra)
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        about: dict[str, Any] = {"help": self.help, "epilog": self.epilog, "context_settings": HELP_SETTINGS}
        app.command(self.name, cls=Command, **about)(whole())
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """The same of a group of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def late(signature: Callable[[Callable[..., Any]], inspect.Signature]) -> Callable[..., Callable[..., Any]]:
    """Mark the function of a command whose parameters `signature` makes once it is called, as that imports much."""

    def marked(function: Callable[..., Any]) -> Callable[..., Any]:
        registered = _with_signature(function, inspect.Signature())
        setattr(registered, _LATE, lambda: _with_signature(function, signature(function)))
        return registered

    return marked


def borrowing(*names: str) -> Callable[..., Callable[..., Any]]:
    """Mark the function of a command whose parameters of these names are settings of a training."""

    def signature(function: Callable[..., Any]) -> inspect.Signature:
        from growtool.cli.run_options import with_borrowed

        return with_borrowed(function, names)

    return late(signature)


def _with_signature(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    def called(*args: Any, **given: Any) -> Any:
        return function(*args, **given)

    called.__name__, called.__doc__ = function.__name__, function.__doc__
    called.__signature__ = signature  # type: ignore[attr-defined]
    return called


def _without_types(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def help_of(function: Callable[..., Any]) -> str:
    """Its docstring; the lines of a paragraph are joined, as the terminal breaks them anew."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def examples(*lines: str) -> str:
    """The end of a command's help: calls that can be copied."""
    return "\n\n".join(["Examples:", *lines, "--quiet and --debug go with every command."])


def show_all_options(ctx: typer.Context, wanted: bool) -> None:
    """Show the help with the options that are left out of `--help`, and leave."""
    if wanted:
        for param in ctx.command.params:
            param.hidden = False  # type: ignore[attr-defined]
        typer.echo(ctx.get_help())
        raise typer.Exit


def global_options_first(words: Sequence[str]) -> list[str]:
    """The words of a command line with the global options before the command, wherever they stood before a `--`."""
    end = words.index("--") if "--" in words else len(words)
    found = [word for word in words[:end] if word in GLOBAL_OPTIONS]
    return [*found, *(word for word in words[:end] if word not in GLOBAL_OPTIONS), *words[end:]]
