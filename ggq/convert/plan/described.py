"""What a config.json says of a model: its parts, its program, and the tensors that it must have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ggq.models.architecture import TensorSpec
from ggq.models.config import ModelConfig
from ggq.models.decoder import build_program
from ggq.models.registry import find_architecture
from ggq.tape.program import Program


class Described(NamedTuple):
    """A model before a tensor of it is looked at.

    Args:
        architecture: Hugging Face's name of its class.
        model: Its sizes and choices.
        program: Its operations.
        specs: Every tensor of such a checkpoint, in the order in which a forward pass meets them.
    """

    architecture: str
    model: ModelConfig
    program: Program
    specs: tuple[TensorSpec, ...]


def describe(config: Mapping[str, object], path: Path) -> Described:
    """The model of a config.json.

    Args:
        config: The parsed file.
        path: That file, for messages.

    Raises:
        GGQError: The architecture or something in it is not supported, or the file contradicts itself.
    """
    architecture = find_architecture(config, path)
    model = architecture.config(config, path)
    return Described(architecture.names[0], model, build_program(model), tuple(architecture.tensors(model)))
