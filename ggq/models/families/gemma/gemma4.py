"""Gemma 4 (text): Llama as Gemma 3 changes it, with plain norms, of values too, two sizes of heads, keys that may be
values, the last layers reading the keys and values of earlier ones, and inputs and a scale of each layer's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ggq.models import decoder
from ggq.models.config import Config, Inner, Keys, OrNull
from ggq.models.config_rope import PROPORTIONAL, read_rope, rope_sources
from ggq.models.families.gemma._layers import (
    MODULES,
    layer_inputs,
    matrix_of_experts,
    named,
    shared,
    source_of,
    table,
    with_experts,
)
from ggq.models.family import Family
from ggq.models.fields import Fields, shown
from ggq.models.layers.layered import LayeredSpec
from ggq.models.names import Expression
from ggq.models.parts import Attention, KeyedAttention, Layer, Mlp, ModelSpec, Norm

KEYS: Keys = {
    **decoder.base_without("hidden_act"),
    "num_key_value_heads": OrNull(4),
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "sliding_window": 512,
    "layer_types": OrNull(),
    "final_logit_softcapping": OrNull(),
    "use_bidirectional_attention": OrNull(),
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
    "attention_k_eq_v": False,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "enable_moe_block": False,
    **dict.fromkeys(("num_experts", "top_k_experts", "moe_intermediate_size"), OrNull()),
    "global_head_dim": 512,
    "num_global_key_value_heads": OrNull(),
    "per_layer_config": OrNull(),
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}

FULL, SLIDING = "full_attention", "sliding_attention"
USUAL = {"rope_type": PROPORTIONAL, "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}
"""The RoPE of full layers where nothing is said."""


def parts(config: Config) -> LayeredSpec:
    """The model of a config.json."""
    if config.get("use_bidirectional_attention") not in (None, "vision"):  # images alone are seen from both sides
        raise config.unsupported("use_bidirectional_attention", "only null and 'vision' are supported")
    kinds = decoder.layer_kinds(config, (FULL, SLIDING), lambda number: SLIDING if (number + 1) % 6 else FULL)
    kinds = [*kinds[:-1], FULL]  # as transformers has it
    norm, spec = decoder.rms_norm(config), decoder.read_decoder(config, rope=lambda *_: None)
    spec = decoder.with_layers(spec, mixer_post_norm=norm, feed_forward_post_norm=norm)
    ropes = rope_sources(config, (FULL, SLIDING))
    if config.get("rope_parameters") is None:
        ropes[FULL].values = {**USUAL, **ropes[FULL].values}
    mixers = {kind: mixer(config, spec, kind, norm, ropes[kind]) for kind in dict.fromkeys(kinds)}
    first = len(kinds) - config.integer("num_kv_shared_layers", (0, len(kinds) - 1))
    wide = 1 + config.flag("use_double_wide_mlp")
    layers: list[Layer] = []
    for number, (kind, layer) in enumerate(zip(kinds, spec.layers)):
        mine: Attention = mixers[kind]
        plain: Mlp = layer.mlp
        if number >= first:
            source = source_of(config, kinds, number, first)
            mine = shared(mine, source)
            plain = replace(plain, width=wide * plain.width)
        layers.append(replace(layer, mixer=mine, feed_forward=with_experts(config, plain, norm)))
    head = replace(spec.head, softcap=decoder.read_softcap(config, "final_logit_softcapping"))
    embedding = replace(spec.embedding, scale=math.sqrt(spec.hidden_size))
    inputs, rows = layer_inputs(config, spec, norm)
    return LayeredSpec(spec.context_length, embedding, tuple(layers), head, inputs, rows, layer_scales=True)


def mixer(config: Config, spec: ModelSpec, kind: str, norm: Norm, inner: Inner) -> KeyedAttention:
    """The attention of a kind of layer."""
    plain, full, same = spec.layers[0].attention, kind == FULL, config.flag("attention_k_eq_v")
    if full:
        plain = replace(plain, head_dim=config.take("global_head_dim", Attention, "head_dim"))
        if same and config.get("num_global_key_value_heads") is not None:
            plain = replace(plain, kv_heads=config.take("num_global_key_value_heads", Attention, "kv_heads"))
    plain = overridden(config, plain, full)
    forms = ("default", "linear", PROPORTIONAL)
    turned = read_rope(config, plain.head_dim, spec.context_length, inner=inner, forms=forms)
    return KeyedAttention(
        **{
            **vars(plain),
            "rope": turned,
            "scale": 1.0,
            "window": 0 if full else config.integer("sliding_window", (1, 1 << 27)),
            "query_norm": norm,
            "key_norm": norm,
        },
        value_norm=replace(norm, weight=False),
        values="keys" if full and same else "own",
    )


def overridden(config: Config, plain: Attention, full: bool) -> Attention:
    """The sizes of full layers as "per_layer_config" has them, where transformers 5 wrote it."""
    given = config.get("per_layer_config")
    if given is None or not full:
        return plain
    found = list(given.values()) if isinstance(given, Mapping) else []
    if not found or not all(isinstance(each, Mapping) and each == found[0] for each in found):
        raise config.unsupported("per_layer_config", f"{shown(given)} found: only one form of full layers is supported")
    sizes = Fields(dict(found[0]), config.path, "per_layer_config.")
    for key, name in {"head_dim": "head_dim", "num_key_value_heads": "kv_heads"}.items():
        if key in sizes:
            changes: dict[str, Any] = {name: sizes.integer(key, (1, 1 << 13))}
            plain = replace(plain, **changes)
    if odd := set(sizes.values) - {"head_dim", "num_key_value_heads"}:
        raise config.unsupported("per_layer_config", f"{shown(min(odd))} is not supported")
    return plain


def expression(role: str, spec: LayeredSpec, layers: str = "model.layers", prefix: str = "model") -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    return table(role, spec, prefix) or matrix_of_experts(role, spec, layers) or named(role, MODULES, layers, prefix)


GEMMA4 = Family(
    ("Gemma4ForCausalLM", "Gemma4TextModel"),
    ("gemma4_text",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
)
