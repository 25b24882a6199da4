"""A config.json with GPT-2's keys as a model's parts."""

from __future__ import annotations

import math

from ggq.models.config import Config
from ggq.models.decoder import ACTIVATIONS
from ggq.models.parts import MOST_LAYERS, Attention, Embedding, Layer, Mlp, ModelSpec, Norm
from ggq.models.text.parts import LogitsHead, TextEmbedding, TextSpec


def read_learned(config: Config) -> TextSpec:
    """A decoder with learned positions, layer norms before attention and a feed-forward without a gate."""
    norm = Norm("layer", config.take("layer_norm_epsilon", Norm, "epsilon"), weight=True, bias=True)
    width: int = config.take("n_embd", Embedding, "width")
    context: int = config.take("n_positions", ModelSpec, "context_length")
    inner = config.maybe("n_inner", Mlp, "width") or 4 * width
    activation = ACTIVATIONS[config.choice("activation_function", tuple(ACTIVATIONS))]
    layer = Layer(
        mixer=_attention(config, width),
        feed_forward=Mlp(inner, activation, gated=False, bias=True),
        mixer_norm=norm,
        mixer_post_norm=None,
        feed_forward_norm=norm,
        feed_forward_post_norm=None,
        parallel=False,
        residual_scale=1.0,
    )
    vocabulary = config.take("vocab_size", Embedding, "vocabulary_size")
    return TextSpec(
        context_length=context,
        embedding=TextEmbedding(vocabulary, width, 1.0, positions=context, types=0, norm=None),
        layers=(layer,) * config.integer("n_layer", (1, MOST_LAYERS)),
        head=LogitsHead(norm, tied=config.flag("tie_word_embeddings"), bias=False, scale=1.0, softcap=0.0),
        causal=True,
        normed_sums=False,
    )


def _attention(config: Config, width: int) -> Attention:
    heads: int = config.take("n_head", Attention, "heads")
    if width % heads:
        raise config.error("n_head", f"{heads} heads do not divide the hidden size {width}")
    biases = dict.fromkeys(("query_bias", "key_bias", "value_bias", "output_bias"), True)
    return Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        scale=1 / math.sqrt(width // heads) if config.flag("scale_attn_weights") else 1.0,
        rope=None,
        window=0,
        softcap=0.0,
        sinks=False,
        query_norm=None,
        key_norm=None,
        normed="head",
        **biases,
    )
