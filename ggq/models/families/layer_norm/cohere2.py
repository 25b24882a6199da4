"""Cohere 2 (Command R7B, A): Llama as Cohere changes it, with three layers with windows for one without, which has no
RoPE."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.families.layer_norm import cohere
from ggq.models.family import Family
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **{key: value for key, value in cohere.KEYS.items() if key != "use_qk_norm"},
    "rope_theta": 10000.0,
    "sliding_window": OrNull(4096),
    "sliding_window_pattern": 4,
    "layer_types": OrNull(),
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    every = config.integer("sliding_window_pattern", (1, 1 << 20))
    slides = lambda number: (number + 1) % every != 0  # noqa: E731
    spec, windows = cohere.parts(config), decoder.layer_windows(config, decoder.read_window(config), slides=slides)
    return decoder.with_ropes(decoder.with_windows(spec, windows), spec.layers[0].attention.rope, None)


COHERE2 = Family(
    ("Cohere2ForCausalLM", "Cohere2Model"), ("cohere2",), KEYS, parts, decoder.expression, decoder.constants
)
