"""Options of the command line made from the settings of a training, `growtool.finetune.options.settings`."""

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

_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z0-9`])")  # the space between two sentences


def with_run_options(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of `growtool finetune` with an option for each setting that has a flag, for `**options`.

    The order is that of the help: the context, the checkpoint and its data, then the other options.
    """
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(function, eval_str=True).parameters.values()]
    ctx, config, settings, *rest, _ = own
    checkpoint, data, *options = (_parameter(name, flag) for name, flag in FLAGS.items())
    return inspect.Signature([ctx, checkpoint, data, config, settings, *options, *rest])


def with_borrowed(function: Callable[..., Any], names: Sequence[str]) -> inspect.Signature:
    """Return the signature of `function` with its parameters of these names made from the settings.

    Type and help are those of the setting; the default is that of the function.
    """
    own = inspect.signature(function, eval_str=True)
    parameters = dict(own.parameters)
    for name in names:
        # a panel would hide the option from --help
        option = _parameter(name, replace(FLAGS[name], panel=None))
        parameters[name] = option.replace(kind=parameters[name].kind, default=parameters[name].default)
    return own.replace(parameters=list(parameters.values()))


def _parameter(name: str, flag: Flag) -> inspect.Parameter:
    """Return the parameter that typer makes the option of a setting from."""
    field = Settings.model_fields[name]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if field.default_factory or field.default == () else field.default,
        annotation=Annotated[_kind(KINDS[name]), _info(name, field, flag)],
    )


def _kind(kind: Any) -> Any:
    """Return the type of an option: a list of strings for a setting that is a tuple of any length, else its own."""
    is_repeatable = get_origin(kind) is tuple and get_args(kind)[1:] == (...,)
    return list[str] | None if is_repeatable else kind


def _info(name: str, field: FieldInfo, flag: Flag) -> Any:
    """Return the argument or option of typer for a setting; its help is the first sentence of the description."""
    text = flag.help or _SENTENCE.split(field.description or "", maxsplit=1)[0]
    if flag_of(name) == flag.metavar:
        return typer.Argument(metavar=flag.metavar, help=text, show_default=False)
    words = [flag_of(name), *([flag.short] if flag.short else [])]
    if isinstance(field.default, bool):
        words = [f" /--no-{name}" if field.default else words[0]]  # click's way to say: a word for False, none for True
    shown = flag.shown or (not isinstance(field.default, bool) and field.default not in (None, "", ()))
    return typer.Option(
        *words,
        metavar=flag.metavar,
        help=text,
        show_default=shown,
        hidden=flag.panel is not None,  # shown by --help-all alone
        rich_help_panel=flag.panel,
    )
