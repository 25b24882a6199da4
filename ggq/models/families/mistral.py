"""Mistral: Llama without biases whose tokens, in every layer, see a window of the last positions."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.family import Family
from ggq.models.parts import ModelSpec
from ggq.models.text.scores import with_scores

KEYS: Keys = {
    **decoder.BASE,
    "num_key_value_heads": OrNull(8),
    "max_position_embeddings": 131072,
    "sliding_window": OrNull(4096),
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    return decoder.with_mixers(decoder.read_decoder(config), window=decoder.read_window(config) or 0)


MISTRAL = with_scores(
    Family(
        names=("MistralForCausalLM", "MistralModel"),
        model_types=("mistral",),
        keys=KEYS,
        parts=parts,
        expression=decoder.expression,
        constants=decoder.constants,
    )
)
