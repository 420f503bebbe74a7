"""`growtool inspect --coupling`: the width groups of a model and what carries them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from growtool.cli.console import new_table, say, show

if TYPE_CHECKING:
    from rich.table import Table

    from growtool.coupling import Coupling, Group

_ROLES = {"producer": "written by", "consumer": "read by", "vector": "scaled by"}


def coupling_document(coupling: Coupling) -> dict[str, Any]:
    """Every group with every member, and the operations tracing had no rule for."""
    return {
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "fixed": group.fixed,
                "members": [{"tensor": m.tensor, "dim": m.dim, "role": m.role} for m in group.members],
            }
            for group in coupling.groups
        ],
        "unknown_operations": dict(coupling.unknown),
    }


def show_coupling(name: str, coupling: Coupling) -> None:
    """The groups that may grow, with their members; the fixed ones by their reasons."""
    growing = new_table(">size", "group", "members")
    fixed: dict[str, list[Group]] = defaultdict(list)
    for group in coupling.groups:
        if group.fixed:
            fixed[group.fixed].append(group)
        else:
            growing.add_row(str(group.size), escape(group.name), escape("\n".join(_member_lines(group))))
    say(f"\n[bold]{escape(name)}[/]: width groups")
    show(growing)
    if fixed:
        show(_fixed_table(fixed))
    for operation, times in coupling.unknown.items():
        say(f"no rule for {escape(operation)} ({times} times): the axes it touches are fixed")


def _fixed_table(fixed: Mapping[str, Sequence[Group]]) -> Table:
    table = new_table("fixed because it is", ">groups", "sizes", "the first")
    for reason, groups in fixed.items():
        sizes = ", ".join(str(size) for size in sorted({group.size for group in groups}))
        table.add_row(escape(reason), str(len(groups)), sizes, escape(groups[0].name))
    return table


def _member_lines(group: Group) -> list[str]:
    """`read by blocks.*.mlp.fc2.weight[1] (4)`: members that differ in block numbers alone share a line."""
    alike: dict[str, list[str]] = defaultdict(list)
    for member in group.members:
        line = f"{_ROLES[member.role]} {member.tensor}[{member.dim}]"
        alike[re.sub(r"(?<=\.)\d+(?=\.)", "*", line)].append(line)
    return [f"{pattern} ({len(lines)})" if len(lines) > 1 else lines[0] for pattern, lines in alike.items()]
