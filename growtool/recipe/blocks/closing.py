"""Which parameters of new blocks become zero, and which of their layers pass on their input, so that nothing changes.

A new block is closed if it returns what it received (a residual block), or zeros that its caller adds to what the block
received (`x + block(x)`). Where only parts of a block run, each part is closed. Whether the rest of the model then
computes what the source does is followed through both passes (`prove.block_equivalence`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from growtool.errors import PlanError, format_names
from growtool.operators.depth.placement import Placed
from growtool.prove.block_equivalence import Comparison, compare_passes
from growtool.prove.numbers import Closed
from growtool.recipe.blocks.post_norm import Handing, PostNorm, post_norm
from growtool.recipe.matching import Matching
from growtool.trace import Params, within
from growtool.trace.module_calls import ModuleCall, Outcome, Same
from growtool.trace.reading.place_names import grouped

_NOTHING_TO_COPY = (
    "no block of the source is one to copy, and one with initial values needs a residual connection around it"
)
_OTHER_TARGET = "choose a target with the same kind of blocks, or leave the depth of this stage as it is"
_INSTEAD = "use stack or interleave (lossy), or net2deeper if it is made of convolutions, BatchNorm and ReLU"


@dataclass(frozen=True)
class BlockClosing:
    """What closes the new blocks, so that the rest computes what the source does.

    Attributes:
        zero: path of a new block -> parameters that close it when they are zero.
        identity_layers: parameters and buffers of layers that pass on what they receive.
        dropped: module path of the target -> entries of its signature that do nothing in a closed block.
        handing: how blocks that end in a norm are closed.
        difference: what the rest of the model computes differently even so, in words; None: nothing.
    """

    zero: Mapping[str, Params] = field(default_factory=dict)
    identity_layers: Params = frozenset()
    dropped: Mapping[str, frozenset[int]] = field(default_factory=dict)
    handing: Handing = field(default_factory=Handing)
    difference: str | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of a new block, or of a module inside a block that never runs as a whole.

    Attributes:
        block: path of the block.
        start: how it is to start.
        call: what ran.
    """

    block: str
    start: str
    call: ModuleCall


def block_closing_of(matching: Matching) -> BlockClosing:
    """Decide how every new block that is no running copy is closed.

    Raises:
        PlanError: a block cannot be closed, with the reason.
    """
    runs = list(_runs(matching))
    running = any(placed.start == "copy" for placed in _new(matching))
    if running and not runs:
        return BlockClosing()
    returning = _closed(runs, matching, zeros_first=False)
    if returning.difference is None:
        return returning
    if not running:  # beside running copies the values differ from the source's anyway, zeros or not
        zeroing = _closed(runs, matching, zeros_first=True)
        if zeroing.difference is None:
            return zeroing
    _require_residual(runs, matching)
    return returning


def _new(matching: Matching) -> Iterator[Placed]:
    for blocks in matching.blocks.placed.values():
        yield from (placed for placed in blocks.values() if placed.new)


def _runs(matching: Matching) -> Iterator[_Run]:
    """Yield the outermost runs of modules of new blocks, in order."""
    blocks, end = matching.blocks, 0
    modules = {path: (block, start) for block, start in blocks.starts() for path in blocks.modules_of(block)}
    # Of calls that begin together the outermost comes first; the calls within it begin before its `end`.
    for call in sorted(matching.target.trace.forward.calls, key=lambda c: (c.first, -c.end, len(c.path))):
        module = next((path for path in modules if within(call.path, path)), None)
        if module is not None and (call.first >= end and call.end > call.first):
            end = call.end
            yield _Run(*modules[module], call)


def _closed(runs: Iterable[_Run], matching: Matching, *, zeros_first: bool) -> BlockClosing:
    """Close every run by returning what it received or by returning zeros, whichever is preferred and possible."""
    closing: dict[str, set[str]] = {path: set() for path, _ in matching.blocks.starts()}  # by block
    zeroing: dict[str, tuple[str, Params]] = {}  # path of a run -> its block, and what makes its outputs zero
    identity_layers: set[str] = set()
    post_norms: list[PostNorm] = []
    closed = []
    for run in runs:
        outs: list[tuple[int, int | str]] = []
        end = run.call.end
        for out in run.call.outs:
            received, zero = _received(run, out, matching), _own(out.zero, run, matching)
            if zero is not None and (received is None or zeros_first):
                _, for_others = zeroing.get(run.call.path, (run.block, frozenset[str]()))
                zeroing[run.call.path] = run.block, zero | for_others
                outs.append((out.number, "zero"))
            elif received is not None:
                same, handed = received
                closing[run.block] |= same.params
                identity_layers |= same.identity_layers
                if handed is not None:  # all but the block's last norm is left out
                    post_norms.append(handed)
                    end = min(end, handed.end)
                outs.append((out.number if handed is None else handed.summed, same.number))
            else:
                outs.append((out.number, "unknown"))
        closed.append(Closed(run.call.path, run.call.first, end, tuple(outs)))
    handing = Handing.of(post_norms)
    compared = _compared(closed, handing, matching)
    for path in compared.needed:  # a run whose zeros no sum drops does not have to return zeros
        block, params = zeroing[path]
        closing[block] |= params
    difference = _contradiction(closing.values(), identity_layers, matching) or compared.difference
    zero_params = {path: frozenset(params) for path, params in closing.items()}
    return BlockClosing(zero_params, frozenset(identity_layers), compared.dropped, handing, difference)


def _contradiction(closing: Collection[set[str]], identity_layers: set[str], matching: Matching) -> str | None:
    """Return a clause on why blocks cannot have these zeros, or None if they can."""
    zero = frozenset[str]().union(*closing)
    if any(params & identity_layers for params in closing):
        return "the same layer would have to be zero and pass on what it receives"
    if any(together <= zero for together in matching.target.trace.infinite):
        return "what is divided by would be zero"
    return None


def _compared(closed: list[Closed], handing: Handing, matching: Matching) -> Comparison:
    """Compare both passes, the new blocks left out of the target's, and its identity shortcuts too."""
    bridges = matching.shortcuts
    target = matching.target.trace
    for call in target.forward.calls:
        if call.path in bridges and len(call.ins) == len(call.outs) == 1:
            outs = ((call.outs[0].number, call.ins[0]),)
            closed.append(Closed(call.path, call.first, call.end, outs))

    def origin(path: str) -> str:
        return matching.blocks.source_name(handing.paths.get(path, path))

    def skip(path: str) -> bool:
        return path not in handing.heirs and matching.ignored(path)

    return compare_passes(matching.source.trace, target, closed, origin, skip, bridges, handing.numbers)


def _received(run: _Run, out: Outcome, matching: Matching) -> tuple[Same, PostNorm | None] | None:
    """Return on what terms an output equals an input of the block, if the block's own parameters can meet them.

    A block that ends in a norm, behind another norm, comes with how it hands on what the one in front wrote.
    """
    if run.start == "identity":
        lone = len(run.call.ins) == 1 and run.call.lone
        return (Same(run.call.ins[0], frozenset(), frozenset()), None) if lone else None
    same = out.same
    if same is None or (same.identity_layers and not same.params):  # a layer for net2deeper, without a residual
        return None
    handed, own = None, same.params | same.identity_layers
    if same.unit_affine:
        handed = post_norm(run.call, out, same, matching)
        if handed is None:
            return None
        own |= same.unit_affine - {*handed.heirs.values()}  # the norm in front is not the block's
    return (same, handed) if _own(own, run, matching) is not None else None


def _own(params: Params | None, run: _Run, matching: Matching) -> Params | None:
    """Return the parameters if new blocks that start in the same way hold them all and a checkpoint stores them."""
    starts, stored = dict(matching.blocks.starts()), matching.target.model.state_dict().keys()
    for name in params or ():
        found = matching.blocks.block_of(name)
        if found is None or starts.get(found[0]) != run.start or name not in stored:
            return None
    return params


def _require_residual(runs: Iterable[_Run], matching: Matching) -> None:
    """Raise a PlanError for all blocks that have no residual connection by which they could be closed."""
    runs = list(runs)
    residual = {
        run.block
        for run in runs
        for out in run.call.outs
        if (found := _received(run, out, matching)) and found[0].params
    }
    problems = list[tuple[str, str]]()
    for path, start in matching.blocks.starts():
        if start != "identity" and path not in residual:
            why = _why_not(path, [run for run in runs if run.block == path], matching)
            needs = f"{start} needs a residual connection around the block, {why}; {_INSTEAD}"
            if path in matching.blocks.uncopied:
                needs = f"{_NOTHING_TO_COPY}, {why}; {_OTHER_TARGET}"
            problems.append((path, needs))
    if problems:
        raise PlanError(grouped(problems))


def _why_not(path: str, runs: Iterable[_Run], matching: Matching) -> str:
    """Return a clause on why a block does not return what it received."""
    for run in runs:
        for out in run.call.outs:
            same = out.same
            if same is not None and same.params:
                names = sorted(same.params | same.identity_layers)
                foreign = [name for name in names if _own(frozenset([name]), run, matching) is None]
                if foreign and not _reads(run, foreign[0], matching):
                    return "and the trace found none: its sums add what is zero only if what it received is"
                if foreign:
                    return (
                        f"and the one the trace found takes {foreign[0]} to be closed, which is not the block's alone"
                    )
                if same.unit_affine:
                    return f"and the one the trace found goes through norms {_unfit(same.unit_affine, matching)}"
            if out.lost is not None:
                where = out.lost.replace(f"in {path}.", "in its ").replace(f"in {path}", "in it")
                return (
                    f"and the trace found none: {where} changes what it received, and no sum adds what it returns to it"
                )
    return "and the trace found none"


def _unfit(affine: Params, matching: Matching) -> str:
    """Return a clause on why norms with these gains and shifts cannot become plain."""
    counts = matching.target.trace.forward.use_counts
    shared = sorted(name for name in affine if counts[name] > 1)
    if shared:
        return f"whose gain or shift other operations read, too ({format_names(shared, 2)})"
    return f"that are no modules of their own ({format_names(sorted(affine), 2)})"


def _reads(run: _Run, name: str, matching: Matching) -> bool:
    """Return whether any operation of a run reads a parameter."""
    forward = matching.target.trace.forward
    steps = forward.raw[run.call.first : run.call.end]
    return any(name in forward.made_of.get(number, ()) for step in steps for number in step.ins)
