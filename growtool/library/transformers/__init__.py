"""Language, vision and speech models of transformers; no file outside this folder imports it."""

from growtool.library.transformers.library import Transformers

__all__ = ["Transformers"]
