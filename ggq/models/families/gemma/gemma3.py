"""Gemma 3: Llama as Gemma 2 changes it, without caps unless asked for, with a norm of each head of query and key, five
layers with windows for one without, and a RoPE of their own for each of the two kinds."""

from __future__ import annotations

from functools import partial

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.config_rope import read_rope, rope_sources
from ggq.models.families.gemma import gemma2
from ggq.models.family import Family
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **gemma2.KEYS,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": OrNull(),
    "attn_logit_softcapping": OrNull(),
    "sliding_window_pattern": 6,
    "_sliding_window_pattern": ANY,  # transformers writes it, and "layer_types", which it reads
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    sources = rope_sources(config, ("full_attention", "sliding_attention"))
    full, sliding = (partial(read_rope, inner=inner) for inner in sources.values())
    every = config.integer("sliding_window_pattern", (1, 1 << 20))
    norm, spec = decoder.rms_norm(config), gemma2.parts(config, full_every=every, rope=full)
    spec = decoder.with_mixers(spec, query_norm=norm, key_norm=norm)
    local = sliding(config, spec.layers[0].attention.head_dim, spec.context_length, base="rope_local_base_freq")
    return decoder.with_ropes(spec, local, spec.layers[0].attention.rope)


GEMMA3 = Family(
    ("Gemma3ForCausalLM", "Gemma3TextModel"), ("gemma3_text",), KEYS, parts, gemma2.expression, decoder.constants
)
