"""What the trace takes from shapes alone is what torch makes on the meta device."""

import pytest
import torch
from torch import Tensor

from growtool.coupling.shapes import SHAPED, ByShape

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
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SHAPED)
def test_torch_makes_the_same(name, form):
    func, x = getattr(torch.ops.aten, name), FORMS[form].clone()
    rest = [part.to(x.dtype) if isinstance(part, Tensor) else part for part in REST.get(name, ())]
    expected = func(x.clone(), *rest)
    with ByShape():
        found = func(x, *rest)
    pairs = [(expected, found)] if isinstance(found, Tensor) else zip(expected, found, strict=True)
    for theirs, ours in pairs:
        assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
    assert (found is x) == name.endswith("_")


def test_numbers_are_still_computed():
    x = torch.randn(2, 6)
    with ByShape():
        found = torch.nn.functional.hardswish(x)
    assert torch.allclose(found, x * (x + 3).clamp(0, 6) / 6)
