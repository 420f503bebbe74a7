"""What all tests of a process share: a model is traced once, and once searched for the arguments that make it larger.

Both are functions of the model's spec and are never changed; together they take half of the time of most growths.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

import pytest
import timm
from torch import nn

from growtool.checkpoint import ModelSpec
from growtool.recipe.target.size_arguments import SizeArguments, find_size_arguments
from growtool.recipe.traced_model import TracedModel
from growtool.trace import Trace, trace_built

T = TypeVar("T")
_MOST = 100  # results that are kept


class Kept(Generic[T]):
    """The latest results, by what they are of."""

    def __init__(self) -> None:
        self._found: OrderedDict[Any, T] = OrderedDict()

    def get(self, spec: ModelSpec, more: Any, make: Callable[[], T]) -> T:
        """What was made before for the same entry points and arguments, else what `make` makes."""
        names = (spec.architecture, spec.model_args.get("base", spec.architecture))
        built_by = (timm.models.model_entrypoint(name) for name in names if timm.models.is_model(name))
        said = spec.library, spec.architecture, spec.model_args, spec.settings, spec.extra
        key = (*built_by, repr(said), more)
        if key not in self._found:
            self._found[key] = make()
        self._found.move_to_end(key)
        if len(self._found) > _MOST:
            self._found.popitem(last=False)
        return self._found[key]


def share(patch: pytest.MonkeyPatch) -> None:
    """Let growths of this process take what an earlier one found out about the same model."""
    traces, arguments = Kept[Trace](), Kept[SizeArguments]()

    def around(cls: type[TracedModel], spec: ModelSpec, model: nn.Module, remarks: tuple[str, ...] = ()) -> TracedModel:
        return cls(spec, model, traces.get(spec, None, lambda: trace_built(spec, model)), remarks)

    def found(source: TracedModel, axes: Collection[str], *built: Any) -> SizeArguments:
        return arguments.get(source.spec, tuple(axes), lambda: find_size_arguments(source, axes, *built))

    patch.setattr(TracedModel, "around", classmethod(around))
    for module in ("spec", "advice"):
        patch.setattr(f"growtool.recipe.target.{module}.find_size_arguments", found)
