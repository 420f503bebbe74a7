"""Try damaged files and options on the real commands, or kill commands at random moments.

    python -m tests.fuzz [--cases N] [--seed S] [--first N] [--only TEXT] [--keep FOLDER]
    python -m tests.fuzz --kills N [--seed S]

Exit code 1 where something is wrong; each kind of fault is printed once, with its files.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from itertools import count, islice
from pathlib import Path


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, metavar="N", help="how many damaged cases")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill commands at N moments instead")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="decides all of them")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first case")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose command line has this in it")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the files of failing cases go")
    asked = parser.parse_args()
    os.environ["COLUMNS"] = "200"
    os.environ.pop("GROWTOOL_DEBUG", None)
    warnings.simplefilter("ignore")
    for number in (signal.SIGINT, signal.SIGTERM):  # stop with the result so far, in the background too
        signal.signal(number, signal.default_int_handler)
    kept = asked.keep or Path(tempfile.mkdtemp(prefix="growtool-fuzz-"))
    code = _kills(asked.kills, asked.seed, kept) if asked.kills else _cases(asked, kept)
    sys.stdout.flush()
    os._exit(code)  # libraries that were imported beside torch have much to say when they are unloaded


def _cases(asked: argparse.Namespace, kept: Path) -> int:
    from .cases import drawn, shrunk, tried
    from .material import workshop

    kept.mkdir(parents=True, exist_ok=True)
    codes: Counter[int] = Counter()
    faults: Counter[str] = Counter()
    with workshop() as (material, place):
        began = time.monotonic()
        numbers = (n for n in count(asked.first) if asked.only in " ".join(drawn(asked.seed, n)[0].words))
        with contextlib.suppress(KeyboardInterrupt):
            for number in islice(numbers, asked.cases):
                scenario, mutations = drawn(asked.seed, number)
                result = tried(material, place, number, scenario, mutations)
                codes[result.code] += 1
                found = f"{scenario.words[0]}: {result.problem}"
                if result.problem and found not in faults:
                    target = kept / f"{asked.seed}-{number}"
                    small = shrunk(material, target, scenario, result)
                    print(f"case {asked.seed}/{number}: {small.problem}\n  growtool {shlex.join(small.words)!a}")
                    print(
                        *(f"  {mutation}" for mutation in small.mutations), f"  files: {target}", sep="\n", flush=True
                    )
                faults[found] += bool(result.problem)
        seconds = time.monotonic() - began
    told = ", ".join(f"{times} with {code}" for code, times in sorted(codes.items()))
    done, wrong = codes.total(), +faults
    print(f"{done} cases of seed {asked.seed} in {seconds:.0f} s ({done / seconds:.1f} a second): {told}")
    print(f"{wrong.total()} faults" + "".join(f"\n  {times} {name}" for name, times in wrong.most_common()))
    return 1 if wrong else 0


def _kills(kills: int, seed: int, kept: Path) -> int:
    from .kills import kill

    return kill(kills, seed, kept)


if __name__ == "__main__":
    main()
