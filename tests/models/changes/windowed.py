"""Changes. Families with windows, and what is shaped like them: Mistral, Ministral 3, OLMo 3, EXAONE 4, Phi-3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ggq.models.decoder import with_layers, with_mixers
from ggq.models.parts import (
    Attention,
    ModelSpec,
)
from tests.models.changes.changed import (
    long_rope,
    no_attention_factor,
    no_scaling,
    norms_before,
    plain_of,
    rope_as_full_layers,
    rope_everywhere,
    rope_of,
    window_plus,
    windows_in_other_layers,
    without,
)

CHANGES: dict[str, dict[str, Callable[[ModelSpec], ModelSpec]]] = {
    "mistral": {
        "no windows": without("window", 0),
        "a larger window": window_plus(1),
        "a smaller window": window_plus(-1),
        "no linear scaling": no_scaling,
    },
    "phi3_long": {
        "no factors": no_scaling,
        "no attention factor": no_attention_factor,
        "other factors": long_rope(short_factors=(1.0, 2.5, 8.0)),
    },
    "phi3_beyond": {
        "short factors everywhere": long_rope(original_context_length=499),
        "long factors everywhere": long_rope(original_context_length=1),
        "other long factors": long_rope(long_factors=(1.5, 2.0, 5.0, 9.0, 20.0)),
        "no attention factor": no_attention_factor,
    },
    "olmo3": {
        "no windows": without("window", 0),
        "a larger window": window_plus(1),
        "windows in other layers": windows_in_other_layers,
        "the RoPE of windows everywhere": rope_everywhere,
        "the RoPE of full layers everywhere": rope_as_full_layers,
        "no norm of queries": without("query_norm", None),
        "no norm behind attention": norms_before,
    },
    "exaone4": {
        "no windows": without("window", 0),
        "a smaller window": window_plus(-1),
        "RoPE everywhere": rope_everywhere,
        "no norm of keys": without("key_norm", None),
        "norms behind RoPE": without("normed", "turned"),
        "no norm behind attention": norms_before,
    },
    "ministral3": {
        "no window": without("window", 0),
        "no YaRN": no_scaling,
        "no attention factor": no_attention_factor,
    },
    "phi3": {
        "no windows": without("window", 0),
        "a larger window": window_plus(1),
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=10)),
        "another base": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), theta=1e4)),
    },
    "ministral3_long": {
        "queries that do not grow": lambda spec: with_layers(spec, mixer=Attention(**plain_of(spec.layers[0].mixer))),
        "another growth": without("growth", 0.3),
        "another period": without("period", 14),
        "no YaRN": no_scaling,
    },
}
