"""`growtool inspect --coupling`: which channels of a model grow together, and where they are."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from growtool.cli.console import say
from growtool.cli.tables import show_rows

if TYPE_CHECKING:
    from growtool.trace import Channels, Trace


def coupling_document(coupling: Trace) -> dict[str, Any]:
    """Every group with every member, and the operations tracing had no rule for."""
    from growtool.trace import channels_of

    words = channels_of(coupling)
    return {
        "groups": [
            {
                "name": group.name,
                "what": words[group.group].what,
                "where": list(words[group.group].where),
                "size": group.size,
                "fixed": group.fixed,
                "members": [{"tensor": m.tensor, "dim": m.dim, "role": m.role} for m in group.members],
            }
            for group in coupling.groups
        ],
        "unknown_operations": dict(coupling.unknown),
    }


def show_coupling(name: str, coupling: Trace) -> None:
    """The channels that may grow, those that are alike once; the fixed ones by their reasons."""
    from growtool.trace import channels_of, places

    words = channels_of(coupling)
    growing: dict[tuple[str, int], list[Channels]] = defaultdict(list)
    fixed: dict[str, list[int]] = defaultdict(list)
    for group in coupling.groups:
        if group.fixed:
            fixed[group.fixed].append(group.size)
        else:
            growing[words[group.group].what, group.size].append(words[group.group])
    say(f"\n[bold]{escape(name)}[/]: channels that grow together")
    rows = []
    for (what, size), alike in growing.items():
        where = places((path for channels in alike for path in channels.where), None)
        rows.append((escape(what), str(size), str(len(alike)), escape(where)))
    show_rows(("channels", ">size", ">groups", "where"), rows)
    if fixed:
        kept = ((escape(why), str(len(sizes)), ", ".join(map(str, sorted(set(sizes))))) for why, sizes in fixed.items())
        show_rows(("keeps its size, as it is", ">groups", "sizes"), kept)
    for operation, times in coupling.unknown.items():
        say(f"no rule for {escape(operation)} ({times} times): the axes it touches are fixed")
    say("The channels of a group have one number everywhere. Every tensor that carries them: --json.", style="dim")
