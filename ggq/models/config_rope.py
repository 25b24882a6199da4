"""Rotary position embedding as a config.json has it, of transformers 4 or 5; docs/sources.md says which place wins."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ggq.models.config import Config, Inner
from ggq.models.field import declaration
from ggq.models.fields import Fields, shown
from ggq.models.rope import Linear, Llama3, Rope, Scaling, Yarn

ORIGINAL = "original_max_position_embeddings"


def read_rope(config: Config, head_dim: int, context: int, layout: str = "half") -> Rope:
    """RoPE as transformers 5 ("rope_parameters") or 4 ("rope_theta" beside "rope_scaling") writes it.

    Args:
        config: The config.json.
        head_dim: Numbers of a head, all of which turn.
        context: The model's context in tokens.
        layout: How the family pairs the numbers of a head.

    Raises:
        ModelError: A value is missing, of the wrong type or out of bounds.
        UnsupportedError: Another form of RoPE.
    """
    inner = rope_source(config)
    kind = inner.choice("rope_type" if "rope_type" in inner else "type", tuple(FORMS), "default")
    if inner.values.get("type") == kind:
        inner.get("type")  # beside "rope_type", for older programs
    for key, value in inner.values.items():
        if isinstance(value, list | dict):  # a RoPE per kind of layer, or sections of a multimodal one
            raise inner.unsupported(key, f"{shown(value)} found: this form of RoPE is not supported")
    for place in (inner, config):
        if "partial_rotary_factor" in place and place.number("partial_rotary_factor", (0.0, 1.0)) != 1.0:
            raise place.unsupported("partial_rotary_factor", "rotating a part of each head is not supported")
    theta = _read(inner if "rope_theta" in inner else config, "rope_theta", Rope, "theta")
    config.overrule("rope_theta", theta)
    return Rope(theta, layout, head_dim, FORMS[kind](config, inner, context))


def rope_source(config: Config) -> Inner:
    """The object that says how heads are rotated: "rope_scaling" unless it is empty, else "rope_parameters" (S-1)."""
    found = Inner(Fields({}, config.path))
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if found.values:
            config.overrule(key, found.values)
        elif value not in (None, False):
            found = config.inner(key)
    return found


def _linear(config: Config, inner: Inner, context: int) -> Linear:
    return Linear(_read(inner, "factor", Linear, "factor"))


def _llama3(config: Config, inner: Inner, context: int) -> Llama3:
    return Llama3(
        factor=_read(inner, "factor", Llama3, "factor"),
        low_frequency_factor=_read(inner, "low_freq_factor", Llama3, "low_frequency_factor"),
        high_frequency_factor=_read(inner, "high_freq_factor", Llama3, "high_frequency_factor"),
        original_context_length=_original(config, inner, context),
    )


def _yarn(config: Config, inner: Inner, context: int) -> Yarn:
    original = _original(config, inner, context)
    factor = _read(inner, "factor", Yarn, "factor") if "factor" in inner else context / original
    one, all_dimensions = (
        inner.number(key, (0.0, 1e6), zero=True) if key in inner else 0.0 for key in ("mscale", "mscale_all_dim")
    )
    if "attention_factor" in inner:
        attention = _read(inner, "attention_factor", Yarn, "attention_factor")
    elif one and all_dimensions:
        attention = _attention_factor(factor, one) / _attention_factor(factor, all_dimensions)
    else:
        attention = _attention_factor(factor, 1.0)
    return Yarn(
        factor=factor,
        original_context_length=original,
        beta_fast=_read(inner, "beta_fast", Yarn, "beta_fast") if inner.values.get("beta_fast") else 32.0,
        beta_slow=_read(inner, "beta_slow", Yarn, "beta_slow") if inner.values.get("beta_slow") else 1.0,
        truncate=inner.flag("truncate", True),
        attention_factor=attention,
    )


def _attention_factor(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _original(config: Config, inner: Inner, context: int) -> int:
    """The context before stretching (S-4)."""
    place = config if ORIGINAL in config else inner
    found: int = _read(place, ORIGINAL, Llama3, "original_context_length") if ORIGINAL in place else context
    return found


def _read(place: Fields, key: str, part: type, name: str) -> Any:
    """The value of a key, which becomes the field of a part and has its bounds."""
    return declaration(part, name).read(place, key)


FORMS: dict[str, Callable[[Config, Inner, int], Scaling | None]] = {
    "default": lambda config, inner, context: None,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
"""What reads each form that is supported, by transformers' name."""
