"""Which axes of a model belong together: symbolic axes, one traced forward pass, pairing of two models."""

from growtool.coupling.axis import KERNEL_POSITION, LOOKED_UP, SPATIAL_POSITION, Atom, Axis, atoms, positions
from growtool.coupling.depth import Stretch, inside, shortened, stretches, within
from growtool.coupling.flow import Params
from growtool.coupling.line import InLine, layers_in_line
from growtool.coupling.operation import Mixing
from growtool.coupling.pairing import Growth, PairedAxis, Unchanged, pair, pair_outputs, torn_groups
from growtool.coupling.place_names import places
from growtool.coupling.trace import Coupling, Group, Member, trace_model
from growtool.coupling.words import Channels, channels_of, told

__all__ = [
    "KERNEL_POSITION",
    "LOOKED_UP",
    "SPATIAL_POSITION",
    "Atom",
    "Axis",
    "Channels",
    "Coupling",
    "Group",
    "Growth",
    "InLine",
    "Member",
    "Mixing",
    "PairedAxis",
    "Params",
    "Stretch",
    "Unchanged",
    "atoms",
    "channels_of",
    "inside",
    "layers_in_line",
    "pair",
    "pair_outputs",
    "places",
    "positions",
    "shortened",
    "stretches",
    "told",
    "torn_groups",
    "trace_model",
    "within",
]
