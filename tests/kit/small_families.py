"""Tiny random checkpoints of every family: odd sizes, windows that prompts leave, soft caps that bend.

The names and shapes of their tensors are transformers' (tests/golden/families.json, by tools/make_golden.py), their
numbers are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.kit.small_models import numbers

SIZES = {
    "vocab_size": 61,
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""What the checkpoints have in common."""

FALCON = {
    **{key: SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")},
    **{key: SIZES[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    "architectures": ["FalconForCausalLM"],
    "model_type": "falcon",
    "layer_norm_epsilon": 0.001,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {
        **SIZES,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "rope_theta": 1000000.0,
    },
    "qwen2_windows": {
        **SIZES,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "use_sliding_window": True,
        "sliding_window": 13,
        "max_window_layers": 1,
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 4.0},
        "original_max_position_embeddings": 32,
    },
    "mistral": {
        **SIZES,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
        "head_dim": 12,
        "sliding_window": 17,
        "rope_scaling": {"rope_type": "linear", "factor": 2.5},
    },
    "qwen3": {
        **SIZES,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 10,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 29,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gemma2": {
        **SIZES,
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "num_hidden_layers": 4,
        "head_dim": 14,
        "query_pre_attn_scalar": 5,
        "sliding_window": 19,
        "attn_logit_softcapping": 2.5,
        "final_logit_softcapping": 1.5,
    },
    "gemma3": {
        **SIZES,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 14,
        "query_pre_attn_scalar": 5,
        "sliding_window": 19,
        "sliding_window_pattern": 3,
        "rope_theta": 20000.0,
        "rope_local_base_freq": 500.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "olmo2": {**SIZES, "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "num_attention_heads": 4},
    "granite": {
        **SIZES,
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "num_attention_heads": 4,
        "mlp_bias": True,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.5,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.5,
    },
    "cohere": {
        **{key: value for key, value in SIZES.items() if key != "rms_norm_eps"},
        "architectures": ["CohereForCausalLM"],
        "model_type": "cohere",
        "num_attention_heads": 4,
        "logit_scale": 0.25,
    },
    "phi3": {
        **SIZES,
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "num_attention_heads": 4,
        "sliding_window": 21,
        "partial_rotary_factor": 0.6,
        "rope_theta": 300.0,
    },
    "phi3_long": {
        **SIZES,
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "num_attention_heads": 4,
        "max_position_embeddings": 400,
        "original_max_position_embeddings": 100,
        "partial_rotary_factor": 0.6,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 2.5, 7.0], "long_factor": [3.0, 4.0, 20.0]},
    },
    "stablelm": {
        **{key: value for key, value in SIZES.items() if key != "rms_norm_eps"},
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.3,
        "use_qkv_bias": True,
        "layer_norm_eps": 0.001,
    },
    "stablelm_parallel": {
        **{key: value for key, value in SIZES.items() if key != "rms_norm_eps"},
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "use_parallel_residual": True,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "gpt_neox": {
        **{key: value for key, value in SIZES.items() if key not in ("rms_norm_eps", "num_key_value_heads")},
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "num_attention_heads": 4,
        "rotary_pct": 0.6,
        "rotary_emb_base": 400.0,
        "layer_norm_eps": 0.001,
    },
    "gpt_neox_serial": {
        **{key: value for key, value in SIZES.items() if key not in ("rms_norm_eps", "num_key_value_heads")},
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "num_attention_heads": 5,
        "hidden_act": "relu",
        "use_parallel_residual": False,
        "attention_bias": False,
        "tie_word_embeddings": True,
    },
    "starcoder2": {
        **{key: value for key, value in SIZES.items() if key != "rms_norm_eps"},
        "architectures": ["Starcoder2ForCausalLM"],
        "model_type": "starcoder2",
        "num_attention_heads": 4,
        "norm_epsilon": 0.001,
        "sliding_window": 25,
    },
    "cohere2": {
        **{key: value for key, value in SIZES.items() if key != "rms_norm_eps"},
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "num_attention_heads": 4,
        "logit_scale": 0.25,
        "sliding_window": 21,
        "sliding_window_pattern": 3,
    },
    "falcon": {
        **FALCON,
        "num_attention_heads": 5,
        "num_kv_heads": 5,
        "ffn_hidden_size": 52,
    },
    "falcon_new": {
        **FALCON,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "bias": True,
    },
    "falcon_serial": {
        **FALCON,
        "num_attention_heads": 5,
        "multi_query": False,
        "parallel_attn": False,
        "bias": True,
        "tie_word_embeddings": False,
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 61,
        "n_positions": 128,
        "n_embd": 40,
        "n_layer": 3,
        "n_head": 5,
        "n_inner": 52,
        "layer_norm_epsilon": 0.001,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "olmo3": {
        **SIZES,
        "architectures": ["Olmo3ForCausalLM"],
        "model_type": "olmo3",
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "sliding_window": 22,
        "rope_theta": 700.0,
        "rope_scaling": {"rope_type": "linear", "factor": 3.0},
    },
    "exaone4": {
        **SIZES,
        "architectures": ["Exaone4ForCausalLM"],
        "model_type": "exaone4",
        "num_attention_heads": 4,
        "sliding_window": 18,
        "sliding_window_pattern": 3,
    },
    "ministral3": {
        **SIZES,
        "architectures": ["Ministral3ForCausalLM"],
        "model_type": "ministral3",
        "num_attention_heads": 4,
        "head_dim": 12,
        "max_position_embeddings": 400,
        "sliding_window": 33,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 3000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 100,
            "beta_fast": 8.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "ernie4_5": {
        **SIZES,
        "architectures": ["Ernie4_5ForCausalLM"],
        "model_type": "ernie4_5",
        "num_attention_heads": 4,
        "head_dim": 12,
        "use_bias": True,
    },
    "hunyuan": {
        **SIZES,
        "architectures": ["HunYuanDenseV1ForCausalLM"],
        "model_type": "hunyuan_v1_dense",
        "num_attention_heads": 4,
        "head_dim": 12,
        "rope_scaling": {"type": "dynamic", "alpha": 50.0, "factor": 1.0},
    },
    "smollm3": {
        **SIZES,
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "num_attention_heads": 4,
        "no_rope_layer_interval": 2,
        "use_sliding_window": True,
        "sliding_window": 23,
    },
    "glm4": {**SIZES, "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "head_dim": 12},
    "arcee": {
        **SIZES,
        "architectures": ["ArceeForCausalLM"],
        "model_type": "arcee",
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "mlp_bias": True,
    },
    "lfm2": {
        **{key: value for key, value in SIZES.items() if key not in ("rms_norm_eps", "intermediate_size")},
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "norm_eps": 1e-5,
        "block_ff_dim": 77,
        "block_multiple_of": 11,
        "block_ffn_dim_multiplier": 1.2,
        "conv_L_cache": 4,
        "full_attn_idxs": [1],
    },
    "qwen3_5": {
        **SIZES,
        "architectures": ["Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5_text",
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "linear_conv_kernel_dim": 3,
        "linear_key_head_dim": 10,
        "linear_value_head_dim": 14,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "attention_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    },
    "mamba2": {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "vocab_size": 61,
        "hidden_size": 40,
        "num_hidden_layers": 3,
        "num_heads": 6,
        "head_dim": 20,
        "expand": 3,
        "n_groups": 2,
        "state_size": 7,
        "conv_kernel": 3,
        "use_bias": True,
        "time_step_limit": [0.6, 1.0],
        "layer_norm_epsilon": 1e-4,
        "chunk_size": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "granite_hybrid": {
        **SIZES,
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "model_type": "granitemoehybrid",
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "shared_intermediate_size": 36,
        "num_local_experts": 0,
        "position_embedding_type": "nope",
        "layer_types": ["mamba", "mamba", "attention", "mamba"],
        "embedding_multiplier": 2.5,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.7,
        "logits_scaling": 3.0,
        "mamba_n_heads": 5,
        "mamba_d_head": "auto",
        "mamba_n_groups": 1,
        "mamba_d_state": 6,
        "mamba_expand": 2,
        "tie_word_embeddings": True,
    },
    "granite_hybrid_rope": {
        **SIZES,
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "model_type": "granitemoehybrid",
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "shared_intermediate_size": 36,
        "num_local_experts": 0,
        "position_embedding_type": "rope",
        "attention_bias": True,
        "layer_types": ["linear_attention", "full_attention"],
        "mamba_n_heads": 8,
        "mamba_n_groups": 4,
        "mamba_d_head": 10,
        "mamba_d_state": 9,
        "mamba_d_conv": 2,
        "mamba_expand": 2,
        "mamba_conv_bias": False,
        "mamba_proj_bias": True,
    },
    "lfm2_biased": {
        **{key: value for key, value in SIZES.items() if key != "rms_norm_eps"},
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "hidden_size": 36,
        "num_attention_heads": 6,
        "conv_bias": True,
        "block_auto_adjust_ff_dim": False,
        "tie_embedding": False,
        "layer_types": ["full_attention", "conv", "conv"],
    },
}
"""config.json by name."""

PROMPTS = (90, 37, 5)
"""Tokens of each prompt: one past all windows, of 80 tokens and ten that are decoded, and shorter ones beside it."""

LAST = (26, 4, 4)
"""Rows of logits that are kept of each: the prompt's last 16 and those decoded."""


def family_checkpoint(name: str, shapes: Mapping[str, Sequence[int]], seed: int = 5) -> dict[str, np.ndarray]:
    """Random float32 tensors: norms near 1, biases small, rows of matrices of unit variance.

    Args:
        name: Of a config in FAMILIES.
        shapes: Of the tensors, by their names in the checkpoint.
    """
    less_one = FAMILIES[name]["model_type"].startswith(("gemma", "qwen3_5"))
    tensors = {}
    for index, (tensor, shape) in enumerate(shapes.items()):
        values = numbers(int(np.prod(shape)), seed * 1000 + index).reshape(shape)
        if tensor.endswith("norm.weight"):
            tensors[tensor] = values / 2 + np.float32(0 if less_one and "linear_attn" not in tensor else 1)
        elif tensor.endswith("A_log"):
            tensors[tensor] = values * 2 - 2  # states that last, some for a hundred tokens
        else:
            scale = 0.4 if len(shape) == 1 else np.sqrt(3 / shape[-1])
            tensors[tensor] = values * np.float32(scale)
    return {tensor: values.astype(np.float32) for tensor, values in tensors.items()}
