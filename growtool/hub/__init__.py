"""The Hugging Face hub: what names a checkpoint there, and its files in the cache of `huggingface_hub`."""

from growtool.hub.names import Address, Name, named
from growtool.hub.progress import shown_by
from growtool.hub.repository import Origin, Repository, locate

__all__ = ["Address", "Name", "Origin", "Repository", "locate", "named", "shown_by"]
