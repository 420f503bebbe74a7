"""Template form: exact banks give every tensor back bit for bit, and every reader sees the same model."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from growtool.checkpoint import WEIGHTS, Layout, build, open_checkpoint
from growtool.checkpoint.form import FORM_KEY
from growtool.checkpoint.materialise import assemble, materialise
from growtool.errors import CheckpointError, PlanError
from growtool.library.timm import input_size
from growtool.templates.convert import export_dense
from growtool.templates.decompose import Request, decompose
from growtool.templates.source import parted
from growtool.trace import trace_model
from tests.support.models import TINY, Tiny, write_folder
from tests.support.templates import EXACT, to_templates

FAMILIES = ["vit", "resnet", "bottleneck", "convnext", "efficientnet", "swin", "densenet", "nfnet"]


def same_bits(a, b):
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("request_", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_banks_give_every_tensor_back_bit_for_bit(family, request_, tmp_path):
    source = write_folder(TINY[family], tmp_path / "source", dtype=torch.float32)
    weights = load_file(source / "model.safetensors")
    for tensor in weights.values():
        if tensor.is_floating_point() and tensor.ndim:
            tensor.view(-1)[0] = -0.0  # a sum with zeros would lose the sign
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    if not any(form_members(source, request_)):
        pytest.skip("no two layers of a stage are alike")
    written, _ = to_templates(source, request_, tmp_path / "templates")
    assert written.form.tensors and written.tensors.keys() == weights.keys()
    export_dense(tmp_path / "dense", written)
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    for name, tensor in weights.items():
        assert same_bits(tensor, written.read(name)), name
        assert same_bits(tensor, dense[name]), name
    first = next(name for name in written.form.tensors if weights[name].ndim == 4 or family in ("vit", "swin"))
    assert f"{first}.coefficients" in written.stored and first not in written.stored


ZOO = ["test_vit", "test_resnet", "test_convnext", "test_efficientnet", "test_byobnet", "test_nfnet", "test_mambaout"]


@pytest.mark.parametrize("name", ZOO)
def test_a_sample_of_the_zoo_round_trips_bit_for_bit(name, tmp_path):
    source = write_folder(Tiny(name, {}), tmp_path / "source", dtype=torch.float32)
    weights = load_file(source / "model.safetensors")
    written, _ = to_templates(source, EXACT["halves"], tmp_path / "templates")
    assert written.form.tensors
    export_dense(tmp_path / "dense", written)
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    assert dense.keys() == weights.keys() and all(same_bits(tensor, dense[n]) for n, tensor in weights.items())


def test_parts_that_divide_nothing_are_refused(tmp_path):
    source = write_folder(TINY["resnet"], tmp_path / "source")
    with pytest.raises(PlanError, match="parts: found 97, which divides the channels of no layer"):
        form_members(source, Request("sub_block", parts=97))


def form_members(source, request):
    checkpoint = open_checkpoint(source)
    model = build(checkpoint.spec)
    trace = trace_model(model, input_size(model))
    return decompose(request, model, trace, checkpoint.tensors, checkpoint.read).form.tensors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_element_type_round_trips(dtype, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source", dtype=dtype)
    written, _ = to_templates(source, EXACT["halves"], tmp_path / "templates.safetensors")
    assert written.spec == open_checkpoint(source).spec
    for name, tensor in load_file(source / "model.safetensors").items():
        assert same_bits(tensor, written.read(name)), name
    coefficients = {i.dtype for n, i in written.stored.items() if n.endswith(".coefficients")}
    assert coefficients == {"F64" if dtype == torch.float64 else "F32"}, "rounded coefficients do not cancel"


def test_a_block_of_a_packed_qkv_holds_whole_heads_of_all_three(tmp_path):
    checkpoint = open_checkpoint(write_folder(TINY["vit"], tmp_path / "source"))
    model = build(checkpoint.spec)
    axis = trace_model(model, input_size(model)).tensors["blocks.0.attn.qkv.weight"][0]
    # width 8, two heads of 4: q of head 0, q of head 1, k of head 0, ...
    assert parted(axis, 2).runs == ((0, 0, 4), (1, 0, 4), (0, 4, 4), (1, 4, 4), (0, 8, 4), (1, 8, 4))
    assert parted(axis, 3) == Layout.whole(24), "two heads do not part in three"


def test_templates_by_hand():
    class Numbers:
        count, block = 2, (1, 1)

        def template(self, t, rows=slice(None)):
            return torch.tensor([[[2.0, 5.0][t]]])[rows]

    C = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.5, -1.0]]])
    whole = materialise(Numbers(), C, Layout.consecutive(2, 1), Layout.consecutive(2, 1), torch.float32)
    assert whole.tolist() == [[2.0, 5.0], [0.0, -4.0]]
    cropped = materialise(Numbers(), C, Layout.consecutive(2, 1), Layout.whole(1), torch.float32)
    assert cropped.tolist() == [[2.0], [0.0]]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=12))
def test_a_layout_puts_every_position_where_it_says(places):
    layout = Layout.of(places)
    block, place = layout.places()
    assert list(zip(block.tolist(), place.tolist(), strict=True)) == places
    blocks = torch.arange(3 * 2 * 4).reshape(3, 1, 4, 2)
    rows = assemble(blocks, layout, Layout.whole(2))
    assert torch.equal(rows, torch.stack([blocks[b, 0, p] for b, p in places]))


def test_directions_and_atoms_are_as_good_as_their_rank(tmp_path):
    source = write_folder(TINY["vit"].with_args(depth=3), tmp_path / "source")
    for kind, full in (("svd", 99), ("low_rank", 99)):
        exact, reports = to_templates(source, Request(kind, rank=full), tmp_path / f"{kind}-full")
        assert reports and all(report.error < 1e-12 for report in reports)
        errors = []
        for rank in (1, 2):
            coarse, reports = to_templates(source, Request(kind, rank=rank), tmp_path / f"{kind}-{rank}")
            for report in reports:
                lost = sum(float((exact.read(n) - coarse.read(n)).square().sum()) for n in report.members)
                whole = sum(float(exact.read(n).square().sum()) for n in report.members)
                assert report.error == pytest.approx((lost / whole) ** 0.5, rel=1e-6)
            errors.append(max(report.error for report in reports))
        assert errors[0] > errors[1] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["raw", "sub_block", "svd", "low_rank"])
def test_weights_that_are_not_finite_have_no_templates(kind, value, tmp_path):
    source = write_folder(TINY["vit"].with_args(depth=3), tmp_path / "source")
    weights = load_file(source / WEIGHTS)
    weights["blocks.1.mlp.fc1.weight"][0, 0] = value
    save_file(weights, source / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"(fc1.weight|bank \S+|\S+): found .* not finite, expected finite"):
        to_templates(source, Request(kind, energy=0.9), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_energy_keeps_as_few_templates_as_reach_it(tmp_path):
    source = write_folder(TINY["vit"].with_args(depth=4), tmp_path / "source")
    _, reports = to_templates(source, Request("svd", energy=0.6), tmp_path / "out")
    for report in reports:
        kept = sum(report.spectrum[: report.templates])
        assert kept == pytest.approx(1.0) and report.error**2 <= 0.4
    assert reports and all(1 <= r.templates < len(r.members) for r in reports)


def test_what_a_bank_carries_is_measured(tmp_path):
    source = write_folder(TINY["vit"].with_args(depth=3), tmp_path / "source")
    _, raw = to_templates(source, EXACT["raw"], tmp_path / "raw")
    _, atoms = to_templates(source, Request("low_rank", rank=3), tmp_path / "groups_on")
    for report in raw:
        assert report.in_span == pytest.approx(1.0) and report.condition == pytest.approx(1.0) and report.error == 0.0
        assert 0 < report.mean_cosine < report.max_cosine < 1 and sum(report.spectrum) == pytest.approx(1.0)
        assert report.stored == report.dense + len(report.members) ** 2
    shared = [report for report in atoms if len(report.members) > 1]
    assert shared and all(report.in_span < 0.6 and report.stored < report.dense for report in shared)


DAMAGE = {
    "version": (lambda m: m.update(version=9), "found version 9, expected 1; update growtool"),
    "kind": (lambda m: first(m["banks"]).update(kind="x"), "found kind 'x', expected one of raw, svd"),
    "bank": (lambda m: first(m["tensors"]).update(bank="x"), "found bank 'x', expected one of the file's banks"),
    "runs": (
        lambda m: first(m["tensors"]).update(rows=[[1, 0, 8]]),
        "positions outside of the 1 blocks of 24 along dimension 0",
    ),
    "map": (lambda m: m.pop("tensors"), "not a map of templates (KeyError: 'tensors')"),
}


def first(mapping):
    return next(iter(mapping.values()))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_map_is_refused(name, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    to_templates(source, EXACT["raw"], tmp_path / "templates")
    weights = tmp_path / "templates" / "model.safetensors"
    content = json.loads(open_checkpoint(weights).metadata[FORM_KEY])
    damage, message = DAMAGE[name]
    damage(content)
    save_file(load_file(weights), weights, {"format": "pt", FORM_KEY: json.dumps(content)})
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(weights)
    assert message in str(error.value) and "growtool.templates" in str(error.value)


def test_lacking_coefficients_and_banks_are_named(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    written, _ = to_templates(source, EXACT["raw"], tmp_path / "templates")
    tensors = load_file(written.path)
    del tensors["blocks.0.mlp.fc1.weight.coefficients"], tensors["banks.blocks_8x8.templates"]
    save_file(tensors, written.path, dict(written.metadata))
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(written.path)
    assert "blocks.0.mlp.fc1.weight.coefficients is not in the file" in str(error.value)
    assert "banks.blocks_8x8.templates is not in the file" in str(error.value)


def test_the_command_reports_writes_and_exports(resnet_folder, tmp_path, growtool):
    code, out, _ = growtool("decompose", resnet_folder, "--bank", "sub_block", "--json")
    assert code == 0 and json.loads(out)["output"] is None and list(tmp_path.iterdir()) == [resnet_folder]
    code, out, _ = growtool("decompose", resnet_folder, "--bank", "sub_block", "-o", tmp_path / "t"
    )  # fmt: skip
    assert code == 0 and "every tensor equal bit for bit" in out
    assert "growtool export" in (tmp_path / "t" / "README.md").read_text()
    code, out, _ = growtool("export", tmp_path / "t", "-o", tmp_path / "dense", "--json")
    assert code == 0 and json.loads(out)["output"] == str(tmp_path / "dense")
    assert "growtool export" not in (tmp_path / "dense" / "README.md").read_text()
    for name, tensor in load_file(resnet_folder / "model.safetensors").items():
        assert same_bits(tensor, load_file(tmp_path / "dense" / "model.safetensors")[name])


REFUSED = {
    ("--bank", "raw", "--parts", "2"): "--parts: found with --bank raw, which cuts nothing",
    ("--bank", "raw", "--rank", "2"): "--rank: found with --bank raw, which keeps everything",
    ("--bank", "svd", "--rank", "2", "--energy", "0.5"): "--rank and --energy: both given",
    ("--bank", "svd", "--energy", "0"): "--energy: found 0, expected more than 0",
}


@pytest.mark.parametrize("options", REFUSED)
def test_options_that_would_do_nothing_are_refused(options, resnet_folder, growtool):
    code, _, err = growtool("decompose", resnet_folder, *options)
    assert code == 1 and REFUSED[options] in err


def test_a_bank_without_templates_is_refused(tmp_path, growtool):
    source = write_folder(TINY["vit"].with_args(depth=1, mlp_ratio=4.0), tmp_path / "source")
    code, _, err = growtool("decompose", source)
    assert code == 1 and "no two layers of a stage have the same shape" in err and "use --bank sub_block" in err


def test_inspect_shows_banks_and_coefficients(tmp_path, growtool):
    source = write_folder(TINY["vit"], tmp_path / "source")
    written, reports = to_templates(source, EXACT["raw"], tmp_path / "t")
    code, out, _ = growtool("inspect", tmp_path / "t", "--json")
    (document,) = json.loads(out)["checkpoints"]
    assert code == 0 and [bank["name"] for bank in document["banks"]] == [report.name for report in reports]
    assert document["coefficients"]["blocks.1.attn.proj.weight"] == [[0.0, 1.0]]
    assert document["bytes"] == sum(info.nbytes for info in written.stored.values())
    assert document["parameters"] == sum(p.numel() for p in build(written.spec).parameters())
    code, out, _ = growtool("inspect", tmp_path / "t", source)
    assert code == 0 and "raw banks" in out and "| █|" in out


def test_dense_and_template_checkpoints_are_not_taken_for_each_other(tmp_path, growtool):
    source = write_folder(TINY["vit"], tmp_path / "source")
    to_templates(source, EXACT["raw"], tmp_path / "t")
    code, _, err = growtool("export", source, "-o", tmp_path / "x")
    assert code == 1 and "found a dense checkpoint, expected one in template form" in err
    code, _, err = growtool("decompose", tmp_path / "t")
    assert code == 1 and "found template form already" in err
    code, _, err = growtool("export", tmp_path / "t", "-o", tmp_path / "t", "--force")
    assert code == 1 and "holds the checkpoint itself" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("request_", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("name", ["resnet", "vit", "convnext", "mobilenetv3"])
def test_real_checkpoints_round_trip_bit_for_bit(name, request_, shared, tmp_path):
    source = shared / "checkpoints" / f"{name}_cifar10_s0"
    written, reports = to_templates(source, request_, tmp_path / "templates")
    dense = open_checkpoint(source)
    for tensor, info in dense.tensors.items():
        assert written.tensors[tensor] == info and same_bits(dense.read(tensor), written.read(tensor))
    assert reports and all(report.in_span is None or report.in_span > 1 - 1e-9 for report in reports)


def test_requests_are_plain_data():
    assert dataclasses.asdict(Request()) == {"kind": "raw", "parts": 2, "rank": None, "energy": 0.99}
