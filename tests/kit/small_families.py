"""Tiny random checkpoints of every family: odd sizes, windows that prompts leave, soft caps that bend.

The names and shapes of their tensors are transformers' (tests/golden/families.json, by tools/make_golden.py), their
numbers are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.kit.configs import dense, experts, gemma, layer_norm, recurrent, windowed
from tests.kit.small_models import numbers

FAMILIES: dict[str, dict[str, Any]] = {
    **dense.CONFIGS,
    **gemma.CONFIGS,
    **layer_norm.CONFIGS,
    **windowed.CONFIGS,
    **recurrent.CONFIGS,
    **experts.CONFIGS,
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
    less_one = FAMILIES[name]["model_type"].startswith(("gemma2", "gemma3_", "qwen3_5", "qwen3_next"))
    tensors = {}
    for index, (tensor, shape) in enumerate(shapes.items()):
        values = numbers(int(np.prod(shape)), seed * 1000 + index).reshape(shape)
        if tensor.endswith("q_norm.weight") and name.startswith(("gemma4", "gemma3n")):
            tensors[tensor] = values / 6 + np.float32(0.35)  # as scores have no scale of their own
        elif tensor.endswith("norm.weight"):
            tensors[tensor] = values / 2 + np.float32(0 if less_one and "linear_attn" not in tensor else 1)
        elif tensor.endswith("act_fn.beta"):
            tensors[tensor] = np.float32(0.5) + values / 4
        elif tensor.endswith("act_fn.eps"):
            tensors[tensor] = np.float32(-1e-6) + 0 * values
        elif tensor.endswith(("layer_scalar", "router.scale", "per_expert_scale", "correct_output_scale")):
            tensors[tensor] = values / 2 + 1
        elif tensor.endswith("A_log"):
            tensors[tensor] = values * 2 - 2  # states that last, some for a hundred tokens
        else:
            scale = 0.4 if len(shape) == 1 else np.sqrt(3 / shape[-1])
            scale *= 3 if name == "gpt_oss" and "gate_up_proj" in tensor else 1  # past the bounds of its SwiGLU
            tensors[tensor] = values * np.float32(scale)
    return {tensor: np.asarray(values, np.float32) for tensor, values in tensors.items()}


def experts_of(config: Mapping[str, Any]) -> int:
    """How many experts a layer has; 0 for none."""
    found = (config[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if key in config)
    return int(next(found, 0))


def through_all_experts(name: str) -> dict[str, Any]:
    """The configuration of a family, every token of which goes through every expert: which are chosen jumps where two
    are nearly as good, as nothing else does."""
    config = FAMILIES[name]
    count = experts_of(config)
    groups = {"topk_group": config["n_group"]} if "n_group" in config else {}
    key = "top_k_experts" if "top_k_experts" in config else "num_experts_per_tok"
    return {**config, **groups, key: count} if count else config
