"""Families with layer norms: StableLM, GPT-NeoX, StarCoder2, Cohere, Falcon, GPT-2."""

from __future__ import annotations

from typing import Any

from tests.kit.configs.sizes import SIZES

FALCON = {
    **{key: SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")},
    **{key: SIZES[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    "architectures": ["FalconForCausalLM"],
    "model_type": "falcon",
    "layer_norm_epsilon": 0.001,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "cohere": {
        **{key: value for key, value in SIZES.items() if key != "rms_norm_eps"},
        "architectures": ["CohereForCausalLM"],
        "model_type": "cohere",
        "num_attention_heads": 4,
        "logit_scale": 0.25,
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
}
