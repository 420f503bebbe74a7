"""The published way of MixtureGrowth (arXiv 2311.04251): two small members, grown onto a diagonal, trained on."""

from growtool.protocol.file import LoadedProtocol, Protocol, load_protocol
from growtool.protocol.run import Step, run_protocol

__all__ = ["LoadedProtocol", "Protocol", "Step", "load_protocol", "run_protocol"]
