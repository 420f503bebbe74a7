"""Where timm's constructor takes an eps, the target is told by it: exact, with timm alone. Else by `growtool_open`."""

from functools import partial

import pytest
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tests.support.models import TINY, Tiny, difference, grown, load, resolved, write_folder

EXACT = 1e-11
SMALL = {"embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 5}
ODD = {"embed_dim": 20, "num_heads": 5}


class ToldViT(VisionTransformer):
    """A ViT whose constructor takes the eps of its norms, or of all but the last."""

    def __init__(self, norm_eps: float = 1e-6, last_too: bool = True, **kwargs) -> None:
        norm = partial(nn.LayerNorm, eps=norm_eps)
        super().__init__(img_size=32, patch_size=8, norm_layer=norm, **kwargs)
        if not last_too:
            self.norm.eps = 1e-5


@register_model
def told_vit(pretrained: bool = False, **kwargs) -> ToldViT:
    model = ToldViT(**{key: value for key, value in kwargs.items() if key in _TAKEN})
    size = {"input_size": (3, 32, 32), "num_classes": 5}
    model.pretrained_cfg = model.default_cfg = {**size, "architecture": "told_vit"}
    return model


_TAKEN = {"norm_eps", "last_too", *SMALL}


@pytest.mark.parametrize("eps", ["kept", "told"])
def test_timms_own_argument_comes_first(eps, tmp_path):
    tiny = Tiny("told_vit", SMALL)
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"model_args": ODD}, "width": {"operator": "centre_zero", "eps": eps}}
    result = grown(source, plan, tmp_path / "out")
    assert result.summary.promise == "exact"
    recipe = resolved(source, plan)
    assert recipe.target.architecture == "told_vit"
    assert recipe.target.model_args["norm_eps"] == pytest.approx(1e-6 * 16 / 20)
    assert difference(load(source), load(result.out), tiny.inputs()) < EXACT


@pytest.mark.parametrize(("eps", "kind"), [("kept", "exact up to eps"), ("told", "exact")])
@pytest.mark.parametrize(
    "tiny", [Tiny("told_vit", {**SMALL, "last_too": False}), TINY["vit"]], ids=["another eps at the end", "no argument"]
)
def test_where_no_argument_says_just_that_it_is_growtools_part(tiny, eps, kind, tmp_path):
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"model_args": ODD}, "width": {"operator": "centre_zero", "eps": eps}}
    recipe = resolved(source, plan)
    assert recipe.promise.kind == kind
    assert ("eps_of" in recipe.target.model_args) == (eps == "told")
