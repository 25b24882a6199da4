"""Gemma 3: Llama as Gemma 2 changes it, without caps unless asked for, with a norm of each head of query and key, five
layers with windows for one without, and a RoPE of their own for each of the two kinds; EmbeddingGemma sees whole texts,
half a window to each side, and gives the mean of its rows."""

from __future__ import annotations

from functools import partial

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.config_rope import read_rope, rope_sources
from ggq.models.families.gemma import gemma2
from ggq.models.family import Family, TensorSpec
from ggq.models.parts import ModelSpec
from ggq.models.text.parts import TextEmbedding, TextSpec, VectorHead

KEYS: Keys = {
    **gemma2.KEYS,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": OrNull(),
    "attn_logit_softcapping": OrNull(),
    "sliding_window_pattern": 6,
    "_sliding_window_pattern": ANY,  # transformers writes it, and "layer_types", which it reads
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "use_bidirectional_attention": OrNull(False),
}


def parts(config: Config) -> ModelSpec | TextSpec:
    """The model of a config.json."""
    sources = rope_sources(config, ("full_attention", "sliding_attention"))
    full, sliding = (partial(read_rope, inner=inner) for inner in sources.values())
    every = config.integer("sliding_window_pattern", (1, 1 << 20))
    norm, spec = decoder.rms_norm(config), gemma2.parts(config, full_every=every, rope=full)
    spec = decoder.with_mixers(spec, query_norm=norm, key_norm=norm)
    local = sliding(config, spec.layers[0].attention.head_dim, spec.context_length, base="rope_local_base_freq")
    spec = decoder.with_ropes(spec, local, spec.layers[0].attention.rope)
    return whole_texts(spec) if config.get("use_bidirectional_attention") is True else spec


def whole_texts(spec: ModelSpec) -> TextSpec:
    """The model whose tokens see all of their text, or half a window to each side."""
    windows = [window // 2 + 1 if window else 0 for window in (layer.attention.window for layer in spec.layers)]
    spec, table = decoder.with_windows(spec, windows), spec.embedding
    head = VectorHead(spec.head.norm, "mean", None, None, scores=False, normalized=False)
    embedding = TextEmbedding(table.vocabulary_size, table.width, table.scale, positions=0, types=0, norm=None)
    return TextSpec(spec.context_length, embedding, spec.layers, head, causal=False, normed_sums=False)


def constants(spec: ModelSpec | TextSpec) -> list[TensorSpec]:
    """See `decoder.constants`."""
    return decoder.constants(spec) if isinstance(spec, ModelSpec) else []


GEMMA3 = Family(("Gemma3ForCausalLM", "Gemma3TextModel"), ("gemma3_text",), KEYS, parts, gemma2.expression, constants)
