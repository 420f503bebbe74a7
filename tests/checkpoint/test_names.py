"""Checkpoints by name: config first, weights when they are read, in whatever form the hub has them."""

import json
import re

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

import growtool
from growtool.checkpoint import CONFIG, WEIGHTS, open_checkpoint
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError
from growtool.hub.repository import snapshot
from tests.support.hub_server import ask
from tests.support.models import TINY, randomise_, write_folder

NAME = "test_resnet.r160_in1k"  # a small model that timm has weights of


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder as timm has published `NAME`, with other numbers."""
    folder = tmp_path_factory.mktemp("real") / NAME
    save_for_hf(randomise_(timm.create_model(NAME)), folder, safe_serialization=True)
    return folder


def refused(source, **told):
    with pytest.raises(CheckpointError) as caught:
        matched(open_checkpoint(source, **told))
    (problem,) = caught.value.problems
    return problem


def lines_of(message):
    return [line[2:] for line in message.splitlines() if line.startswith("  ")]


def assert_holds(checkpoint, file):
    state, found = load_file(file), matched(checkpoint).state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


SPELLINGS = {
    f"hf-hub:timm/{NAME}": f"hf-hub:timm/{NAME}",
    f"timm/{NAME}": f"hf-hub:timm/{NAME}",
    f"timm/{NAME}@v1": f"hf-hub:timm/{NAME}",
    NAME: NAME,
    f"{NAME}@v1": NAME,
    "test_resnet": "test_resnet",  # by its default tag
}


@pytest.mark.parametrize(("text", "again"), SPELLINGS.items())
def test_each_spelling_opens_the_same_weights_which_are_fetched_when_one_is_read(hub, real, text, again):
    commit = hub.add(f"timm/{NAME}", real)
    hub.repos[f"timm/{NAME}"].refs["v1"] = commit
    found = matched(open_checkpoint(text))
    assert hub.downloads() == [] and not found.path.exists()
    local = open_checkpoint(real)
    assert found.stored == local.stored and found.spec.architecture == "test_resnet"
    assert (found.name, found.label) == (text, NAME)
    assert (found.origin.repository, found.origin.commit) == (f"timm/{NAME}", commit)
    assert torch.equal(found.read("fc.bias"), local.read("fc.bias"))
    assert len(hub.downloads()) == 1 and found.path.exists() and found.sha256() == local.sha256()
    assert_holds(found, real / WEIGHTS)
    assert str(found.address) == f"{again}@{commit}"
    assert_holds(open_checkpoint(found.address), real / WEIGHTS)
    assert len(hub.downloads()) == 1


def test_the_model_is_the_one_that_timm_makes_of_the_name(hub, real):
    hub.add(f"timm/{NAME}", real)
    expected = timm.create_model(NAME, pretrained=True).eval().state_dict()
    found = matched(open_checkpoint(NAME)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_name_of_timm_is_counted_without_asking_anyone(hub):
    found = matched(open_checkpoint("resnet50", counting=True))
    assert sum(info.numel for name, info in found.tensors.items() if "running" not in name) == 25_557_085
    assert hub.asked == [] and found.origin.repository == "timm/resnet50.a1_in1k" and found.origin.commit is None
    assert refused("resnet50").startswith(f"resnet50: found no repository 'timm/resnet50.a1_in1k' at {hub.url}")


def test_a_name_is_counted_by_its_weights_where_these_are_in_the_cache(hub, real):
    commit = hub.add(f"timm/{NAME}", real)
    open_checkpoint(NAME).fetch()
    hub.asked.clear()
    found = open_checkpoint(NAME, counting=True)
    assert hub.asked == [] and found.origin.commit == commit
    assert_holds(found, real / WEIGHTS)


def test_what_was_only_counted_can_be_read_after_all(hub, real):
    found = matched(open_checkpoint(NAME, counting=True))
    hub.add(f"timm/{NAME}", real)
    assert_holds(found, real / WEIGHTS)


def test_a_checkpoint_of_the_cache_needs_no_network(hub, real, tmp_path, monkeypatch):
    commit = hub.add(f"timm/{NAME}", real)
    open_checkpoint(f"timm/{NAME}").fetch()
    ask(hub, tmp_path / "hub", monkeypatch, offline=True)
    hub.asked.clear()
    for text in (NAME, f"timm/{NAME}", f"hf-hub:timm/{NAME}@{commit}"):
        assert_holds(open_checkpoint(text), real / WEIGHTS)
    assert hub.asked == []


def test_a_config_in_the_cache_does_not_stand_for_the_weights(hub, real, tmp_path, monkeypatch):
    hub.add(f"timm/{NAME}", real)
    open_checkpoint(f"timm/{NAME}")
    ask(hub, tmp_path / "hub", monkeypatch, offline=True)
    told = refused(f"timm/{NAME}")
    assert told.startswith(f"timm/{NAME}: found HF_HUB_OFFLINE set, and {WEIGHTS} is not in the cache")


def test_a_branch_that_moves_brings_its_new_weights(hub, tmp_path):
    for seed in (1, 2):
        folder = write_folder(TINY["resnet"], tmp_path / str(seed), dtype=torch.float32, seed=seed)
        hub.add("me/tiny", folder)
        assert_holds(open_checkpoint("me/tiny"), folder / WEIGHTS)


def old_swin(state):
    """Names of Swin files from before timm 0.9."""
    old = {name.replace("head.fc.", "head."): value for name, value in state.items()}
    return {name.replace("layers.1.downsample", "layers.0.downsample"): value for name, value in old.items()}


def test_weights_that_timm_renames_are_counted_by_their_header_and_streamed(hub, tmp_path):
    folder = write_folder(TINY["swin"], tmp_path / "swin", dtype=torch.float32)
    expected = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}  # that file goes
    save_file(old_swin(expected), folder / WEIGHTS)
    hub.add("me/swin", folder)
    found = matched(open_checkpoint("me/swin"))
    assert hub.downloads() == [] and not found.made and found.tensors.keys() == expected.keys()
    assert all(torch.equal(found.read(name), value) for name, value in expected.items())
    assert found.place_of("head.fc.weight").path == found.path


def test_shards_are_fetched_as_the_index_names_them(hub, tmp_path):
    folder = write_folder(TINY["resnet"], tmp_path / "model", dtype=torch.float32)
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    parts = {f"model-0000{n}-of-00002.safetensors": sorted(state)[n - 1 :: 2] for n in (1, 2)}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, folder / file)
    save_file(state, folder / "other.safetensors")
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    commit = hub.add("me/shards", folder)
    found = matched(open_checkpoint("me/shards"))
    assert {name: info.shape for name, info in found.tensors.items()} == {n: tuple(t.shape) for n, t in state.items()}
    assert hub.downloads() == [] and found.label == "shards"
    assert all(torch.equal(found.read(name), value) for name, value in state.items())
    held = {path.name for path in snapshot("me/shards", commit).iterdir()}
    assert held == {CONFIG, f"{WEIGHTS}.index.json", *parts} and len(hub.downloads()) == 2
    assert found.sha256() == open_checkpoint("me/shards").sha256() == open_checkpoint(folder).sha256()
    (tmp_path / "plan").write_text("target: {scale: 2}\nwidth: {operator: tile}\n")
    grown, expected = (
        growtool.grow(source, tmp_path / "plan", tmp_path / str(n)) for n, source in enumerate(("me/shards", folder))
    )
    assert all(torch.equal(grown.read(name), expected.read(name)) for name in expected.tensors)


def test_what_growtool_and_the_library_keep_beside_the_weights_comes_along(hub, tmp_path, monkeypatch):
    folder = write_folder(TINY["resnet"], tmp_path / "model", dtype=torch.float32)
    for name in ("growth.json", "growth.svg", "README.md", "tokenizer.json", "notes.txt"):
        (folder / name).write_text("{}")
    monkeypatch.setattr("growtool.library.timm.Timm.beside", ("tokenizer*",))
    commit = hub.add("me/tiny", folder)
    open_checkpoint("me/tiny")
    held = {path.name for path in snapshot("me/tiny", commit).iterdir()}
    assert held == {CONFIG, "growth.json", "growth.svg", "README.md", "tokenizer.json"}


@pytest.mark.parametrize("text", ["me/pickled", f"timm/{NAME}", NAME])
def test_pickles_are_refused_with_lines_that_make_a_folder(hub, real, tmp_path, monkeypatch, text):
    repository = text if "/" in text else f"timm/{text}"
    files = {CONFIG: (real / CONFIG).read_bytes(), "README.md": b""}
    torch.save(load_file(real / WEIGHTS), tmp_path / "pytorch_model.bin")
    hub.add(repository, {**files, "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    told = refused(text)
    assert told.startswith(
        f"{text}: found pytorch_model.bin in {repository}, expected {WEIGHTS}; growtool reads no format that can hold "
        "code, make a folder of it with timm:\n"
    )
    assert hub.downloads(".bin") == []
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines_of(told)), {})
    assert_holds(open_checkpoint(tmp_path / "FOLDER"), real / WEIGHTS)


def test_a_lone_pickle_is_refused_with_the_commands_that_convert_it(hub, growtool, tmp_path, monkeypatch):
    state = timm.create_model("resnet18", **TINY["resnet"].args).state_dict()
    torch.save(state, tmp_path / "net.pth")
    hub.add("me/lone", {"net.pth": (tmp_path / "net.pth").read_bytes()})
    (download, convert) = lines_of(refused("me/lone"))
    assert download == "hf download me/lone net.pth --local-dir FOLDER"
    assert convert == "growtool import FOLDER/net.pth --model NAME -o OUT"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "net.pth").rename(tmp_path / "FOLDER/net.pth")
    arguments = [word for key, value in TINY["resnet"].args.items() for word in ("--model-args", f"{key}={value}")]
    code, _, err = growtool(*convert.split()[1:4], "resnet18", *arguments, *convert.split()[5:])
    assert code == 0, err
    matched(open_checkpoint("OUT"))


def test_a_repository_without_weights(hub):
    hub.add("me/data", {"README.md": b"", "train.csv": b""})
    assert refused("me/data") == (
        f"me/data: found no weights in me/data, expected {WEIGHTS}; name a repository with the weights of a model"
    )


def test_weights_without_a_config_are_of_the_model_that_is_told(hub, tmp_path):
    folder = write_folder(TINY["resnet"], tmp_path / "model", dtype=torch.float32)
    hub.add("me/lone", {WEIGHTS: (folder / WEIGHTS).read_bytes()})
    assert refused("me/lone").startswith("me/lone: no architecture: found neither a config.json beside it")
    found = open_checkpoint("me/lone", architecture="resnet18", model_args=TINY["resnet"].args)
    assert_holds(found, folder / WEIGHTS)


def test_a_config_of_the_hub_that_is_damaged_is_told_with_its_place(hub, real):
    hub.add("me/damaged", {CONFIG: b"{", WEIGHTS: (real / WEIGHTS).read_bytes()})
    assert re.search(r"config\.json:1:2: not JSON", refused("me/damaged"))


def test_a_header_that_is_none_is_told_before_anything_is_downloaded(hub, real):
    hub.add("me/damaged", {CONFIG: (real / CONFIG).read_bytes(), WEIGHTS: b"\x08" + bytes(7) + b"{not js}" + bytes(99)})
    assert refused("me/damaged").startswith(f"me/damaged: {WEIGHTS}: not a safetensors file (SafetensorsParsingError: ")
    assert hub.downloads() == []


def test_an_index_that_leads_out_of_its_repository_is_not_followed(hub, real):
    index = json.dumps({"weight_map": {"fc.bias": "../../other.safetensors"}}).encode()
    hub.add("me/out", {CONFIG: (real / CONFIG).read_bytes(), f"{WEIGHTS}.index.json": index})
    assert "found an error of" in refused("me/out") and "../../other.safetensors" in refused("me/out")


def test_python_takes_names_too(hub, tmp_path):
    folder = write_folder(TINY["resnet"], tmp_path / "model", dtype=torch.float32)
    hub.add("me/tiny", folder)
    plan = {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}
    grown, expected = (growtool.grow(source, plan, tmp_path / str(n)) for n, source in enumerate(("me/tiny", folder)))
    assert all(torch.equal(grown.read(name), expected.read(name)) for name in expected.tensors)


NO_WEIGHTS = {
    "resnet50.a1_in2k": (
        "resnet50.a1_in2k: found no tag 'a1_in2k' of resnet50, expected one of resnet50.a1_in1k, ",
        "did you mean resnet50.a1_in1k, ",
    ),
    "legacy_xception.tf_in1k": (
        "legacy_xception.tf_in1k: found weights at https://",
        "expected them in the hub; make a folder of them with timm:\n"
        "  import timm; model = timm.create_model('legacy_xception.tf_in1k', pretrained=True)\n"
        "  timm.models.save_for_hf(model, 'FOLDER', safe_serialization=True)",
    ),
    "vit_base_patch8_18": ("vit_base_patch8_18: no such file or folder; ", "did you mean "),
    "resnet5O": ("resnet5O: no such file or folder; ", "did you mean resnet50, "),
    "resnet5O.a1_in1k": ("resnet5O.a1_in1k: no such file or folder; ", "did you mean resnet50.a1_in1k, "),
}


@pytest.mark.parametrize(("text", "told"), NO_WEIGHTS.items())
def test_a_name_without_weights_is_told_before_anyone_is_asked(hub, text, told):
    message = refused(text)
    assert message.startswith(told[0]) and told[1] in message
    assert hub.asked == []


def test_a_model_that_was_never_trained(hub):
    bare = next(name for name in timm.list_models() if not timm.list_pretrained(f"{name}.*"))
    assert f"{bare}: found no published weights, expected another model, timm has no weights of it" in refused(bare)


def test_every_name_of_timm_leads_to_a_repository_or_says_why_not():
    from growtool.library import built_in

    library, missing = built_in(), []
    for name in timm.list_pretrained():
        try:
            published = library.published(name)
        except CheckpointError:
            missing.append(name)
            continue
        assert re.fullmatch(r"[\w-]+/[\w.-]+", published.repository) and published.file.endswith(".safetensors")
        assert published.spec.architecture == name.partition(".")[0]
    assert len(missing) < 40 and "legacy_xception.tf_in1k" in missing


def test_the_config_decides_of_which_library_a_repository_is(hub, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32, **sizes))
    model.save_pretrained(tmp_path / "llama")
    (tmp_path / "llama/tokenizer.json").write_text("{}")
    commit = hub.add("me/llama", tmp_path / "llama")
    found = matched(open_checkpoint("me/llama"))
    assert (found.spec.library, found.spec.architecture) == ("transformers", "LlamaForCausalLM")
    assert hub.downloads() == [] and (snapshot("me/llama", commit) / "tokenizer.json").is_file()
    assert all(torch.equal(found.read(name), value) for name, value in model.state_dict().items())


def test_the_endpoint_is_the_one_of_the_environment(hub):
    assert hub.url == constants.ENDPOINT, "else the tests above ask somebody else"
