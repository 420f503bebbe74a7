"""The zoo through Torch-Pruning's dependency graph, for comparison (Fang et al., CVPR 2023, arXiv 2301.12900).

    pip install --no-deps --target SOMEWHERE torch-pruning
    PYTHONPATH=SOMEWHERE python -m tests.bench.depgraph

Both programs find the axes of a network that belong together, growtool to grow them, Torch-Pruning to shorten them. For
one model of each of timm's model files: build the graph and enumerate its groups, 60 s at most; then, for up to three
groups, prune half of the channels of a fresh copy and run it. No hints are given (such as the number of heads of an
attention), as growtool is given none.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import random
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..zoo.models import SMALLEST, Example

PROGRAM = "Torch-Pruning's dependency graph"
COMMAND = "python -m tests.bench.depgraph"
COMPARISON = Path("runs/zoo_comparison.json")
SECONDS = 60  # of processor time, to build the graph and to enumerate its groups
TRIALS = 3


def main() -> None:
    """Run the list and keep the counts where `make zoo` finds them."""
    if importlib.util.find_spec("torch_pruning") is None:
        sys.exit("torch_pruning is not installed here, nothing was compared; see the head of tests/bench/depgraph.py")
    warnings.filterwarnings("ignore")
    os.nice(10)
    torch.set_num_threads(1)
    records = []
    for example in SMALLEST:
        records.append(in_child(example))
        print(f"{len(records)}/{len(SMALLEST)} {example.label}: {json.dumps(records[-1])}", file=sys.stderr, flush=True)
    COMPARISON.parent.mkdir(exist_ok=True)
    COMPARISON.write_text(json.dumps({PROGRAM: summarised(records)}, indent=1))


def in_child(example: Example) -> dict[str, Any]:
    """What became of one model, in a process of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        record = tried(example)
        os.write(writing, json.dumps(record).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else {"outcome": "died"}


def tried(example: Example) -> dict[str, Any]:
    """Enumerate and prune; the outcome is `enumerated`, `out of time` or the error."""

    def out_of_time(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, out_of_time)  # processor time, so that a busy machine takes nothing away
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        model = timm.create_model(example.architecture, pretrained=False, **example.args).eval()
        image = torch.randn(1, *input_size(model))
        roots = prunable_roots(copy.deepcopy(model), image)
    except TimeoutError:
        return {"outcome": "out of time"}
    except Exception as error:
        return {"outcome": type(error).__name__}
    chosen = random.Random(0).sample(roots, min(TRIALS, len(roots)))
    signal.setitimer(signal.ITIMER_PROF, SECONDS * TRIALS)
    return {"outcome": "enumerated", "groups": len(roots), "pruned": [pruned(model, image, name) for name in chosen]}


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images."""
    return tuple(model.pretrained_cfg["input_size"])


def prunable_roots(model: nn.Module, image: torch.Tensor) -> list[str]:
    """The layer that each group starts from, by name."""
    names = {module: name for name, module in model.named_modules()}
    groups = graph(model, image).get_all_groups(
        ignored_layers=classifiers(model), root_module_types=[nn.Conv2d, nn.Linear]
    )
    return [names[group[0].dep.target.module] for group in groups]


def pruned(model: nn.Module, image: torch.Tensor, root: str) -> str:
    """Prune every second output channel of a layer and all that goes with it; `ok` if the model then runs."""
    try:
        expected = model(image)
        copied = copy.deepcopy(model)
        dependencies, layer = graph(copied, image), copied.get_submodule(root)
        pruner = dependencies.get_pruner_of_module(layer)
        half = list(range(0, pruner.get_out_channels(layer), 2))  # not the first half: that may be all of a branch
        group = dependencies.get_pruning_group(layer, pruner.prune_out_channels, idxs=half)
        if not dependencies.check_pruning_group(group):
            return "refused"
        group.prune()
        return "ok" if copied(image).shape == expected.shape else "other shape"
    except TimeoutError:
        return "out of time"
    except Exception as error:
        return type(error).__name__


def graph(model: nn.Module, image: torch.Tensor) -> Any:
    """Torch-Pruning's dependency graph of the model."""
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=image)


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The layers whose outputs are the model's own."""
    found = model.get_classifier()
    return [m for m in (found if isinstance(found, Iterable) else [found]) if isinstance(m, nn.Module)]


def summarised(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, with the command and what they mean."""
    from importlib.metadata import version

    outcomes = Counter(record["outcome"] for record in records)
    trials = [record["pruned"] for record in records if record.get("pruned")]
    oks = [result == "ok" for results in trials for result in results]
    failed = sum(outcomes.values()) - outcomes["enumerated"] - outcomes["out of time"]
    return {
        "version": version("torch-pruning"),
        "command": COMMAND,
        "counts": {
            "models": len(records),
            f"groups enumerated within {SECONDS} s": outcomes["enumerated"],
            "out of time": outcomes["out of time"],
            "ended with an error": failed,
            "every tried group pruned and the model ran": sum(all(r == "ok" for r in results) for results in trials),
            "at least one did": sum(any(r == "ok" for r in results) for results in trials),
            "groups pruned of those tried": f"{sum(oks)}/{len(oks)}",
        },
        "remark": "Run as it comes, without per-model hints; its purpose is pruning, so this compares coverage alone.",
    }


if __name__ == "__main__":
    main()
