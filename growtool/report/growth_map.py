"""The origin of each module of a grown checkpoint in its source, read from its `growth.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from growtool.checkpoint import Checkpoint
from growtool.checkpoint.beside import REPORT
from growtool.checkpoint.documents import parse_json
from growtool.errors import CheckpointError
from growtool.trace.pairing.stretches import sequences


@dataclass(frozen=True, slots=True)
class BlockOrigin:
    """A module of the grown model, mostly a block, and where it came from.

    Attributes:
        block: its path.
        source: path of the module of the source that it was made of; None if it was made of none.
        operator: the operator that added it; None if growth did not add it.
    """

    block: str
    source: str | None
    operator: str | None


@dataclass(frozen=True)
class GrowthMap:
    """Which tensor of the source each tensor of a grown model came from.

    Attributes:
        operator: the depth operator of the plan; None if it has none.
        sources: tensor of the grown model -> tensor of the source that it was made of, None if it was made of none.
        new: tensors of blocks that growth added.
    """

    operator: str | None
    sources: Mapping[str, str | None]
    new: frozenset[str]

    def origin(self, module: str) -> BlockOrigin | None:
        """Return where a module came from, None if no tensor tells.

        The first of its tensors counts that is new and has no source, or that has the same name in a module of the
        source.
        """
        for name, source in self.sources.items():
            if not name.startswith(f"{module}."):
                continue
            rest = name.removeprefix(module)
            if source is None and name in self.new:
                return BlockOrigin(module, None, self.operator)
            if source is not None and source.endswith(rest):
                return BlockOrigin(module, source.removesuffix(rest), self.operator if name in self.new else None)
        return None

    def blocks(self) -> tuple[BlockOrigin, ...]:
        """Return the origins of all blocks of each sequence that became longer, in order."""
        blocks: list[BlockOrigin] = []
        for sequence in sequences(self.sources).values():
            origins = [self.origin(f"{sequence.prefix}{index}") for index in sequence.indices]
            known = [origin for origin in origins if origin is not None]
            if len({origin.operator is None for origin in known}) > 1:  # old blocks and new ones
                blocks += known
        return tuple(blocks)


def growth_map(grown: Checkpoint, source: Checkpoint) -> GrowthMap | None:
    """Return the map of the growth from `source` to `grown`, as the report beside `grown` says.

    Returns:
        None if there is no report, or if it names tensors that `source` lacks, so that another checkpoint was grown.

    Raises:
        CheckpointError: the report is damaged.
    """
    path = grown.path.parent / REPORT
    if grown.folder is None or not path.is_file():
        return None
    try:
        report: dict[str, Any] = parse_json(path.read_bytes(), str(path))
        tensors: dict[str, dict[str, Any]] = report["tensors"]
        sources = {name: entry["source"] for name, entry in tensors.items()}
        new = frozenset(name for name, entry in tensors.items() if entry["new"])
        depth = report["plan"]["resolved"]["depth"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a report of growth ({type(error).__name__}: {error}); restore the file, or remove it to "
            "compare modules by their names"
        ) from error
    if not {name for name in sources.values() if name is not None} <= source.tensors.keys():
        return None
    return GrowthMap(depth["operator"] if depth else None, sources, new)
