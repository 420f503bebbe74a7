"""Advice: proposals stay within the budget, resolve as they stand, and say where the guidelines come from."""

import json
import math
import shlex

import pytest

from growtool.checkpoint import open_checkpoint
from growtool.errors import PlanError
from growtool.growing import summarise
from growtool.plan import load_plan
from growtool.recipe import resolve
from growtool.workflows.advise.budget import SizeBudget, parse_budget
from growtool.workflows.advise.proposals import advise
from growtool.workflows.advise.sizes import split
from tests.support.models import TINY, Tiny, plan_of, write_folder

RESNET = Tiny("resnet18", {"layers": [1, 2, 1, 2], "channels": [8, 16, 16, 24], "num_classes": 5})
VIT = TINY["vit"].with_args(embed_dim=16, num_heads=4, depth=2)
SMALL = {
    "mobilenetv3": Tiny("mobilenetv3_small_050", {"num_classes": 5}),
    "convnext": TINY["convnext"],
    "vit": VIT,
    "resnet": RESNET,
}


@pytest.mark.parametrize(
    ("text", "budget"), [("2x-macs", SizeBudget(2.0, "macs")), ("1.5x-params", SizeBudget(1.5, "params"))]
)
def test_budgets(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["2", "x-macs", "2x-flops", "1x-macs", "0.5x-params"])
def test_what_is_no_budget(text):
    with pytest.raises(PlanError, match=r"--budget: found .*, expected (a factor|more than 1x)"):
        parse_budget(text)


@pytest.mark.parametrize(("tiny", "unit"), [(RESNET, "params"), (VIT, "macs")], ids=["resnet", "vit"])
def test_proposals_fit_the_budget_and_are_exact(tiny, unit, tmp_path):
    source = open_checkpoint(write_folder(tiny, tmp_path / "source"))
    advice = advise(source, SizeBudget(3.0, unit))
    assert [proposal.axis for proposal in advice.proposals] == ["width", "depth", "both"]
    for proposal in advice.proposals:
        assert proposal.promise != "lossy", proposal
        summary = summarise(resolve(plan_of(tmp_path, proposal.plan).plan, source))
        assert (summary.before.macs, summary.after.macs) == (advice.source.macs, proposal.size.macs)
        assert (summary.before.parameters, summary.after.parameters) == (advice.source.params, proposal.size.params)
        grown = getattr(proposal.size, unit) / getattr(advice.source, unit)
        assert 1 < grown <= 3.0, "within the budget"
    assert not any("language" in proposal.guideline for proposal in advice.proposals), "images are what this is for"


def test_several_stacks_of_blocks_grow_alike(tmp_path):
    """An encoder and a decoder: a plan that named the blocks of one alone would leave the other as it is."""
    pytest.importorskip("transformers")
    from tests.support.transformers_families import Source, config_of

    checkpoint = Source.of(config_of("t5")).checkpoint
    advice = advise(checkpoint, SizeBudget(2.5, "params"))
    (deeper,) = [proposal for proposal in advice.proposals if proposal.axis == "depth"]
    recipe = resolve(plan_of(tmp_path, deeper.plan).plan, checkpoint)
    before, after = checkpoint.spec.model_args, recipe.target.model_args
    factors = {after[name] / before[name] for name in ("num_layers", "num_decoder_layers")}
    assert len(factors) == 1 and factors.pop() > 1, deeper.plan
    assert summarise(recipe).after.parameters == deeper.size.params


def test_copies_that_would_stay_alike_are_not_proposed(tmp_path):
    """One block in each stage: no layer has another to be mixed with, but its own parts are."""
    tiny = Tiny("resnet50", {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "num_classes": 5})
    advice = advise(open_checkpoint(write_folder(tiny, tmp_path / "source")), SizeBudget(3.0, "params"))
    assert advice.proposals[0].plan["width"] == {"operator": "mixture", "bank": "sub_block"}


def test_what_is_beyond_the_budget_is_told(tmp_path):
    source = open_checkpoint(write_folder(TINY["vit"], tmp_path / "source"))
    advice = advise(source, SizeBudget(1.01, "macs"))
    assert not advice.proposals
    why = "no growth that keeps the function is within the budget"
    assert dict(advice.refused) == dict.fromkeys(("width", "depth", "both"), why)
    assert [(p.axis, p.promise != "lossy") for p in advice.beyond] == [("width", True), ("depth", True), ("both", True)]
    for proposal in advice.beyond:
        factor = proposal.size.macs / advice.source.macs
        found = advise(source, SizeBudget(math.ceil(factor * 100) / 100, "macs")).proposals
        assert proposal.plan in [other.plan for other in found], "the least that fits fits a budget of its size"


def test_the_smallest_exact_growth_is_told_where_nothing_smaller_keeps_the_function(growtool, tmp_path):
    """LayerNorm over copied channels: whole factors alone keep the function; twice the width is four times the MACs."""
    source = write_folder(TINY["convnext"], tmp_path / "source")
    advice = advise(open_checkpoint(source), SizeBudget(2.0, "macs"))
    assert [proposal.axis for proposal in advice.proposals] == ["depth"]
    wider = advice.beyond[0]
    assert wider.plan["target"] == {"scale": {"width": 2}} and wider.promise == "exact"
    code, out, _ = growtool("advise", source, "--budget", "2x-macs", "-o", tmp_path / "plans")
    shown = " ".join(out.split())
    assert code == 0 and "width 2 by mixture" in shown
    factor = f"{wider.size.macs / advice.source.macs:.2f}"
    assert "width: no plan: no growth that keeps the function is within the budget" in shown and factor in shown
    assert [path.name for path in (tmp_path / "plans").iterdir()] == ["depth.yaml"], "what is beyond it is not written"


@pytest.mark.parametrize("name", [pytest.param("mobilenetv3", marks=pytest.mark.slow), "convnext", "vit", "resnet"])
def test_what_is_proposed_grows(name, growtool, tmp_path):
    """The real command takes each plan that was written, and promises the same function."""
    source = write_folder(SMALL[name], tmp_path / "source")
    assert growtool("advise", source, "--budget", "3x-macs", "-o", tmp_path / "plans")[0] == 0
    plans = sorted((tmp_path / "plans").iterdir())
    assert plans
    for plan in plans:
        code, out, err = growtool("grow", source, plan, "--dry-run")
        assert code == 0 and "promise: exact" in out, err


def test_single_blocks_where_pairs_are_beyond_the_budget(tmp_path):
    """Twice two blocks are too many beside more width, twice one and a half are not; factors are told exactly."""
    tiny = RESNET.with_args(layers=[2, 2, 2, 2], channels=[12, 24, 24, 36])
    advice = advise(open_checkpoint(write_folder(tiny, tmp_path / "source")), SizeBudget(1.75, "params"))
    scales = {proposal.axis: proposal.plan["target"]["scale"] for proposal in advice.proposals}
    assert scales["depth"] == {"depth": [3, 3, 3, 3]}
    assert scales["both"]["depth"] == [3, 3, 3, 3] and isinstance(scales["both"]["width"], str), scales


def test_sizes_that_cannot_be_built_do_not_hide_those_that_fit():
    fits = {1: True, 2: None, 3: None, 4: True, 5: None, 6: None, 7: False, 8: None}
    for guess in range(9):
        assert split(list(fits), fits.__getitem__, guess)[0][-1] == 4
        assert split([2, 3, 7], fits.__getitem__, guess) == ([], [7])
        assert split(range(30), lambda n: n < 21, guess * 3) == (list(range(21)), list(range(21, 30)))


def test_the_command_tells_and_writes_plans(growtool, tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    code, out, err = growtool("advise", source, "--budget", "2x-macs", "-o", tmp_path / "plans")
    assert (code, err.splitlines()[0]) == (0, "grow by one of these plans:")
    assert "] by zero_out" in out and "exact" in out
    assert "language" not in out
    for axis in ("width", "depth", "both"):
        text = (tmp_path / "plans" / f"{axis}.yaml").read_text()
        assert text.startswith(f"# growtool advise {source} --budget 2x-macs: ")
        load_plan(tmp_path / "plans" / f"{axis}.yaml")


@pytest.mark.parametrize("lone", [False, True], ids=["folder", "lone file"])
def test_the_line_that_is_printed_grows_by_a_plan_as_it_is_written(growtool, tmp_path, monkeypatch, lone):
    source = write_folder(VIT, tmp_path / "source")
    told = []
    if lone:
        told = ["--model", VIT.architecture, *(w for k, v in VIT.args.items() for w in ("--model-args", f"{k}={v}"))]
        source = (source / "model.safetensors").rename(tmp_path / "lone.safetensors")
    monkeypatch.chdir(tmp_path)
    code, _, err = growtool("advise", source.name, "--budget", "2x-macs", "-o", "plans", *told)
    assert code == 0, err
    line = err.splitlines()[-1]
    assert line == f"growtool grow {source.name} plans/width.yaml -o grown"
    code, _, err = growtool(*shlex.split(line)[1:])
    assert code == 0, err
    assert (tmp_path / "grown").is_dir()


def test_plans_that_are_not_kept_can_be(growtool, tmp_path):
    code, _, err = growtool("advise", write_folder(VIT, tmp_path / "source"), "--budget", "2x-macs")
    assert (code, err) == (0, "-o FOLDER writes these plans into files, which `growtool grow CHECKPOINT PLAN` takes\n")


def test_json_holds_the_plans(growtool, tmp_path):
    code, out, err = growtool("advise", write_folder(RESNET, tmp_path / "source"), "--budget", "2x-params", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert [proposal["axis"] for proposal in shown["proposals"]] == ["width", "depth", "both"]
    for proposal in shown["proposals"]:
        assert proposal["params"] <= 2 * shown["source"]["params"] and proposal["file"] is None
        assert set(proposal["plan"]) == {"target", *proposal["plan"]["target"]["scale"]}


def test_plans_that_are_there_stay(growtool, tmp_path):
    (tmp_path / "depth.yaml").write_text("mine")
    code, _, err = growtool("advise", tmp_path / "no-source", "--budget", "2x-macs", "-o", tmp_path)
    assert code == 1 and "depth.yaml, expected none of them; choose another place" in " ".join(err.split())
