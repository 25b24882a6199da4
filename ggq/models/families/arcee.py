"""Arcee (AFM): Llama whose feed-forward has no gate and the square of ReLU."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config, Keys
from ggq.models.family import Family
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    "max_position_embeddings": 4096,
    "hidden_act": "relu2",
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    spec = decoder.read_decoder(config)
    return decoder.with_layers(spec, feed_forward=replace(decoder.mlp(config), gated=False))


ARCEE = Family(("ArceeForCausalLM", "ArceeModel"), ("arcee",), KEYS, parts, decoder.expression, decoder.constants)
