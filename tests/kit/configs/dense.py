"""What is shaped like Llama."""

from __future__ import annotations

from typing import Any

from tests.kit.configs.sizes import SIZES

CONFIGS: dict[str, dict[str, Any]] = {
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
    "apertus": {
        **SIZES,
        "architectures": ["ApertusForCausalLM"],
        "model_type": "apertus",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attention_bias": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
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
    "bitnet": {**SIZES, "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "num_attention_heads": 4},
}
