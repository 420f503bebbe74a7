"""The model card: front matter that hubs can read, lines that load the model, and the same text for the same growth."""

import yaml

from growtool.library import ModelSpec
from growtool.report.card import model_card

FACTS = {
    "source": "checkpoints/small",
    "target": ModelSpec("resnet18"),
    "promise": "exact",
    "measured": "largest relative difference of the logits 3e-07",
    "rows": [("parameters", "1.58 M", "6.29 M"), ("MACs", "10 M", "40 M")],
    "plan_text": "target: {scale: {width: 2}}\n",
    "growth": ["Width: mixture, every width 2 times over."],
}

CARD = """\
---
library_name: timm
license: mit
tags:
- growtool
- image-classification
- timm
---

# resnet18, grown

A `resnet18` of timm, grown from `checkpoints/small` with growtool.

## Loading

From inside this folder, or with its path in place of the dot:

```python
import timm

model = timm.create_model("local-dir:.", pretrained=True)
```

Without `pretrained=True` timm builds the model with random weights and says nothing.

## What growing did

- Width: mixture, every width 2 times over.
- Promised: exact
- Measured: largest relative difference of the logits 3e-07

`growth.json` holds the full report: hashes, seed, versions, every tensor.

## Size

| | before | after |
|---|---:|---:|
| parameters | 1.58 M | 6.29 M |
| MACs | 10 M | 40 M |

## Plan

```yaml
target: {scale: {width: 2}}
```
"""


def test_golden_card():
    assert model_card(**FACTS, license="mit") == CARD


def test_what_is_not_known_is_not_said():
    card = model_card(**FACTS)
    assert yaml.safe_load(card.split("---")[1]) == {
        "library_name": "timm", "tags": ["growtool", "image-classification", "timm"],
    }  # fmt: skip


def test_an_unchecked_growth_says_so():
    card = model_card(**FACTS | {"measured": None})
    assert "- Measured: not checked, the plan says `verify: false`\n" in card
