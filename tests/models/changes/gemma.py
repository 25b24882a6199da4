"""Changes. Gemma 2, 3, 3n and 4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ggq.models.decoder import with_layers, with_mixers
from ggq.models.parts import (
    KeyedAttention,
    Mlp,
    ModelSpec,
    Norm,
    SharedAttention,
)
from tests.models.changes.changed import (
    PLAIN_NORM,
    every_layer_slides,
    experts,
    head,
    norm_of,
    other_feed_forward,
    own_values,
    plain_of,
    rope_of,
    router,
    window_plus,
    windows_in_other_layers,
    with_kind,
    with_layer,
    without,
    without_windows,
)

CHANGES: dict[str, dict[str, Callable[[ModelSpec], ModelSpec]]] = {
    "gemma2": {
        "no windows": without("window", 0),
        "windows everywhere": every_layer_slides,
        "windows in other layers": windows_in_other_layers,
        "a larger window": window_plus(1),
        "no cap of scores": without("softcap", 0.0),
        "no cap of logits": head(softcap=0.0),
        "the usual scale of scores": without("scale", 14**-0.5),
        "SiLU": other_feed_forward,
        "no norm behind attention": lambda spec: with_layers(spec, mixer_post_norm=None),
        "no norm behind the feed-forward": lambda spec: with_layers(spec, feed_forward_post_norm=None),
        "no norm before the feed-forward": lambda spec: with_layers(spec, feed_forward_norm=None),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "another epsilon": lambda spec: replace(
            spec, head=replace(spec.head, norm=replace(norm_of(spec), epsilon=0.1))
        ),
    },
    "gemma3": {
        "no windows": without("window", 0),
        "windows in other layers": windows_in_other_layers,
        "the RoPE of windows everywhere": lambda spec: with_mixers(spec, rope=spec.layers[0].mixer.rope),
        "the RoPE without windows everywhere": lambda spec: with_mixers(spec, rope=spec.layers[2].mixer.rope),
        "no linear scaling": lambda spec: with_layer(spec, 2, rope=replace(rope_of(spec, 2), scaling=None)),
        "no norm of queries": without("query_norm", None),
        "no norm of keys": without("key_norm", None),
        "the usual scale of scores": without("scale", 14**-0.5),
        "SiLU": other_feed_forward,
        "no norm behind attention": lambda spec: with_layers(spec, mixer_post_norm=None),
        "no norm behind the feed-forward": lambda spec: with_layers(spec, feed_forward_post_norm=None),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "a cap of scores": without("softcap", 2.5),
        "a cap of logits": head(softcap=1.5),
    },
    "gemma4": {
        "no norm of values": lambda spec: with_kind(spec, KeyedAttention, value_norm=None),
        "a matrix for all values": own_values,
        "no windows": without_windows,
        "no norm of queries": lambda spec: with_layer(spec, 3, query_norm=None),
        "the usual scale of scores": lambda spec: with_kind(spec, SharedAttention, scale=12**-0.5),
        "RoPE of whole heads": lambda spec: with_kind(
            spec, SharedAttention, rope=replace(rope_of(spec, 3), scaling=None)
        ),
        "RoPE of half a head": lambda spec: with_kind(
            spec, SharedAttention, rope=replace(rope_of(spec, 3), rotated=6, scaling=None)
        ),
        "one base": lambda spec: with_layer(spec, 0, rope=replace(rope_of(spec), theta=20000.0)),
        "no inputs of layers": lambda spec: replace(spec, inputs=None),
        "no scales of layers": lambda spec: replace(spec, layer_scales=False),
        "another scale of the table": lambda spec: replace(spec, inputs=replace(spec.inputs, table_scale=1.0)),
        "SiLU of gates of inputs": lambda spec: replace(spec, inputs=replace(spec.inputs, activation="silu")),
        "no cap of logits": head(softcap=0.0),
        "no norm behind attention": lambda spec: with_layers(spec, mixer_post_norm=None),
    },
    "gemma4_plain": {
        "no norm of values": lambda spec: with_kind(spec, KeyedAttention, value_norm=None),
        "no windows": without_windows,
        "no norm of keys": lambda spec: with_layer(spec, 0, key_norm=None),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "RoPE of whole heads": lambda spec: with_layer(spec, 2, rope=replace(rope_of(spec, 2), scaling=None)),
    },
    "gemma4_experts": {
        "no norm of what experts meet": experts(experts_norm=PLAIN_NORM),
        "no norm of the experts' sum": experts(experts_post_norm=PLAIN_NORM),
        "no norm of the feed-forward's result": experts(mlp_post_norm=PLAIN_NORM),
        "a router without scale": experts(router_norm=PLAIN_NORM),
        "no factors of experts": router(factors=False),
        "three experts": experts(chosen=3),
        "shares of all experts": experts(renormalised=False),
        "SiLU in experts": experts(activation="silu"),
        "no norm behind both": lambda spec: with_layers(spec, feed_forward_post_norm=None),
    },
    "gemma3n": {
        "another stream": lambda spec: replace(spec, active=0),
        "another scale of routers": lambda spec: replace(spec, router_scale=1.0),
        "no scale of what meets inputs": lambda spec: replace(spec, output_scale=False),
        "another scale of laurel": lambda spec: replace(spec, laurel_scale=1.0),
        "another norm of streams": lambda spec: replace(spec, stream_norm=Norm("rms", 0.5, True, False)),
        "products keep their size": lambda spec: replace(spec, least=1.0),
        "no gates that are sparse": lambda spec: replace(
            spec, layers=tuple(replace(x, feed_forward=Mlp(**plain_of(x.feed_forward))) for x in spec.layers)
        ),
        "no norm of values": lambda spec: with_kind(spec, KeyedAttention, value_norm=None),
        "no norm of queries": without("query_norm", None),
        "keys of another layer": lambda spec: with_layer(spec, 3, source=0),
        "no windows": without_windows,
        "a larger window": window_plus(1),
        "one RoPE": lambda spec: with_layer(with_layer(spec, 2, rope=rope_of(spec, 0)), 4, rope=rope_of(spec, 0)),
        "no cap of logits": head(softcap=0.0),
        "another scale of the table": lambda spec: replace(spec, inputs=replace(spec.inputs, table_scale=1.0)),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "no norm behind attention": lambda spec: with_layers(spec, mixer_post_norm=None),
        "no norm behind the feed-forward": lambda spec: with_layers(spec, feed_forward_post_norm=None),
    },
    "gemma3n_plain": {
        "another stream": lambda spec: replace(spec, active=1),
        "another scale of routers": lambda spec: replace(spec, router_scale=1.0),
        "no windows": without_windows,
        "no norm of keys": lambda spec: with_layer(spec, 0, key_norm=None),
    },
}
