"""Ministral 3: Llama with YaRN whose queries grow with their position, in steps of the original context, and a window
where asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.config_rope import original_context, read_rope, rope_source
from ggq.models.family import Family
from ggq.models.parts import ModelSpec, TemperedAttention

KEYS: Keys = {
    **decoder.BASE,
    "num_key_value_heads": OrNull(8),
    "head_dim": OrNull(128),
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "sliding_window": OrNull(),
}

USUAL = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384}
USUAL |= {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
"""What transformers takes where nothing is said."""


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    source = rope_source(config, USUAL)
    growth = source.number("llama_4_scaling_beta", (0.0, 1e6), 0.0, zero=True)
    source.get("max_position_embeddings", 0)  # the same as outside
    spec = decoder.read_decoder(config, rope=partial(read_rope, inner=source))
    spec = decoder.with_mixers(spec, window=decoder.read_window(config) or 0)
    if not growth:
        return spec
    period = original_context(config, source, 16384)
    mixers = (TemperedAttention(**vars(layer.attention), growth=growth, period=period) for layer in spec.layers)
    return replace(spec, layers=tuple(replace(layer, mixer=mixer) for layer, mixer in zip(spec.layers, mixers)))


MINISTRAL3 = Family(
    ("Ministral3ForCausalLM", "Ministral3Model"), ("ministral3",), KEYS, parts, decoder.expression, decoder.constants
)
