"""Which axes of a model carry the same channels: symbolic axes, the trace of a forward pass, pairs of models."""

from growtool.trace.axes import KERNEL_POSITION, LOOKED_UP, SPATIAL_POSITION, Axis, ChannelGroup, groups_on, positions
from growtool.trace.flow.flow import Params
from growtool.trace.pairing.pair import pair, pair_outputs, torn_groups
from growtool.trace.pairing.paired_axis import GroupPair, PairedAxis, Unchanged
from growtool.trace.pairing.sequential_blocks import InLine, layers_in_line
from growtool.trace.pairing.stretches import Stretch, inside, shortened, stretches, within
from growtool.trace.reading.place_names import places
from growtool.trace.reading.words import Channels, channels_of, in_words
from growtool.trace.record import trace_built, trace_model
from growtool.trace.result import Member, NamedGroup, Trace

__all__ = [
    "KERNEL_POSITION",
    "LOOKED_UP",
    "SPATIAL_POSITION",
    "Axis",
    "ChannelGroup",
    "Channels",
    "GroupPair",
    "InLine",
    "Member",
    "NamedGroup",
    "PairedAxis",
    "Params",
    "Stretch",
    "Trace",
    "Unchanged",
    "channels_of",
    "groups_on",
    "in_words",
    "inside",
    "layers_in_line",
    "pair",
    "pair_outputs",
    "places",
    "positions",
    "shortened",
    "stretches",
    "torn_groups",
    "trace_built",
    "trace_model",
    "within",
]
