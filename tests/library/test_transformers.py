"""transformers' models grow as timm's do: found by their configuration, exact by what was found in their trace."""

import pytest

pytest.importorskip("transformers")

from growtool.errors import PlanError
from growtool.growing.summary import summarise
from growtool.plan import Plan
from growtool.recipe import resolve
from growtool.recipe.target.trials import Trials
from growtool.recipe.traced_model import TracedModel
from tests.support.transformers_families import FAMILIES, SHARED_HEADS, TEXT, Source, config_of, grown, proven

TWICE = {"scale": {"width": 2}}
DEEPER = {"scale": {"depth": 2}}
WAYS = {
    "tile": {"target": TWICE, "width": {"operator": "tile"}},
    "mixture": {"target": TWICE, "width": {"operator": "mixture"}},
    "zero_out": {"target": DEEPER, "depth": {"operator": "zero_out"}},
}
ONE_KV_HEAD = ("llama, one kv head, biases", "falcon, one kv head")
POST_NORM = ("bert", "bert, features", "roberta", "distilbert", "openai-gpt", "bart", "hubert", "wavlm")
QUICK = ("llama", "gemma2", "bert", "t5", "vit", "mixtral", "mamba", "bart", "squeezebert", "gpt-oss", "wav2vec2",
         "swin", "dinov3", "levit", "efficientnet")  # fmt: skip
EXACT = 1e-12


def refused(family: str, way: str) -> bool:
    """Whether a family does not grow so, which has a reason."""
    return family in (*POST_NORM, "squeezebert") and way == "zero_out"


CASES = [
    pytest.param(family, way, marks=[] if family in QUICK else pytest.mark.slow)
    for family in FAMILIES
    for way in WAYS
    if not refused(family, way)
]


@pytest.mark.parametrize("family, way", CASES)
def test_families_grow_exactly(family, way):
    recipe, difference = grown(Source.of(config_of(family)), **WAYS[way])
    assert recipe.promise.kind == "exact", recipe.promise
    assert difference < EXACT


@pytest.mark.parametrize("family", ONE_KV_HEAD)
def test_one_shared_head_stays_while_its_queries_multiply(family):
    """The hidden size alone would widen that head, which rotary tables fix: it grows together with the heads."""
    before = config_of(family)
    recipe, _ = grown(Source.of(before), **WAYS["tile"])
    for name in ("hidden_size", "num_attention_heads"):
        assert recipe.target.model_args[name] == 2 * before[name]


def test_a_factor_changes_no_more_than_it_has_to():
    """Twice the head size runs once tables of positions are longer, too; more heads do without either."""
    before = {**SHARED_HEADS, "head_dim": 16}
    named = {"model_type": "seed_oss", "architectures": ["SeedOssForCausalLM"]}
    recipe, difference = grown(Source.of({**named, **before}), **WAYS["tile"])
    widened = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    assert recipe.target.model_args == before | {name: 2 * before[name] for name in widened}
    assert difference < EXACT


@pytest.mark.parametrize(("kind", "architecture", "sizes", "widened"), [
    ("mobilenet_v1", "MobileNetV1ForImageClassification", {"depth_multiplier": 0.5}, {"depth_multiplier": 1.0}),
    ("pp_lcnet", "PPLCNetForImageClassification", {"scale": 0.5, "class_expand": 64},
     {"scale": 1.0, "class_expand": 128}),
])  # fmt: skip
def test_factors_of_a_configuration_widen_what_no_whole_number_does(kind, architecture, sizes, widened):
    named = {"model_type": kind, "architectures": [architecture], "image_size": 32}
    recipe, difference = grown(Source.of({**named, **sizes}), **WAYS["tile"])
    assert {name: recipe.target.model_args[name] for name in widened} == widened
    assert recipe.promise.kind == "exact" and difference < EXACT


@pytest.mark.slow
def test_what_has_to_widen_beside_the_heads_is_found():
    """DeepSeek-V4 multiplies its heads in groups: twice the heads alone would be another number of parts."""
    sizes = {name: SHARED_HEADS[name] for name in SHARED_HEADS if name != "intermediate_size"}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_hidden_layers": 1}
    named = {"model_type": "deepseek_v4", "architectures": ["DeepseekV4ForCausalLM"]}
    source = Source.of({**named, **sizes, **experts})
    before = source.spec.model_args | {"o_groups": 8}
    recipe = resolve(Plan.model_validate({**WAYS["tile"], "allow_lossy": True}), source.checkpoint)
    for name in ("hidden_size", "num_attention_heads", "o_groups"):
        assert recipe.target.model_args[name] == 2 * before[name]


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in POST_NORM])
def test_blocks_that_end_in_norms_are_closed_up_to_eps(family):
    """The norms of a new block of BERT's kind see what has been normalised, which changes nothing but for eps."""
    recipe, proof = proven(Source.of(config_of(family)), **WAYS["zero_out"])
    assert recipe.promise.kind == "exact up to eps", recipe.promise
    assert proof.told < EXACT and proof.error < 1e-5


def test_blocks_whose_norms_see_another_layout_cannot_be_closed():
    """SqueezeBERT turns its channels to the front between its norms."""
    with pytest.raises(PlanError, match="zero_out needs a residual connection around the block"):
        grown(Source.of(config_of("squeezebert")), **WAYS["zero_out"])


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_new_blocks_may_start_as_transformers_initialises_them(family):
    depth = {"operator": "zero_out", "start": "initial"}
    recipe, difference = grown(Source.of(config_of(family)), target=DEEPER, depth=depth)
    assert recipe.promise.kind == "exact" and recipe.blocks.initial == recipe.blocks.new
    assert difference < EXACT


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_eps_stays_unless_a_plan_says_so(family):
    """A configuration keeps all but its sizes; `eps: told` makes the promise exact, gains `1 + w` or not."""
    source, plan = Source.of(config_of(family)), {"target": {"scale": {"width": 1.5}}}
    kept, difference = grown(source, **plan, width={"operator": "centre_zero"})
    assert kept.promise.kind == "exact up to eps"
    assert difference < 1e-4
    assert "rms_norm_eps" not in kept.target.model_args
    told, difference = grown(source, **plan, width={"operator": "centre_zero", "eps": "told"})
    assert told.promise.kind == "exact"
    assert difference < EXACT
    assert told.target.model_args["rms_norm_eps"] == pytest.approx(1e-6 / 1.5)


@pytest.mark.parametrize("way", ["tile", "zero_out"])
def test_what_the_forward_pass_does_not_read_is_told(way):
    """ESM's contacts are predicted from all attention maps, by a layer that its own forward pass leaves out."""
    recipe, difference = grown(Source.of(config_of("esm")), **WAYS[way])
    assert recipe.promise.kind == "exact" and difference < EXACT
    unread = "not read by the forward pass, so grown without a promise: esm.contact_head.regression.weight"
    assert unread in summarise(recipe).advice


def test_a_tensor_without_numbers_stays_one():
    """MobileBERT stores what its hidden size is wider than its embedding, here by nothing."""
    named = {"model_type": "mobilebert", "architectures": ["MobileBertForMaskedLM"]}
    source = Source.of({**named, **TEXT, "embedding_size": 48, "intra_bottleneck_size": 16})
    recipe, difference = grown(source, **WAYS["tile"])
    assert difference < EXACT
    assert recipe.infos["cls.predictions.dense.weight"].numel == 0


def test_a_model_that_asks_for_known_numbers_runs_where_sizes_are_tried():
    source = Source.of(config_of("megatron-bert"))
    trials = Trials(TracedModel.around(source.spec, source.model))
    assert trials.runs({"num_hidden_layers": 4}) and not trials.runs({"num_attention_heads": 5})
