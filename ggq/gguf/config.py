"""The hyper-parameters of a GGUF file as the config.json of the same model, which the families read.

Every key of the architecture is accounted for: one that nobody reads is refused by name unless it means nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggq.errors import ModelError, UnsupportedError
from ggq.models.fields import shown

MEANINGLESS = frozenset({"vocab_size", "rope.dimension_count", "attention.value_length", "rope.scaling.finetuned"})
"""Keys that repeat what others or the tensors say."""


class Keys:
    """The keys of an architecture, each remembered once it was read.

    Args:
        metadata: Of the file.
        path: The file, for messages.
    """

    def __init__(self, metadata: Mapping[str, Any], path: str) -> None:
        self.path, self.architecture = path, str(metadata.get("general.architecture", ""))
        prefix = f"{self.architecture}."
        self._values = {key.removeprefix(prefix): metadata for key in metadata if key.startswith(prefix)}
        self._prefix, self._metadata, self._read = prefix, metadata, set[str]()

    def get(self, key: str, default: Any = None) -> Any:
        """A value; the default where there is none."""
        self._read.add(key)
        return self._metadata[self._prefix + key] if key in self._values else default

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; the only one of a list whose numbers are equal.

        Raises:
            ModelError: It is missing or something else.
            UnsupportedError: Layers have different ones.
        """
        found = self.get(key, default)
        if isinstance(found, np.ndarray) and found.size and found.dtype.kind in "iu":
            if (found != found[0]).any():
                raise UnsupportedError("layers of different sizes", path=self.path, where=self._prefix + key)
            found = int(found[0])
        if isinstance(found, bool) or not isinstance(found, int):
            problem = "missing" if found is None else f"{shown(found)} found, a whole number expected"
            raise ModelError(problem, path=self.path, where=self._prefix + key)
        return found

    def number(self, key: str, default: float | None = None) -> float:
        """A number.

        Raises:
            ModelError: It is missing or something else.
        """
        found = self.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float):
            problem = "missing" if found is None else f"{shown(found)} found, a number expected"
            raise ModelError(problem, path=self.path, where=self._prefix + key)
        return float(str(np.float32(found)))  # the decimal number that was meant: 1e-05, not 9.99999975e-06

    def check_all_read(self) -> None:
        """Refuse a key that nobody has read.

        Raises:
            UnsupportedError: There is one that would change the model.
        """
        left = [key for key in self._values if key not in self._read | MEANINGLESS]
        if left:
            where = self._prefix + left[0]
            raise UnsupportedError(f"{shown(self._metadata[where])} is not supported", path=self.path, where=where)


@dataclass(frozen=True)
class Architecture:
    """An architecture of GGUF files.

    Args:
        name: Class of transformers.
        model_type: Its "model_type".
        config: Keys of config.json beyond those that all have.
        permuted: Whether rows of queries and keys were put in pairs.
    """

    name: str
    model_type: str
    config: Callable[[Keys, Mapping[str, tuple[int, ...]]], dict[str, Any]] = lambda keys, shapes: {}
    permuted: bool = False


def _qwen2(keys: Keys, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"use_sliding_window": False}


def _qwen3(keys: Keys, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"use_sliding_window": False, "attention_bias": "blk.0.attn_q.bias" in shapes}


def _llama(keys: Keys, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"attention_bias": "blk.0.attn_q.bias" in shapes, "mlp_bias": "blk.0.ffn_up.bias" in shapes}


def _gemma(keys: Keys, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": keys.integer("attention.sliding_window"),
        "query_pre_attn_scalar": keys.integer("attention.key_length"),
    }


def _gemma2(keys: Keys, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {
        **_gemma(keys, shapes),
        "attn_logit_softcapping": keys.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": keys.number("final_logit_softcapping", 30.0),
    }


def _gemma3(keys: Keys, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Whether a layer has a window is not in the file: five of six have one."""
    keys.get("attention.sliding_window_pattern")
    return {
        **_gemma(keys, shapes),
        "rope_theta": keys.number("rope.freq_base", 1e6),
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 10000.0),
        "sliding_window_pattern": 6,
    }


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", "llama", _llama, permuted=True),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2", _qwen2),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3", _qwen3),
    "gemma2": Architecture("Gemma2ForCausalLM", "gemma2", _gemma2),
    "gemma3": Architecture("Gemma3ForCausalLM", "gemma3_text", _gemma3),
}
"""Architectures by "general.architecture"."""


def find_architecture(metadata: Mapping[str, Any], path: str) -> Architecture:
    """The architecture that a file names.

    Raises:
        ModelError: It names none.
        UnsupportedError: No such architecture here.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ModelError("missing: the file holds no model", path=path, where="general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        problem = f"{shown(name)} is not supported as a GGUF file; supported: {known}"
        raise UnsupportedError(problem, path=path, where="general.architecture")
    return ARCHITECTURES[name]


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
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": base,
        "tie_word_embeddings": "output.weight" not in shapes,
        "hidden_act": "silu",
        **architecture.config(keys, shapes),
    }
    if keys.get("attention.value_length", head_dim) != head_dim:
        where = f"{keys.architecture}.attention.value_length"
        raise UnsupportedError("values of another width than keys", path=path, where=where)
    if (scaling := _scaling(keys, factors, head_dim, base)) is not None:
        config["rope_scaling"] = scaling
    keys.check_all_read()
    return config


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
