"""Every plan of docs/examples.md promises what the page says, for the models at their real size, without weights."""

import re
from pathlib import Path

import pytest
import yaml

from growtool.checkpoint import ModelSpec, build
from growtool.finetune.options.merging import make_config
from growtool.plan import load_plan
from growtool.recipe import resolve
from growtool.workflows.schedule.file import load_schedule
from tests.zoo.proofs import InMemory

PAGE = Path(__file__).parents[2] / "docs" / "examples.md"
EXAMPLES = re.findall(
    r"^## (\w+)([^\n]*)\n.*?Promise: ([a-z ]+)\.\n+```yaml\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


def test_every_chapter_is_an_example():
    assert len(EXAMPLES) == len(re.findall(r"^## ", PAGE.read_text(), re.MULTILINE)) == 8


@pytest.mark.parametrize(("source", "rest", "promise", "text"), EXAMPLES, ids=[a + b for a, b, *_ in EXAMPLES])
def test_the_plan_promises_what_the_page_says(source, rest, promise, text, tmp_path):
    (tmp_path / "plan.yaml").write_text(text)
    plan = load_plan(tmp_path / "plan.yaml").plan
    spec = ModelSpec(source)
    recipe = resolve(plan, InMemory.of(spec, build(spec)))
    assert recipe.promise.kind == promise, recipe.promise
    assert recipe.needed_import is None
    if "swin" in source:
        (reason,) = recipe.promise.reasons
        assert reason.startswith("patch_embed.norm: a norm writes the channels")


@pytest.mark.parametrize("path", sorted((PAGE.parent / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_files_of_the_experiments_are_plans_schedules_and_options_of_training(path):
    content = yaml.safe_load(path.read_text())
    if "stages" in content:
        load_schedule(path)
    elif "target" in content:
        load_plan(path)
    else:
        make_config(content, {"checkpoint": "a", "output": "b", "data": "c"})
