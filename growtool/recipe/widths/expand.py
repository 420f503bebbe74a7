"""How every set of channels grows, by the plan's width operator: by copies, or by blanks where it wants them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from growtool.algebra.expansion import Blank, Expansion, padded
from growtool.algebra.rewrite import RescaledNorm
from growtool.errors import PlanError, format_names
from growtool.operators.base import Abilities, generator_for
from growtool.operators.table import OPERATORS
from growtool.plan.schema import Plan
from growtool.prove.blanks.propagation import BlankPropagation, propagate_blanks
from growtool.prove.lockstep import Lockstep
from growtool.prove.promise import joint_obstacles
from growtool.prove.scales.scaling import Scaling
from growtool.recipe.blocks.starts import BlockInit
from growtool.recipe.matching import Matching
from growtool.recipe.recipe import NewUnits
from growtool.recipe.scaled import scaling_of
from growtool.recipe.widths.changes import WidthChange, alike
from growtool.trace import ChannelGroup, Channels, GroupPair, channels_of, in_words
from growtool.trace.reading.hidden_units import NoHiddenUnitsError, hidden_units


class CannotWidenError(PlanError):
    """The operator cannot grow some channels as far as the target asks; another operator may."""


@dataclass(frozen=True)
class Widths:
    """How every channel group grows, and what makes up for it.

    Attributes:
        expansions: how each set of channels grows, those that stay included.
        changes: set of channels that grows -> the change of its group.
        blanks: what the blank channels of a set go through; sets without blanks are absent.
        every_tensor: whether the operator also makes the tensors that do not grow.
        in_pairs: whether new units that nothing reads yet come in pairs.
        measured: new hidden units whose weights images decide.
    """

    expansions: Mapping[GroupPair, Expansion]
    changes: Mapping[GroupPair, WidthChange]
    blanks: Mapping[ChannelGroup, BlankPropagation]
    every_tensor: bool = False
    in_pairs: bool = False
    measured: Mapping[GroupPair, NewUnits] = field(default_factory=dict)

    @property
    def norms(self) -> tuple[RescaledNorm, ...]:
        """Every norm whose gain makes up for blanks."""
        return tuple(norm for blanks in self.blanks.values() for norm in blanks.norms)

    @property
    def of_target(self) -> dict[ChannelGroup, Expansion]:
        """How each set of channels grows, by the target's channel groups."""
        return {growth.target: expansion for growth, expansion in self.expansions.items()}


def expand_widths(plan: Plan, matching: Matching, lockstep: Lockstep, starts: BlockInit) -> Widths:
    """Decide how each set of channels grows.

    Args:
        plan: says the operator.
        matching: source and target side by side.
        lockstep: their passes likewise.
        starts: how new blocks are closed.

    Raises:
        CannotWidenError: the operator cannot grow some channels as far as the target asks.
    """
    expansions, changes = _expanded(plan, matching)
    widths = Widths(expansions, changes, {})
    if plan.width is None:
        return widths
    operator = plan.width.operator
    abilities = OPERATORS[operator].abilities()
    if not changes:
        return replace(widths, every_tensor=abilities.deeper and bool(matching.blocks.new))
    widths = replace(widths, every_tensor=abilities.every_tensor, in_pairs=abilities.in_pairs)
    if abilities.hidden_alone:
        widths = replace(widths, measured=_new_units(operator, widths, matching, starts.closed))
    if abilities.blanks:
        scaled = scaling_of(plan, matching, lockstep, widths.of_target, starts)
        widths = _with_blanks(widths, matching, abilities, starts.closed, scaled)
    return replace(widths, changes=_with_origins(widths))


def _expanded(plan: Plan, matching: Matching) -> tuple[dict[GroupPair, Expansion], dict[GroupPair, WidthChange]]:
    """Return how each set of channels grows if the new ones are all copies, and which groups grow.

    Raises:
        CannotWidenError: the operator cannot grow some channels as far as the target asks.
    """
    tensors: dict[GroupPair, set[str]] = defaultdict(set)
    for growth, name in matching.carried():
        tensors[growth].add(name)
    names, words = matching.target.trace.names, channels_of(matching.target.trace)
    expansions, changes = dict[GroupPair, Expansion](), dict[GroupPair, WidthChange]()
    refused = list[WidthChange]()
    for growth, carriers in tensors.items():
        before, after = growth.sizes
        if before == after:
            expansions[growth] = Expansion.identity(before)
            continue
        assert plan.width is not None, "an operator is chosen for whatever a plan leaves open"
        name = names[growth.target]
        changes[growth] = WidthChange(name, words[growth.target], before, after, len(carriers))
        operator = OPERATORS[plan.width.operator].implementation()
        generator = generator_for(plan.seed, f"expansion of {name}")
        try:
            expansions[growth] = operator.expand(before, after, generator)
        except ValueError:
            refused.append(changes[growth])
    if plan.width is not None and refused:
        channels = format_names([str(change) for change in alike(refused)], 3)
        raise CannotWidenError([f"{channels}: {plan.width.operator} takes whole multiples"])
    return expansions, changes


def _with_origins(widths: Widths) -> dict[GroupPair, WidthChange]:
    """Return the changes with the number of copies among new channels, and with what blanks hold."""
    changes = {}
    for growth, change in widths.changes.items():
        passed = widths.blanks.get(growth.target)
        copies = change.after - change.before - int(widths.expansions[growth].blank.sum())
        changes[growth] = replace(change, copies=copies, holds=passed.blank if passed else None)
    return changes


def _new_units(
    operator: str, widths: Widths, matching: Matching, zeroed: frozenset[str]
) -> Mapping[GroupPair, NewUnits]:
    """Return the layers around every set of channels that grows.

    Args:
        operator: by name.
        widths: how channels grow.
        matching: source and target side by side.
        zeroed: tensors that close new blocks.

    Raises:
        CannotWidenError: some channels are no hidden units between two layers.
    """
    trace = matching.target.trace
    words = channels_of(trace)
    new_units: dict[GroupPair, NewUnits] = {}
    problems = dict[str, list[Channels]]()
    for growth, expansion in widths.expansions.items():
        if expansion.is_identity:
            continue
        try:
            units = hidden_units(trace, growth.target)
            _require_plain_layers(matching, units.writer, units.reader)
        except NoHiddenUnitsError as why:
            problems.setdefault(str(why), []).append(words[growth.target])
        else:
            # The readers of a block that starts closed are zero: its writers must not be zero as well.
            columns = units.live_at_zero and units.reader not in zeroed
            bias = f"{units.writer.removesuffix('weight')}bias"
            new_units[growth] = NewUnits(
                writer=units.writer,
                reader=units.reader,
                columns=columns,
                bias=bias if bias in trace.tensors else None,
                statistics=units.statistics,
            )
    if problems:
        raise CannotWidenError(
            [
                f"{in_words(groups)}: {operator} takes hidden units that one layer writes and one layer reads, "
                f"and {why}"
                for why, groups in problems.items()
            ]
        )
    return new_units


def _require_plain_layers(matching: Matching, writer: str, reader: str) -> None:
    """Check that these are two linear layers or two convolutions and nothing derived from one.

    Raises:
        NoHiddenUnitsError: they are not.
    """
    layers = [matching.target.model.get_submodule(name.rpartition(".")[0]) for name in (writer, reader)]
    kinds = [type(layer) for layer in layers]
    if kinds not in ([nn.Linear, nn.Linear], [nn.Conv2d, nn.Conv2d]):
        raise NoHiddenUnitsError(
            f"a {kinds[0].__name__} and a {kinds[1].__name__} are not two layers of one plain kind"
        )
    if any(
        getattr(layer, "padding_mode", "zeros") != "zeros" or isinstance(getattr(layer, "padding", 0), str)
        for layer in layers
    ):
        raise NoHiddenUnitsError("a convolution pads by something else than a number of zeros")


def _with_blanks(
    widths: Widths, matching: Matching, abilities: Abilities, zeroed: frozenset[str], copied_all: Scaling
) -> Widths:
    """Put blanks in place of copies where the operator wants them and every operation on the way lets them pass.

    Args:
        widths: copies everywhere.
        matching: source and target side by side.
        abilities: of the operator.
        zeroed: tensors that end the branches of new blocks.
        copied_all: what weights make up for if all new channels are copies.
    """
    # One set after the other: whether the blanks of a set pass may depend on how other sets grow, of which those that
    # come later still count as copies. Hence the last look at all of them together.
    trace = matching.target.trace
    chosen = widths
    for growth, copied in widths.expansions.items():
        if copied.is_identity:
            continue
        copies_are_exact = not joint_obstacles(trace, {growth.target: copied}, matching.blocks.is_new, copied_all)
        # Channels of queries and keys that are both zero would have no gradient; scaled copies do.
        larger_heads = growth.target in copied_all.groups
        if copies_are_exact and (larger_heads or not abilities.always_blank):
            continue
        blanks = padded(*growth.sizes, copies=1 if abilities.always_blank else None)
        tried = replace(chosen, expansions={**chosen.expansions, growth: blanks})
        for kind in _kinds(abilities, widths.measured.get(growth)):
            passage = propagate_blanks(trace, growth.target, kind, tried.of_target, zeroed, copied_all.transformed)
            stopped = not all(matching.ignored(module) for module, _ in passage.reasons)
            if not stopped and not (passage.means_left and copies_are_exact):
                chosen = replace(tried, blanks={**chosen.blanks, growth.target: passage})
                break
        else:
            if growth in widths.measured:  # there are no copies to fall back on: the promise tells what stops them
                chosen = replace(tried, blanks={**chosen.blanks, growth.target: passage})
    # what passes beside copies may not pass beside the blanks of other sets
    final = {
        group: propagate_blanks(trace, group, passage.blank, chosen.of_target, zeroed, copied_all.transformed)
        for group, passage in chosen.blanks.items()
    }
    return replace(chosen, blanks=final)


def _kinds(abilities: Abilities, units: NewUnits | None) -> tuple[Blank, ...]:
    """Return what blank channels of a set may hold, the first choice first."""
    if units is None:
        return abilities.blanks
    return ("silent",) if units.columns else ("open",)
