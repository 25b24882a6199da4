"""Qwen3-MoE: Qwen3 (Llama with norms of heads) with experts in some layers, and one window for all where asked for."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.families.experts import qwen2_moe
from ggq.models.family import Family
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    **dict.fromkeys(("router_aux_loss_coef", "output_router_logits"), ANY),
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": OrNull(4096),
    "decoder_sparse_step": 1,
    "mlp_only_layers": OrNull(),
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm = decoder.rms_norm(config)
    window = decoder.read_window(config, used=config.flag("use_sliding_window")) or 0
    spec = decoder.with_mixers(decoder.read_decoder(config), query_norm=norm, key_norm=norm, window=window)
    return decoder.with_experts(spec, config, decoder.experts(config))


QWEN3_MOE = Family(("Qwen3MoeForCausalLM",), ("qwen3_moe",), KEYS, parts, qwen2_moe.expression, decoder.constants)
