"""What a config.json says of a model: its parts, and the tensors that it must have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from ggq.models.family import TensorSpec
from ggq.models.parts import Stack, check
from ggq.models.registry import find_architecture
from ggq.models.text.pooling import Pooling, pooled_tensors, with_pooling


class Described(NamedTuple):
    """A model before a tensor of it is looked at.

    Args:
        architecture: Hugging Face's name of its class.
        model: Its parts.
        specs: Every tensor of such a checkpoint, in the order in which a forward pass meets them.
        unread_keys: Keys of config.json that mean nothing, to transformers neither.
        beside: What the names of tensors begin with that are no part of the text model.
    """

    architecture: str
    model: Stack
    specs: tuple[TensorSpec, ...]
    unread_keys: tuple[str, ...]
    beside: tuple[str, ...]


def describe(
    config: Mapping[str, object], path: Path, pooling: Pooling | None = None, names: Collection[str] = ()
) -> Described:
    """The model of a config.json.

    Args:
        config: The parsed file.
        path: That file, for messages.
        pooling: How rows become the vector of a text, where that is said beside config.json.
        names: Of the checkpoint's tensors, which tell the layout where a family has several.

    Raises:
        GGQError: The architecture or something in it is not supported, or the file contradicts itself.
    """
    family = find_architecture(config, path)
    model, unread = family.read(config, path)
    specs = tuple(family.laid_out(model, names).tensors(model))
    if pooling is not None:
        model = check(with_pooling(model, pooling), path)
        specs = pooled_tensors(specs, model, pooling)
    return Described(family.names[0], model, specs, unread, family.beside)
