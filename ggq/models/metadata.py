"""ModelConfig to and from a file's metadata (spec/metadata.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields

from ggq.models import limits
from ggq.models.config import ModelConfig, RopeConfig
from ggq.models.fields import Fields

Scalar = bool | int | float | str

CHOICES: dict[str, tuple[str, ...]] = {
    "kind": ("decoder",),
    "norm": ("rms",),
    "activation": ("silu",),
    "layout": ("half",),
    "scaling": ("none", "llama3"),
}
"""The words that this version knows for each field that is a word."""


def to_metadata(config: ModelConfig, architecture: str) -> dict[str, Scalar]:
    """The metadata entries of a model.

    Args:
        config: A checked config.
        architecture: The Hugging Face class name, for people to read; no reader branches on it.

    Returns:
        Keys "model.*" with their values, in the order of the spec's table.
    """
    entries: dict[str, Scalar] = {"model.kind": "decoder", "model.architecture": architecture}
    for field in dataclass_fields(config):
        if field.name != "rope":
            entries[f"model.{field.name}"] = getattr(config, field.name)
    for field in dataclass_fields(config.rope):
        entries[f"model.rope.{field.name}"] = getattr(config.rope, field.name)
    return entries


def from_metadata(metadata: Mapping[str, object], path: str | os.PathLike[str] | None = None) -> ModelConfig:
    """The model that a file's metadata describes, every value checked.

    Args:
        metadata: The file's metadata.
        path: The file, for the messages.

    Raises:
        ModelError: A key is missing, of the wrong type, out of bounds or contradicts another.
        UnsupportedError: A kind of model, norm, activation or RoPE that this version does not have.
    """
    model = Fields(under(metadata, "model."), path, "model.")
    model.choice("kind", CHOICES["kind"])
    if not model.flag("gated"):
        raise model.unsupported("gated", "a feed-forward without a gate is not supported")

    def size(key: str) -> int:
        return model.integer(key, limits.INTEGERS[key])

    config = ModelConfig(
        vocabulary_size=size("vocabulary_size"),
        hidden_size=size("hidden_size"),
        intermediate_size=size("intermediate_size"),
        layers=size("layers"),
        heads=size("heads"),
        kv_heads=size("kv_heads"),
        head_dim=size("head_dim"),
        context_length=size("context_length"),
        norm=model.choice("norm", CHOICES["norm"]),
        norm_epsilon=model.number("norm_epsilon", limits.NUMBERS["norm_epsilon"]),
        activation=model.choice("activation", CHOICES["activation"]),
        gated=True,
        rope=read_rope(Fields(under(metadata, "model.rope."), path, "model.rope.")),
        tied_embedding=model.flag("tied_embedding"),
        query_bias=model.flag("query_bias"),
        output_bias=model.flag("output_bias"),
        mlp_bias=model.flag("mlp_bias"),
    )
    return limits.check(config, path)


def read_rope(rope: Fields) -> RopeConfig:
    """The keys "model.rope.*"; those of llama3 scaling are read only where it is used."""
    theta = rope.number("theta", limits.NUMBERS["theta"])
    layout = rope.choice("layout", CHOICES["layout"])
    scaling = rope.choice("scaling", CHOICES["scaling"])
    if scaling == "none":
        return RopeConfig(theta, layout, scaling, 0.0, 0.0, 0.0, 0)
    return RopeConfig(
        theta=theta,
        layout=layout,
        scaling=scaling,
        factor=rope.number("factor", limits.NUMBERS["factor"]),
        low_frequency_factor=rope.number("low_frequency_factor", limits.NUMBERS["low_frequency_factor"]),
        high_frequency_factor=rope.number("high_frequency_factor", limits.NUMBERS["high_frequency_factor"]),
        original_context_length=rope.integer("original_context_length", limits.INTEGERS["original_context_length"]),
    )


def under(metadata: Mapping[str, object], prefix: str) -> dict[str, object]:
    """The entries whose keys begin with `prefix`, without it."""
    return {key[len(prefix) :]: metadata[key] for key in metadata if key.startswith(prefix)}
