"""A fair sample of the zoo, whose whole `make zoo` proves: what growtool says of a model holds on random weights.

The invariants, in float64 on models whose every number is random: the trace knows every operation; all free groups may
be reordered together and none of their members alone; a growth that is promised exact is exact, one that is promised
lossy is not. And: docs/zoo.md shows the facts that are packaged, and the facts cover timm.
"""

import json
import re
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
from torch import Tensor, nn

from growtool.algebra.axis_map import AxisMap
from growtool.checkpoint import build
from growtool.cli.commands.list import families
from growtool.library import built_in
from growtool.library.timm import input_size
from growtool.plan import Plan
from growtool.recipe import Recipe, resolve
from growtool.report.zoo import read_zoo
from growtool.trace import Trace, trace_model
from growtool.trace.axes import new_axis
from tests.zoo.models import SMALLEST, VARIANTS, Example
from tests.zoo.numbers import MODELS as NUMBERS
from tests.zoo.numbers import changed_singly, report
from tests.zoo.proofs import TOLERANCE, InMemory, growth_proof, permutation_proof, source_model
from tests.zoo.sweep import of_part, options, promised_falsely
from tests.zoo.table import page


@dataclass(frozen=True)
class Sample:
    """A model, arguments that make it wider and deeper, and the promise each growth is to make."""

    example: Example
    wide: dict = field(default_factory=dict)
    deep: dict = field(default_factory=dict)
    wide_promise: str = "exact"


def sample(family: str, name: str, args: dict | None = None, **grown: object) -> Sample:
    return Sample(Example(family, name, args or {}), **grown)


SAMPLES = [
    sample("vision_transformer", "test_vit", wide={"embed_dim": 128, "num_heads": 4}, deep={"depth": 8}),
    sample("vision_transformer", "test_vit", wide={"embed_dim": 128}),  # heads grow in size
    sample(
        "beit", "beit_base_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 3},
        wide={"embed_dim": 48, "num_heads": 6}, deep={"depth": 3},
    ),
    sample(
        "eva", "vit_tiny_patch16_dinov3_qkvb", {"depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 5},
        wide={"embed_dim": 48, "num_heads": 4}, deep={"depth": 4},
    ),
    sample(
        "swin_transformer", "swin_tiny_patch4_window7_224",
        {"depths": [2, 2], "embed_dim": 12, "num_heads": [2, 2], "img_size": 112},
        wide={"embed_dim": 24, "num_heads": [4, 4]}, deep={"depths": [4, 2]},
    ),
    sample(
        "swin_transformer_v2", "swinv2_tiny_window8_256",
        {"depths": [2, 2], "embed_dim": 12, "num_heads": [2, 2], "img_size": 128},
        wide={"embed_dim": 24, "num_heads": [4, 4]}, deep={"depths": [2, 4]},
    ),
    sample(
        "convnext", "test_convnext", wide={"dims": [48, 64, 96, 128]}, deep={"depths": [1, 2, 5, 2]},
    ),
    sample(  # a norm by the variance over n - 1
        "convnext", "convnext_zepto_rms", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]},
        wide={"dims": [16, 16, 16, 32]}, wide_promise="exact up to eps",
    ),
    sample(  # one MLP under three names
        "coat", "coat_tiny", {"embed_dims": [64] * 4, "serial_depths": [1] * 4, "parallel_depth": 1},
        wide={"mlp_ratios": [8] * 4},
    ),
    sample(
        "resnet", "resnet26t", {"layers": [1, 2, 1, 1], "channels": [4, 8, 8, 16], "stem_width": 8},
        wide={"channels": [8, 16, 16, 32], "stem_width": 16}, deep={"layers": [1, 4, 1, 1]},
    ),
    sample(
        "resnetv2", "resnetv2_18", {"width_factor": 0.25}, wide={"width_factor": 0.5}, deep={"layers": [2, 2, 2, 3]}
    ),
    sample("regnet", "regnetx_002", {"depth": 6, "w0": 8, "wa": 16.0}, wide={"bottle_ratio": 2.0}),
    sample("efficientnet", "test_efficientnet", wide={"channel_multiplier": 2.0}),
    sample("densenet", "densenet121", {"growth_rate": 4, "block_config": [2, 2, 2, 2]}, wide={"growth_rate": 8}),
    sample("nfnet", "test_nfnet", wide={"width_factor": 2.0}),
    sample("maxxvit", "test_coatnet", wide={"embed_dim": [64, 128, 192, 256], "stem_width": [32, 64]}),
    sample("vision_transformer_relpos", "test_vit_relpos", {"depth": 2}, wide={"embed_dim": 192, "num_heads": 6}),
    sample("mambaout", "test_mambaout", wide={"dims": [32, 64, 96, 128]}, deep={"depths": [1, 1, 5, 1]}),
    sample("mobilenetv3", "lcnet_035"),
    sample("starnet", "starnet_s050", wide={"base_dim": 32}),
    sample(
        "crossvit", "crossvit_tiny_240", {"embed_dim": [24, 48], "num_heads": [3, 3]},
        wide={"embed_dim": [24, 96], "num_heads": [3, 3]},
    ),
    sample(
        "swiftformer", "swiftformer_xs", {"layers": [2, 1, 1, 1], "embed_dims": [8, 8, 16, 16]},
        deep={"layers": [3, 1, 1, 1]},  # a stage ends in a block of its own kind
    ),
]  # fmt: skip
GROWTHS = [(s, axis) for s in SAMPLES for axis in ("wide", "deep") if getattr(s, axis)]
SILENT = ("attn.wk.bias",)  # adds the same to every logit of a softmax, which undoes it


@cache
def traced(example: Example) -> tuple[nn.Module, Trace]:
    """A model with random weights in float64, and its trace."""
    skeleton = build(example.spec)
    return source_model(example.spec), trace_model(skeleton, input_size(skeleton))


@pytest.fixture(autouse=True, scope="module")
def forget_models():
    yield
    traced.cache_clear()


def recipe_for(chosen: Sample, axis: str) -> Recipe:
    sections = {"width": {"operator": "tile", "split": "equal"}, "depth": {"operator": "zero_out"}}
    plan = Plan.model_validate({"target": {"model_args": getattr(chosen, axis)}, **sections})
    return resolve(plan, InMemory.of(chosen.example.spec, traced(chosen.example)[0]))


@pytest.mark.parametrize("example", dict.fromkeys(s.example for s in SAMPLES), ids=lambda e: e.architecture)
def test_groups_may_be_reordered_together_and_not_apart(example):
    model, trace = traced(example)
    assert not trace.unknown
    found = permutation_proof(model, trace, lone=4)
    assert found.error <= TOLERANCE
    assert found.detected == found.tried >= 4, found.silent
    assert all(silent.split(" ")[0].endswith(SILENT) for silent in found.silent)


@pytest.mark.parametrize(("chosen", "axis"), GROWTHS, ids=lambda v: v if isinstance(v, str) else v.example.architecture)
def test_a_growth_keeps_what_it_promises(chosen, axis):
    recipe = recipe_for(chosen, axis)
    assert recipe.promise.kind == (chosen.wide_promise if axis == "wide" else "exact"), recipe.promise
    found = growth_proof(traced(chosen.example)[0], recipe)
    assert (found.error <= TOLERANCE) == (recipe.promise.kind == "exact")
    assert found.spoilt > 1e-6, "a proof that cannot fail shows nothing"


def test_a_member_that_the_coupling_misses_breaks_the_permutation():
    model, trace = traced(SAMPLES[0].example)
    weight = "blocks.0.mlp.fc1.weight"
    foreign = tuple(new_axis(n) for n in model.get_parameter(weight).shape)
    broken = replace(trace, tensors={**trace.tensors, weight: foreign})
    assert permutation_proof(model, broken, lone=0).error > 1e-3


def test_a_growth_with_a_wrong_share_differs(monkeypatch):
    recipe = recipe_for(SAMPLES[0], "wide")
    monkeypatch.setattr("growtool.operators.base.split_evenly", _copied_without_sharing)
    assert growth_proof(traced(SAMPLES[0].example)[0], recipe).error > 1e-3


def _copied_without_sharing(W: Tensor, maps: tuple[AxisMap, ...]) -> Tensor:
    for dim, axis in enumerate(maps):
        W = W.index_select(dim, axis.index)
    return W


def test_the_list_has_every_model_file_of_timm_once():
    timms = {name for name in built_in().models() if find_spec(f"timm.models.{name}")}  # other tests register their own
    assert sorted(e.family for e in SMALLEST) == sorted(timms)
    for example in SMALLEST + VARIANTS:
        assert example.architecture in timm.list_models(module=example.family)
    labels = [e.label for e in SMALLEST + VARIANTS]
    assert len(set(labels)) == len(labels)


def test_the_page_shows_the_packaged_facts():
    shown = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text("utf-8")
    assert shown == page(read_zoo()), "run `python -m tests.zoo --table`"


def test_no_promise_was_false_anywhere():
    zoo = read_zoo()
    known = {"exact", "exact up to eps", "lossy", "needless lossy", "refused", "unmeasured"}
    for proof in (*zoo.families, *zoo.variants):
        assert {proof.width.verdict, proof.depth.verdict} <= known, proof.model
        assert not proof.unknown, proof.model
        assert proof.permutation is None or proof.permutation <= TOLERANCE, proof.model
        for outcome in (proof.width, proof.depth):
            assert outcome.verdict != "exact" or (outcome.error or 0) <= TOLERANCE, proof.model
            assert outcome.verdict == "exact" or outcome.reason, proof.model


def test_families_are_listed_with_their_proofs(capsys):
    families(as_json=True)
    listed = json.loads(capsys.readouterr().out)["families"]
    assert list(listed) == sorted(listed) == sorted(built_in().models())
    for proof in read_zoo().families:
        assert listed[proof.family]["models"] > 0
        assert listed[proof.family]["proof"]["width"]["verdict"] == proof.width.verdict
    families()
    shown = capsys.readouterr().out
    assert re.search(r"^vision_transformer +\d+ +exact +exact +embed_dim", shown, re.MULTILINE)
    assert f"{sum(map(len, built_in().models().values()))} models in {len(listed)} families" in " ".join(shown.split())


@pytest.mark.parametrize(
    "example", [NUMBERS[0], pytest.param(NUMBERS[1], marks=pytest.mark.slow)], ids=lambda e: e.architecture
)
def test_no_change_of_a_single_argument_is_promised_falsely(example):
    """Each number doubled and each switch turned; `python -m tests.zoo --numbers` does so with eighteen more models."""
    found = list(changed_singly(example))
    assert sum(made.promise == "exact" for made in found) >= 5
    wrong = [(made.args, made.verdict, made.reasons) for made in found if made.verdict in ("FALSE PROMISE", "crash")]
    assert not wrong


@pytest.mark.slow
def test_the_sweep_of_single_changes_tells_what_it_found(monkeypatch):
    monkeypatch.setattr("tests.zoo.attempt.TOLERANCE", -1.0)  # nothing is equal
    lines = list(report(NUMBERS[1:2]))
    assert "FALSE PROMISE: {" in "\n".join(lines) and re.search(r"^all: \d+ changes, .* FALSE PROMISE", lines[-1])


def test_parts_hold_every_example_once():
    parts = [of_part(range(20), (k, 6)) for k in range(1, 7)]
    assert sorted(n for part in parts for n in part) == list(range(20)) and of_part("all", (1, 1)) == "all"
    assert options("zoo", "Prove.", "", "").parse_args(["--part", "6/6"]).part == (6, 6)


@pytest.mark.parametrize("told", ["7/6", "0/6", "2", "a/b"])
def test_what_is_no_part_is_refused(told, capsys):
    with pytest.raises(SystemExit):
        options("zoo", "Prove.", "", "").parse_args(["--part", told])
    assert f"found {told!r}, expected a part such as 2/6" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["width", "depth", "singly"])
def test_a_false_promise_anywhere_is_seen(part):
    good, bad = ({"verdict": verdict} for verdict in ("exact", "FALSE PROMISE"))
    assert promised_falsely({"width": [good], part: [good, bad]})
    assert promised_falsely({"width": good, "depth": bad})  # of transformers' types
    assert not promised_falsely({"width": [good], "depth": good, "singly": [], "problem": "out of memory"})
