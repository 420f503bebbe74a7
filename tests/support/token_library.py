"""A small library of its own: transformers over tokens, with two inputs and tied embeddings. Nothing of it is timm's.

As a plugin (`--plugin token_library.py`) it makes itself known to growtool: the example of CONTRIBUTING.md.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from growtool.library import Inputs, Library, ModelSpec, Words, register


class Block(nn.Module):
    """Attention and an MLP, each behind a norm, on a residual stream."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x_NTC: Tensor, mask_N11T: Tensor) -> Tensor:
        y = self.norm1(x_NTC)
        parts = (layer(y).unflatten(2, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        q, k, v = (part.transpose(1, 2) for part in parts)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask_N11T)
        x_NTC = x_NTC + self.out(seen.transpose(1, 2).flatten(2))
        return x_NTC + self.down(gelu(self.up(self.norm2(x_NTC))))


class TokenModel(nn.Module):
    """Logits [N, T, vocabulary] of tokens, by the very embeddings that they came in with; or features, without a head.

    Args:
        vocabulary, length: tokens there are, and tokens of an input.
        width, heads, hidden, depth: of the stream, the attention, the MLPs, and the number of blocks.
        head: whether there are logits; else hidden states [N, T, width] and their mean [N, width].
    """

    def __init__(
        self, vocabulary: int = 11, length: int = 5, width: int = 8, heads: int = 2, hidden: int = 12, depth: int = 2,
        head: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        self.args = {"width": width, "heads": heads, "hidden": hidden, "depth": depth, "head": head}
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False) if head else None
        if self.head is not None:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        x_NTC = self.embedding(ids) + self.positions(torch.arange(self.length, device=ids.device))
        for block in self.blocks:
            x_NTC = block(x_NTC, mask[:, None, None])
        x_NTC = self.norm(x_NTC)
        return self.head(x_NTC) if self.head is not None else {"states": x_NTC, "mean": x_NTC.mean(1)}


class TokenLibrary(Library):
    """Models of tokens and a mask."""

    name = "tokens"
    words = Words(one="text", many="texts")

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """By the architecture."""
        return config.get("architecture") == "token_model"

    def create(self, spec: ModelSpec) -> nn.Module:
        """With its initial weights."""
        return TokenModel(**spec.model_args)

    def spec_of(self, model: nn.Module, architecture: str | None, model_args: Mapping[str, Any]) -> ModelSpec | None:
        """Its models keep their arguments."""
        if not isinstance(model, TokenModel):
            return None
        sizes = {"vocabulary": model.vocabulary, "length": model.length}
        return ModelSpec("token_model", {**sizes, **model.args, **model_args}, library=self.name)

    def inputs(self, model: nn.Module, count: int, seed: int) -> Inputs:
        """Tokens [count, T] and which of them count."""
        generator = torch.Generator().manual_seed(seed)
        size = (count, model.length)
        ids = torch.randint(model.vocabulary, size, generator=generator)
        mask = torch.rand(size, generator=generator) < 0.7
        mask[:, 0] = True
        return Inputs({"ids": ids, "mask": mask})

    def outputs_may_grow(self, model: nn.Module) -> bool:
        """Features do."""
        return model.head is None

    def classes(self, model: nn.Module) -> int:
        """The next token."""
        return 0 if model.head is None else model.vocabulary

    def loading_line(self, path: Path, spec: ModelSpec) -> str:
        """By this very file."""
        return f"token_library.load({str(path)!r})"

    def models(self) -> Mapping[str, tuple[str, ...]]:
        """One."""
        return {"tokens": ("token_model",)}


def load(folder: str | Path) -> TokenModel:
    """The model in a folder, without growtool's help; tied weights are in the file once or twice."""
    model = TokenModel(**json.loads((Path(folder) / "config.json").read_text())["model_args"]).eval()
    state = load_file(Path(folder) / "model.safetensors")
    if model.head is not None:
        state.setdefault("head.weight", state["embedding.weight"])
    model.to(next(iter(state.values())).dtype).load_state_dict(state)
    return model


register(TokenLibrary())
