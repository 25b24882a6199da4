"""OLMoE: Llama with experts, and norms of whole rows of queries and keys."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, Only
from ggq.models.families.experts import qwen2_moe
from ggq.models.family import Family
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    **dict.fromkeys(("router_aux_loss_coef", "output_router_logits"), ANY),
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "clip_qkv": Only(None),
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm = decoder.rms_norm(config)
    spec = decoder.with_mixers(decoder.read_decoder(config), query_norm=norm, key_norm=norm, normed="row")
    return decoder.with_layers(spec, feed_forward=decoder.experts(config))


OLMOE = Family(("OlmoeForCausalLM",), ("olmoe",), KEYS, parts, qwen2_moe.expression, decoder.constants)
