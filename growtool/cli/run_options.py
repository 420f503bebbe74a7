"""The options of `growtool finetune`, made from those of a training; see `growtool.finetune.options.settings`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from growtool.finetune.options.kinds import Flag
from growtool.finetune.options.settings import FLAGS, KINDS, Settings, flag_of

_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z0-9`])")


def with_run_options(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of `growtool finetune`, with an option for each setting that has a flag as its `**options`."""
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(function, eval_str=True).parameters.values()]
    ctx, config, settings, *rest, _ = own
    checkpoint, data, *options = (_parameter(name, flag) for name, flag in FLAGS.items())
    return inspect.Signature([ctx, checkpoint, data, config, settings, *options, *rest])


def with_borrowed(function: Callable[..., Any], names: Sequence[str]) -> inspect.Signature:
    """The signature of `function`, whose parameters of these names are options as the settings tell them."""
    own = inspect.signature(function, eval_str=True)
    made = dict(own.parameters)
    for name in names:
        option = _parameter(name, replace(FLAGS[name], panel=None))
        made[name] = option.replace(kind=made[name].kind, default=made[name].default)
    return own.replace(parameters=list(made.values()))


def _parameter(name: str, flag: Flag) -> inspect.Parameter:
    field = Settings.model_fields[name]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if field.default_factory or field.default == () else field.default,
        annotation=Annotated[_kind(KINDS[name]), _info(name, field, flag)],
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
