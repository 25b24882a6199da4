"""The hyper-parameters of a GGUF file as the config.json of the same model, which the families read.

Every key of the architecture is accounted for: one that nobody reads is refused by name unless it means nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ggq.errors import ModelError, UnsupportedError
from ggq.gguf.architecture.hyper import Keys
from ggq.gguf.architecture.table import ARCHITECTURES as ARCHITECTURES
from ggq.gguf.architecture.table import Architecture, find_architecture
from ggq.models.fields import shown


def read_config(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factors: np.ndarray | None, path: str
) -> dict[str, Any]:
    """The config.json of a file's model.

    Args:
        metadata: The file's.
        shapes: Of its tensors, by name.
        factors: What "rope_freqs.weight" holds, by which frequencies are divided; None without.
        path: The file, for messages.

    Raises:
        ModelError: A key or the embedding is missing, or a value of the wrong type.
        UnsupportedError: An architecture, or a key that nobody here reads.
    """
    architecture, keys = find_architecture(metadata, path), Keys(metadata, path)
    if "token_embd.weight" not in shapes:
        raise ModelError("missing: the file holds no whole model", path=path, where="tensor token_embd.weight")
    heads, hidden = keys.integer("attention.head_count"), keys.integer("embedding_length")
    if heads < 1:
        raise ModelError(f"{heads} heads found", path=path, where=f"{keys.architecture}.attention.head_count")
    head_dim = keys.integer("attention.key_length", hidden // heads)
    base = keys.number("rope.freq_base", 10000.0)
    config: dict[str, Any] = {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": hidden,
        "num_hidden_layers": keys.integer("block_count"),
        "intermediate_size": keys.integer("feed_forward_length", 0 if keys.has("expert_count") else None),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": keys.integer("context_length"),
        architecture.norm: keys.number(architecture.epsilon),
        "rope_theta": base,
        "tie_word_embeddings": "output.weight" not in shapes,
        "hidden_act": "silu",
        **architecture.config(keys, shapes),
    }
    config = {key: value for key, value in config.items() if value is not None}
    turned = _turned(keys, architecture, head_dim)
    if architecture.partial:
        config[architecture.partial] = turned / head_dim
    if keys.get("attention.value_length", head_dim) != head_dim:
        where = f"{keys.architecture}.attention.value_length"
        raise UnsupportedError("values of another width than keys", path=path, where=where)
    if (scaling := _scaling(keys, factors, head_dim, base)) is not None:
        config["rope_scaling"] = scaling
    keys.check_all_read()
    return config


def _turned(keys: Keys, architecture: Architecture, head_dim: int) -> int:
    """How many numbers of a head RoPE turns."""
    turned = keys.integer("rope.dimension_count", head_dim)
    if turned != head_dim and not architecture.partial:
        where = f"{keys.architecture}.rope.dimension_count"
        raise UnsupportedError(f"{turned} of {head_dim} numbers of a head turn", path=keys.path, where=where)
    return turned


def _scaling(keys: Keys, factors: np.ndarray | None, head_dim: int, base: float) -> dict[str, Any] | None:
    """How RoPE's frequencies were changed."""
    kind, factor = keys.get("rope.scaling.type", "none"), keys.get("rope.scaling.factor")
    original = keys.get("rope.scaling.original_context_length")
    if factors is not None:
        return _llama3(np.asarray(factors, np.float64), head_dim, base, original, keys.path)
    if kind == "none" or factor in (None, 0, 1):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(factor)}
    if kind == "yarn" and isinstance(original, int):
        return {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": original}
    where = f"{keys.architecture}.rope.scaling.type"
    raise UnsupportedError(f"{shown(kind)} is not supported", path=keys.path, where=where)


def _llama3(factors: np.ndarray, head_dim: int, base: float, original: object, path: str) -> dict[str, Any]:
    """The llama3 scaling whose factors these are: their largest, between wave lengths of a quarter of the original
    context and all of it."""
    lengths = 2 * np.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    factor = float(factors.max(initial=1.0))
    context = original if isinstance(original, int) and original > 0 else 8192
    smooth = (context / lengths - 1) / 3
    between = 1 / ((1 - smooth) / factor + smooth)
    expected = np.where(lengths < context / 4, 1.0, np.where(lengths > context, factor, between))
    if len(factors) != len(expected) or not np.allclose(factors, expected, rtol=1e-4):
        problem = "factors of frequencies that are not those of Llama 3"
        raise UnsupportedError(problem, path=path, where="tensor rope_freqs.weight")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": context,
    }
