"""The parts of a model as the keys of a GGUF file, read back before they are believed.

An architecture that other programs know says less than our parts do. What it cannot say is refused: the keys are read
as any file's are, and what comes out must be the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ggq.errors import UnsupportedError
from ggq.gguf.architecture.places import Names, places, whole_shapes
from ggq.gguf.architecture.table import SECOND_NORM
from ggq.gguf.config import ARCHITECTURES, read_config
from ggq.gguf.container import FACTORS
from ggq.models.build import role_shapes
from ggq.models.metadata import to_metadata
from ggq.models.parts import Attention, Experts, Mlp, ModelSpec
from ggq.models.registry import find_architecture
from ggq.models.rope import Linear, Llama3, Rope, Yarn

SAME = {
    "MistralForCausalLM": "LlamaForCausalLM",
    "MixtralForCausalLM": "LlamaForCausalLM",
    "GraniteMoeSharedForCausalLM": "GraniteMoeForCausalLM",
}
"""Classes whose models are written as those of another, where its parts are the same."""


BIASED = ("llama", "qwen2", "granite", "starcoder2", "stablelm", "gptneox", "gpt2", "qwen2moe", "gpt-oss", "glm4")
"""Architectures in which llama.cpp loads biases; elsewhere it refuses the file."""


def architecture_of(model: str, path: str) -> str:
    """The architecture of GGUF files by the name of a class of transformers.

    Raises:
        UnsupportedError: There is none.
    """
    for name, each in ARCHITECTURES.items():
        if each.name == SAME.get(model, model):
            return name
    known = ", ".join(each.name for each in ARCHITECTURES.values())
    raise UnsupportedError(f"{model} is not written as a GGUF file; supported: {known}", path=path)


def names_written(spec: ModelSpec, architecture: str) -> Names:
    """How the tensors of a model are named in a file that is written."""
    if architecture == "falcon" and any(role.startswith("layers.0.mlp_norm.") for role in role_shapes(spec)):
        return SECOND_NORM
    return ARCHITECTURES[architecture].names


def model_keys(spec: ModelSpec, model: str, path: str) -> tuple[dict[str, Any], np.ndarray | None]:
    """The keys of a model, and the factors of its frequencies where it has some (the tensor "rope_freqs.weight").

    Args:
        spec: The model.
        model: Its class of transformers.
        path: The file that it is from, for messages.

    Raises:
        UnsupportedError: The keys of its architecture do not say all of it.
    """
    name = architecture_of(model, path)
    found, factors = _keys(spec, ARCHITECTURES[name].epsilon, path)
    found |= _experts(spec) | OWN_KEYS.get(name, lambda spec: {})(spec)
    if name not in BIASED and any(_is_bias(role, name) for role in role_shapes(spec)):
        raise UnsupportedError(
            f"{model} with biases is not written as a GGUF file: llama.cpp has none there", path=path
        )
    first = spec.layers[0].mixer
    if name == "olmoe" and isinstance(first, Attention) and first.kv_heads != first.heads:
        problem = (
            f"{model} with {first.kv_heads} heads of keys is not written as a GGUF file: llama.cpp has {first.heads}"
        )
        raise UnsupportedError(problem, path=path)
    keys = {"general.architecture": name, **{f"{name}.{key}": value for key, value in found.items()}}
    _check(spec, model, keys, factors, path)
    return keys, factors


def _is_bias(role: str, architecture: str) -> bool:
    """Whether a role is a bias that not all files of an architecture have: the norms of Falcon's have theirs."""
    return role.endswith(".bias") and not (architecture == "falcon" and role.endswith("norm.bias"))


def _keys(spec: ModelSpec, epsilon: str, path: str) -> tuple[dict[str, Any], np.ndarray | None]:
    first, mixers = spec.layers[0], [layer.mixer for layer in spec.layers]
    attention, norm = first.mixer, spec.head.norm
    if not isinstance(attention, Attention) or not isinstance(first.feed_forward, Mlp | Experts) or norm is None:
        raise UnsupportedError("a model without attention or norms is not written as a GGUF file", path=path)
    found: dict[str, Any] = {
        "context_length": spec.context_length,
        "embedding_length": spec.embedding.width,
        "block_count": len(spec.layers),
        "feed_forward_length": first.feed_forward.width,
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.head_dim,
        "vocab_size": spec.embedding.vocabulary_size,
        epsilon: float(norm.epsilon),
    }
    ropes = [m.rope for m in mixers if isinstance(m, Attention) and m.rope is not None]
    factors = None
    if ropes:
        slow = max(ropes, key=lambda rope: rope.theta)
        found["rope.freq_base"], found["rope.dimension_count"] = float(slow.theta), slow.rotated
        if len({rope.theta for rope in ropes}) > 1:
            found["rope.freq_base_swa"] = float(min(rope.theta for rope in ropes))
        scaling, factors = _scaling(slow)
        found |= scaling
    windows = {m.window for m in mixers if isinstance(m, Attention)}
    if max(windows):
        found["attention.sliding_window"] = max(windows)
    if attention.softcap:
        found["attn_logit_softcapping"] = float(attention.softcap)
    if spec.head.softcap:
        found["final_logit_softcapping"] = float(spec.head.softcap)
    return found, factors


def _experts(spec: ModelSpec) -> dict[str, Any]:
    """Keys of models whose layers have experts."""
    first = spec.layers[0].feed_forward
    if not isinstance(first, Experts):
        return {}
    found = {"expert_count": first.count, "expert_used_count": first.chosen}
    return found | ({"expert_shared_feed_forward_length": first.shared_width} if first.shared_width else {})


def _experts_width(spec: ModelSpec) -> dict[str, Any]:
    first = spec.layers[0].feed_forward
    return {"expert_feed_forward_length": first.width} if isinstance(first, Experts) else {}


def _multipliers(spec: ModelSpec) -> dict[str, Any]:
    first, scale = spec.layers[0], spec.head.scale
    assert isinstance(first.mixer, Attention)
    return {
        "embedding_scale": float(spec.embedding.scale),
        "attention.scale": float(first.mixer.scale),
        "residual_scale": float(first.residual_scale),
        "logit_scale": 1 / scale,
    }


def _logit_scale(spec: ModelSpec) -> dict[str, Any]:
    return {"logit_scale": float(spec.head.scale)}


def _parallel(spec: ModelSpec) -> dict[str, Any]:
    return {"use_parallel_residual": bool(spec.layers[0].parallel)}


OWN_KEYS: dict[str, Callable[[ModelSpec], dict[str, Any]]] = {
    "granite": _multipliers,
    "granitemoe": _multipliers,
    "command-r": _logit_scale,
    "cohere2": _logit_scale,
    "stablelm": _parallel,
    "gptneox": _parallel,
    **dict.fromkeys(("qwen2moe", "qwen3moe", "olmoe", "gpt-oss"), _experts_width),
}
"""Keys that not all architectures have."""


def _scaling(rope: Rope) -> tuple[dict[str, Any], np.ndarray | None]:
    """How frequencies were changed: keys, and the factors by which they are divided."""
    scaling = rope.scaling
    if isinstance(scaling, Llama3):
        plain = rope.theta ** (-np.arange(0, rope.rotated, 2) / rope.rotated)
        original = {"rope.scaling.original_context_length": scaling.original_context_length}
        return original, (plain / scaling.stretched(plain, rope.theta)).astype(np.float32)
    if isinstance(scaling, Linear):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}, None
    if isinstance(scaling, Yarn):
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(scaling.factor),
            "rope.scaling.original_context_length": scaling.original_context_length,
        }, None
    return {}, None


def _check(spec: ModelSpec, model: str, keys: Mapping[str, Any], factors: np.ndarray | None, path: str) -> None:
    names = names_written(spec, keys["general.architecture"])
    shapes = dict(whole_shapes(places(role_shapes(spec), names).values()))
    if factors is not None:
        shapes[FACTORS] = factors.shape
    config = read_config(keys, shapes, factors, path)
    again = find_architecture(config, Path(path)).config(config, Path(path))
    said, meant = to_metadata(again, model), to_metadata(spec, model)
    for key in dict.fromkeys([*meant, *said]):
        if not _same(said.get(key), meant.get(key)):
            problem = f"{meant.get(key)!r:.60} cannot be said in a GGUF file of this architecture"
            raise UnsupportedError(problem, path=path, where=key)


def _same(one: Any, other: Any) -> bool:
    """Equal, numbers up to the float32 that a file holds."""
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=1e-6, atol=0))
    return bool(one == other)
