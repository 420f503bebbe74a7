"""The zoo: for each of timm's model files its smallest model, and variants of the most used families.

Where the default is too large for a small machine in float64, arguments make it smaller; where the features are the
output (num_classes 0), ten classes are asked for, since an output keeps its width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from growtool.checkpoint import ModelSpec


@dataclass(frozen=True)
class Example:
    """One model of the zoo.

    Attributes:
        family: timm's model file, as `timm.list_modules()` spells it.
        architecture: a registered model.
        args: arguments of its constructor.
        wider: arguments that widen it, tried where a plan's `scale` is refused or lossy.
        deeper: arguments that deepen it, likewise.
    """

    family: str
    architecture: str
    args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    wider: Mapping[str, Any] = field(default_factory=dict, hash=False)
    deeper: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def spec(self) -> ModelSpec:
        """The model with its arguments."""
        return ModelSpec(self.architecture, self.args)

    @property
    def label(self) -> str:
        """The architecture, with the arguments that are not timm's defaults."""
        changed = ", ".join(f"{name}={value}" for name, value in self.args.items())
        return f"{self.architecture} ({changed})" if changed else self.architecture


_SMALLEST: dict[str, str | tuple[str, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": ("deepseek_vit_412m", {"depth": 2, "num_classes": 10}),
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": ("eva02_tiny_patch14_224", {"num_classes": 10}),
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": ("gemma4_vit_167m", {"depth": 2, "num_classes": 10}),
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": ("hieradet_small", {"num_classes": 10}),
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": ("mobilenetv5_base", {"num_classes": 10, "channel_multiplier": 0.5}),
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", {"depth": 2}),
    "nasnet": ("nasnetalarge", {"stem_size": 48, "num_features": 2016}),
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": ("qwen3_vit_88m", {"depth": 2, "num_classes": 10}),
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": ("vgg11", {"mlp_ratio": 0.0625}),
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": ("samvit_base_patch16_224", {"depth": 2, "embed_dim": 96, "num_heads": 3}),
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}

_VARIANTS: dict[str, list[str | tuple[str, dict[str, Any]]]] = {
    "resnet": ["resnet18", "resnet26t", "resnet50", "seresnet50", "ecaresnet26t", "resnetblur18", "resnext50_32x4d"],
    "byobnet": ["resnext26ts", "regnetz_b16", "mobileone_s0", "repvgg_a0"],
    "resnetv2": ["resnetv2_50", "resnetv2_50d_gn", "resnetv2_50x1_bit", "resnetv2_50d_evos"],
    "regnet": ["regnety_002", "regnetz_005", "regnetv_040"],
    "vision_transformer": [
        "vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256", "vit_pwee_patch16_reg1_gap_256", "test_vit2",
        "test_vit3", "test_vit4",
    ],
    "deit": ["deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"],
    "eva": [
        ("eva02_small_patch14_224", {"num_classes": 10, "depth": 4}),
        ("vit_tiny_patch16_dinov3_qkvb", {"num_classes": 10}),
        ("vit_medium_patch16_rope_reg1_gap_256", {"depth": 4}),
        ("eva02_large_patch14_224", {"num_classes": 10, "depth": 2}),
    ],
    "beit": [("beitv2_base_patch16_224", {"depth": 2, "embed_dim": 192, "num_heads": 3})],
    "swin_transformer": [("swin_s3_tiny_224", {"embed_dim": 48, "depths": [2, 2, 2, 2]})],
    "swin_transformer_v2": [("swinv2_tiny_window16_256", {"embed_dim": 48, "depths": [2, 2, 2, 2]})],
    "convnext": [
        "convnext_atto", "convnext_atto_ols", "convnextv2_atto", "convnext_zepto_rms", "test_convnext2",
        "test_convnext3",
    ],
    "efficientnet": [
        "efficientnet_b0", "efficientnet_lite0", "mobilenetv2_050", "mnasnet_050", "tf_efficientnetv2_b0", "mixnet_s",
        "test_efficientnet_gn", "test_efficientnet_ln", "test_efficientnet_evos", "efficientnet_es",
    ],
    "efficientformer": ["efficientformer_l3"],
    "ghostnet": ["ghostnetv2_100"],
    "mobilenetv3": [
        "mobilenetv3_large_100", "lcnet_035", "fbnetv3_b", "mobilenetv4_conv_small_035", "mobilenetv4_hybrid_medium",
    ],
    "mlp_mixer": ["mixer_s32_224", "resmlp_12_224", "gmixer_12_224"],
    "densenet": ["densenetblur121d", "densenet169"],
    "nfnet": ["eca_nfnet_l0", "nf_regnet_b0", "nf_resnet26", "nf_seresnet26"],
    "maxxvit": [
        "test_maxvit", "maxvit_rmlp_pico_rw_256", "maxvit_tiny_tf_224", "coatnet_nano_rw_224", "coatnext_nano_rw_224",
        "maxxvit_rmlp_nano_rw_256",
    ],
}  # fmt: skip


_WIDER: dict[str, dict[str, Any]] = {
    "coat_tiny": {"mlp_ratios": [8, 8, 8, 8]},
    "efficientvim_m1": {"embed_dim": [256, 384, 640]},
    "efficientvit_b0": {"widths": [16, 32, 64, 128, 256], "head_widths": [2048, 2560]},
    "efficientvit_m0": {"embed_dim": [128, 256, 384]},
    "gcvit_xxtiny": {"embed_dim": 128, "num_heads": [4, 8, 16, 32]},
    "maxvit_rmlp_pico_rw_256": {"embed_dim": [64, 128, 256, 512], "stem_width": [48, 64]},
    "naflexvit_base_patch16_parfac_gap": {"embed_dim": 1536, "num_heads": 24},
    "pit_ti_224": {"heads": [4, 8, 16]},
    "rdnet_tiny": {"bottleneck_width_ratio": 8},
    "regnetx_002": {"bottle_ratio": 2.0},
    "swiftformer_xs": {"mlp_ratios": 8},
    "test_maxvit": {"embed_dim": [64, 128, 192, 256], "stem_width": [32, 64]},
}
_DEEPER: dict[str, dict[str, Any]] = {
    "crossvit_tiny_240": {"depth": [[1, 5, 0], [1, 5, 0], [1, 5, 0]]},
    "edgenext_xx_small": {"depths": [2, 3, 6, 2]},
    "efficientformer_l1": {"depths": [3, 2, 7, 4]},
    "efficientformerv2_s0": {"depths": [3, 2, 6, 4]},
    "nextvit_small": {"depths": [3, 4, 10, 4]},
}


def _example(family: str, entry: str | tuple[str, dict[str, Any]]) -> Example:
    name, args = (entry, {}) if isinstance(entry, str) else entry
    return Example(family, name, args, _WIDER.get(name, {}), _DEEPER.get(name, {}))


SMALLEST = tuple(_example(family, entry) for family, entry in _SMALLEST.items())
VARIANTS = tuple(_example(family, entry) for family, entries in _VARIANTS.items() for entry in entries)
EXAMPLES = SMALLEST + VARIANTS
