"""Changes. Families with attention and experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ggq.models.decoder import with_layers
from ggq.models.parts import (
    LatentAttention,
    ModelSpec,
    Norm,
)
from tests.models.changes.changed import (
    every_layer_slides,
    experts,
    head,
    no_attention_factor,
    no_scaling,
    rope_of,
    router,
    window_plus,
    windows_in_other_layers,
    with_kind,
    without,
)

CHANGES: dict[str, dict[str, Callable[[ModelSpec], ModelSpec]]] = {
    "granite_moe_shared": {
        "no shared expert": experts(shared_width=0),
        "one expert": experts(chosen=1),
        "shares of all experts": experts(renormalised=False),
        "no scale of what is added": lambda spec: with_layers(spec, residual_scale=1.0),
    },
    "granite_moe": {
        "shares of all experts": experts(renormalised=False),
        "two experts": experts(chosen=2),
        "the usual scale of scores": without("scale", 10**-0.5),
        "no scale of what is added": lambda spec: with_layers(spec, residual_scale=1.0),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "no scale of logits": head(scale=1.0),
    },
    "mixtral": {
        "no window": without("window", 0),
        "a larger window": window_plus(1),
        "one expert": experts(chosen=1),
        "three experts": experts(chosen=3),
        "shares of all experts": experts(renormalised=False),
        "half shares": experts(scale=0.5),
        "GELU": experts(activation="gelu"),
    },
    "qwen3_moe": {
        "no norm of queries": without("query_norm", None),
        "no norm of keys": without("key_norm", None),
        "no window": without("window", 0),
        "two experts": experts(chosen=2),
        "shares of all experts": experts(renormalised=False),
    },
    "qwen2_moe": {
        "no bias of queries": without("query_bias", False),
        "no bias of keys": without("key_bias", False),
        "no bias of values": without("value_bias", False),
        "windows everywhere": every_layer_slides,
        "no windows": without("window", 0),
        "shares that are renormalised": experts(renormalised=True),
        "no shared expert": experts(shared_width=0, shared_gate=False),
        "no gate of the shared expert": experts(shared_gate=False),
    },
    "olmoe": {
        "no norm of queries": without("query_norm", None),
        "no norm of keys": without("key_norm", None),
        "shares that are renormalised": experts(renormalised=True),
        "four experts": experts(chosen=4),
    },
    "deepseek_v2": {
        "RoPE of halves": lambda spec: with_kind(spec, LatentAttention, rope=replace(rope_of(spec), layout="half")),
        "the scale of turned heads": lambda spec: with_kind(spec, LatentAttention, scale=6**-0.5),
        "all groups": router(chosen_groups=3),
        "one group": router(chosen_groups=1),
        "no shared experts": experts(shared_width=0),
        "no scale of shares": experts(scale=1.0),
        "shares that are renormalised": experts(renormalised=True),
        "another norm of the latent row": lambda spec: with_kind(
            spec, LatentAttention, norm=Norm("rms", 0.5, True, False)
        ),
    },
    "deepseek_v3": {
        "no YaRN": lambda spec: with_kind(spec, LatentAttention, rope=replace(rope_of(spec), scaling=None)),
        "the usual scale of scores": lambda spec: with_kind(spec, LatentAttention, scale=14**-0.5),
        "no biases": lambda spec: with_kind(spec, LatentAttention, bias=False),
        "no bias of the output": lambda spec: with_kind(spec, LatentAttention, output_bias=False),
        "no correction of scores": router(correction=False),
        "all groups": router(chosen_groups=4),
        "groups by their best": router(best=1),
        "a softmax": router(score="softmax"),
        "shares that are not renormalised": experts(renormalised=False),
        "no scale of shares": experts(scale=1.0),
        "no shared experts": experts(shared_width=0),
    },
    "glm4_moe_lite": {
        "RoPE of pairs": lambda spec: with_kind(spec, LatentAttention, rope=replace(rope_of(spec), layout="pairs")),
        "no correction of scores": router(correction=False),
        "three experts": experts(chosen=3),
        "a softmax": router(score="softmax"),
        "no shared experts": experts(shared_width=0),
    },
    "gpt_oss": {
        "no sinks": without("sinks", False),
        "no windows": without("window", 0),
        "windows in the other layers": windows_in_other_layers,
        "a larger window": window_plus(1),
        "no bias of queries": without("query_bias", False),
        "no bias of keys": without("key_bias", False),
        "no bias of values": without("value_bias", False),
        "no bias of the output": without("output_bias", False),
        "no biases of experts": experts(bias=False),
        "no bias of the router": router(bias=False),
        "a plain SwiGLU": experts(activation="silu"),
        "shares of all experts": experts(renormalised=False),
        "four experts": experts(chosen=4),
        "no YaRN": no_scaling,
        "no attention factor": no_attention_factor,
    },
}
