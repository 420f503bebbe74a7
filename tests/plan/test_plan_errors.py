"""Bad plans: every problem at once, each with its place, what was found, what was expected and what to do."""

import pytest

from growtool.errors import PlanError
from growtool.plan import load_plan
from growtool.plan.width import WIDTH_OPERATORS

WIDTHS = ", ".join(WIDTH_OPERATORS)


def problems(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "plan.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PlanError) as caught:
        load_plan(path.relative_to(tmp_path))
    return list(caught.value.problems)


MANY = """\
model: 3
modle_args: {a: 1}
target:
  scale: {width: 0.5, depth: [2, 0]}
width:
  operator: tyle
depth:
  placement: end
output: {dtype: float12}
verify: {inputs: 0, tolerance: "1e-4", x: 1}
seed: -1
seed: 2
"""


def test_every_problem_at_once_in_the_order_of_the_file(tmp_path, monkeypatch):
    keys = "model, model_args, target, width, depth, overrides, second, data, recalibrate, output, verify, seed, "
    keys += "allow_lossy, scale"
    assert problems(tmp_path, monkeypatch, MANY) == [
        "plan.yaml:1:8 model: found 3, expected a string",
        f"plan.yaml:2:1 modle_args: unknown key, expected one of {keys}; did you mean 'model_args'?",
        "plan.yaml:4:18 target.scale.width: found 0.5, expected at least 1",
        "plan.yaml:4:30 target.scale.depth: found [2, 0], expected a number of at least 1, such as 2 or 4/3, or a list "
        "with the number of blocks of each stage",
        "plan.yaml:6:13 width.operator: found 'tyle', expected one of " + WIDTHS + "; did you mean 'tile'?",
        "plan.yaml:8:3 depth.operator: missing, expected one of stack, interleave, zero_out, cancel_out, "
        "net2deeper, map, mixing, shrink_perturb",
        "plan.yaml:9:17 output.dtype: found 'float12', expected one of same, float32, float64, bfloat16, float16; "
        "did you mean 'float32'?",
        "plan.yaml:10:18 verify.inputs: found 0, expected at least 1",
        "plan.yaml:10:32 verify.tolerance: found '1e-4', expected a number",
        "plan.yaml:10:40 verify.x: unknown key, expected one of inputs, tolerance",
        "plan.yaml:12:1 seed: found again, first at 11:1; keep one",
    ]


T = "target: {model: x}\n"  # the least a plan can say
SINGLE = {
    "empty": ("", "plan.yaml:1:1 found nothing, expected a mapping with at least `target:`"),
    "comment only": ("# later\n", "plan.yaml:1:1 found nothing, expected a mapping with at least `target:`"),
    "list": ("- a", "plan.yaml:1:1 found a list, expected a mapping with at least `target:`"),
    "scalar": ("\na", "plan.yaml:2:1 found a single value, expected a mapping with at least `target:`"),
    "open bracket": (
        "a: [",
        "plan.yaml:1:5 not YAML: while parsing a flow node, expected the node content, but found '<stream end>'; "
        "mend the syntax",
    ),
    "two documents": (
        T + "---\na: 1",
        "plan.yaml:2:1 not YAML: expected a single document in the stream, but found another document; mend the syntax",
    ),
    "control character": (
        "a: \0",
        "plan.yaml: not YAML: special characters are not allowed at character 3; is it another file?",
    ),
    "not text": (
        b"\x80\x02\xff",
        "plan.yaml: not UTF-8 at byte 0, expected a plan in YAML; is it another file?",
    ),
    "no target": (
        "seed: 1",
        "plan.yaml:1:1 target: missing, expected the name of a timm model, or a mapping with one of model, "
        "model_args and scale",
    ),
    "target of another kind": ("target: 3", "plan.yaml:1:9 target: found 3, expected a mapping"),
    "empty target": (
        "target: {}",
        "plan.yaml:1:9 target: found none of model, model_args and scale, expected one of them",
    ),
    "two targets": (
        "target: {model: x, scale: {width: 2}}",
        "plan.yaml:1:9 target: found scale together with model, expected scale alone",
    ),
    "empty scale": (
        "target: {scale: {}}",
        "plan.yaml:1:17 target.scale: found neither width nor depth, expected at least one of them",
    ),
    "scale of truth": (
        "target: {scale: {width: true}}",
        "plan.yaml:1:25 target.scale.width: found True, expected a number",
    ),
    "scale by nothing": (
        "target: {scale: {width: 4/0}}",
        "plan.yaml:1:25 target.scale.width: found '4/0', expected a number of at least 1, such as 2 or 4/3",
    ),
    "scale out of all proportion": (
        "target: {scale: {width: 1e308}}",
        "plan.yaml:1:25 target.scale.width: found more than 1000, expected a factor of at most that",
    ),
    "quotient out of all proportion": (
        f"target: {{scale: {{depth: 1{'0' * 400}/1}}}}",
        "plan.yaml:1:25 target.scale.depth: found more than 1000, expected a factor of at most that",
    ),
    "scale without end": (
        "target: {scale: {width: 1e999}}",
        "plan.yaml:1:25 target.scale.width: found inf, expected a finite number",
    ),
    "depth without end": (
        "target: {scale: {depth: 1e999}}",
        "plan.yaml:1:25 target.scale.depth: found inf, expected a number of at least 1, such as 2 or 4/3, or a list "
        "with the number of blocks of each stage",
    ),
    "gain without noise": (
        T + "width: {operator: tile, split: equal, gain: 0.1}",
        "plan.yaml:2:45 width.gain: found a gain with split equal, which adds no noise; drop gain or set split: "
        "random_projection",
    ),
    "gain of nothing": (
        T + "width: {operator: mixture, coefficients: zero, gain: 0.2}",
        "plan.yaml:2:54 width.gain: found a gain with coefficients zero, which leave nothing to scale; drop gain",
    ),
    "no gain": (
        T + "width: {operator: tile, gain: 0}",
        "plan.yaml:2:31 width.gain: found 0, expected more than 0",
    ),
    "an option of another operator": (
        T + "depth: {operator: stack, placement: end}",
        "plan.yaml:2:26 depth.placement: unknown key, expected one of operator",
    ),
    "a map that is no list": (
        T + "depth: {operator: map, map: [0, -1]}",
        "plan.yaml:2:29 depth.map: found [0, -1], expected the source block of every target block, counted from 0, "
        "or initial for a block that comes from none, e.g. [0, 0, 1]; or such a list for each stage by its name, e.g. "
        "{layer3: [0, 1, 1]}",
    ),
    "recalibration without images": (
        T + "recalibrate: true",
        "plan.yaml:2:14 recalibrate: found true without images to see, expected `data: {path: ...}` as well",
    ),
    "images from nowhere": (
        T + "data: {batches: 3}",
        "plan.yaml:2:7 data.path: missing, expected a folder with one subfolder of images per class",
    ),
    "a map of nothing": (
        T + "depth: {operator: map}",
        "plan.yaml:2:8 depth.map: missing, expected the source block of every target block, e.g. [0, 0, 1]",
    ),
    "a bad option of a known operator": (
        T + "width: {operator: mixture, coefficients: orthagonal}",
        "plan.yaml:2:42 width.coefficients: found 'orthagonal', expected one of orthogonal, copy, zero, random; "
        "did you mean 'orthogonal'?",
    ),
    "an operator that is no word": (
        T + "width: {operator: 3}",
        "plan.yaml:2:19 width.operator: found 3, expected one of " + WIDTHS,
    ),
    "a section of another kind": (T + "width: [1]", "plan.yaml:2:8 width: found a list, expected a mapping"),
    "a section without content": (
        T + "width:\n",
        "plan.yaml:2:7 width: found nothing, expected a value; give one or drop the key",
    ),
    "verification neither on nor off": (
        T + "verify: no",
        "plan.yaml:2:9 verify: found 'no', expected false or a mapping with inputs and tolerance",
    ),
    "part of a seed": (T + "seed: 1.0", "plan.yaml:2:7 seed: found 1.0, expected an integer"),
    "an alias": (
        "target: &a {model: x}\nwidth: *a",
        "plan.yaml:2:1 width: found an alias, expected the value itself; write it out again",
    ),
    "an alias of itself": (
        "target: {model_args: &a {a: *a}}",
        "plan.yaml:1:26 target.model_args.a: found an alias, expected the value itself; write it out again",
    ),
    "a tag": (
        "target: {model: !!python/name:os.system x}",
        "plan.yaml:1:17 target.model: found the tag 'tag:yaml.org,2002:python/name:os.system', expected a plain value",
    ),
    "a tagged mapping": (
        "target: !!set {model: x}",
        "plan.yaml:1:9 target: found the tag 'tag:yaml.org,2002:set', expected a plain value",
    ),
    "a tag that does not fit": (
        T + "seed: !!int one",
        "plan.yaml:2:7 seed: found 'one', expected a number that can be read",
    ),
    "a scalar tagged as a mapping": (
        T + "seed: !!map one",
        "plan.yaml:2:7 seed: found the tag 'tag:yaml.org,2002:map', expected a plain value",
    ),
    "a number as key": ("1: 2\n" + T, "plan.yaml:1:1 found the key '1', expected a word"),
    "a list as key": ("? [a]\n: 2\n" + T, "plan.yaml:1:3 found a collection as key, expected a word"),
    "an argument twice": (
        "target: {model_args: {a: 1, a: 2}}",
        "plan.yaml:1:29 target.model_args.a: found again, first at 1:23; keep one",
    ),
}


@pytest.mark.parametrize("text", ["seed: {}", "verify: {{inputs: {}}}", "width: {{operator: ligo, steps: {}}}"])
def test_a_number_that_torch_cannot_take(tmp_path, monkeypatch, text):
    (found,) = problems(tmp_path, monkeypatch, "target: {model: resnet34}\n" + text.format(2**63) + "\n")
    assert found.endswith(f"found {2**63}, expected an integer of less than 64 bits")


@pytest.mark.parametrize("text, expected", SINGLE.values(), ids=SINGLE.keys())
def test_one_problem(tmp_path, monkeypatch, text, expected):
    assert problems(tmp_path, monkeypatch, text) == [expected]


def test_no_file(tmp_path):
    with pytest.raises(PlanError, match=r"nowhere.yaml: no such file, expected a plan in YAML$"):
        load_plan(tmp_path / "nowhere.yaml")


def test_a_folder(tmp_path):
    with pytest.raises(PlanError, match=r"found a folder, expected a plan in YAML$"):
        load_plan(tmp_path)


def test_a_plan_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("target: " + "[" * 3000)
    with pytest.raises(PlanError, match=r"plan.yaml: nested too deeply to be read"):
        load_plan(path)
