"""The files by which others come in: what they name is there, and what they say twice is the same."""

import importlib.util
import re
import shlex
import subprocess
import tomllib

import pytest
import yaml

from tests.support.rooms import ROOT

MADE = set(re.findall(r"^([a-z-]+):[^=]", (ROOT / "Makefile").read_text(), re.MULTILINE))
VARIABLES = set(re.findall(r"\$\((?:[a-z]+ )?([A-Z]+)", (ROOT / "Makefile").read_text()))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
OF_ROOT = {  # what the top of the repository may hold, and why
    ".ci": "how the whole suite is run",
    ".github": "forms of issues, and what runs on each change and each night",
    ".gitignore": "what make makes",
    ".pre-commit-config.yaml": "pre-commit looks for it here",
    "CHANGELOG.md": "what changed",
    "CITATION.cff": "looked for here by those who cite",
    "CODE_OF_CONDUCT.md": "how people treat each other",
    "CONTRIBUTING.md": "how to change growtool",
    "LICENSE": "the licence",
    "Makefile": "all that is run",
    "README.md": "the first page",
    "SECURITY.md": "what is done with files of others, and where to report",
    "UPGRADING.md": "what a new version asks for",
    "docs": "pages, the demo, and the records of experiments",
    "growtool": "the package",
    "mkdocs.yml": "the pages as a site",
    "pyproject.toml": "the package's data and the settings of tools",
    "tests": "the tests, and what they need",
}


def commands_of(text: str) -> list[list[str]]:
    """Every call of make in the text, as words."""
    lines = re.findall(r"\bmake( [a-z][^\n`,;#]*)", re.sub(r"\$\{\{.*?\}\}", "1", text))
    return [shlex.split(line) for line in lines]


def runs_of(workflow: dict) -> list[str]:
    """What the steps of all its jobs run."""
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_make_makes(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"} and {"name", True} < set(workflow)  # `on` is true in YAML
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] and all("uses" in s or "run" in s for s in job["steps"])
    calls = [words for run in runs_of(workflow) for words in commands_of(run)]
    assert len(calls) == len(runs_of(workflow)), "each step calls make, so that anybody can run what it runs"
    named = {word for words in calls for word in words if "=" not in word}
    assert named <= MADE
    assert {word.split("=")[0] for words in calls for word in words if "=" in word} <= VARIABLES


def test_the_tests_run_on_every_python_that_is_named():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python ::" in text]
    assert jobs["test"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_parts_of_the_night_are_all_parts():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())["jobs"]
    parts = jobs["zoo"]["strategy"]["matrix"]["part"]
    assert parts == [*range(1, len(parts) + 1)]
    assert f"PART=${{{{ matrix.part }}}}/{len(parts)}" in "".join(runs_of({"jobs": jobs}))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"]
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(part["type"] in ("input", "textarea") and part["attributes"]["label"] for part in form["body"])
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_hooks_run_the_modules_that_lint_runs():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local", "no revision from the network"
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    linted = [re.sub(r"\$\(RUN\) -m | \.$", "", line) for line in recipe.split("\t")[1:]]
    hooks = [re.sub(r"\.venv/bin/python -m | --force-exclude", "", hook["entry"]) for hook in local["hooks"]]
    assert hooks == [line.strip().removesuffix(" .") for line in linted]
    assert all(importlib.util.find_spec(hook.split()[0]) for hook in hooks)


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["title"], cited["version"], cited["license"]) == (
        PROJECT["name"], PROJECT["version"], PROJECT["license"],
    )  # fmt: skip
    assert cited["authors"][0]["name"] in (ROOT / "LICENSE").read_text()


def test_the_changes_begin_with_this_version_or_with_the_next():
    first, *_ = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first in (PROJECT["version"], "Unreleased")
    assert f" to {PROJECT['version'].rpartition('.')[0]}\n" in (ROOT / "UPGRADING.md").read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_what_is_there(path):
    text = path.read_text()
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    assert not [target for target in targets if not (path.parent / target).exists()]
    called = {words[0] for words in commands_of("\n".join(re.findall(r"^(?: {4}|`?)make [a-z].*", text, re.MULTILINE)))}
    assert called <= MADE


def test_the_top_holds_what_has_a_reason():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: what is kept and what was made cannot be told apart")
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {path.partition("/")[0] for path in kept} == set(OF_ROOT)
