"""`growtool inspect --coupling`: the sets of channels of a model that grow together, and the tensors they are in."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from growtool.cli.console import say
from growtool.cli.tables import show_rows

if TYPE_CHECKING:
    from growtool.trace import Channels, Trace


def coupling_document(coupling: Trace) -> dict[str, Any]:
    """Return every channel group with its members, and the operations without a rule, as plain data for JSON."""
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
    """Print a row for each kind and size of channels that may grow, and for each reason why others are fixed."""
    from growtool.trace import channels_of, places

    words = channels_of(coupling)
    growing: dict[tuple[str, int], list[Channels]] = defaultdict(list)  # by kind and size
    fixed: dict[str, list[int]] = defaultdict(list)  # reason -> sizes
    for group in coupling.groups:
        if group.fixed:
            fixed[group.fixed].append(group.size)
        else:
            growing[words[group.group].what, group.size].append(words[group.group])
    say(f"\n[bold]{escape(name)}[/]: channels that grow together")
    rows = []
    for (kind, size), alike in growing.items():
        where = places((path for channels in alike for path in channels.where), None)
        rows.append((escape(kind), str(size), str(len(alike)), escape(where)))
    show_rows(("channels", ">size", ">groups", "where"), rows)
    if fixed:
        kept = ((escape(why), str(len(sizes)), ", ".join(map(str, sorted(set(sizes))))) for why, sizes in fixed.items())
        show_rows(("keeps its size, as it is", ">groups", "sizes"), kept)
    for operation, times in coupling.unknown.items():
        say(f"no rule for {escape(operation)} ({times} times): the axes it touches are fixed")
    say("The channels of a group have one number everywhere. Every tensor that carries them: --json.", style="dim")
