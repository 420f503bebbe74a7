"""Small configurations of transformers' families, as their `config.json` says it, and growing them in float64."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from growtool.library import ModelSpec, spec_from
from growtool.plan import Plan
from growtool.recipe import Recipe, resolve
from tests.zoo.proofs import GroupPair, InMemory, growth_proof, source_model

BLOCKS = {"num_hidden_layers": 2}
SIZES = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 4, **BLOCKS}
TEXT = {**SIZES, "vocab_size": 97, "max_position_embeddings": 64}
SHARED_HEADS = {**TEXT, "num_key_value_heads": 2}
GEMMA = {**SHARED_HEADS, "head_dim": 16}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
SOUND = {
    **SIZES, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 20,
}  # fmt: skip
IMAGES = {**SIZES, "image_size": 32, "patch_size": 8}
T5 = {"d_model": 48, "d_ff": 80, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 97}
SPEECH = {"num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 16}

_LABELS = {"id2label": {str(i): f"class {i}" for i in range(7)}, "label2id": {f"class {i}": i for i in range(7)}}

FAMILIES: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "gpt2": ("gpt2", "GPT2LMHeadModel", {
        "n_embd": 48, "n_head": 4, "n_layer": 2, "n_inner": 80, "vocab_size": 97, "n_positions": 64}),
    "opt": ("opt", "OPTForCausalLM", {
        "hidden_size": 48, "ffn_dim": 80, "num_attention_heads": 4, "vocab_size": 97, "max_position_embeddings": 64,
        "word_embed_proj_dim": 48, **BLOCKS}),
    "gpt-neox": ("gpt_neox", "GPTNeoXForCausalLM", {**TEXT, "rotary_pct": 0.5}),
    "gpt-neo": ("gpt_neo", "GPTNeoForCausalLM", {
        "hidden_size": 48, "num_heads": 4, "num_layers": 2, "intermediate_size": 80, "vocab_size": 97,
        "max_position_embeddings": 64, "window_size": 8, "attention_types": [[["global", "local"], 1]]}),
    "llama": ("llama", "LlamaForCausalLM", SHARED_HEADS),
    "llama, one kv head, biases": ("llama", "LlamaForCausalLM", {
        **TEXT, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("llama", "LlamaForCausalLM", {**TEXT, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", SHARED_HEADS),
    "qwen3, tied": ("qwen3", "Qwen3ForCausalLM", {**GEMMA, "tie_word_embeddings": True}),
    "mistral": ("mistral", "MistralForCausalLM", {**SHARED_HEADS, "sliding_window": 8}),
    "gemma": ("gemma", "GemmaForCausalLM", GEMMA),
    "gemma2": ("gemma2", "Gemma2ForCausalLM", {**GEMMA, **SLIDING, "query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM", {**GEMMA, **SLIDING, "query_pre_attn_scalar": 16}),
    "phi": ("phi", "PhiForCausalLM", {**SHARED_HEADS, "partial_rotary_factor": 0.5}),
    "phi3": ("phi3", "Phi3ForCausalLM", {**SHARED_HEADS, "pad_token_id": 0}),
    "olmo": ("olmo", "OlmoForCausalLM", SHARED_HEADS),
    "olmo2": ("olmo2", "Olmo2ForCausalLM", SHARED_HEADS),
    "smollm3": ("smollm3", "SmolLM3ForCausalLM", {**SHARED_HEADS, "pad_token_id": 0, "no_rope_layers": [1, 0]}),
    "granite": ("granite", "GraniteForCausalLM", {
        **SHARED_HEADS, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1,
        "logits_scaling": 8.0}),
    "cohere": ("cohere", "CohereForCausalLM", {**SHARED_HEADS, "pad_token_id": 0}),
    "ministral": ("ministral", "MinistralForCausalLM", {**GEMMA, "sliding_window": 8}),
    "gptj": ("gptj", "GPTJForCausalLM", {
        "n_embd": 48, "n_head": 4, "n_layer": 2, "vocab_size": 97, "n_positions": 64, "rotary_dim": 4}),
    "stablelm": ("stablelm", "StableLmForCausalLM", {**SHARED_HEADS, "hidden_size": 64}),
    "olmo3": ("olmo3", "Olmo3ForCausalLM", {**SHARED_HEADS, **SLIDING}),
    "deepseek-v3": ("deepseek_v3", "DeepseekV3ForCausalLM", {
        **TEXT, "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 20, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 12, "v_head_dim": 16, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
        "num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_hidden_layers": 3, "first_k_dense_replace": 1}),
    "falcon": ("falcon", "FalconForCausalLM", {
        "hidden_size": 48, "num_attention_heads": 4, "vocab_size": 97, "new_decoder_architecture": True,
        "num_kv_heads": 2, **BLOCKS}),
    "falcon, one kv head": ("falcon", "FalconForCausalLM", {
        "hidden_size": 48, "num_attention_heads": 4, "vocab_size": 97, "multi_query": True, **BLOCKS}),
    "bloom": ("bloom", "BloomForCausalLM", {"hidden_size": 48, "n_head": 4, "n_layer": 2, "vocab_size": 97}),
    "bert": ("bert", "BertForMaskedLM", TEXT),
    "bert, features": ("bert", "BertModel", TEXT),
    "roberta": ("roberta", "RobertaForMaskedLM", TEXT),
    "modernbert": ("modernbert", "ModernBertForMaskedLM", {
        **TEXT, "global_attn_every_n_layers": 2, "local_attention": 8, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 1}),
    "distilbert": ("distilbert", "DistilBertForMaskedLM", {
        "dim": 48, "hidden_dim": 80, "n_layers": 2, "n_heads": 4, "vocab_size": 97, "max_position_embeddings": 64}),
    "squeezebert": ("squeezebert", "SqueezeBertForMaskedLM", {**TEXT, "embedding_size": 48}),
    "esmc": ("esmc", "EsmcForMaskedLM", {**TEXT, "num_key_value_heads": 4}),  # heads that go with heads of keys alone
    "esm": ("esm", "EsmForMaskedLM", {**TEXT, "pad_token_id": 0, "mask_token_id": 3}),
    "megatron-bert": ("megatron-bert", "MegatronBertForMaskedLM", TEXT),
    "bart": ("bart", "BartForConditionalGeneration", {
        "d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "vocab_size": 97,
        "max_position_embeddings": 64}),
    "t5": ("t5", "T5ForConditionalGeneration", {**T5, "d_kv": 12}),
    "t5 v1.1": ("t5", "T5ForConditionalGeneration", {
        **T5, "d_kv": 16, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "vit": ("vit", "ViTForImageClassification", {**IMAGES, **_LABELS}),
    "swin": ("swin", "SwinForImageClassification", {  # windows of 7 by 7, merged two by two
        "image_size": 56, "patch_size": 2, "embed_dim": 24, "depths": [2, 1], "num_heads": [2, 4], "window_size": 7,
        **_LABELS}),
    "levit": ("levit", "LevitForImageClassification", {  # one sequence of blocks for all of a stage, its end included
        "image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 2, 1],
        "key_dim": [8, 8, 8], "attention_ratio": [2, 2, 2], "mlp_ratio": [2, 2, 2], **_LABELS}),
    "efficientnet": ("efficientnet", "EfficientNetForImageClassification", {  # one for all stages
        "image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640, **_LABELS}),
    "openai-gpt": ("openai-gpt", "OpenAIGPTLMHeadModel", {  # its blocks share an activation
        "n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 97, "n_positions": 64}),
    "dinov3": ("dinov3_vit", "DINOv3ViTModel", IMAGES),
    "dinov2": ("dinov2", "Dinov2Model", {
        "hidden_size": 48, "num_attention_heads": 4, "mlp_ratio": 2, "image_size": 32, "patch_size": 8, **BLOCKS}),
    "dinov2, swiglu": ("dinov2", "Dinov2ForImageClassification", {
        "hidden_size": 48, "num_attention_heads": 4, "mlp_ratio": 2, "image_size": 32, "patch_size": 8,
        "use_swiglu_ffn": True, **BLOCKS, **_LABELS}),
    "clip": ("clip", "CLIPModel", {
        "text_config": {**TEXT, "eos_token_id": 96}, "vision_config": IMAGES, "projection_dim": 20}),
    "siglip": ("siglip", "SiglipModel", {
        "text_config": {**TEXT, "projection_size": 48}, "vision_config": IMAGES}),
    "whisper": ("whisper", "WhisperForConditionalGeneration", {
        "d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "vocab_size": 97, **SPEECH,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None,
        "begin_suppress_tokens": None}),
    "wav2vec2": ("wav2vec2", "Wav2Vec2ForCTC", {**SOUND, "do_stable_layer_norm": True}),
    "hubert": ("hubert", "HubertForCTC", SOUND),
    "wavlm": ("wavlm", "WavLMForCTC", SOUND),
    "ast": ("audio-spectrogram-transformer", "ASTForAudioClassification", {
        **SIZES, "max_length": 64, "num_mel_bins": 32, **_LABELS}),
    "nemotron-h": ("nemotron_h", "NemotronHForCausalLM", {
        **SHARED_HEADS, "head_dim": 12, "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "mamba_num_heads": 8, "mamba_head_dim": 12, "n_groups": 2, "ssm_state_size": 8, "chunk_size": 8,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 40}),
    "mamba": ("mamba", "MambaForCausalLM", {
        "hidden_size": 48, "vocab_size": 97, "state_size": 8, "time_step_rank": 6, "expand": 2, **BLOCKS}),
    "mamba2": ("mamba2", "Mamba2ForCausalLM", {
        "hidden_size": 48, "vocab_size": 97, "state_size": 8, "num_heads": 8, "head_dim": 12, "n_groups": 2,
        "expand": 2, "chunk_size": 4, **BLOCKS}),
    "mixtral": ("mixtral", "MixtralForCausalLM", {
        **SHARED_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "gpt-oss": ("gpt_oss", "GptOssForCausalLM", {
        **GEMMA, **SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": ("qwen2_moe", "Qwen2MoeForCausalLM", {
        **SHARED_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40}),
    "qwen3-moe": ("qwen3_moe", "Qwen3MoeForCausalLM", {
        **GEMMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
}  # fmt: skip
"""Name -> the type of the model, its class, and its sizes."""


def config_of(family: str) -> dict[str, Any]:
    """The content of its `config.json`."""
    kind, architecture, sizes = FAMILIES[family]
    return {"architectures": [architecture], "model_type": kind, **json.loads(json.dumps(sizes))}


@dataclass(frozen=True)
class Source:
    """A model of a family, every number random, in float64."""

    spec: ModelSpec
    model: nn.Module
    checkpoint: InMemory

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Source:
        """From the content of a `config.json`."""
        spec = spec_from(config, where="test")
        model = source_model(spec)
        return cls(spec, model, InMemory.of(spec, model))


def grown(source: Source, **plan: Any) -> tuple[Recipe, float]:
    """The recipe of a plan, and by how much the outputs differ (relative, float64) where the source has them."""
    recipe, proof = proven(source, **plan)
    return recipe, proof.error


def proven(source: Source, **plan: Any) -> tuple[Recipe, GroupPair]:
    """The recipe of a plan, and how far both models differ."""
    recipe = resolve(Plan.model_validate(plan), source.checkpoint)
    return recipe, growth_proof(source.model, recipe)
