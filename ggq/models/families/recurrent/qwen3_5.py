"""Qwen3.5: Llama with gated delta nets in three of four layers and gated attention in the fourth, of whose heads a part
turns, with norms of heads of q and k; norms' weights are stored less 1, but for those of the delta nets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.config_rope import read_rope, rope_source
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Interleaved, Plus, Taps, Tensor
from ggq.models.parts import Experts, GatedAttention, GatedDelta, ModelSpec
from ggq.models.rope import Rope

KEYS: Keys = {
    **decoder.BASE,
    "num_key_value_heads": OrNull(4),
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "attention_bias": False,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "layer_types": OrNull(),
    "full_attention_interval": 4,
}

MODULES = decoder.MODULES | {
    "delta_norm": "input_layernorm",
    "delta.mixed": "linear_attn.in_proj_qkv",
    "delta.gate": "linear_attn.in_proj_z",
    "delta.rate": "linear_attn.in_proj_b",
    "delta.decay": "linear_attn.in_proj_a",
    "delta.taps": "linear_attn.conv1d",
    "delta.norm": "linear_attn.norm",
    "delta.o": "linear_attn.out_proj",
}
"""Names of modules in a checkpoint."""

SCALARS = {"delta.speed": "linear_attn.A_log", "delta.shift": "linear_attn.dt_bias"}


def parts(config: Config, feed_forward: Experts | None = None) -> ModelSpec:
    """The model of a config.json, in which layers have this feed-forward or the one that it says."""
    norm = decoder.rms_norm(config)
    spec = decoder.with_mixers(
        decoder.read_decoder(config, rope=rope, feed_forward=feed_forward), query_norm=norm, key_norm=norm
    )
    delta = GatedDelta(
        heads=config.take("linear_num_value_heads", GatedDelta, "heads"),
        key_heads=config.take("linear_num_key_heads", GatedDelta, "key_heads"),
        key_dim=config.take("linear_key_head_dim", GatedDelta, "key_dim"),
        value_dim=config.take("linear_value_head_dim", GatedDelta, "value_dim"),
        reach=config.take("linear_conv_kernel_dim", GatedDelta, "reach"),
        norm=norm,
    )
    every = config.integer("full_attention_interval", (1, 1 << 20))
    words = ("full_attention", "linear_attention")
    kinds = decoder.layer_kinds(config, words, lambda number: words[(number + 1) % every != 0])
    gated = [
        GatedAttention(**{each.name: getattr(layer.attention, each.name) for each in fields(layer.attention)})
        for layer in spec.layers
    ]
    mixers = (attention if kind == words[0] else delta for attention, kind in zip(gated, kinds))
    return replace(spec, layers=tuple(replace(layer, mixer=mixer) for layer, mixer in zip(spec.layers, mixers)))


def rope(config: Config, head_dim: int, context: int, layout: str) -> Rope:
    """RoPE; a text has one position where images have three, so that their sections mean nothing here."""
    inner = rope_source(config)
    sections: dict[str, Any] = {key: value for key, value in inner.values.items() if key.startswith("mrope_")}
    inner.values = {key: value for key, value in inner.values.items() if key not in sections}
    return read_rope(config, head_dim, context, layout, inner=inner)


def expression(
    role: str, spec: ModelSpec, modules: Mapping[str, str] = MODULES, layers: str = "model.layers"
) -> Expression:
    """The tensor of a role, by its name in a checkpoint; of a query's matrix each head has its gate behind it."""
    for name, scalars in SCALARS.items():
        if role.endswith(name):
            return Tensor(f"{layers}.{role.split('.')[1]}.{scalars}")
    module = role.rsplit(".", 1)[0]
    if module.endswith((".attention.q", ".attention.gate")):
        width, second = decoder.layer_of(role, spec).attention.head_dim, module.endswith("gate")
        whole = Tensor(checkpoint_name(role.replace("attention.gate", "attention.q"), modules, layers))
        return Interleaved(whole, 2 * width, second * width, (second + 1) * width)
    tensor = Tensor(checkpoint_name(role, modules, layers))
    if module.endswith("taps"):
        mixer = decoder.layer_of(role, spec).mixer
        assert isinstance(mixer, GatedDelta)
        return Taps(tensor, mixer.reach)
    return Plus(tensor) if module.endswith("norm") and not module.endswith("delta.norm") else tensor


QWEN3_5 = Family(
    ("Qwen3_5ForCausalLM", "Qwen3_5TextModel"),
    ("qwen3_5_text",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
)
