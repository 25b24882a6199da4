"""Which architectures there are."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ggq.errors import ModelError, UnsupportedError
from ggq.models.architecture import Architecture
from ggq.models.fields import shown
from ggq.models.llama import Llama

ARCHITECTURES: tuple[Architecture, ...] = (Llama(),)
"""All of them; an architecture is added here and in a file of its own."""


def find_architecture(hf: Mapping[str, object], path: str | os.PathLike[str] | None = None) -> Architecture:
    """The architecture that a config.json names.

    Args:
        hf: The parsed config.json.
        path: That file, for the messages.

    Raises:
        ModelError: "architectures" is not a list with one string.
        UnsupportedError: No such architecture here, or the weights are quantized already.
    """
    found = hf.get("architectures")
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
        raise ModelError(f"{shown(found)} found, a list with one class name expected", path=path, where="architectures")
    if hf.get("quantization_config") is not None:
        raise UnsupportedError(
            "the weights of this checkpoint are quantized already",
            path=path,
            where="quantization_config",
            fix="convert the original checkpoint",
        )
    for architecture in ARCHITECTURES:
        if found[0] in architecture.names:
            return architecture
    known = ", ".join(name for architecture in ARCHITECTURES for name in architecture.names)
    raise UnsupportedError(f"{shown(found[0])} is not supported; supported: {known}", path=path, where="architectures")
