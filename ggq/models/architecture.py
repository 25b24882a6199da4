"""What an architecture has to say of itself: its names, its sizes, its tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ggq.models.config import ModelConfig
from ggq.models.names import Expression


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a checkpoint of the architecture has, as it is stored in a file.

    Args:
        role: Its normalised role (spec/metadata.md); "" for one that is known, means nothing here and is not stored.
        shape: Its dimensions as it is stored.
        expression: What it is made of, by the names in the checkpoint.
        required: Whether a checkpoint without it is refused.
    """

    role: str
    shape: tuple[int, ...]
    expression: Expression
    required: bool = True

    @property
    def name(self) -> str:
        """Its name in a file: the checkpoint's where it is one whole tensor of that in whatever form, else its role."""
        return self.expression.whole() or self.role or str(self.expression)


class Architecture(Protocol):
    """A family of checkpoints, as data: the one place that knows Hugging Face's names for it."""

    names: tuple[str, ...]
    """Hugging Face class names, as in "architectures" of config.json; the first is the one that is written down."""
    model_types: tuple[str, ...]
    """Values of "model_type" in config.json."""

    def config(self, hf: Mapping[str, object], path: str | os.PathLike[str] | None = None) -> ModelConfig:
        """The normalised, checked form of a config.json."""
        ...

    def tensors(self, config: ModelConfig) -> list[TensorSpec]:
        """Every tensor of such a checkpoint, in the order in which a forward pass meets them."""
        ...
