"""Qwen3: Llama with a norm of each head of query and key, heads of a width of their own, and windows as Qwen2 has."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import Config, Keys
from ggq.models.families import qwen2
from ggq.models.family import Family
from ggq.models.parts import ModelSpec
from ggq.models.text.scores import with_scores

KEYS: Keys = {**qwen2.KEYS, "attention_bias": False, "head_dim": 128}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm = decoder.rms_norm(config)
    spec = decoder.with_mixers(decoder.read_decoder(config), query_norm=norm, key_norm=norm)
    return decoder.with_windows(spec, qwen2.windows(config))


QWEN3 = with_scores(
    Family(
        names=("Qwen3ForCausalLM", "Qwen3Model"),
        model_types=("qwen3",),
        keys=KEYS,
        parts=parts,
        expression=decoder.expression,
        constants=decoder.constants,
    )
)
