"""Which block of a grown checkpoint came from which of its source, as its `growth.json` tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from growtool.checkpoint import Checkpoint
from growtool.checkpoint.beside import REPORT
from growtool.checkpoint.documents import parse_json
from growtool.errors import CheckpointError
from growtool.trace.pairing.stretches import sequences


@dataclass(frozen=True, slots=True)
class BlockOrigin:
    """A block of the grown model, the block of the source that it was made of, and the operator that added it.

    Attributes:
        source: None where it was made of none.
        operator: None where growth did not add it.
    """

    block: str
    source: str | None
    operator: str | None


@dataclass(frozen=True)
class GrowthMap:
    """Which tensor of the source each tensor of a grown model came from.

    Attributes:
        operator: of depth; None where no block is new.
        sources: tensor of the grown model -> tensor of the source, None where it came from none.
        new: tensors of blocks that growth added.
    """

    operator: str | None
    sources: Mapping[str, str | None]
    new: frozenset[str]

    def origin(self, module: str) -> BlockOrigin | None:
        """Where a module came from, told by the first of its tensors that has a source or is new without one."""
        for name, source in self.sources.items():
            rest = name.removeprefix(f"{module}.")
            if rest != name and source is None and name in self.new:
                return BlockOrigin(module, None, self.operator)
            if rest != name and source is not None and source.endswith(f".{rest}"):
                return BlockOrigin(module, source.removesuffix(f".{rest}"), self.operator if name in self.new else None)
        return None

    def blocks(self) -> tuple[BlockOrigin, ...]:
        """Every block of the sequences that became longer, in order."""
        return tuple(self._blocks())

    def _blocks(self) -> Iterator[BlockOrigin]:
        for sequence in sequences(self.sources).values():
            origins = [self.origin(f"{sequence.prefix}{index}") for index in sequence.indices]
            known = [origin for origin in origins if origin is not None]
            if len({origin.operator is None for origin in known}) > 1:
                yield from known


def growth_map(grown: Checkpoint, source: Checkpoint) -> GrowthMap | None:
    """The map of the last step of growth, if the checkpoint has a report of it and `source` has all that it names.

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
