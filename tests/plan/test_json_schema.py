"""`growtool schema`: editors accept the files that growtool accepts, and mark those that it refuses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from growtool.cli.app import app
from growtool.errors import GrowtoolError
from growtool.finetune.options.merging import make_config, read_config
from growtool.plan import load_plan
from growtool.plan.document import parse_word, write_document
from growtool.workflows.protocol.file import load_protocol
from growtool.workflows.schedule.file import load_schedule

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "growtool").rglob("*.md"))]
EXAMPLES = [
    *(text for page in PAGES for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)),
    *(path.read_text() for path in sorted((ROOT / "docs/experiments").glob("*.yaml"))),
]
READ = {"plan": load_plan, "run": read_config, "schedule": load_schedule, "protocol": load_protocol}
OF = {"stages": "schedule", "member_args": "protocol", "target": "plan", "scale": "plan"}  # a key that tells the kind
TYPES = {
    "object": dict, "array": list, "string": str, "number": int | float, "integer": int | float, "boolean": bool,
    "null": type(None),
}  # fmt: skip


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """What the command prints."""
    printed = {kind: CliRunner().invoke(app, ["schema", kind]) for kind in READ}
    assert all(result.exit_code == 0 and not result.stderr for result in printed.values())
    return {kind: json.loads(result.stdout) for kind, result in printed.items()}


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether `value` is valid by the keywords that the schemas use; another keyword is an error."""
    return all(holds(keyword, said, value, schema, root) for keyword, said in schema.items())


def is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind]) and (kind != "integer" or value == int(value))


def holds(keyword: str, said: Any, value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    items = value if isinstance(value, list) else []
    keys: dict[str, Any] = value if isinstance(value, dict) else {}
    others = {key: item for key, item in keys.items() if key not in schema.get("properties", {})}
    checks = {
        "$schema": lambda: said == "https://json-schema.org/draft/2020-12/schema",
        "title": lambda: True,
        "description": lambda: True,
        "default": lambda: True,
        "$defs": lambda: True,
        "$ref": lambda: fits(value, root["$defs"][said.removeprefix("#/$defs/")], root),
        "type": lambda: any(is_of(value, kind) for kind in ([said] if isinstance(said, str) else said)),
        "enum": lambda: value in said,
        "const": lambda: value == said,
        "anyOf": lambda: any(fits(value, one, root) for one in said),
        "oneOf": lambda: sum(fits(value, one, root) for one in said) == 1,
        "properties": lambda: all(fits(keys[key], inner, root) for key, inner in said.items() if key in keys),
        "additionalProperties": lambda: all(said and (said is True or fits(v, said, root)) for v in others.values()),
        "required": lambda: not isinstance(value, dict) or keys.keys() >= set(said),
        "minProperties": lambda: not isinstance(value, dict) or len(keys) >= said,
        "maxProperties": lambda: not isinstance(value, dict) or len(keys) <= said,
        "items": lambda: all(fits(item, said, root) for item in items),
        "prefixItems": lambda: all(fits(item, one, root) for item, one in zip(items, said, strict=False)),
        "minItems": lambda: not isinstance(value, list) or len(items) >= said,
        "maxItems": lambda: not isinstance(value, list) or len(items) <= said,
        "minimum": lambda: not number or value >= said,
        "maximum": lambda: not number or value <= said,
        "exclusiveMinimum": lambda: not number or value > said,
        "exclusiveMaximum": lambda: not number or value < said,
        "pattern": lambda: not isinstance(value, str) or re.search(said, value) is not None,
    }
    return bool(checks[keyword]())


def accepted(kind: str, content: dict[str, Any], folder: Path) -> bool:
    """Whether growtool reads it."""
    (folder / "file.yaml").write_text(write_document(content))
    try:
        READ[kind](folder / "file.yaml")
    except GrowtoolError:
        return False
    return True


def test_every_key_of_every_mapping_is_described(schemas):
    for schema in schemas.values():
        for mapping in [schema, *schema["$defs"].values()] if "$defs" in schema else [schema]:
            (keys,) = [m["properties"] for m in (mapping, *mapping.get("anyOf", ())) if "properties" in m]
            assert all(key.get("description") for key in keys.values()), mapping["title"]
    run = schemas["run"]["properties"]
    assert (run["seed"]["default"], run["sched"]["enum"][0], run["batch_size"]["minimum"]) == (42, "cosine", 1)
    assert "default" not in run["workers"], "which is that of this machine"


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_fits(schemas, tmp_path, text):
    content, _ = parse_word(text)
    kind = next((kind for key, kind in OF.items() if key in content), "run")
    assert fits(content, schemas[kind], schemas[kind])
    assert accepted(kind, content, tmp_path)


def test_the_configuration_that_a_run_leaves_fits(schemas):
    content = make_config({"checkpoint": "c", "data": "d", "scale": [0.5, 1], "plugins": ["p.py"]}).as_dict()
    assert fits(content | {"resolved": {"steps": 3}}, schemas["run"], schemas["run"])


PLAN = {"target": {"scale": {"width": 2}}}
TRAIN = {"data": "d", "epochs": 1}


def contents() -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Files of each kind, and whether they are sound."""
    for change, sound in [
        ({}, True), ({"width": "tile"}, True), ({"width": {"operator": "tile", "gain": 0.2}}, True),
        ({"width": "tyle"}, False), ({"width": {"operator": "tyle"}}, False), ({"width": {"gain": 0.2}}, False),
        ({"depth": "map"}, False), ({"depth": {"operator": "map", "map": [0, 0]}}, True), ({"wdith": "tile"}, False),
        ({"depth": {"operator": "map", "map": {"layer1": [0, 0]}}}, True), ({"verify": False}, True),
        ({"verify": {"inputs": 0}}, False), ({"seed": -1}, False), ({"seed": "1"}, False), ({"seed": True}, False),
        ({"target": "resnet34"}, True), ({"target": 3}, False), ({"target": {"scale": "4/3"}}, True),
        ({"target": {"scale": "four"}}, False), ({"target": {"scale": {"width": 0.5}}}, False), ({"scale": 2}, False),
        ({"target": {"scale": {"depth": [1, 2]}}}, True), ({"target": {"scale": {"depth": [0]}}}, False),
        ({"model": None}, False), ({"overrides": [{"match": "x", "width": "random"}], "width": "tile"}, True),
        ({"data": {"batches": 3}}, False), ({"output": {"form": None}}, False),
    ]:  # fmt: skip
        yield "plan", PLAN | change, sound
    yield "plan", {"scale": {"width": 2}}, True
    yield "plan", {"seed": 2}, False
    for options, sound in [
        (TRAIN, True), ({"lr": None}, True), ({"lr": "3"}, False), ({"steps": 1e3}, True), ({"steps": 1.5}, False),
        ({"amp": 1}, False), ({"log": ["wandb"]}, True), ({"log": ["x"]}, False), ({"scale": [0.5]}, False),
        ({"seed": None}, False), ({"sched": "linear"}, False), ({"smoothing": 1}, False), ({"lrr": 1}, False),
        ({"opt_kwargs": {"betas": [0.9, 0.95]}}, True), ({"opt": ["sgd"]}, False), ({"resolved": {"a": 1}}, True),
    ]:  # fmt: skip
        yield "run", options, sound
    for stage, sound in [
        ({"train": TRAIN}, True), ({"train": None}, False), ({"grow": PLAN}, True), ({"grow": None}, False),
        ({"grow": PLAN | {"width": "tyle"}}, False), ({"train": {"resume": "auto"}}, False), ({"prune": 1}, False),
        ({"train": TRAIN, "grow": PLAN}, False), ("train", False), ({}, False),
    ]:  # fmt: skip
        yield "schedule", {"checkpoint": "c", "stages": [stage]}, sound
    yield "schedule", {"checkpoint": "c", "train": TRAIN, "stages": [{"train": None}]}, True
    yield "schedule", {"checkpoint": "c", "train": TRAIN, "stages": []}, False
    yield "schedule", {"stages": [{"train": TRAIN}]}, False


@pytest.mark.parametrize(("kind", "content", "sound"), list(contents()), ids=str)
def test_an_editor_says_what_growtool_says(schemas, tmp_path, kind, content, sound):
    assert accepted(kind, content, tmp_path) is sound
    missing = kind == "schedule" and content.get("stages") == [{"train": None}]  # data, which no schema can tell
    assert fits(content, schemas[kind], schemas[kind]) is (sound or missing)
