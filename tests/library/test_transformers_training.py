"""The lines of the card train new blocks alone, by torch and by transformers' own loop, on real text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
import transformers

from growtool import grow
from tests.support.transformers_families import Source, config_of

TEXT = (Path(__file__).parents[2] / "LICENSE").read_bytes()
LENGTH = 64


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A small model of bytes that has learned a little, grown to twice its blocks."""
    place = tmp_path_factory.mktemp("trained")
    source = Source.of(config_of("llama") | {"vocab_size": 256})
    model = transformers.LlamaForCausalLM.from_pretrained(
        None, config=source.model.config, state_dict={n: t.float() for n, t in source.model.state_dict().items()}
    )
    train(model, 30)
    model.save_pretrained(place / "small")
    grow(place / "small", {"target": {"scale": {"depth": 2}}, "depth": "zero_out"}, place / "deep")
    return place


def batches() -> torch.Tensor:
    """The text, as rows of bytes."""
    data = torch.frombuffer(bytearray(TEXT), dtype=torch.uint8).long()
    return data[: len(data) // LENGTH * LENGTH].reshape(-1, LENGTH)


def train(model: Any, steps: int) -> list[float]:
    """The loss at each step."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses, rows = torch.optim.AdamW(wanted, lr=3e-3), list[float](), batches()
    for step in range(steps):
        ids = rows[step % len(rows) :][:8]
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def lines_of_card(folder: Path) -> str:
    """The code of the section on training."""
    card = (folder / "README.md").read_text()
    return re.search(r"## Training the new blocks alone.*?```python\n(.*?)```", card, re.DOTALL)[1]


def as_the_card_says(folder: Path, monkeypatch) -> Any:
    """The model that its lines make."""
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(lines_of_card(folder), found)
    return found["model"]


def new_ones(folder: Path) -> set[str]:
    return {name for name, entry in json.loads((folder / "growth.json").read_text())["tensors"].items() if entry["new"]}


def test_only_new_blocks_learn_by_torch(deep, monkeypatch):
    """And the loss begins where the source's ends."""
    before = transformers.LlamaForCausalLM.from_pretrained(deep / "small")
    model = as_the_card_says(deep / "deep", monkeypatch)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = batches()[:8]
    losses = train(model, 20)
    with torch.no_grad():
        assert losses[0] == pytest.approx(float(before(input_ids=ids, labels=ids).loss), rel=1e-5)
        assert float(model(input_ids=ids, labels=ids).loss) < losses[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed <= new_ones(deep / "deep")
    assert {name.split(".")[2] for name in changed} == {"1", "3"}


def test_only_new_blocks_learn_by_the_trainer(deep, monkeypatch, tmp_path):
    """Which takes the model as it is."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    model = as_the_card_says(deep / "deep", monkeypatch)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = [{"input_ids": row, "labels": row} for row in batches()]
    told = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    transformers.Trainer(model=model, args=told, train_dataset=rows).train()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed
    assert changed <= new_ones(deep / "deep")
