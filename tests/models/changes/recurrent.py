"""Changes. Families with states beside keys, with experts or without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ggq.models.decoder import with_layers
from ggq.models.parts import (
    Mamba2,
    ModelSpec,
    ShortConv,
)
from ggq.models.rope import Rope
from tests.models.changes.changed import (
    experts,
    head,
    no_norm_of_deltas,
    norm_of,
    rope_of,
    router,
    with_beside,
    with_kind,
    with_layer,
    with_scan,
    without_gate,
)

CHANGES: dict[str, dict[str, Callable[[ModelSpec], ModelSpec]]] = {
    "qwen3_next": {
        "no gate of attention": without_gate,
        "RoPE of whole heads": lambda spec: with_layer(spec, 2, rope=replace(rope_of(spec, 2), rotated=12)),
        "no norm of queries": lambda spec: with_layer(spec, 2, query_norm=None),
        "no norm of keys": lambda spec: with_layer(spec, 2, key_norm=None),
        "shares of all experts": experts(renormalised=False),
        "no shared expert": experts(shared_width=0, shared_gate=False),
        "no gate of the shared expert": experts(shared_gate=False),
        "three experts": experts(chosen=3),
        "no norm of heads": no_norm_of_deltas,
    },
    "qwen3_5_moe": {
        "no gate of attention": without_gate,
        "RoPE of whole heads": lambda spec: with_layer(spec, 1, rope=replace(rope_of(spec, 1), rotated=12)),
        "no norm of queries": lambda spec: with_layer(spec, 1, query_norm=None),
        "no norm of keys": lambda spec: with_layer(spec, 1, key_norm=None),
        "shares of all experts": experts(renormalised=False),
        "no shared expert": experts(shared_width=0, shared_gate=False),
        "no gate of the shared expert": experts(shared_gate=False),
        "two experts": experts(chosen=2),
        "no norm of heads": no_norm_of_deltas,
    },
    "lfm2_moe": {
        "no norm of queries": lambda spec: with_layer(spec, 1, query_norm=None),
        "no norm of keys": lambda spec: with_layer(spec, 1, key_norm=None),
        "no correction of scores": router(correction=False),
        "a softmax": router(score="softmax"),
        "shares that are not renormalised": experts(renormalised=False),
        "no scale of shares": experts(scale=1.0),
        "three experts": experts(chosen=3),
    },
    "nemotron_h": {
        "no least step": lambda spec: with_kind(spec, Mamba2, least_step=0.0),
        "no bias of the convolution": lambda spec: with_kind(spec, Mamba2, taps_bias=False),
        "the norm before the gate": lambda spec: with_kind(spec, Mamba2, norm_first=True),
        "RoPE": lambda spec: with_layer(spec, 2, rope=Rope(10000.0, "half", 12, None)),
        "no correction of scores": router(correction=False),
        "all groups": router(chosen_groups=3),
        "groups by their best": router(best=1),
        "no shared expert": experts(shared_width=0),
        "no scale of shares": experts(scale=1.0),
        "ReLU in experts": experts(activation="relu"),
    },
    "granite_hybrid_moe": {
        "no shared expert": experts(shared_width=0),
        "three experts": experts(chosen=3),
        "shares of all experts": experts(renormalised=False),
        "no bias of the convolution": lambda spec: with_kind(spec, Mamba2, taps_bias=False),
    },
    "lfm2": {
        "no norm of queries": lambda spec: with_layer(spec, 1, query_norm=None),
        "no norm of keys": lambda spec: with_layer(spec, 1, key_norm=None),
        "no RoPE": lambda spec: with_layer(spec, 1, rope=None),
    },
    "qwen3_5": {
        "no gate of attention": without_gate,
        "RoPE of whole heads": lambda spec: with_layer(spec, 3, rope=replace(rope_of(spec, 3), rotated=12)),
        "no norm of queries": lambda spec: with_layer(spec, 3, query_norm=None),
        "no norm of keys": lambda spec: with_layer(spec, 3, key_norm=None),
        "no bias of the output": lambda spec: with_layer(spec, 3, output_bias=False),
        "no biases": lambda spec: with_layer(spec, 3, query_bias=False),
        "no norm of heads": no_norm_of_deltas,
    },
    "mamba2": {
        "no biases": lambda spec: with_kind(spec, Mamba2, bias=False),
        "no bias of the output": lambda spec: with_kind(spec, Mamba2, output_bias=False),
        "no bias of the convolution": lambda spec: with_kind(spec, Mamba2, taps_bias=False),
        "no least step": lambda spec: with_kind(spec, Mamba2, least_step=0.0),
        "no greatest step": lambda spec: with_kind(spec, Mamba2, most_step=0.0),
        "the norm before the gate": lambda spec: with_kind(spec, Mamba2, norm_first=True),
        "no norm": lambda spec: with_kind(spec, Mamba2, norm=None),
        "another epsilon": lambda spec: with_kind(spec, Mamba2, norm=replace(norm_of(spec), epsilon=0.5)),
    },
    "granite_hybrid": {
        "the usual scale of scores": lambda spec: with_layer(spec, 2, scale=10**-0.5),
        "no scale of what is added": lambda spec: with_layers(spec, residual_scale=1.0),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "no scale of logits": head(scale=1.0),
        "RoPE": lambda spec: with_layer(spec, 2, rope=Rope(10000.0, "half", 10, None)),
        "no bias of the convolution": lambda spec: with_kind(spec, Mamba2, taps_bias=False),
    },
    "granite_hybrid_rope": {
        "no RoPE": lambda spec: with_layer(spec, 1, rope=None),
        "no bias of the output": lambda spec: with_layer(spec, 1, output_bias=False),
        "no biases of the scan": lambda spec: with_kind(spec, Mamba2, bias=False),
    },
    "falcon_h1": {
        "no norm of the scan": lambda spec: with_scan(spec, norm=None),
        "the gate before the norm": lambda spec: with_scan(spec, norm_first=False),
        "no biases of the scan": lambda spec: with_scan(spec, bias=False),
        "no biases of queries": lambda spec: with_beside(spec, query_bias=False),
        "no RoPE": lambda spec: with_beside(spec, rope=None),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "no scale of logits": head(scale=1.0),
    },
    "falcon_h1_plain": {
        "no bias of the scan's output": lambda spec: with_scan(spec, output_bias=False),
        "no bias of the convolution": lambda spec: with_scan(spec, taps_bias=False),
    },
    "lfm2_biased": {
        "no biases": lambda spec: with_kind(spec, ShortConv, bias=False),
        "no norm of queries": lambda spec: with_layer(spec, 0, query_norm=None),
    },
}
