"""OLMo 3: Llama as OLMo 2 changes it, with three layers with windows for one without, whose RoPE alone is scaled."""

from __future__ import annotations

from functools import partial

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.config_rope import read_rope, rope_sources
from ggq.models.families import olmo2
from ggq.models.family import Family
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **olmo2.KEYS,
    "rope_theta": 500000.0,
    "sliding_rope_theta": 500000.0,  # in no config.json: transformers gives "rope_theta" to the other layers alone
    "sliding_window": OrNull(4096),
    "layer_types": OrNull(),
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    sources = rope_sources(config, ("full_attention", "sliding_attention"))
    full, sliding = (partial(read_rope, inner=inner) for inner in sources.values())
    spec = olmo2.parts(config, full)
    local = sliding(config, spec.layers[0].attention.head_dim, spec.context_length, base="sliding_rope_theta")
    windows = decoder.layer_windows(config, decoder.read_window(config), slides=lambda number: (number + 1) % 4 != 0)
    return decoder.with_ropes(decoder.with_windows(spec, windows), local, spec.layers[0].attention.rope)


OLMO3 = Family(("Olmo3ForCausalLM", "Olmo3Model"), ("olmo3",), KEYS, parts, olmo2.expression, decoder.constants)
