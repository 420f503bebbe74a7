"""A case: a command, what is damaged, and what came of it; a failing one with as little damage as fails alike."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .child import command
from .judge import SEEN, fault, state
from .mutations import WORDS, Mutation, apply, edit_words
from .scenarios import SCENARIOS, Scenario


@dataclass(frozen=True)
class Result:
    """Attributes:

    number: of the case.
    words: of the command.
    mutations: what was damaged.
    problem: what is wrong; None where nothing is.
    code: the exit code.
    text: what the command said.
    """

    number: int
    words: Sequence[str]
    mutations: Sequence[Mutation]
    problem: str | None
    code: int
    text: str = field(repr=False)


def drawn(seed: int, number: int) -> tuple[Scenario, list[Mutation]]:
    """The case of this number."""
    random = Random(f"{seed}/{number}")
    (scenario,) = random.choices(SCENARIOS, [each.weight for each in SCENARIOS])
    return scenario, scenario.draw(random)


def tried(material: Path, place: Path, number: int, scenario: Scenario, mutations: Sequence[Mutation]) -> Result:
    """Run a case in the new folder `place`/case."""
    shutil.rmtree(place, ignore_errors=True)
    root = place / "case"
    root.mkdir(parents=True)
    for name in scenario.material:
        source = material / name
        shutil.copytree(source, root / name) if source.is_dir() else shutil.copyfile(source, root / name)
    words = list(scenario.words)
    for mutation in mutations:
        if mutation.kind == WORDS:
            words = edit_words(words, Random(mutation.number))
        else:
            apply(mutation, root)
    before = state(root)
    done = command(words, root, place / SEEN)
    return Result(number, words, mutations, fault(scenario, words, done, root, before), done.code, done.text)


def shrunk(material: Path, place: Path, scenario: Scenario, failed: Result) -> Result:
    """The same fault with mutations left out one by one; its files stay in `place`/case."""
    kept, kind = list(failed.mutations), _kind(failed)
    for mutation in failed.mutations:
        fewer = [each for each in kept if each is not mutation]
        if fewer and _kind(tried(material, place, failed.number, scenario, fewer)) == kind:
            kept = fewer
    again = tried(material, place, failed.number, scenario, kept)
    return again if again.problem else failed


def _kind(result: Result) -> str | None:
    return result.problem and result.problem.split(":")[0]
