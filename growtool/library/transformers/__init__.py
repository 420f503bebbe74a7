"""transformers behind the boundary: language, vision and speech models by their `config.json`."""

from growtool.library.transformers.library import Transformers

__all__ = ["Transformers"]
