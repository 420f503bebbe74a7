"""The commands that are tried, what each reads and may be damaged, and what it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from .material import LONGER, TRAINING
from .mutations import WORDS, Mutation

_CONFIGS = ("json", "json", "json", "text", "bytes", "labels")
_DOCUMENTS = ("json", "json", "json", "text", "bytes")
_WEIGHTS = ("header", "header", "header", "bytes")
_PLANS = ("yaml", "yaml", "yaml", "text", "bytes")


@dataclass(frozen=True)
class Scenario:
    """Attributes:

    words: of the command.
    weight: how often it is tried.
    files: what it reads: file -> the kinds of edits. The first part of each path is copied for a case.
    output: what it writes; None for a command that only tells.
    """

    words: tuple[str, ...]
    weight: int
    files: Mapping[str, tuple[str, ...]]
    output: str | None = None

    @property
    def material(self) -> list[str]:
        """What is copied into the folder of a case."""
        return sorted(
            {path.split("/")[0] for path in self.files} | ({"images.yaml"} if "schedule" in self.words else set())
        )

    def draw(self, random: Random) -> list[Mutation]:
        """One to three mutations, most often one."""
        found = []
        for _ in range(random.choice([1, 1, 1, 2, 2, 3])):
            if random.random() < 0.12:
                kind, path = WORDS, ""
            else:
                path = random.choice(list(self.files))
                kind = random.choice(self.files[path])
            found.append(Mutation(kind, path, random.randrange(2**32)))
        return found


def _model(folder: str, *documents: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{folder}/model.safetensors": _WEIGHTS,
        f"{folder}/config.json": _CONFIGS,
        **{f"{folder}/{name}": _DOCUMENTS for name in documents},
    }


_RESNET, _VIT, _GROWN = _model("resnet"), _model("vit"), _model("grown", "growth.json")
_DATA = {"data": ("images",)}
_STATE = {"run/last/optimizer.json": _DOCUMENTS, "run/last/optimizer.safetensors": _WEIGHTS}
_RUN = _model("run/last", "training.json") | _STATE


def _plan(name: str) -> dict[str, tuple[str, ...]]:
    return {name: _PLANS}


def _of(weight: int, line: str, *files: Mapping[str, tuple[str, ...]], output: str | None = None) -> Scenario:
    return Scenario(
        tuple(line.split()), weight, {path: kinds for held in files for path, kinds in held.items()}, output
    )


_STEP = "long/checkpoints/step-00000001"
_TRAIN = " ".join(TRAINING)
SCENARIOS = (
    _of(14, "inspect resnet --depth 2", _RESNET),
    _of(3, "inspect resnet --coupling", _RESNET),
    _of(6, "inspect vit --json", _VIT),
    _of(8, "inspect vit.safetensors", {"vit.safetensors": _WEIGHTS}),
    _of(8, "inspect templates", _model("templates")),
    _of(6, "inspect grown resnet", _GROWN, _RESNET),
    _of(5, "inspect run/last", _RUN),
    _of(12, "grow resnet resnet.yaml --dry-run", _RESNET, _plan("resnet.yaml")),
    _of(10, "grow vit vit.yaml --dry-run --json", _VIT, _plan("vit.yaml")),
    _of(8, "grow resnet resnet.yaml -o out", _RESNET, _plan("resnet.yaml"), output="out"),
    _of(6, "grow vit vit.yaml -o new/out", _VIT, _plan("vit.yaml"), output="new/out"),
    _of(4, "grow vit.safetensors short.yaml -o out.safetensors", {"vit.safetensors": _WEIGHTS}, _plan("short.yaml"),
        output="out.safetensors"),
    _of(4, "grow templates short.yaml -o out", _model("templates"), _plan("short.yaml"), output="out"),
    _of(3, "grow resnet images.yaml -o out", _RESNET, _plan("images.yaml"), _DATA, output="out"),
    _of(5, "grow run/last images.yaml --data data -o out", _RUN, _STATE, _plan("images.yaml"), _DATA, output="out"),
    _of(2, "grow resnet --width 2 --depth 2 --allow-lossy -o out", _RESNET, output="out"),
    _of(5, "verify resnet grown", _RESNET, _GROWN),
    _of(5, "verify resnet resnet --data data --dtype float64", _RESNET, _DATA),
    _of(2, "advise resnet --budget 2x-macs -o out", _RESNET, output="out"),
    _of(4, "decompose vit --bank svd --energy 0.9 -o out", _VIT, output="out"),
    _of(3, "decompose resnet -o out.safetensors", _RESNET, output="out.safetensors"),
    _of(6, "export templates -o out", _model("templates"), output="out"),
    _of(5, "export shared.safetensors -o out.safetensors", {"shared.safetensors": _WEIGHTS}, output="out.safetensors"),
    _of(8, "evaluate resnet --data data --workers 0 --device cpu", _RESNET, _DATA, _DATA),
    _of(4, f"finetune resnet {_TRAIN} -o out", _RESNET, _DATA, _DATA, output="out"),
    _of(3, "finetune resnet -c run.yaml -o out", _plan("run.yaml"), _RESNET, _DATA, output="out"),
    _of(3, f"finetune run/last {_TRAIN} --carry-optimizer -o out", _RUN, _STATE, _DATA, output="out"),
    _of(5, f"finetune resnet {' '.join(LONGER)} --resume {_STEP} -o long", _model(_STEP, "state.json", "training.json"),
        {f"{_STEP}/ema.safetensors": _WEIGHTS, f"{_STEP}/optimizer.json": _DOCUMENTS}, {"long/config.yaml": _PLANS},
        {f"{_STEP}/optimizer.safetensors": _WEIGHTS, "long/metrics.jsonl": ("text", "bytes")}, _model("resnet"), _DATA,
        output="long"),
    _of(3, f"finetune resnet {_TRAIN} --kd-teacher grown -o out", _GROWN, _RESNET, _DATA, output="out"),
    _of(3, "schedule schedule.yaml -o out", _plan("schedule.yaml"), _RESNET, _DATA, output="out"),
    _of(4, "import model.pth --model their_resnet --plugin their.py -o out",
        {"model.pth": ("bytes",), "their.py": ("text", "bytes")},
        output="out"),
)  # fmt: skip
