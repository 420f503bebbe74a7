"""Growing in coefficient space: the same weights as growing the dense export, k * k * T numbers a layer."""

import json
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from growtool.algebra.axis_map import AxisMap, axis_map
from growtool.algebra.expansion import Expansion, tiled
from growtool.checkpoint import Layout, open_checkpoint
from growtool.errors import PlanError
from growtool.templates.coefficients import new_vectors, null_space, rank
from growtool.templates.convert import export_dense
from growtool.templates.decompose import Request
from growtool.templates.lift import lift
from growtool.trace import ChannelGroup, GroupPair, PairedAxis
from tests.support.models import TINY, WIDER, difference, grown, load, write_folder
from tests.support.templates import EXACT, to_templates

MIXTURE = {"operator": "mixture"}
THRICE = {"resnet": {"channels": [12, 24, 24, 36]}, "vit": {"embed_dim": 24, "num_heads": 6}}
HALF_MORE = {
    "resnet": {"channels": [6, 12, 12, 18]}, "bottleneck": {"channels": [6, 6, 12, 12]},
    "vit": {"embed_dim": 12, "num_heads": 3}, "convnext": {"dims": [6, 9, 12, 12]},
}  # fmt: skip


def wider(args, **width):
    return {"target": {"model_args": dict(args)}, "width": {**MIXTURE, **width}, "allow_lossy": True}


def bank_of(request):
    """What the plan of the dense twin has to say for the same templates."""
    return {"bank": "sub_block", "parts": request.parts} if request.kind == "sub_block" else {}


def grown_both_ways(family, request, args, folder, **width):
    """The grown template checkpoint and the grown dense export."""
    source = write_folder(TINY[family], folder / "source")
    to_templates(source, request, folder / "t")
    grown(folder / "t", wider(args, **width), folder / "t-grown")
    grown(source, wider(args, **bank_of(request), **width), folder / "dense-grown")
    return open_checkpoint(folder / "t-grown"), open_checkpoint(folder / "dense-grown")


def assert_same_weights(a, b):
    assert a.tensors == b.tensors
    for name, info in b.tensors.items():
        if info.is_float:
            torch.testing.assert_close(a.read(name), b.read(name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("request_", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("family", ["vit", "resnet", "bottleneck", "convnext", "swin", "nfnet"])
def test_both_ways_give_the_same_weights(family, request_, tmp_path):
    templates, dense = grown_both_ways(family, request_, WIDER[family], tmp_path)
    assert_same_weights(templates, dense)
    assert templates.form.tensors.keys() == open_checkpoint(tmp_path / "t").form.tensors.keys()


@pytest.mark.parametrize("request_", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("ratio", [1.5, 6])
def test_rows_and_columns_may_grow_by_different_factors(ratio, request_, tmp_path):
    """Twice the channels, and as many hidden units or four times."""
    args = {"embed_dim": 16, "num_heads": 4, "mlp_ratio": ratio}
    assert_same_weights(*grown_both_ways("vit", request_, args, tmp_path))


@pytest.mark.parametrize("family", THRICE)
@pytest.mark.parametrize("compensate", [True, False])
@pytest.mark.parametrize("coefficients", ["orthogonal", "copy", "random"])
def test_every_choice_of_coefficients_gives_the_same_weights(family, coefficients, compensate, tmp_path):
    request = EXACT["halves" if compensate else "raw"]
    both = grown_both_ways(
        family, request, THRICE[family], tmp_path, coefficients=coefficients, compensate=compensate, gain=0.7
    )
    assert_same_weights(*both)


@pytest.mark.parametrize("family", HALF_MORE)
def test_sub_blocks_grow_by_half(family, tmp_path):
    templates, dense = grown_both_ways(family, EXACT["halves"], HALF_MORE[family], tmp_path)
    assert_same_weights(templates, dense)
    assert (3, 3) in {templates.stored[f"{name}.coefficients"].shape[:2] for name in templates.form.tensors}
    report = json.loads((tmp_path / "t-grown" / "growth.json").read_text())
    assert report["promise"]["kind"] == ("exact" if family in ("resnet", "bottleneck") else "lossy")


def test_layers_grow_by_k_times_k_vectors_and_the_bank_stays(tmp_path):
    templates, _ = grown_both_ways("vit", EXACT["raw"], THRICE["vit"], tmp_path)
    before = open_checkpoint(tmp_path / "t")
    for name, info in templates.stored.items():
        if name.startswith("banks."):
            assert torch.equal(templates.read_stored(name), before.read_stored(name))
        elif name.endswith(".coefficients"):
            assert info.shape == (3, 3, before.stored[name].shape[2])
    C = templates.read_stored("blocks.0.mlp.fc1.weight.coefficients")
    own = before.read_stored("blocks.0.mlp.fc1.weight.coefficients")[0, 0]
    torch.testing.assert_close(C.sum(1), own.expand(3, -1), rtol=0, atol=1e-12)
    for i in range(3):
        for j in range(3):
            assert i == j or abs(float(C[i, j] @ own)) < 1e-12


def test_growing_again_is_orthogonal_to_all_coefficients_in_use(tmp_path):
    """After a first growth no vector is one-hot; the null space then is a subspace like any other."""
    source = write_folder(TINY["vit"].with_args(depth=8), tmp_path / "source")
    to_templates(source, EXACT["raw"], tmp_path / "t")
    grown(tmp_path / "t", wider(WIDER["vit"]), tmp_path / "twice")
    again = {"embed_dim": 32, "num_heads": 8}
    result = grown(tmp_path / "twice", wider(again, gain=1.0), tmp_path / "four")
    assert result.proof.comparison.relative_difference < 1e-12
    name = "blocks.1.attn.proj.weight.coefficients"
    used = open_checkpoint(tmp_path / "twice").read_stored(name).flatten(0, 1)
    C = open_checkpoint(tmp_path / "four").read_stored(name)
    new = torch.cat([C[:2, 2:].flatten(0, 1), C[2:, :2].flatten(0, 1)])
    assert new.abs().max() > 0.01 and rank(used) == 3
    torch.testing.assert_close(new @ used.T, torch.zeros(8, 4, dtype=torch.float64), rtol=0, atol=1e-10)
    export_dense(tmp_path / "dense", open_checkpoint(tmp_path / "four"))
    inputs = TINY["vit"].inputs()
    assert difference(load(source), load(tmp_path / "dense"), inputs) < 1e-12


def test_blocks_and_widths_grow_in_one_plan_and_new_blocks_share_the_bank(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    to_templates(source, EXACT["raw"], tmp_path / "t")
    plan = wider({**WIDER["vit"], "depth": 3}) | {"depth": {"operator": "zero_out"}}
    result = grown(tmp_path / "t", plan, tmp_path / "out")
    written = open_checkpoint(tmp_path / "out")
    (path,) = result.summary.new_blocks
    closed = written.read_stored(f"{path}.mlp.fc2.weight.coefficients")
    assert closed.shape == (2, 2, 2) and not closed.any()
    assert written.read_stored(f"{path}.mlp.fc1.weight.coefficients").any()
    assert result.proof.comparison.relative_difference < 1e-12
    assert any("tensors in template form" in line for line in result.summary.growth())


def test_the_plan_decides_the_form(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    to_templates(source, EXACT["raw"], tmp_path / "t")
    plan = wider(WIDER["vit"])
    grown(source, plan | {"output": {"form": "template"}}, tmp_path / "a")
    grown(tmp_path / "t", plan, tmp_path / "b")
    grown(tmp_path / "t", plan | {"output": {"form": "dense"}}, tmp_path / "c")
    grown(source, plan, tmp_path / "d")
    a, b, c, d = (open_checkpoint(tmp_path / name) for name in "abcd")
    assert a.form == b.form and c.form is None and d.form is None
    for name in a.stored:
        torch.testing.assert_close(a.read_stored(name), b.read_stored(name), rtol=0, atol=1e-12)
    assert_same_weights(a, d)
    assert_same_weights(c, d)


def test_types_of_the_output(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source", dtype=torch.float32)
    plan = wider(WIDER["vit"]) | {"output": {"form": "template", "dtype": "bfloat16"}}
    grown(source, plan, tmp_path / "out")
    written = open_checkpoint(tmp_path / "out")
    assert {i.dtype for n, i in written.stored.items() if n.startswith("banks.")} == {"BF16"}
    assert {i.dtype for n, i in written.stored.items() if n.endswith(".coefficients")} == {"F32"}
    assert {i.dtype for i in written.tensors.values()} == {"BF16"}


@pytest.mark.parametrize("operator", ["tile", "fpi"])
def test_an_operator_that_leaves_the_span_makes_tensors_dense_and_says_so(operator, tmp_path):
    source = write_folder(TINY["resnet"], tmp_path / "source")
    to_templates(source, EXACT["raw"], tmp_path / "t")
    plan = {"target": {"model_args": WIDER["resnet"]}, "width": {"operator": operator}}
    result = grown(tmp_path / "t", plan, tmp_path / "noise")
    assert f"tensors become dense: {operator} makes new weights that are no combinations" in result.summary.growth()[-1]
    assert open_checkpoint(tmp_path / "noise").form is None, "no tensor is in template form any more"
    equal = {"target": {"model_args": WIDER["resnet"]}, "width": {"operator": operator, "split": "equal"}}
    grown(tmp_path / "t", equal, tmp_path / "equal")
    grown(source, equal, tmp_path / "dense")
    assert len(open_checkpoint(tmp_path / "equal").form.tensors) == len(open_checkpoint(tmp_path / "t").form.tensors)
    assert_same_weights(open_checkpoint(tmp_path / "equal"), open_checkpoint(tmp_path / "dense"))
    with pytest.raises(PlanError, match=f"found template, and it cannot be kept: {operator} makes new weights"):
        grown(tmp_path / "t", plan | {"output": {"form": "template"}}, tmp_path / "refused")


def test_a_bank_beside_that_of_the_checkpoint_is_refused(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    to_templates(source, EXACT["raw"], tmp_path / "t")
    with pytest.raises(PlanError, match=r"width.bank: found 'raw', and .* brings its own banks; drop bank"):
        grown(tmp_path / "t", wider(WIDER["vit"], bank="raw"), tmp_path / "out")


@pytest.mark.parametrize("kind", ["svd", "low_rank"])
def test_banks_of_directions_and_atoms_grow_exactly(kind, tmp_path):
    source = write_folder(TINY["vit"].with_args(depth=3), tmp_path / "source")
    to_templates(source, Request(kind, rank=2), tmp_path / "t")
    result = grown(tmp_path / "t", wider({"embed_dim": 24, "num_heads": 6}), tmp_path / "out")
    assert result.summary.promise == "exact" and result.proof.comparison.relative_difference < 1e-12


@given(st.integers(1, 7), st.integers(0, 6), st.integers(0, 9), st.integers(0, 99))
def test_orthogonal_vectors(templates, used, blocks, seed):
    """Unit vectors in the null space of those in use while it lasts, orthogonal to the one beside them after that."""
    generator = torch.Generator().manual_seed(seed)
    in_use = torch.randn(used, templates, generator=generator, dtype=torch.float64)
    beside = torch.randn(blocks, templates, generator=generator, dtype=torch.float64)
    c = new_vectors("orthogonal", beside, in_use, generator)
    room = templates - min(used, templates)
    if templates == 1 and used:
        assert not c.any()
        return
    unit = torch.ones(blocks, dtype=torch.float64)
    torch.testing.assert_close(c.norm(dim=1), unit, rtol=0, atol=1e-12)
    assert (c.gather(1, c.abs().argmax(1, keepdim=True)) > 0).all()
    if room:
        torch.testing.assert_close(c @ in_use.T, torch.zeros(blocks, used, dtype=torch.float64), rtol=0, atol=1e-9)
        together = c[:room]
        torch.testing.assert_close(together @ together.T, torch.eye(len(together), dtype=torch.float64))
    else:
        torch.testing.assert_close((c * beside).sum(1), torch.zeros(blocks, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_null_space_is_that():
    vectors = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]])
    basis = null_space(vectors)
    assert basis.shape == (2, 3) and rank(vectors) == 1
    torch.testing.assert_close(basis @ vectors.double().T, torch.zeros(2, 2, dtype=torch.float64), rtol=0, atol=1e-12)


def axis_of(expansion, *, summed):
    growth = GroupPair(ChannelGroup(expansion.size), ChannelGroup(len(expansion.index)))
    return axis_map(PairedAxis(((growth,),)), {growth: expansion}, frozenset([growth] if summed else []))


@pytest.mark.parametrize("summed", [True, False])
def test_the_growth_of_blocks_by_hand(summed):
    """Four channels in two blocks become six: both blocks, and the first once more."""
    axis = axis_of(Expansion(4, torch.arange(6) % 4), summed=summed)
    blocks, layout = lift(axis, Layout.consecutive(4, 2))
    assert blocks.index.tolist() == [0, 1, 0] and blocks.replica.tolist() == [0, 0, 1]
    assert layout == Layout.consecutive(6, 2)
    assert blocks.consumes == summed
    assert blocks.share.tolist() == ([0.5, 1.0, 0.5] if summed else [1.0] * 3)
    assert lift(axis, Layout.whole(4)) is None, "half a block would be copied"
    assert lift(AxisMap.unchanged(4), Layout.whole(4))[1] == Layout.whole(4)
    assert lift(axis_of(tiled(4, 12), summed=summed), Layout.whole(4))[0].index.tolist() == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "vit", "convnext"])
def test_real_checkpoints_grow_in_coefficients(name, shared, tmp_path):
    source = shared / "checkpoints" / f"{name}_cifar10_s0"
    to_templates(source, EXACT["halves"], tmp_path / "t")
    plan = {"target": {"scale": {"width": 2}}, "width": MIXTURE, "output": {"dtype": "float64"}}
    templates = grown(tmp_path / "t", plan, tmp_path / "t-grown")
    plan["width"] = {**MIXTURE, "bank": "sub_block", "parts": 2}
    grown(write_plan_beside(source, tmp_path), plan, tmp_path / "dense")
    assert templates.summary.promise == "exact" and templates.proof.holds
    a, b = open_checkpoint(tmp_path / "t-grown"), open_checkpoint(tmp_path / "dense")
    for tensor in a.form.tensors:
        torch.testing.assert_close(a.read(tensor), b.read(tensor), rtol=0, atol=1e-6)


def write_plan_beside(source, folder):
    """A link, so that the plan is not written beside the shared checkpoint."""
    link = folder / source.name
    link.symlink_to(source, target_is_directory=True)
    return link


def test_the_command_line_grows_template_checkpoints(resnet_folder, tmp_path, growtool):
    growtool("decompose", resnet_folder, "--bank", "sub_block", "-o", tmp_path / "t")
    factor = Fraction(3, 2)
    channels = [int(n * factor) for n in (4, 8, 8, 12)]
    (tmp_path / "plan.yaml").write_text(
        f"target: {{model_args: {{channels: {channels}}}}}\nwidth: {{operator: mixture}}\n"
    )
    code, out, _ = growtool("grow", tmp_path / "t", tmp_path / "plan.yaml", "-o", tmp_path / "g")
    assert code == 0 and "promise: exact" in out and "in template form" in out
    code, out, _ = growtool("verify", resnet_folder, tmp_path / "g")
    assert code == 0 and "same function" in out


@pytest.mark.parametrize("request_", [*EXACT.values(), Request("low_rank", rank=2)], ids=[*EXACT, "low_rank"])
def test_combinations_do_not_depend_on_how_many_rows_are_made_together(request_, tmp_path, monkeypatch):
    source = write_folder(TINY["vit"], tmp_path / "source")
    templates, _ = to_templates(source, request_, tmp_path / "t")
    plan = wider(WIDER["vit"], **bank_of(request_))
    found = []
    for at_once in (1, 20, 1 << 18):
        monkeypatch.setattr("growtool.checkpoint.materialise.AT_ONCE", at_once)
        out = grown(source, plan, tmp_path / f"{at_once}").out
        found.append((open_checkpoint(out).state_dict(), templates.state_dict()))
    for whole, parts in zip(found[-1], zip(*found[:-1], strict=True), strict=True):
        assert all(torch.equal(tensor, part[name]) for name, tensor in whole.items() for part in parts)
