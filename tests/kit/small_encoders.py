"""Tiny random encoders: odd sizes, windows to both sides, types of texts, heads with scores.

The names and shapes of their tensors, and what they compute, are transformers' (tests/golden/encoders.json and .npz, by
tools/make_encoder_golden.py), their numbers are the same on every machine.
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
    "num_attention_heads": 5,
    "max_position_embeddings": 150,
    "pad_token_id": 1,
}

MODERN = {
    **SIZES,
    "model_type": "modernbert",
    "num_hidden_layers": 4,
    "local_attention": 22,
    "global_rope_theta": 900.0,
    "local_rope_theta": 60.0,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 3,
}

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {
        **SIZES,
        "architectures": ["BertModel"],
        "model_type": "bert",
        "type_vocab_size": 3,
        "layer_norm_eps": 0.01,
    },
    "bert_scores": {
        **SIZES,
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_act": "relu",
        "num_labels": 1,
    },
    "roberta": {**SIZES, "architectures": ["RobertaModel"], "model_type": "roberta", "type_vocab_size": 1},
    "xlm_roberta": {
        **SIZES,
        "architectures": ["XLMRobertaForSequenceClassification"],
        "model_type": "xlm-roberta",
        "type_vocab_size": 1,
        "id2label": {"0": "a", "1": "b", "2": "c"},
    },
    "modernbert": {**MODERN, "architectures": ["ModernBertModel"], "global_attn_every_n_layers": 2},
    "gemma3": {
        **SIZES,
        "pad_token_id": 0,
        "architectures": ["Gemma3TextModel"],
        "model_type": "gemma3_text",
        "num_key_value_heads": 1,
        "head_dim": 14,
        "query_pre_attn_scalar": 90,
        "sliding_window": 38,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 60.0},
            "full_attention": {"rope_type": "default", "rope_theta": 900.0},
        },
        "use_bidirectional_attention": True,
    },
    "modernbert_scores": {
        **MODERN,
        "architectures": ["ModernBertForSequenceClassification"],
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "classifier_bias": True,
        "classifier_pooling": "mean",
        "num_labels": 1,
    },
    "qwen3_scores": {
        **{key: value for key, value in SIZES.items() if key != "layer_norm_eps"},
        "architectures": ["Qwen3ForSequenceClassification"],
        "model_type": "qwen3",
        "pad_token_id": 0,
        "num_key_value_heads": 1,
        "head_dim": 14,
        "num_labels": 1,
        "use_sliding_window": True,
        "sliding_window": 38,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}
"""config.json by name."""

TEXTS = (140, 37, 5)
"""Tokens of each text: one over several blocks of keys and past all windows, and shorter ones beside it."""


def types_of(name: str, count: int) -> np.ndarray | None:
    """The types of the tokens of a text, as of a pair; None where the model knows one type."""
    types = int(ENCODERS[name].get("type_vocab_size", 2))
    if ENCODERS[name]["model_type"] in ("modernbert", "gemma3_text", "qwen3") or types < 2:
        return None
    return np.where(np.arange(count) < count // 3, 0, types - 1)


def encoder_checkpoint(shapes: Mapping[str, Sequence[int]], seed: int = 7) -> dict[str, np.ndarray]:
    """Random float32 tensors: norms near 1, biases that matter, rows of matrices of unit variance.

    Args:
        shapes: Of the tensors, by their names in the checkpoint.
    """
    tensors = {}
    for index, (tensor, shape) in enumerate(shapes.items()):
        values = numbers(int(np.prod(shape)), seed * 1000 + index).reshape(shape)
        if tensor.lower().endswith("norm.weight"):
            tensors[tensor] = values / 2 + np.float32(1)
        else:
            tensors[tensor] = values * np.float32(0.4 if len(shape) == 1 else np.sqrt(3 / shape[-1]))
    return {tensor: values.astype(np.float32) for tensor, values in tensors.items()}
