"""The options of `growtool finetune`, made from those of a training; see `growtool.finetune.settings`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from growtool.finetune.kinds import Flag
from growtool.finetune.settings import Settings, flag_of

_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z0-9`])")


def with_run_options(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of `growtool finetune`, with an option for each setting that has a flag as its `**options`."""
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(function, eval_str=True).parameters.values()]
    ctx, config, settings, *rest, _ = own
    checkpoint, data, *options = _parameters()
    return inspect.Signature([ctx, checkpoint, data, config, settings, *options, *rest])


def _parameters() -> Iterator[inspect.Parameter]:
    kinds = get_type_hints(Settings)
    for name, field in Settings.model_fields.items():
        flag = next((data for data in field.metadata if isinstance(data, Flag)), None)
        if flag is not None:
            default = None if field.default_factory else field.default
            yield inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default or None if isinstance(default, tuple | Path) else default,
                annotation=Annotated[_kind(kinds[name]), _info(name, field, flag)],
            )


def _kind(kind: Any) -> Any:
    """As typer takes it: what may be given several times is a list of strings there."""
    several = get_origin(kind) is tuple and get_args(kind)[1:] == (...,)
    return list[str] | None if several else kind


def _info(name: str, field: FieldInfo, flag: Flag) -> Any:
    text = flag.help or _SENTENCE.split(field.description or "", maxsplit=1)[0]
    if flag_of(name) == flag.metavar:
        return typer.Argument(metavar=flag.metavar, help=text, show_default=False)
    words = [flag_of(name), *([flag.short] if flag.short else [])]
    if isinstance(field.default, bool):
        words = [f" /--no-{name}" if field.default else words[0]]
    shown = flag.shown or (not isinstance(field.default, bool) and field.default not in (None, "", ()))
    hidden, panel = flag.panel is not None, flag.panel
    return typer.Option(
        *words, metavar=flag.metavar, help=text, show_default=shown, hidden=hidden, rich_help_panel=panel
    )
