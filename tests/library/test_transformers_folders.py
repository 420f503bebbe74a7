"""Folders as `save_pretrained` leaves them grow into folders that `from_pretrained` loads without growtool."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from growtool import grow, open_checkpoint
from growtool.checkpoint.match import matched
from growtool.checkpoint.shards import INDEX
from growtool.errors import CheckpointError, PlanError
from tests.support.transformers_families import SHARED_HEADS, Source, config_of

BOTH = {"target": {"scale": {"width": 2, "depth": 2}}, "width": {"operator": "tile"}, "depth": {"operator": "zero_out"}}
DEEPER = {"target": {"scale": {"depth": 2}}, "depth": "zero_out"}
FOLDERS = {
    "llama": torch.float32,
    "llama, tied": torch.float32,  # one name of two in the file
    "qwen2": torch.bfloat16,
    "vit": torch.float32,  # other names in the file
    "mixtral": torch.float32,  # experts one by one in the file
    "t5": torch.float32,  # two stacks, one table of tokens
}

RELOAD = """
import json, sys, torch, transformers
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
for pair in sys.argv[1:]:
    found = []
    for folder in pair.split(";"):
        cls = getattr(transformers, json.load(open(f"{folder}/config.json"))["architectures"][0])
        model, info = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
        inputs = torch.load(f"{pair.split(';')[0]}/inputs.pt")
        with torch.no_grad():
            found.append(model.eval()(**inputs).logits)
        assert not any(info.values()), info
    print(float((found[0] - found[1]).abs().max() / found[0].abs().max()))
"""


def folder(place: Path, family: str, dtype: torch.dtype = torch.float32) -> Path:
    """A random model as transformers saves it, with a tokenizer beside it, and inputs."""
    source = Source.of(config_of(family))
    model = copy.deepcopy(source.model)
    model.to(dtype).save_pretrained(place)
    (place / "tokenizer.json").write_text('{"a": "tokenizer"}')
    (place / "chat_template.jinja").write_text("{{ a }}")
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates/tools.jinja").write_text("{{ b }}")
    from growtool.library import library_of

    inputs = library_of(source.spec).inputs(source.model, 2, 3)
    torch.save({name: tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in inputs.tensors.items()}, place / "inputs.pt")  # fmt: skip
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Each of `FOLDERS`, and `grown-` each by width and depth."""
    root = tmp_path_factory.mktemp("transformers")
    for family, dtype in FOLDERS.items():
        grow(folder(root / family, family, dtype), BOTH, root / f"grown-{family}")
    return root


def names(path: Path) -> set[str]:
    with safe_open(path / "model.safetensors", "pt") as file:
        return set(file.keys())


def test_transformers_alone_loads_what_was_grown(place):
    """With nothing missing and nothing left over, and with the same logits."""
    pairs = [f"{place / family};{place / f'grown-{family}'}" for family in FOLDERS]
    done = subprocess.run([sys.executable, "-c", RELOAD, *pairs], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = dict(zip(FOLDERS, map(float, done.stdout.split()), strict=True))
    assert {family: error for family, error in found.items() if error > (4e-4 if family == "qwen2" else 1e-4)} == {}


@pytest.mark.parametrize("family", FOLDERS)
def test_names_are_those_the_checkpoint_came_with(place, family):
    """The blocks that were there are called as before, new ones alike."""
    before, after = names(place / family), names(place / f"grown-{family}")
    assert before < after


@pytest.mark.parametrize("family", FOLDERS)
def test_a_configuration_keeps_all_but_its_sizes(place, family):
    """No other field changes, and none comes or goes."""
    before, after = (json.loads((place / name / "config.json").read_text()) for name in (family, f"grown-{family}"))
    history = after.pop("growtool")
    assert history["lineage"]
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert all(isinstance(before[name], int | list) for name in changed), changed


@pytest.mark.parametrize(("before", "after"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_configuration_says_the_type_of_the_weights(tmp_path, before, after):
    """`from_pretrained` loads in the type that it says, whatever that of the file."""
    source = folder(tmp_path / "small", "llama", getattr(torch, before))
    lax = {"verify": {"tolerance": 0.1}}
    grow(source, {**BOTH, "output": {"dtype": after}, **lax}, tmp_path / "large")
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "large")
    assert {parameter.dtype for parameter in loaded.parameters()} == {getattr(torch, after)}
    handed = grow(source, {**BOTH, "output": {"dtype": after}, **lax})
    assert {parameter.dtype for parameter in handed.parameters()} == {getattr(torch, after)}


def test_lists_by_block_follow_the_depth(tmp_path):
    """A pattern of kinds of blocks goes on, and old blocks keep their kind."""
    grow(
        folder(tmp_path / "small", "gemma2"),
        {"target": {"scale": {"depth": 2}}, "depth": "zero_out"},
        tmp_path / "large",
    )
    config = json.loads((tmp_path / "large" / "config.json").read_text())
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * 2


@pytest.mark.parametrize("family, told, expected", [
    ("gpt-neo", {}, {"attention_types": [[["global", "local"] * 2, 1]], "num_layers": 4}),
    ("nemotron-h", {"num_hidden_layers": 4}, {"hybrid_override_pattern": "ME*-" * 2, "num_hidden_layers": 8}),
    ("nemotron-h", {"num_hidden_layers": 52}, {"hybrid_override_pattern": "ME*-" * 2, "num_hidden_layers": 8}),
    ("nemotron-h", {}, {"hybrid_override_pattern": "ME*-" * 2}),
])  # fmt: skip
def test_runs_and_patterns_of_kinds_follow_the_depth(tmp_path, family, told, expected):
    """As the hub has them: GPT-Neo counts runs, Nemotron-H has a letter for each block, and its class their number."""
    source = folder(tmp_path / "small", family)
    config = json.loads((source / "config.json").read_text())
    if family == "nemotron-h":
        del config["layers_block_type"]
        config |= {"hybrid_override_pattern": "ME*-", **told}
        (source / "config.json").write_text(json.dumps(config))
    grow(source, DEEPER, tmp_path / "large")
    grown = json.loads((tmp_path / "large" / "config.json").read_text())
    counts = ("attention_types", "hybrid_override_pattern", "num_layers", "num_hidden_layers")
    assert {name: grown[name] for name in counts if name in grown} == expected
    loaded = getattr(transformers, grown["architectures"][0]).from_pretrained(tmp_path / "large")
    assert loaded.config.num_hidden_layers == {"gpt-neo": 4, "nemotron-h": 8}[family]


def test_a_list_as_long_as_the_model_has_blocks_may_be_another(tmp_path):
    """Bamba of two blocks: `time_step_limit` has a least and a greatest."""
    sizes = {**SHARED_HEADS, "hidden_size": 64, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8}
    named = {"model_type": "bamba", "architectures": ["BambaForCausalLM"]}
    model = Source.of({**named, **sizes, "time_step_limit": [0.0, 0.5]}).model
    model.float().save_pretrained(tmp_path / "small")
    grow(tmp_path / "small", DEEPER, tmp_path / "large")
    config = json.loads((tmp_path / "large" / "config.json").read_text())
    assert config["num_hidden_layers"] == 4 and config["time_step_limit"] == [0.0, 0.5]


def test_heads_that_double_in_pairs_alone_do_so_where_their_size_is_written(tmp_path):
    """ESM-C as transformers saves it: with `head_dim`, twice the heads are other shapes, and no longer neutral."""
    source = folder(tmp_path / "small", "esmc")
    before = json.loads((source / "config.json").read_text())
    grow(source, {"target": {"scale": {"width": 2}}, "width": "tile"}, tmp_path / "large")
    config = json.loads((tmp_path / "large" / "config.json").read_text())
    assert config["head_dim"] == before["head_dim"]
    for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"):
        assert config[name] == 2 * before[name]


def test_tokenizer_and_templates_come_along(place):
    """What belongs to a checkpoint is copied; what does not stays."""
    grown = place / "grown-llama"
    copied = {path.relative_to(grown).as_posix() for path in grown.rglob("*")}
    assert copied >= {"tokenizer.json", "chat_template.jinja", "generation_config.json", "growth.json", "README.md"}
    assert "additional_chat_templates/tools.jinja" in copied
    assert "inputs.pt" not in copied


def test_a_grown_folder_grows_again_and_may_be_replaced(place, tmp_path):
    """Its further files are no stranger's."""
    for _ in range(2):
        grow(
            place / "grown-llama",
            {"target": {"scale": {"depth": 2}}, "depth": "zero_out"},
            tmp_path / "out",
            force=True,
        )
    assert open_checkpoint(tmp_path / "out").spec.model_args["num_hidden_layers"] == 8
    assert len(json.loads((tmp_path / "out" / "config.json").read_text())["growtool"]["lineage"]) == 2


def test_a_model_in_memory_grows(place):
    """Its configuration says all of it."""
    small = transformers.LlamaForCausalLM.from_pretrained(place / "llama")
    large = grow(small, BOTH)
    assert isinstance(large, transformers.LlamaForCausalLM)
    assert (large.config.hidden_size, large.config.num_hidden_layers) == (96, 4)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.allclose(large(input_ids=ids).logits, small(input_ids=ids).logits, rtol=1e-3, atol=1e-4)


def test_what_is_handed_back_computes_as_transformers_has_it():
    """Written-out experts and attention are for tracing and proving."""
    small = Source.of(config_of("mixtral"))
    own = transformers.MixtralForCausalLM(transformers.AutoConfig.for_model("mixtral", **small.spec.model_args))
    large = grow(own, BOTH)
    for kind in ("_experts_implementation", "_attn_implementation"):
        assert getattr(large.config, kind) == getattr(own.config, kind)


def test_weights_without_the_name_of_the_base_model_are_taken_and_left_so(tmp_path):
    """GPT-2 was published so."""
    source = folder(tmp_path / "small", "gpt2")
    state = {n.removeprefix("transformer."): t for n, t in load_file(source / "model.safetensors").items()}
    state["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)  # a mask that old versions saved; transformers passes over it
    save_file(state, source / "model.safetensors", {"format": "pt"})
    grow(source, BOTH, tmp_path / "large")
    assert {n for n in names(tmp_path / "large") if n.startswith("h.0.")} == {
        n for n in state if n.startswith("h.0.") and n != "h.0.attn.bias"
    }
    assert "leaves out h.0.attn.bias" in matched(open_checkpoint(source)).changes


def test_what_is_missing_is_named(tmp_path):
    """As for timm's checkpoints."""
    source = folder(tmp_path / "small", "llama")
    state = load_file(source / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file({**state, "foreign": torch.ones(1)}, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing.*up_proj(.|\n)*foreign"):
        grow(source, BOTH, tmp_path / "large")


def test_a_field_that_the_configuration_lacks_is_refused(tmp_path):
    """transformers itself takes any word."""
    source = folder(tmp_path / "small", "llama")
    with pytest.raises(PlanError, match=r"hidden_sise.*did you mean 'hidden_size'"):
        grow(source, {"target": {"model_args": {"hidden_sise": 96}}, "width": "tile"}, tmp_path / "large")


@pytest.mark.parametrize(
    "config, told",
    [
        ({"model_type": "lama", "architectures": ["LlamaForCausalLM"]}, "model_type"),
        ({"model_type": "llama", "architectures": ["LamaForCausalLM"]}, "did you mean LlamaForCausalLM"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "code.Mine"}, "architectures": ["Mine"]}, "--plugin"),
        ({"model_type": 3}, "expected the name of a type"),
    ],
)
def test_configurations_that_are_none(tmp_path, config, told):
    """Each says what was expected."""
    source = folder(tmp_path / "small", "llama")
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=told):
        grow(source, BOTH, tmp_path / "large")


def test_a_field_may_be_called_by_either_name(tmp_path):
    """GPT-2 has `n_embd` in its file; users know it as `hidden_size`."""
    source, wider = folder(tmp_path / "small", "gpt2"), {"hidden_size": 96, "num_attention_heads": 8}
    grow(source, {"target": {"model_args": wider}, "width": "tile"}, tmp_path / "large")
    config = json.loads((tmp_path / "large" / "config.json").read_text())
    assert (config["n_embd"], config["n_head"]) == (96, 8)
    assert "hidden_size" not in config


def test_shards_are_read_and_written_tensor_by_tensor(tmp_path):
    """As transformers cuts and reads them, whatever tensors share a file."""
    source = Source.of(config_of("mixtral"))
    model = copy.deepcopy(source.model)
    model.float().save_pretrained(tmp_path / "small", max_shard_size="100KB")
    model.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "small" / INDEX).is_file()
    plan = {**BOTH, "output": {"max_shard_size": "300KB"}}
    grow(tmp_path / "small", plan, tmp_path / "large")
    grow(tmp_path / "whole", BOTH, tmp_path / "large-whole")
    index = json.loads((tmp_path / "large" / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 3
    large, whole = (matched(open_checkpoint(tmp_path / name)) for name in ("large", "large-whole"))
    assert large.tensors == whole.tensors
    assert all(torch.equal(large.read(name), whole.read(name)) for name in large.tensors)
    assert large.label == "large"
    again = {"target": {"scale": {"depth": 2}}, "depth": "zero_out"}
    grow(tmp_path / "large", again, tmp_path / "larger", force=True)
    grow(tmp_path / "large", {**again, "output": {"max_shard_size": "1MB"}}, tmp_path / "larger", force=True)
    assert (tmp_path / "larger" / INDEX).is_file()
    assert not (tmp_path / "larger" / "model.safetensors").exists()


def test_shards_that_are_lacking_are_named(tmp_path):
    """And an index that tells of tensors where they are not."""
    source = Source.of(config_of("llama"))
    source.model.float().save_pretrained(tmp_path / "small", max_shard_size="100KB")
    index = json.loads((tmp_path / "small" / INDEX).read_text())
    first, *_, last = sorted(set(index["weight_map"].values()))
    name = next(name for name, file in index["weight_map"].items() if file == first)
    (tmp_path / "small" / INDEX).write_text(json.dumps({"weight_map": {**index["weight_map"], name: last}}))
    with pytest.raises(CheckpointError, match=rf"says that {last} holds {name}, and it does not"):
        open_checkpoint(tmp_path / "small")
    (tmp_path / "small" / last).unlink()
    with pytest.raises(CheckpointError, match=rf"1 of them are not beside it \({last}\)"):
        open_checkpoint(tmp_path / "small")


def test_shards_that_nothing_would_load_are_refused(tmp_path, resnet_folder):
    """timm loads one file, and one file is one file."""
    plan = {"target": {"scale": {"width": 2}}, "width": "tile", "output": {"max_shard_size": "1MB"}}
    with pytest.raises(PlanError, match="timm loads no shards; leave it out"):
        grow(resnet_folder, plan, tmp_path / "large")
    source = folder(tmp_path / "small", "llama")
    with pytest.raises(PlanError, match="is one file; leave it out"):
        grow(source, {**DEEPER, "output": {"max_shard_size": "1MB"}}, tmp_path / "large.safetensors")
    with pytest.raises(PlanError, match=r"output\.max_shard_size"):
        grow(source, {**DEEPER, "output": {"max_shard_size": "lots"}}, tmp_path / "large")
