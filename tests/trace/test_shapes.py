"""What the trace takes from shapes alone is what torch makes on the meta device."""

import pytest
import torch
from torch import Tensor

from growtool.trace.known import ByShape
from growtool.trace.table.ops import OPS

VECTOR = torch.empty(6, device="meta")
FORMS = {
    "plain": torch.empty(2, 6, 4, 6, device="meta"),
    "channels last": torch.empty(2, 6, 4, 6, device="meta").to(memory_format=torch.channels_last),
    "transposed": torch.empty(2, 4, 6, 6, device="meta").transpose(1, 2),
    "half": torch.empty(2, 6, 4, 6, device="meta", dtype=torch.float16),
}
REST = {
    "native_batch_norm": (VECTOR, VECTOR, VECTOR, VECTOR, False, 0.1, 1e-5),
    "native_layer_norm": ([4, 6], None, None, 1e-5),
    "_safe_softmax": (-1,),
    **dict.fromkeys(("add", "add_"), (2.0,)),
    **dict.fromkeys(("mul", "mul_"), (2,)),
}
SHAPED = [name for name, row in OPS.items() if row.meta_result is not None]
IN_PLACE = ["gelu_", "hardswish_", "hardsigmoid_", "add_", "mul_"]


def form_of(x: Tensor) -> tuple:
    return x.shape, x.stride(), x.dtype


@pytest.mark.parametrize("name", ["add", "mul"])
@pytest.mark.parametrize("other", [*FORMS, "broadcast", "number", "whole", "on the CPU"])
@pytest.mark.parametrize("form", [*FORMS, "whole"])
def test_torch_makes_the_same_of_two(form, other, name):
    others = {
        "broadcast": VECTOR, "number": 2.5, "whole": torch.ones(2, 6, 4, 6, dtype=torch.long, device="meta"),
        "on the CPU": torch.tensor(3.0),
    }  # fmt: skip
    func, found = getattr(torch.ops.aten, name), {**others, **FORMS}
    expected = func(found[form], found[other])
    with ByShape():
        assert form_of(func(found[form], found[other])) == form_of(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_makes_the_same_of_matrices(dtype):
    bias, a, b = (torch.empty(shape, device="meta", dtype=dtype) for shape in ((5,), (3, 4), (5, 4)))
    expected = torch.ops.aten.addmm(bias, a, b.t())
    with ByShape():
        assert form_of(torch.ops.aten.addmm(bias, a, b.t())) == form_of(expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*(name for name in SHAPED if name != "addmm"), *IN_PLACE])
def test_torch_makes_the_same(name, form):
    func, x = getattr(torch.ops.aten, name), FORMS[form].clone()
    rest = [part.to(x.dtype) if isinstance(part, Tensor) else part for part in REST.get(name, ())]
    expected = func(x.clone(), *rest)
    with ByShape():
        found = func(x, *rest)
    pairs = [(expected, found)] if isinstance(found, Tensor) else zip(expected, found, strict=True)
    assert all(form_of(theirs) == form_of(ours) for theirs, ours in pairs)
    assert (found is x) == name.endswith("_")


UNFIT = {
    "native_batch_norm": (VECTOR[:5], None, None, None, True, 0.1, 1e-5),
    "native_layer_norm": ([4, 5], None, None, 1e-5),
    "addmm": (VECTOR, VECTOR[None]),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_left_to_torch(name):
    with ByShape(), pytest.raises(RuntimeError):
        getattr(torch.ops.aten, name)(FORMS["plain"], *UNFIT[name])


def test_numbers_are_still_computed():
    x = torch.randn(2, 6)
    with ByShape():
        found = torch.nn.functional.hardswish(x)
    assert torch.allclose(found, x * (x + 3).clamp(0, 6) / 6)
