"""What share of lines and branches the tests run, room by room: `python -m tests.support.coverage_by_room FILE`."""

import json
import sys
from collections import defaultdict
from pathlib import Path

COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def main(report: Path) -> None:
    """Print a row for each room, and for all of them."""
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for path, file in json.loads(report.read_text())["files"].items():
        for room in (Path(path).parts[1].removesuffix(".py"), "all"):
            rooms[room] = [a + file["summary"][name] for a, name in zip(rooms[room], COUNTS, strict=True)]
    print(f"{'room':<16}{'lines':>8}{'run':>8}{'branches':>10}{'run':>8}")
    for room, (lines, run, branches, taken) in sorted(rooms.items(), key=lambda item: (item[0] == "all", item[0])):
        print(f"{room:<16}{lines:>8,}{share(run, lines):>8}{branches:>10,}{share(taken, branches):>8}")


def share(part: int, whole: int) -> str:
    """In percent; of nothing a dash."""
    return f"{part / whole:.1%}" if whole else "-"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
