"""Each difference of a family from Llama, taken away: the comparison with transformers' logits must notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ggq.models.decoder import with_layers, with_mixers
from ggq.models.names import Plus, Taps
from ggq.models.parts import (
    Attention,
    Experts,
    GatedAttention,
    GatedDelta,
    KeyedAttention,
    LatentAttention,
    Mamba2,
    Mlp,
    ModelSpec,
    Norm,
    SharedAttention,
    ShortConv,
)
from ggq.models.registry import find_architecture
from ggq.models.rope import LongRope, Rope
from ggq.tape import ops as tape
from tests.kit.family_models import (
    TOLERANCE,
    error,
    last_logits,
    reference,
    spec_of,
)
from tests.kit.small_families import FAMILIES as CONFIGS


def norm_of(spec: ModelSpec) -> Norm:
    assert spec.head.norm is not None
    return spec.head.norm


def without(field: str, value: Any) -> Callable[[ModelSpec], ModelSpec]:
    """Another value of a field of every layer's mixer."""
    return lambda spec: with_mixers(spec, **{field: value})


def other_feed_forward(spec: ModelSpec) -> ModelSpec:
    return with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, activation="silu"))


def every_layer_slides(spec: ModelSpec) -> ModelSpec:
    return with_mixers(spec, window=max(layer.mixer.window for layer in spec.layers))


def windows_in_other_layers(spec: ModelSpec) -> ModelSpec:
    windows = [layer.mixer.window for layer in spec.layers]
    shifted = zip(spec.layers, [*windows[1:], windows[0]], strict=True)
    return replace(spec, layers=tuple(replace(layer, mixer=replace(layer.mixer, window=w)) for layer, w in shifted))


def window_plus(more: int) -> Callable[[ModelSpec], ModelSpec]:
    """Windows, where there are some, of one position more or less."""

    def changed(spec: ModelSpec) -> ModelSpec:
        sizes = ((layer, layer.mixer.window) for layer in spec.layers)
        layers = (replace(each, mixer=replace(each.mixer, window=size and size + more)) for each, size in sizes)
        return replace(spec, layers=tuple(layers))

    return changed


def rope_of(spec: ModelSpec, layer: int = 0) -> Rope:
    rope = spec.layers[layer].mixer.rope
    assert rope is not None
    return rope


def with_layer(spec: ModelSpec, number: int, **changes: Any) -> ModelSpec:
    """Other values of fields of one layer's mixer."""
    layers = list(spec.layers)
    layers[number] = replace(layers[number], mixer=replace(layers[number].mixer, **changes))
    return replace(spec, layers=tuple(layers))


def with_kind(spec: ModelSpec, kind: type, **changes: Any) -> ModelSpec:
    """Other values of fields of every mixer of a kind."""
    layers = (
        replace(each, mixer=replace(each.mixer, **changes)) if isinstance(each.mixer, kind) else each
        for each in spec.layers
    )
    return replace(spec, layers=tuple(layers))


def with_scan(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """Other values of fields of the scans beside attention."""
    return with_mixers_of(spec, lambda mixer: replace(mixer, scan=replace(mixer.scan, **changes)))


def with_beside(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """Other values of fields of the attention beside scans."""
    return with_mixers_of(spec, lambda mixer: replace(mixer, attention=replace(mixer.attention, **changes)))


def with_mixers_of(spec: ModelSpec, change: Callable[[Any], Any]) -> ModelSpec:
    return replace(spec, layers=tuple(replace(layer, mixer=change(layer.mixer)) for layer in spec.layers))


def no_norm_of_deltas(spec: ModelSpec) -> ModelSpec:
    return with_kind(spec, GatedDelta, norm=replace(spec.layers[0].mixer.norm, weight=False))  # type: ignore[union-attr]


ADDED = ("output_norm", "inner_norm", "deviations", "growth", "period")
PLAIN_NORM = Norm("rms", 1e-5, weight=False, bias=False)


def plain_of(part: Any) -> dict[str, Any]:
    """The fields of a part but for those that its kind adds."""
    return {key: value for key, value in vars(part).items() if key not in ADDED}


def without_windows(spec: ModelSpec) -> ModelSpec:
    return replace(spec, layers=tuple(replace(x, mixer=replace(x.mixer, window=0)) for x in spec.layers))


def own_values(spec: ModelSpec) -> ModelSpec:
    """Layers 0 and 2 take keys as values too."""
    return with_layer(with_layer(spec, 0, values="keys"), 2, values="keys")


def without_gate(spec: ModelSpec) -> ModelSpec:
    """Attention as Llama has it in place of gated attention."""
    plain = [Attention(**vars(each.mixer)) if isinstance(each.mixer, GatedAttention) else None for each in spec.layers]
    layers = (replace(each, mixer=mixer or each.mixer) for each, mixer in zip(spec.layers, plain))
    return replace(spec, layers=tuple(layers))


def no_scaling(spec: ModelSpec) -> ModelSpec:
    rope = spec.layers[0].mixer.rope
    assert rope is not None and rope.scaling is not None
    return with_mixers(spec, rope=replace(rope, scaling=None))


def no_attention_factor(spec: ModelSpec) -> ModelSpec:
    rope: Any = spec.layers[0].mixer.rope
    return with_mixers(spec, rope=replace(rope, scaling=replace(rope.scaling, attention_factor=1.0)))


def long_rope(**changes: Any) -> Callable[[ModelSpec], ModelSpec]:
    def changed(spec: ModelSpec) -> ModelSpec:
        rope: Any = spec.layers[0].mixer.rope
        assert isinstance(rope.scaling, LongRope)
        return with_mixers(spec, rope=replace(rope, scaling=replace(rope.scaling, **changes)))

    return changed


def head(**changes: Any) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(spec, head=replace(spec.head, **changes))


def rms_norms(spec: ModelSpec) -> ModelSpec:
    norm = replace(norm_of(spec), kind="rms")
    return replace(with_layers(spec, mixer_norm=norm), head=replace(spec.head, norm=norm))


def norms_without_biases(spec: ModelSpec) -> ModelSpec:
    norm = replace(norm_of(spec), bias=False)
    after = {} if spec.layers[0].parallel else {"feed_forward_norm": norm}
    return replace(with_layers(spec, mixer_norm=norm, **after), head=replace(spec.head, norm=norm))


def one_after_the_other(spec: ModelSpec) -> ModelSpec:
    """Layers that are not parallel, whose feed-forward takes the row as it is."""
    return with_layers(spec, parallel=False)


def no_bias_of_the_feed_forward(spec: ModelSpec) -> ModelSpec:
    return with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, bias=False))


def a_gate_less_activation(spec: ModelSpec) -> ModelSpec:
    return with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, activation="relu"))


def rope_everywhere(spec: ModelSpec) -> ModelSpec:
    """The RoPE of the layers with windows in all."""
    ropes = [layer.attention.rope for layer in spec.layers if layer.attention.window]
    return with_mixers(spec, rope=ropes[0])


def rope_as_full_layers(spec: ModelSpec) -> ModelSpec:
    """That of the layers without windows in all."""
    ropes = [layer.attention.rope for layer in spec.layers if not layer.attention.window]
    return with_mixers(spec, rope=ropes[0])


def experts(**changes: Any) -> Callable[[ModelSpec], ModelSpec]:
    """Other values of fields of every layer's experts."""

    def changed(spec: ModelSpec) -> ModelSpec:
        layers = (
            replace(each, feed_forward=replace(each.feed_forward, **changes))
            if isinstance(each.feed_forward, Experts)
            else each
            for each in spec.layers
        )
        return replace(spec, layers=tuple(layers))

    return changed


def router(**changes: Any) -> Callable[[ModelSpec], ModelSpec]:
    """Other values of fields of every router."""

    def changed(spec: ModelSpec) -> ModelSpec:
        found = (layer.feed_forward for layer in spec.layers)
        parts = (replace(x, router=replace(x.router, **changes)) if isinstance(x, Experts) else x for x in found)
        layers = (replace(layer, feed_forward=part) for layer, part in zip(spec.layers, parts))
        return replace(spec, layers=tuple(layers))

    return changed


def neighbours(spec: ModelSpec) -> ModelSpec:
    """The other way to pair the numbers of a head."""
    rope = next(layer.attention.rope for layer in spec.layers if layer.attention.rope is not None)
    other = replace(rope, layout="half" if rope.layout == "pairs" else "pairs")
    layers = (replace(each, mixer=replace(each.attention, rope=each.attention.rope and other)) for each in spec.layers)
    return replace(spec, layers=tuple(layers))


def no_learned_positions(spec: Any) -> Any:
    return replace(spec, embedding=replace(spec.embedding, positions=0))


def norms_before(spec: ModelSpec) -> ModelSpec:
    """Without the norms behind attention."""
    return with_layers(spec, mixer_post_norm=None)


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
    "mistral": {
        "no windows": without("window", 0),
        "a larger window": window_plus(1),
        "a smaller window": window_plus(-1),
        "no linear scaling": no_scaling,
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
    "phi3_long": {
        "no factors": no_scaling,
        "no attention factor": no_attention_factor,
        "other factors": long_rope(short_factors=(1.0, 2.5, 8.0)),
    },
    "phi3_beyond": {
        "short factors everywhere": long_rope(original_context_length=499),
        "long factors everywhere": long_rope(original_context_length=1),
        "other long factors": long_rope(long_factors=(1.5, 2.0, 5.0, 9.0, 20.0)),
        "no attention factor": no_attention_factor,
    },
    "starcoder2": {
        "no window": without("window", 0),
        "a larger window": window_plus(1),
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "no bias of queries": without("query_bias", False),
        "no bias of the output": without("output_bias", False),
        "no bias of the feed-forward": no_bias_of_the_feed_forward,
        "ReLU": a_gate_less_activation,
    },
    "cohere2": {
        "no windows": without("window", 0),
        "a smaller window": window_plus(-1),
        "windows in other layers": windows_in_other_layers,
        "RoPE everywhere": rope_everywhere,
        "no RoPE": without("rope", None),
        "numbers paired otherwise": neighbours,
        "one after the other": one_after_the_other,
        "no scale of logits": head(scale=1.0),
    },
    "falcon": {
        "one after the other": one_after_the_other,
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "ReLU": a_gate_less_activation,
        "no RoPE": without("rope", None),
    },
    "falcon_new": {
        "another epsilon": lambda spec: with_layers(spec, feed_forward_norm=replace(norm_of(spec), epsilon=1.0)),
        "no bias of queries": without("query_bias", False),
        "no bias of the feed-forward": no_bias_of_the_feed_forward,
    },
    "falcon_serial": {
        "another epsilon": lambda spec: with_layers(spec, feed_forward_norm=replace(norm_of(spec), epsilon=1.0)),
        "no bias of values": without("value_bias", False),
        "no bias of the output": without("output_bias", False),
    },
    "gpt2": {
        "no positions": no_learned_positions,
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "no bias of keys and queries": lambda spec: with_mixers(spec, query_bias=False),
        "no bias of the output": without("output_bias", False),
        "no bias of the feed-forward": no_bias_of_the_feed_forward,
        "ReLU": a_gate_less_activation,
        "another scale of scores": without("scale", 1.0),
    },
    "olmo3": {
        "no windows": without("window", 0),
        "a larger window": window_plus(1),
        "windows in other layers": windows_in_other_layers,
        "the RoPE of windows everywhere": rope_everywhere,
        "the RoPE of full layers everywhere": rope_as_full_layers,
        "no norm of queries": without("query_norm", None),
        "no norm behind attention": norms_before,
    },
    "exaone4": {
        "no windows": without("window", 0),
        "a smaller window": window_plus(-1),
        "RoPE everywhere": rope_everywhere,
        "no norm of keys": without("key_norm", None),
        "norms behind RoPE": without("normed", "turned"),
        "no norm behind attention": norms_before,
    },
    "ministral3": {
        "no window": without("window", 0),
        "no YaRN": no_scaling,
        "no attention factor": no_attention_factor,
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
    "cohere": {
        "RMS norms": rms_norms,
        "RoPE of halves": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, layout="half")),  # type: ignore[type-var]
        "one after the other": one_after_the_other,
        "no scale of logits": head(scale=1.0),
        "another base": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, theta=1e4)),  # type: ignore[type-var]
    },
    "phi3": {
        "no windows": without("window", 0),
        "a larger window": window_plus(1),
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=10)),
        "another base": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), theta=1e4)),
    },
    "stablelm": {
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "no biases": lambda spec: with_mixers(spec, query_bias=False, key_bias=False, value_bias=False),
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=20)),
    },
    "stablelm_parallel": {
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "one after the other": one_after_the_other,
        "no linear scaling": no_scaling,
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=8)),
    },
    "gpt_neox": {
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "one norm for both": lambda spec: with_layers(spec, feed_forward_norm=None),
        "one after the other": one_after_the_other,
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=10)),
        "another base": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), theta=1e4)),
        "SiLU": other_feed_forward,
        "no biases of the feed-forward": lambda spec: with_layers(
            spec, feed_forward=replace(spec.layers[0].feed_forward, bias=False)
        ),
        "no bias of queries": without("query_bias", False),
        "no bias of the output": without("output_bias", False),
    },
    "gpt_neox_serial": {
        "side by side": lambda spec: with_layers(spec, parallel=True),
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=8)),
        "GELU": lambda spec: with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, activation="gelu")),
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
    "apertus": {
        "ReLU squared": lambda spec: with_layers(spec, feed_forward=replace(spec.layers[0].mlp, activation="relu2")),
        "no norm of queries": without("query_norm", None),
        "no norm of keys": without("key_norm", None),
        "no biases of queries": without("query_bias", False),
        "no bias of the output": without("output_bias", False),
        "no scaling of RoPE": no_scaling,
    },
    "ministral3_long": {
        "queries that do not grow": lambda spec: with_layers(spec, mixer=Attention(**plain_of(spec.layers[0].mixer))),
        "another growth": without("growth", 0.3),
        "another period": without("period", 14),
        "no YaRN": no_scaling,
    },
    "bitnet": {
        "no norm behind attention": lambda spec: with_layers(spec, mixer=Attention(**plain_of(spec.layers[0].mixer))),
        "no norm in the feed-forward": lambda spec: with_layers(
            spec, feed_forward=Mlp(**plain_of(spec.layers[0].feed_forward))
        ),
        "SiLU": lambda spec: with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, activation="silu")),
    },
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
"""For each model its differences from Llama, each taken away."""


def test_every_model_has_changes() -> None:
    assert set(CHANGES) == set(CONFIGS)


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in CHANGES for change in CHANGES[name]])
def test_a_model_without_one_of_its_differences_is_noticed(name: str, change: str) -> None:
    spec = spec_of(name)[1]
    changed = CHANGES[name][change](spec)
    assert changed != spec
    assert error(last_logits(reference(changed, name), name), name) > 100 * TOLERANCE


@pytest.mark.parametrize("change", ["gates exchanged", "taps the other way round"])
def test_parts_of_a_convolution_in_another_order_are_noticed(change: str) -> None:
    family, spec = spec_of("lfm2")

    def wrong(role: str, spec: ModelSpec) -> Any:
        if change == "gates exchanged":
            return family.expression(role.replace("before", "x").replace("after", "before").replace("x", "after"), spec)
        found = family.expression(role, spec)
        return Reversed(found.expression) if isinstance(found, Taps) else found

    assert error(last_logits(reference(spec, "lfm2", wrong), "lfm2"), "lfm2") > 100 * TOLERANCE


class Reversed(Taps):
    def fill(self, source: Any, start: int, out: Any) -> None:
        super().fill(source, start, out)
        out[...] = out.reshape(4, -1)[::-1].reshape(1, -1)


class KeepsAll(tape.GatedDelta):
    """A delta rule that forgets nothing."""

    def oracle(self, run: Any) -> None:
        run[self.decay] = run[self.decay] - 1e9
        super().oracle(run)


class WritesAll(tape.GatedDelta):
    """A delta rule whose rate is 1."""

    def oracle(self, run: Any) -> None:
        run[self.rate] = run[self.rate] + 1e9
        super().oracle(run)


class AsTheyCome(tape.GatedDelta):
    """A delta rule whose queries and keys have the lengths that they come with."""

    def oracle(self, run: Any) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("ggq.tape.ops.recurrent.gated_delta.LEAST", 1e9)
            run[self.mixed] = run[self.mixed] * 1e4
            super().oracle(run)


class WithoutShift(tape.GatedDelta):
    """A delta rule without what is added to the decay."""

    def oracle(self, run: Any) -> None:
        run[self.decay] = run[self.decay] - run.weight(self.shift)
        super().oracle(run)


class Linear(tape.ShortConv):
    """A convolution without an activation."""

    def oracle(self, run: Any) -> None:
        tape.ShortConv(**{**vars(self), "activation": "none"}).oracle(run)


class WithoutSkip(tape.Mamba2):
    """A scan to which the values are not added."""

    def oracle(self, run: Any) -> None:
        super().oracle(run)
        values = run[self.mixed][:, : self.heads * self.head_dim]
        run[self.out] = run[self.out] - np.repeat(run.weight(self.skip), self.head_dim) * values


class OneNorm(tape.Norm):
    """A norm of whole rows where groups have one each."""

    def oracle(self, run: Any) -> None:
        tape.Norm(**{**vars(self), "heads": 1 if self.own else self.heads}).oracle(run)


MULTIPLIERS = [(f"{name}_multiplier", -1) for name in ("key", "attention_in", "attention_out", "ssm_in", "ssm_out")]
MULTIPLIERS += [("mlp_multipliers", place) for place in range(2)] + [("ssm_multipliers", place) for place in range(5)]


@pytest.mark.parametrize(("key", "place"), MULTIPLIERS)
def test_a_multiplier_that_is_left_out_is_noticed(key: str, place: int) -> None:
    hf, spec = dict(CONFIGS["falcon_h1"]), spec_of("falcon_h1")[1]
    if place < 0:
        del hf[key]
    else:
        hf[key] = [1.0 if i == place else each for i, each in enumerate(hf[key])]
    found = last_logits(reference(spec, "falcon_h1", find_architecture(hf).expression), "falcon_h1")
    assert error(found, "falcon_h1") > 100 * TOLERANCE


@pytest.mark.parametrize("wrong", [WithoutSkip, OneNorm])
def test_another_scan_is_noticed(wrong: Any) -> None:
    executor, kind = reference(spec_of("mamba2")[1], "mamba2"), wrong.__bases__[0]
    ops = tuple(wrong(**vars(op)) if type(op) is kind else op for op in executor.program.ops)
    executor.program = replace(executor.program, ops=ops)
    assert error(last_logits(executor, "mamba2"), "mamba2") > 100 * TOLERANCE


@pytest.mark.parametrize("wrong", [KeepsAll, WritesAll, AsTheyCome, WithoutShift, Linear])
def test_another_delta_rule_or_convolution_is_noticed(wrong: Any) -> None:
    executor, kind = reference(spec_of("qwen3_5")[1], "qwen3_5"), wrong.__bases__[0]
    ops = tuple(wrong(**vars(op)) if type(op) is kind else op for op in executor.program.ops)
    executor.program = replace(executor.program, ops=ops)
    assert error(last_logits(executor, "qwen3_5"), "qwen3_5") > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "qwen3_5"])
def test_norms_that_are_stored_less_one_are_noticed_without_it(name: str) -> None:
    family, spec = spec_of(name)

    def plain(role: str, spec: ModelSpec) -> Any:
        expression = family.expression(role, spec)
        return expression.expression if isinstance(expression, Plus) else expression

    assert error(last_logits(reference(spec, name, plain), name), name) > 100 * TOLERANCE
