"""EXAONE 4: Llama with norms behind attention and feed-forward instead of before, norms of the heads of query and key,
and, where windows are asked for, three layers with a window for one without, which has no RoPE."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.families import olmo2
from ggq.models.family import Family
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    "num_key_value_heads": OrNull(32),
    "rms_norm_eps": 1e-5,
    "sliding_window": OrNull(4096),
    "sliding_window_pattern": OrNull(4),
    "layer_types": OrNull(),
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    spec, window = decoder.with_mixers(olmo2.parts(config), normed="head"), decoder.read_window(config)
    every = config.get("sliding_window_pattern")  # also a text such as "LLLG", beside "layer_types"
    if config.get("layer_types") is None and window is not None:
        every = config.integer("sliding_window_pattern", (1, 1 << 20))
    slides = lambda number: isinstance(every, int) and window is not None and (number + 1) % every != 0  # noqa: E731
    spec = decoder.with_windows(spec, decoder.layer_windows(config, window, slides=slides))
    rope = spec.layers[0].attention.rope
    return spec if window is None else decoder.with_ropes(spec, rope, None)


EXAONE4 = Family(("Exaone4ForCausalLM", "Exaone4Model"), ("exaone4",), KEYS, parts, olmo2.expression, decoder.constants)
