"""Plans: the surface is frozen, defaults are what the README says, and a good plan says what its author meant."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from growtool.plan import Plan, load_plan
from growtool.plan.depth import DEPTH_OPERATORS, CancelOut, Interleave, Map, Net2Deeper, Stack, ZeroOut
from growtool.plan.nesting import follow
from growtool.plan.schema import Output, Verify
from growtool.plan.section import Section
from growtool.plan.target import Scale, Target
from growtool.plan.width import WIDTH_OPERATORS, Mixture, Net2Net, Tile

SURFACE = """
model model_args target width depth overrides second data recalibrate output verify seed allow_lossy
target.model target.model_args target.scale
target.scale.width target.scale.depth
width.tile.operator width.tile.split width.tile.gain width.tile.keep
width.net2net.operator width.net2net.split width.net2net.gain width.net2net.keep
width.mixture.operator width.mixture.bank width.mixture.parts
width.mixture.coefficients width.mixture.gain width.mixture.compensate
width.centre_zero.operator width.centre_zero.eps width.centre_zero.gain
width.lemon.operator width.lemon.eps width.lemon.gain width.zero.operator width.zero.eps
width.fpi.operator width.fpi.split width.fpi.gain width.fpi.keep width.aki.operator
width.variance_transfer.operator width.variance_transfer.eps width.variance_transfer.rescale
width.gradmax.operator width.gradmax.scale
width.two_source.operator width.two_source.gain width.ligo.operator width.ligo.steps width.ligo.lr width.ligo.gain
width.random.operator width.random.parts width.shrink_perturb.operator width.shrink_perturb.shrink
depth.stack.operator
depth.interleave.operator
depth.zero_out.operator depth.zero_out.placement depth.zero_out.start
depth.cancel_out.operator depth.cancel_out.placement depth.cancel_out.start depth.cancel_out.gain
depth.net2deeper.operator depth.net2deeper.placement
depth.map.operator depth.map.map depth.map.start
depth.mixing.operator depth.mixing.steps depth.mixing.lr depth.shrink_perturb.operator depth.shrink_perturb.shrink
data.path data.batches data.batch_size
overrides.match overrides.width
output.form output.dtype output.max_shard_size
verify.inputs verify.tolerance
"""

FULL = """\
model: resnet18
model_args: {channels: [24, 48, 96, 192]}
target:
  scale: {width: 2, depth: [2, 2, 3, 2]}
width:
  operator: mixture
  coefficients: copy
  gain: 2e-1
  compensate: false
depth: {operator: zero_out, placement: end}
output: {dtype: bfloat16}
verify: {inputs: 8, tolerance: 1e-4}
seed: 3
"""


def load(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "plan.yaml"
    path.write_bytes(text.encode())
    return load_plan(path).plan


def surface(section: type[Section], loc: tuple[str, ...] = ()) -> Iterator[str]:
    """Every key of a plan, those of an operator below its name; an override's width is a width."""
    for key in section.model_fields:
        yield ".".join((*loc, key))
        for kind in follow(section, (key, 0))[1] + follow(section, (key,))[1]:
            if kind.section is not None and (*loc, key) != ("overrides", "width"):
                yield from surface(kind.section, (*loc, key, *([kind.tag] if kind.tag else [])))


def test_the_surface_is_frozen():
    assert sorted(surface(Plan)) == sorted(SURFACE.split())


def test_every_operator_stands_under_its_own_name():
    for name, section in {**WIDTH_OPERATORS, **DEPTH_OPERATORS}.items():
        assert section.model_fields["operator"].default == name


def test_a_full_plan_says_what_was_meant(tmp_path):
    assert load(tmp_path, FULL) == Plan(
        model="resnet18",
        model_args={"channels": [24, 48, 96, 192]},
        target=Target(scale=Scale(width=2.0, depth=(2, 2, 3, 2))),
        width=Mixture(coefficients="copy", gain=0.2, compensate=False),
        depth=ZeroOut(placement="end"),
        output=Output(dtype="bfloat16"),
        verify=Verify(inputs=8, tolerance=1e-4),
        seed=3,
    )


def test_defaults(tmp_path):
    plan = load(tmp_path, "target: {model: resnet18}\n")
    assert (plan.model, plan.model_args, plan.width, plan.depth, plan.seed) == (None, {}, None, None, 0)
    assert (plan.output, plan.verify) == (Output(dtype="same"), Verify(inputs=2, tolerance=None))
    assert Tile() == Tile(split="random_projection", gain=0.1)
    assert Net2Net() == Net2Net(split="random_projection")
    assert Mixture() == Mixture(coefficients="orthogonal", gain=0.3, compensate=True)
    assert ZeroOut() == ZeroOut(placement="interleaved")


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("{operator: tile}", Tile()),
        ("{operator: tile, split: equal}", Tile(split="equal")),
        ("{operator: net2net, split: random_projection, gain: 1}", Net2Net(gain=1.0)),
        ("{operator: mixture, gain: 0}", Mixture(gain=0.0)),
    ],
)
def test_width_operators(tmp_path, text, section):
    assert load(tmp_path, f"target: {{model: x}}\nwidth: {text}\n").width == section


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("stack", Stack()),
        ("interleave", Interleave()),
        ("zero_out", ZeroOut()),
        ("cancel_out, gain: 0.5", CancelOut(gain=0.5)),
        ("net2deeper, placement: end", Net2Deeper(placement="end")),
        ("map, map: [0, 0, 1]", Map(map=(0, 0, 1), start="copy")),
        ("map, map: {layer1: [0, 1, 1]}, start: zero_out", Map(map={"layer1": (0, 1, 1)}, start="zero_out")),
    ],
)
def test_depth_operators(tmp_path, text, section):
    assert load(tmp_path, f"target: {{model: x}}\ndepth: {{operator: {text}}}\n").depth == section


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("{model: vit}", Target(model="vit")),
        ("{model: vit, model_args: {depth: 3}}", Target(model="vit", model_args={"depth": 3})),
        ("{scale: {depth: 1.5}}", Target(scale=Scale(depth=1.5))),
        ("{scale: {width: 1.25}}", Target(scale=Scale(width=1.25))),
        ("{scale: {width: 4 / 3, depth: 3/2}}", Target(scale=Scale(width=4 / 3, depth=1.5))),
    ],
)
def test_targets(tmp_path, text, target):
    assert load(tmp_path, f"target: {text}\n").target == target


@pytest.mark.parametrize(("word", "verify"), [("false", None), ("true", Verify())])
def test_verification_is_switched_off_and_on(tmp_path, word, verify):
    assert load(tmp_path, f"target: {{model: x}}\nverify: {word}\n").verify == verify


def test_scalars_are_taken_literally(tmp_path):
    text = (
        "target: {model_args: {a: 1e-4, b: no, c: 1:30, d: 2020-01-01, e: 010, f: ~, g: '2', h: [1.0, true], i: -3}}\n"
    )
    assert load(tmp_path, text).target.model_args == {
        "a": 1e-4, "b": "no", "c": "1:30", "d": "2020-01-01", "e": "010", "f": None, "g": "2",
        "h": [1.0, True], "i": -3,
    }  # fmt: skip


@pytest.mark.parametrize("text", [FULL, FULL.replace("\n", "\r\n"), f"# größer\n{FULL}"])
def test_the_text_is_kept_to_the_byte(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_bytes(text.encode())
    loaded = load_plan(path)
    assert loaded.text.encode() == path.read_bytes()
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_plan_survives_its_own_json():
    plan = Plan(target=Target(scale=Scale(width=2.0, depth=(1, 2))), width=Tile(), depth=ZeroOut(), verify=None)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_plan_cannot_be_changed():
    plan = Plan(target=Target(model="x"))
    with pytest.raises(ValidationError, match="frozen"):
        plan.seed = 1


def test_plans_are_read_without_torch():
    code = "import sys, growtool.plan; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ROOT = Path(__file__).parents[2]
SHIPPED = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("text", [*SHIPPED, (ROOT / "docs/demo/plan.yaml").read_text()])
def test_every_plan_we_show_is_one(tmp_path, text):
    assert load(tmp_path, text).width == Mixture()
