"""Which sizes a model may have: bounds that hold whatever the file says, and the rules that tie sizes to each other."""

from __future__ import annotations

import os

from ggq.errors import ModelError
from ggq.models.config import ModelConfig

INTEGERS: dict[str, tuple[int, int]] = {
    "vocabulary_size": (1, 1 << 24),
    "hidden_size": (1, 1 << 20),
    "intermediate_size": (1, 1 << 22),
    "layers": (1, 4096),
    "heads": (1, 1 << 14),
    "kv_heads": (1, 1 << 14),
    "head_dim": (2, 1 << 13),
    "context_length": (1, 1 << 27),
    "original_context_length": (1, 1 << 27),
}
"""Lowest and highest allowed value of each size; far above any model known, far below what overflows."""

NUMBERS: dict[str, tuple[float, float]] = {
    "norm_epsilon": (0.0, 1.0),
    "theta": (0.0, 1e18),
    "factor": (0.0, 1e6),
    "low_frequency_factor": (0.0, 1e6),
    "high_frequency_factor": (0.0, 1e6),
}
"""Each number is above the first bound and not above the second."""


def check(config: ModelConfig, path: str | os.PathLike[str] | None = None) -> ModelConfig:
    """Check what ties the sizes of a model together.

    Args:
        config: Sizes that are each within their own bounds.
        path: The file that they came from, for the message.

    Returns:
        The same config.

    Raises:
        ModelError: Heads are not shared evenly, a head cannot be rotated in pairs, or the RoPE bands overlap.
    """
    rope = config.rope
    if config.heads % config.kv_heads:
        problem = f"{config.heads} heads cannot share {config.kv_heads} key-value heads evenly"
    elif config.head_dim % 2:
        problem = f"RoPE rotates pairs, and the head dimension {config.head_dim} is odd"
    elif rope.scaling == "llama3" and rope.low_frequency_factor >= rope.high_frequency_factor:
        problem = (
            f"llama3 RoPE scaling needs its low frequency factor ({rope.low_frequency_factor:g}) "
            f"below the high one ({rope.high_frequency_factor:g})"
        )
    else:
        return config
    raise ModelError(problem, path=path)
