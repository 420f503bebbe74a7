"""Where pydantic's location of a finding stands in the file, and what may stand there."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import Tag

from growtool.plan.document import Loc
from growtool.plan.section import Section


class Kind(NamedTuple):
    """A type that a value may have; `tag` names it where it is one of several, and pydantic does in locations."""

    tag: str | None
    annotation: Any

    @property
    def section(self) -> type[Section] | None:
        """The mapping, where it is one."""
        found = self.annotation
        return found if isinstance(found, type) and issubclass(found, Section) else None


def follow(root: type[Section], loc: Loc) -> tuple[Loc, list[Kind]]:
    """The location as the file has it, which names no kinds, and the kinds of value there."""
    written: list[str | int] = []
    here = [Kind(None, root)]
    for part in loc:
        tagged = [kind for kind in here if kind.tag == part]
        if tagged and len(here) > 1:
            here = tagged
        else:
            written.append(part)
            here = [inner for kind in here for inner in _inside(kind, part)]
    return tuple(written), here


def section_at(root: type[Section], loc: Loc) -> type[Section]:
    """The mapping at a location of pydantic's."""
    (found,) = {kind.section for kind in follow(root, loc)[1]} - {None}
    assert found is not None
    return found


def kinds_of(annotation: Any, tag: str | None = None) -> Iterator[Kind]:
    """The types that an annotation allows."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        yield from kinds_of(inner, next((data.tag for data in metadata if isinstance(data, Tag)), tag))
    elif get_origin(annotation) in (Union, UnionType):
        for alternative in get_args(annotation):
            yield from kinds_of(alternative)
    else:
        kind = Kind(tag, annotation)
        operator = kind.section.model_fields.get("operator") if kind.section is not None else None
        yield kind if operator is None else Kind(operator.default, annotation)


def _inside(kind: Kind, part: str | int) -> Iterator[Kind]:
    """The kinds of what stands under a key or an index."""
    if kind.section is not None:
        field = kind.section.model_fields.get(str(part))
        yield from kinds_of(field.annotation) if field is not None else ()
    elif get_origin(kind.annotation) in (list, tuple):
        yield from kinds_of(get_args(kind.annotation)[0])
    elif get_origin(kind.annotation) is dict:
        yield from kinds_of(get_args(kind.annotation)[1])
