"""Shapes of models with attention in every layer that are no Llamas, some with experts, for tools/make_model.py: their
config.json and their tensors."""

from __future__ import annotations

from typing import Any

COMMON = {"rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "bos_token_id": 0, "eos_token_id": 1}


def qwen3(inner: int, experts: int = 0) -> dict[str, Any]:
    """A Qwen3 of 24 layers, whose feed-forward may be experts of which two are chosen."""
    kind = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "intermediate_size": inner}
    if experts:
        kind = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "intermediate_size": inner}
        kind |= {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": inner}
        kind |= {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return {
        **COMMON,
        **kind,
        "vocab_size": 32768,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        **COMMON,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "gemma3-1b": {
        **COMMON,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": 262144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "tie_word_embeddings": True,
    },
    "moe-8x0.2b": qwen3(2816, experts=8),
    "moe-dense": qwen3(2 * 2816),  # as many numbers as a token of the other meets
}
"""config.json by name."""


Shapes = dict[str, tuple[int, ...]]


def tensors(config: dict[str, Any]) -> Shapes:
    """Names and shapes of the tensors, in the order in which they are written."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    wide, narrow = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    norms = ["input_layernorm", "post_attention_layernorm"]
    if config["model_type"] == "gemma3_text":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    layer: Shapes = {
        **dict.fromkeys(norms, (hidden,)),
        "self_attn.q_proj": (wide, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, wide),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
    }
    feed_forward = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    if experts := config.get("num_experts"):
        layer["mlp.gate"] = (experts, hidden)
    for place in [f"mlp.experts.{number}" for number in range(experts)] if experts else ["mlp"]:
        layer |= {f"{place}.{name}": shape for name, shape in feed_forward.items()}
    found: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for number in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return {**found, "model.norm.weight": (hidden,)}
