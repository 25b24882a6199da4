"""Rotary position embedding as a config.json has it, of transformers 4 or 5; docs/sources.md says which place wins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ggq.models.config import Config, Inner, Only, OrNull
from ggq.models.field import declaration
from ggq.models.fields import Fields, shown
from ggq.models.rope import Dynamic, Linear, Llama3, LongRope, Proportional, Rope, Scaling, Yarn

ORIGINAL = "original_max_position_embeddings"
PROPORTIONAL = "proportional"
"""The form whose pairs are those of whole heads, of which a part turns."""

LONG = ("longrope", "su")
"""Forms whose factors are others in texts that are longer than the original context."""


def read_rope(
    config: Config,
    head_dim: int,
    context: int,
    layout: str = "half",
    *,
    inner: Inner | None = None,
    base: str = "rope_theta",
    share: str = "partial_rotary_factor",
    forms: Sequence[str] = (),
) -> Rope:
    """RoPE as transformers 5 ("rope_parameters") or 4 ("rope_theta" beside "rope_scaling") writes it.

    Args:
        config: The config.json; a family of which a part of each head may turn has a default for `share` that is a
            number.
        head_dim: Numbers of a head.
        context: The model's context in tokens.
        layout: How the family pairs the numbers of a head.
        inner: The object that says it; `rope_source` by default.
        base: The key of config.json that has the base where `inner` has none.
        share: The key of config.json that has the share of each head that turns, where `inner` has none.
        forms: Those that the family has; all of `FORMS` but `LONG` by default.

    Raises:
        ModelError: A value is missing, of the wrong type or out of bounds.
        UnsupportedError: Another form of RoPE.
    """
    inner = rope_source(config) if inner is None else inner
    usual = [form for form in FORMS if form not in LONG]
    kind = inner.choice("rope_type" if "rope_type" in inner else "type", tuple(forms or usual), "default")
    if inner.values.get("type") == kind:
        inner.get("type")  # beside "rope_type", for older programs
    for key, value in inner.values.items():
        if kind in LONG and key in ("short_factor", "long_factor"):
            continue
        if isinstance(value, list | dict):  # a RoPE per kind of layer, or sections of a multimodal one
            raise inner.unsupported(key, f"{shown(value)} found: this form of RoPE is not supported")
    part = _partial(config, inner, share)
    rotated = int(head_dim * part)
    theta = _read(inner, "rope_theta", Rope, "theta") if "rope_theta" in inner else _read(config, base, Rope, "theta")
    config.overrule(base, theta)
    if kind == PROPORTIONAL:
        factor = _read(inner, "factor", Linear, "factor") if "factor" in inner else 1.0
        return Rope(theta, layout, head_dim, Proportional(int(part * head_dim // 2), factor))
    return Rope(theta, layout, rotated, FORMS[kind](config, inner, context))


def _partial(config: Config, inner: Inner, key: str) -> float:
    """The share of each head that turns: of the inner object, else of config.json, else the family's."""
    inside = "partial_rotary_factor"
    if isinstance(config.keys[key], Only):
        for place in (inner, config):
            if inside in place and place.number(inside, (0.0, 1.0)) != 1.0:
                raise place.unsupported(inside, "rotating a part of each head is not supported")
        return 1.0
    share = inner.number(inside, (0.0, 1.0)) if inside in inner else config.number(key, (0.0, 1.0))
    config.overrule(key, share)
    return share


def rope_source(config: Config, usual: Mapping[str, Any] | None = None) -> Inner:
    """The object that says how heads are rotated: "rope_scaling" unless it is empty, else "rope_parameters" (S-1); what
    is usual where neither is there."""
    found = Inner(Fields({}, config.path))
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if found.values:
            config.overrule(key, found.values)
        elif value not in (None, False):
            found = config.inner(key)
    return found if found.values or usual is None else Inner(Fields(usual, config.path, "rope_parameters."))


def rope_sources(config: Config, kinds: Sequence[str]) -> dict[str, Inner]:
    """What "rope_parameters" has for each kind of layer, the first of which takes what "rope_scaling" says besides."""
    if ORIGINAL in config:
        raise config.unsupported(ORIGINAL, "only the object of a kind of layer may have it where each has a RoPE")
    given = config.get("rope_parameters") is not None
    whole = config.inner("rope_parameters") if given else Inner(Fields({}, config.path, "rope_parameters."))
    found = {}
    for kind in kinds:
        own = whole.inner(kind) if kind in whole else Fields({}, config.path, f"{whole.prefix}{kind}.")
        scaling = Fields.inner(config, "rope_scaling") if config.get("rope_scaling") not in (None, False) else None
        if scaling is not None and kind == kinds[0]:
            values = {**(own.values if given else {"rope_type": "default"}), **scaling.values}
            own = Fields(values, config.path, scaling.prefix)
        found[kind] = Inner(own)
    config.inside += found.values()
    return found


def _dynamic(config: Config, inner: Inner, context: int) -> Dynamic:
    return Dynamic(_read(inner, "factor", Dynamic, "factor"))


def _linear(config: Config, inner: Inner, context: int) -> Linear:
    return Linear(_read(inner, "factor", Linear, "factor"))


def _llama3(config: Config, inner: Inner, context: int) -> Llama3:
    return Llama3(
        factor=_read(inner, "factor", Llama3, "factor"),
        low_frequency_factor=_read(inner, "low_freq_factor", Llama3, "low_frequency_factor"),
        high_frequency_factor=_read(inner, "high_freq_factor", Llama3, "high_frequency_factor"),
        original_context_length=original_context(config, inner, context),
    )


def _yarn(config: Config, inner: Inner, context: int) -> Yarn:
    original = original_context(config, inner, context)
    factor = _read(inner, "factor", Yarn, "factor") if "factor" in inner else context / original
    one, all_dimensions = (
        inner.number(key, (0.0, 1e6), zero=True) if key in inner else 0.0 for key in ("mscale", "mscale_all_dim")
    )
    if "attention_factor" in inner:
        attention = _read(inner, "attention_factor", Yarn, "attention_factor")
    elif one and all_dimensions:
        attention = attention_factor(factor, one) / attention_factor(factor, all_dimensions)
    else:
        attention = attention_factor(factor, 1.0)
    return Yarn(
        factor=factor,
        original_context_length=original,
        beta_fast=_read(inner, "beta_fast", Yarn, "beta_fast") if inner.values.get("beta_fast") else 32.0,
        beta_slow=_read(inner, "beta_slow", Yarn, "beta_slow") if inner.values.get("beta_slow") else 1.0,
        truncate=inner.flag("truncate", True),
        attention_factor=attention,
    )


def _longrope(config: Config, inner: Inner, context: int) -> LongRope:
    original = original_context(config, inner, context)
    factor = _read(inner, "factor", Yarn, "factor") if "factor" in inner else context / original
    if "attention_factor" in inner:
        attention = _read(inner, "attention_factor", Yarn, "attention_factor")
    else:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short, long = (_read(inner, f"{name}_factor", LongRope, f"{name}_factors") for name in ("short", "long"))
    return LongRope(short, long, original, attention)


def attention_factor(factor: float, weight: float) -> float:
    """YaRN's factor of scores, of one weight."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def original_context(config: Config, inner: Inner, context: int) -> int:
    """The context before stretching (S-4)."""
    place = config if ORIGINAL in config else inner
    if inner.values.get(ORIGINAL) == config.values.get(ORIGINAL):
        inner.get(ORIGINAL, 0)  # said twice
    known = config.keys[ORIGINAL]
    usual = known.default if isinstance(known, OrNull) and isinstance(known.default, int) else context
    found: int = _read(place, ORIGINAL, Llama3, "original_context_length") if ORIGINAL in place else usual
    return found


def _read(place: Fields, key: str, part: type, name: str) -> Any:
    """The value of a key, which becomes the field of a part and has its bounds."""
    return declaration(part, name).read(place, key)


FORMS: dict[str, Callable[[Config, Inner, int], Scaling | None]] = {
    "default": lambda config, inner, context: None,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
"""What reads each form that is supported, by transformers' name."""
