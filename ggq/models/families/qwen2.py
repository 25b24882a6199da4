"""Qwen2, Qwen2.5: Llama with biases of query, key and value, and, where asked for, windows in the last layers."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.family import Family
from ggq.models.parts import ModelSpec
from ggq.models.text.scores import with_scores

WINDOWS: Keys = {
    "use_sliding_window": False,
    "sliding_window": OrNull(4096),
    "max_window_layers": 28,
    "layer_types": OrNull(),
}
"""Which layers have windows."""

KEYS: Keys = {**decoder.BASE, **WINDOWS, "num_key_value_heads": OrNull(32), "max_position_embeddings": 32768}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    spec = decoder.with_mixers(decoder.read_decoder(config), query_bias=True, key_bias=True, value_bias=True)
    return decoder.with_windows(spec, windows(config))


def windows(config: Config) -> list[int]:
    """The window of each layer, 0 for none: the first `max_window_layers` have none."""
    first = config.integer("max_window_layers", (0, 1 << 20))
    window = decoder.read_window(config, used=config.flag("use_sliding_window"))
    return decoder.layer_windows(config, window, slides=lambda number: window is not None and number >= first)


QWEN2 = with_scores(
    Family(
        names=("Qwen2ForCausalLM", "Qwen2Model"),
        model_types=("qwen2",),
        keys=KEYS,
        parts=parts,
        expression=decoder.expression,
        constants=decoder.constants,
    )
)
