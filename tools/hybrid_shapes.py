"""Shapes of models with states beside keys, for tools/make_model.py: their config.json and their tensors."""

from __future__ import annotations

from typing import Any

COMMON = {"rms_norm_eps": 1e-6, "norm_eps": 1e-5, "max_position_embeddings": 8192, "bos_token_id": 0, "eos_token_id": 1}


def lfm2(hidden: int, heads: int, feed_forward: int) -> dict[str, Any]:
    """An LFM2 of 16 layers, six of them with attention."""
    return {
        **{key: value for key, value in COMMON.items() if key != "rms_norm_eps"},
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "vocab_size": 65536,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": 16,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        "tie_word_embeddings": True,
    }


def qwen3_5(hidden: int, feed_forward: int) -> dict[str, Any]:
    """A Qwen3.5 of 24 layers, six of them with attention."""
    return {
        **{key: value for key, value in COMMON.items() if key != "norm_eps"},
        "architectures": ["Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5_text",
        "vocab_size": 248320,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25},
        "tie_word_embeddings": True,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "lfm2-350m": lfm2(1024, 16, 4608),
    "lfm2-1.2b": lfm2(2048, 32, 8192),
    "qwen3.5-0.8b": qwen3_5(1024, 3584),
    "qwen3.5-2b": qwen3_5(2048, 6144),
}
"""config.json by name."""


Shapes = dict[str, tuple[int, ...]]


def tensors(config: dict[str, Any]) -> Shapes:
    """Names and shapes of the tensors, in the order in which they are written."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    short = config["model_type"] == "lfm2"
    found: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    names = [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    names = [f"feed_forward.{name}" for name in ("w1", "w3", "w2")] if short else names
    norms = ("operator_norm", "ffn_norm") if short else ("input_layernorm", "post_attention_layernorm")
    for number in range(config["num_hidden_layers"]):
        layer = short_layer(config, number) if short else delta_layer(config, number)
        layer |= dict.fromkeys([f"{name}.weight" for name in norms], (hidden,))
        layer |= {f"{name}.weight": shape for name, shape in zip(names, ((inner, hidden),) * 2 + ((hidden, inner),))}
        found |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return {**found, f"model.{'embedding_norm' if short else 'norm'}.weight": (hidden,)}


def short_layer(config: dict[str, Any], number: int) -> Shapes:
    """The mixer of a layer of LFM2."""
    hidden = config["hidden_size"]
    if number in config["full_attn_idxs"]:
        head = hidden // config["num_attention_heads"]
        return attention(config, hidden, head, ("q_layernorm", "k_layernorm", "out_proj"))
    return {
        "conv.conv.weight": (hidden, 1, 3),
        "conv.in_proj.weight": (3 * hidden, hidden),
        "conv.out_proj.weight": (hidden, hidden),
    }


def delta_layer(config: dict[str, Any], number: int) -> Shapes:
    """The mixer of a layer of Qwen3.5, whose heads of delta nets have 128 numbers."""
    hidden, head = config["hidden_size"], config["head_dim"]
    if number % 4 == 3:
        return attention(config, 2 * head * config["num_attention_heads"], head, ("q_norm", "k_norm", "o_proj"))
    heads, keys = config["linear_num_value_heads"], 128 * config["linear_num_key_heads"]
    found: Shapes = {
        "conv1d.weight": (2 * keys + 128 * heads, 1, 4),
        "in_proj_qkv.weight": (2 * keys + 128 * heads, hidden),
        "in_proj_z.weight": (128 * heads, hidden),
        "in_proj_a.weight": (heads, hidden),
        "in_proj_b.weight": (heads, hidden),
        "out_proj.weight": (hidden, 128 * heads),
        "norm.weight": (128,),
        "A_log": (heads,),
        "dt_bias": (heads,),
    }
    return {f"linear_attn.{name}": shape for name, shape in found.items()}


def attention(config: dict[str, Any], queries: int, head: int, names: tuple[str, str, str]) -> Shapes:
    """Attention whose query's matrix has so many rows; the names are those of its norms and of its last matrix."""
    hidden, narrow = config["hidden_size"], head * config["num_key_value_heads"]
    found: Shapes = {
        "q_proj": (queries, hidden),
        "k_proj": (narrow, hidden),
        "v_proj": (narrow, hidden),
        names[0]: (head,),
        names[1]: (head,),
        names[2]: (hidden, head * config["num_attention_heads"]),
    }
    return {f"self_attn.{name}.weight": shape for name, shape in found.items()}
