"""Ernie 4.5: Llama whose RoPE turns neighbours, with biases in all matrices where asked for."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.family import Family
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    "num_key_value_heads": OrNull(2),
    "head_dim": OrNull(128),
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "use_bias": False,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    spec, bias = decoder.read_decoder(config, layout="pairs"), config.flag("use_bias")
    spec = decoder.with_mixers(spec, query_bias=bias, key_bias=bias, value_bias=bias, output_bias=bias)
    return decoder.with_layers(spec, feed_forward=replace(decoder.mlp(config), bias=bias))


ERNIE4_5 = Family(
    ("Ernie4_5ForCausalLM", "Ernie4_5Model"), ("ernie4_5",), KEYS, parts, decoder.expression, decoder.constants
)
