"""The way from a location in an error of pydantic to the location in the file, and to the types allowed there.

Locations of pydantic go through types: an error in `width.gain` of a plan is at `("width", "tile", "gain")`, as `width`
is one of several sections, and `tile` the tag of the one that the file has.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import Tag

from growtool.plan.document import Loc
from growtool.plan.section import Section


class Kind(NamedTuple):
    """A type that a value may have; `tag` is its name in pydantic's locations if it is one of a tagged union."""

    tag: str | None
    annotation: Any

    @property
    def section(self) -> type[Section] | None:
        """The type, if it is a section."""
        cls = self.annotation
        return cls if isinstance(cls, type) and issubclass(cls, Section) else None


def follow(root: type[Section], loc: Loc) -> tuple[Loc, list[Kind]]:
    """Follow a location of pydantic from the section of the whole file.

    Returns:
        The location in the file, which has no tags of types, and the kinds of value allowed there.
    """
    written: list[str | int] = []
    kinds = [Kind(None, root)]
    for part in loc:
        tagged = [kind for kind in kinds if kind.tag == part]
        if tagged and len(kinds) > 1:
            kinds = tagged
        else:
            written.append(part)
            kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    return tuple(written), kinds


def section_at(root: type[Section], loc: Loc) -> type[Section]:
    """Return the one section that is allowed at a location of pydantic."""
    (section,) = {kind.section for kind in follow(root, loc)[1]} - {None}
    assert section is not None
    return section


def kinds_of(annotation: Any, tag: str | None = None) -> Iterator[Kind]:
    """Yield the kinds of value that an annotation allows; `tag` is that of the whole annotation."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        yield from kinds_of(inner, next((data.tag for data in metadata if isinstance(data, Tag)), tag))
    elif get_origin(annotation) in (Union, UnionType):
        for alternative in get_args(annotation):
            yield from kinds_of(alternative)
    else:
        kind = Kind(tag, annotation)
        operator = kind.section.model_fields.get("operator") if kind.section is not None else None
        # unions of operators are discriminated by this field: its value is their tag
        yield kind if operator is None else Kind(operator.default, annotation)


def _inside(kind: Kind, part: str | int) -> Iterator[Kind]:
    """Yield the kinds of value that a kind allows under a key or an index."""
    if kind.section is not None:
        field = kind.section.model_fields.get(str(part))
        yield from kinds_of(field.annotation) if field is not None else ()
    elif get_origin(kind.annotation) in (list, tuple):
        yield from kinds_of(get_args(kind.annotation)[0])
    elif get_origin(kind.annotation) is dict:
        yield from kinds_of(get_args(kind.annotation)[1])
