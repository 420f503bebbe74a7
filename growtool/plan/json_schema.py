"""JSON schemas of what growtool reads from YAML, for editors: as pydantic makes them, fitted to what is accepted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonRef, JsonSchemaValue
from pydantic_core import core_schema

from growtool.plan.nesting import follow
from growtool.plan.section import Section

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(root: type[Section], ignored: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The schema of a file that holds a `root`, and keys that are `ignored`, by what they hold."""
    found = root.model_json_schema(schema_generator=_Fitted)
    found.get("properties", {}).update({key: {"description": text} for key, text in (ignored or {}).items()})
    return {"$schema": _DIALECT, **found}


def meanings(section: type[Section]) -> dict[str, str]:
    """What each key of a section means: as its docstrings say, or else the description of the field."""
    found = {name: field.description for name, field in section.model_fields.items()}
    for cls in reversed(section.__mro__):
        text = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2] if issubclass(cls, Section) else ""
        for names, meaning in re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", text, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return {name: text for name, text in found.items() if text is not None}


class _Fitted(GenerateJsonSchema):
    """With what a section says of its keys, with the short ways to write one, and with null only where it is read."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """The mapping, or what may stand in its place."""
        found, section = super().model_schema(schema), schema["cls"]
        assert issubclass(section, Section), "nothing else is read from YAML"
        found["description"] = summary = " ".join((section.__doc__ or "").partition("\n\n")[0].split())
        said = meanings(section)
        keys = {name: key for name, key in found.pop("properties").items() if name not in section.DECIDED}
        found["properties"] = {name: _fitted(key, section, said.get(name, summary)) for name, key in keys.items()}
        if "operator" in keys:
            found["properties"]["operator"].pop("default")
            found["required"] = ["operator", *found.get("required", ())]
        for short, place in section.SHORT.items():
            (meant,) = (kind.section for kind in follow(section, (place, short))[1] if kind.section is not None)
            found["properties"][short] = {
                **self.generate_inner(meant.__pydantic_core_schema__),
                "description": f"Short for `{short}` in `{place}`.",
            }
            found["required"].remove(place)
            found["oneOf"] = [{"required": [place]}, {"required": [short]}]
        return found if section.ALONE is None else {"anyOf": [dict(section.ALONE), found]}

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Sections by their `operator`, whose name alone stands for one that needs no more."""
        found = super().tagged_union_schema(schema)
        operators = found.pop("discriminator", {}).get("mapping", {})
        sections = {name: self.get_schema_from_definitions(JsonRef(ref)) or {} for name, ref in operators.items()}
        names = [name for name, section in sections.items() if section.get("required") == ["operator"]]
        return {"anyOf": [{"enum": names}, found]} if names else found


def _fitted(key: JsonSchemaValue, section: type[Section], meaning: str) -> JsonSchemaValue:
    """The schema of a key with what it means; without null, and without a default that cannot stand in a file."""
    default = key.get("default")
    unset = default is None and not section.NULL
    if unset or isinstance(default, dict):
        key = {name: value for name, value in key.items() if name != "default"}
    if unset and "anyOf" in key:
        kinds = [kind for kind in key.pop("anyOf") if kind != {"type": "null"}]
        key |= {"anyOf": kinds} if len(kinds) > 1 else kinds[0]
    return {**key, "description": meaning}
