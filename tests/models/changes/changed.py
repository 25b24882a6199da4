"""Models with one part changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ggq.models.decoder import with_layers, with_mixers
from ggq.models.parts import (
    Attention,
    Experts,
    GatedAttention,
    GatedDelta,
    ModelSpec,
    Norm,
)
from ggq.models.rope import LongRope, Rope


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
