"""Changes. What is shaped like Llama."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ggq.models.decoder import with_layers, with_mixers
from ggq.models.parts import (
    Attention,
    Mlp,
    ModelSpec,
)
from tests.models.changes.changed import (
    every_layer_slides,
    head,
    neighbours,
    no_attention_factor,
    no_bias_of_the_feed_forward,
    no_scaling,
    plain_of,
    windows_in_other_layers,
    without,
)

CHANGES: dict[str, dict[str, Callable[[ModelSpec], ModelSpec]]] = {
    "qwen2": {
        "no bias of queries": without("query_bias", False),
        "no bias of keys": without("key_bias", False),
        "no bias of values": without("value_bias", False),
        "another base": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, theta=1e4)),  # type: ignore[type-var]
    },
    "qwen2_windows": {
        "no windows": without("window", 0),
        "windows everywhere": every_layer_slides,
        "no YaRN": no_scaling,
        "no attention factor": no_attention_factor,
    },
    "qwen3": {
        "no norm of queries": without("query_norm", None),
        "no norm of keys": without("key_norm", None),
        "no biases": lambda spec: with_mixers(
            spec, query_bias=False, key_bias=False, value_bias=False, output_bias=False
        ),
        "no bias of the output": without("output_bias", False),
        "windows in other layers": windows_in_other_layers,
    },
    "ernie4_5": {
        "numbers paired otherwise": neighbours,
        "no bias of queries": without("query_bias", False),
        "no bias of the output": without("output_bias", False),
        "no bias of the feed-forward": no_bias_of_the_feed_forward,
    },
    "hunyuan": {
        "norms before RoPE": without("normed", "head"),
        "no norm of queries": without("query_norm", None),
        "no alpha": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].attention.rope, theta=1e4)),  # type: ignore[type-var]
    },
    "olmo2": {
        "no norm of queries": without("query_norm", None),
        "no norm of keys": without("key_norm", None),
        "no norm behind attention": lambda spec: with_layers(spec, mixer_post_norm=None),
        "no norm behind the feed-forward": lambda spec: with_layers(spec, feed_forward_post_norm=None),
    },
    "granite": {
        "the usual scale of scores": without("scale", 10**-0.5),
        "no scale of what is added": lambda spec: with_layers(spec, residual_scale=1.0),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "no scale of logits": head(scale=1.0),
    },
    "smollm3": {
        "RoPE everywhere": lambda spec: with_mixers(spec, rope=spec.layers[0].mixer.rope),
        "RoPE nowhere": without("rope", None),
        "no windows": without("window", 0),
        "windows everywhere": every_layer_slides,
    },
    "glm4": {
        "the whole head turns": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, rotated=12)),  # type: ignore[type-var]
        "RoPE of halves": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, layout="half")),  # type: ignore[type-var]
        "no norm behind attention": lambda spec: with_layers(spec, mixer_post_norm=None),
        "no norm behind the feed-forward": lambda spec: with_layers(spec, feed_forward_post_norm=None),
        "no bias of queries": without("query_bias", False),
        "no bias of keys": without("key_bias", False),
        "no bias of values": without("value_bias", False),
    },
    "arcee": {
        "ReLU": lambda spec: with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, activation="relu")),
        "no biases": lambda spec: with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, bias=False)),
    },
    "apertus": {
        "ReLU squared": lambda spec: with_layers(spec, feed_forward=replace(spec.layers[0].mlp, activation="relu2")),
        "no norm of queries": without("query_norm", None),
        "no norm of keys": without("key_norm", None),
        "no biases of queries": without("query_bias", False),
        "no bias of the output": without("output_bias", False),
        "no scaling of RoPE": no_scaling,
    },
    "bitnet": {
        "no norm behind attention": lambda spec: with_layers(spec, mixer=Attention(**plain_of(spec.layers[0].mixer))),
        "no norm in the feed-forward": lambda spec: with_layers(
            spec, feed_forward=Mlp(**plain_of(spec.layers[0].feed_forward))
        ),
        "SiLU": lambda spec: with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, activation="silu")),
    },
}
