"""JSON schemas of the files that growtool reads from YAML: made by pydantic, and fitted to all that is accepted."""

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
# An entry `name, name: meaning` of a docstring, with the lines it goes on in, which are indented deeper.
_ATTRIBUTE = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)


def json_schema(root: type[Section], ignored: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the JSON schema of a kind of file.

    Args:
        root: the section of the whole file.
        ignored: keys that a file may have beside those of the section, and what they hold.
    """
    schema = root.model_json_schema(schema_generator=_FittedSchema)
    schema.get("properties", {}).update({key: {"description": text} for key, text in (ignored or {}).items()})
    return {"$schema": _DIALECT, **schema}


def meanings(section: type[Section]) -> dict[str, str]:
    """Return key -> meaning: from `Attributes:` in the docstrings of the section, or else the field's description."""
    texts = {name: field.description for name, field in section.model_fields.items()}
    for cls in reversed(section.__mro__):  # base classes first, as a subclass may say it anew
        if not issubclass(cls, Section):
            continue
        attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
        for names, meaning in _ATTRIBUTE.findall(attributes):
            texts |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return {name: text for name, text in texts.items() if text is not None}


class _FittedSchema(GenerateJsonSchema):
    """Adds the meanings of keys and the short forms that growtool reads; allows null only where it is read."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return the schema of a section, or of any of the section and what may stand in its place."""
        result, section = super().model_schema(schema), schema["cls"]
        assert issubclass(section, Section), "nothing else is read from YAML"
        result["description"] = summary = " ".join((section.__doc__ or "").partition("\n\n")[0].split())
        described = meanings(section)
        keys = {name: key for name, key in result.pop("properties").items() if name not in section.DECIDED}
        result["properties"] = {name: _fitted(key, section, described.get(name, summary)) for name, key in keys.items()}
        if "operator" in keys:
            # its default is for Python; a file has to say which operator it means
            result["properties"]["operator"].pop("default")
            result["required"] = ["operator", *result.get("required", ())]
        for short, field in section.SHORT.items():
            self._allow_short(result, section, short, field)
        return result if section.ALONE is None else {"anyOf": [dict(section.ALONE), result]}

    def _allow_short(self, result: JsonSchemaValue, section: type[Section], short: str, field: str) -> None:
        """Allow the key `short` in place of a required `field` of a section, which has a key of the same name."""
        (meant,) = (kind.section for kind in follow(section, (field, short))[1] if kind.section is not None)
        result["properties"][short] = {
            **self.generate_inner(meant.__pydantic_core_schema__),
            "description": f"Short for `{short}` in `{field}`.",
        }
        result["required"].remove(field)
        result["oneOf"] = [{"required": [field]}, {"required": [short]}]

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Return the schema of any of several operators; the lone name stands for one that needs no options."""
        result = super().tagged_union_schema(schema)
        # OpenAPI's keyword, which JSON schema has not
        operators = result.pop("discriminator", {}).get("mapping", {})
        sections = {name: self.get_schema_from_definitions(JsonRef(ref)) or {} for name, ref in operators.items()}
        names = [name for name, section in sections.items() if section.get("required") == ["operator"]]
        return {"anyOf": [{"enum": names}, result]} if names else result


def _fitted(key: JsonSchemaValue, section: type[Section], meaning: str) -> JsonSchemaValue:
    """Return the schema of a key with its meaning, without null if that is not read, and with a default if it has one.

    Defaults that are left out: null if that is not read, and mappings, in which pydantic writes unset keys as null.
    """
    default = key.get("default")
    unset = default is None and not section.NULL
    if unset or isinstance(default, dict):
        key = {name: value for name, value in key.items() if name != "default"}
    if unset and "anyOf" in key:
        kinds = [kind for kind in key.pop("anyOf") if kind != {"type": "null"}]
        key |= {"anyOf": kinds} if len(kinds) > 1 else kinds[0]
    return {**key, "description": meaning}
