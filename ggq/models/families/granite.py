"""Granite 3: Llama with multipliers of the embedding, of scores and of what layers add, and a divisor of logits."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config, Keys
from ggq.models.family import Family
from ggq.models.parts import Attention, Embedding, Layer, ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    "attention_bias": False,
    "mlp_bias": False,
    "embedding_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    return multiplied(decoder.read_decoder(config), config)


def multiplied(spec: ModelSpec, config: Config) -> ModelSpec:
    """The model with Granite's multipliers."""
    spec = decoder.with_mixers(spec, scale=config.take("attention_multiplier", Attention, "scale"))
    spec = decoder.with_layers(spec, residual_scale=config.take("residual_multiplier", Layer, "residual_scale"))
    embedding = replace(spec.embedding, scale=config.take("embedding_multiplier", Embedding, "scale"))
    head = replace(spec.head, scale=1 / config.number("logits_scaling", (1e-6, 1e6)))
    return replace(spec, embedding=embedding, head=head)


GRANITE = Family(
    ("GraniteForCausalLM", "GraniteModel"), ("granite",), KEYS, parts, decoder.expression, decoder.constants
)
