"""LFM2: Llama with gated short convolutions instead of attention in most layers, and norms of heads of q and k."""

from __future__ import annotations

import math
from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.family import Family, checkpoint_name
from ggq.models.fields import shown
from ggq.models.names import Expression, Rows, Taps, Tensor
from ggq.models.parts import Mlp, ModelSpec, ShortConv

KEYS: Keys = {
    **decoder.base_without("hidden_act", "rms_norm_eps"),
    "intermediate_size": 12288,
    "block_ff_dim": OrNull(),
    "num_key_value_heads": OrNull(8),
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "tie_embedding": OrNull(),
    "rope_theta": 1000000.0,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": OrNull(1.0),
    "block_auto_adjust_ff_dim": True,
    "full_attn_idxs": OrNull(),
    "layer_types": OrNull(),
}

MODULES = decoder.MODULES | {
    "norm": "model.embedding_norm",
    "attention_norm": "operator_norm",
    "attention.o": "self_attn.out_proj",
    "attention.q_norm": "self_attn.q_layernorm",
    "attention.k_norm": "self_attn.k_layernorm",
    "conv_norm": "operator_norm",
    "conv.inputs": "conv.in_proj",
    "conv.taps": "conv.conv",
    "conv.o": "conv.out_proj",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "feed_forward.w1",
    "mlp.up": "feed_forward.w3",
    "mlp.down": "feed_forward.w2",
}
"""Names of modules in a checkpoint."""


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    return mixed(config, width(config))


def mixed(config: Config, width: int) -> ModelSpec:
    """The model whose feed-forwards have so many numbers between their matrices."""
    norm = decoder.rms_norm(config, "norm_eps")
    spec = decoder.with_mixers(decoder.read_decoder(config, norm), query_norm=norm, key_norm=norm)
    attends = config.get("full_attn_idxs") if "full_attn_idxs" in config.keys else None
    if attends is not None and not isinstance(attends, list):
        raise config.error("full_attn_idxs", f"{shown(attends)} found, a list of numbers of layers expected")
    words = ("full_attention", "conv")
    kinds = decoder.layer_kinds(config, words, lambda number: words[attends is not None and number not in attends])
    mixer = ShortConv(spec.hidden_size, config.take("conv_L_cache", ShortConv, "reach"), config.flag("conv_bias"))
    feed_forward = replace(spec.layers[0].mlp, width=width)
    layers = (replace(each, feed_forward=feed_forward) for each in spec.layers)
    mixed = (each if kind != "conv" else replace(each, mixer=mixer) for each, kind in zip(layers, kinds))
    tied = config.flag("tie_word_embeddings" if config.get("tie_embedding") is None else "tie_embedding")
    return replace(spec, layers=tuple(mixed), head=replace(spec.head, tied=tied))


def width(config: Config) -> int:
    """Numbers between the matrices of a feed-forward."""
    given = "intermediate_size" if config.get("block_ff_dim") is None else "block_ff_dim"
    size: int = config.take(given, Mlp, "width")
    least, factor = config.integer("block_multiple_of", (1, 1 << 22)), config.get("block_ffn_dim_multiplier")
    factor = None if factor is None else config.number("block_ffn_dim_multiplier", (0.0, 1e6))
    if not config.flag("block_auto_adjust_ff_dim"):
        return size
    size = int(2 * size / 3)
    return size if factor is None else math.ceil(int(factor * size) / least) * least


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role: rows of the matrix of all inputs of a convolution, or a tensor of a checkpoint."""
    for place, name in enumerate(("before", "after", "source")):
        if f".conv.{name}." in role:
            whole = Tensor(checkpoint_name(role.replace(name, "inputs"), MODULES))
            return Rows(whole, place * spec.hidden_size, (place + 1) * spec.hidden_size)
    tensor = Tensor(checkpoint_name(role, MODULES))
    if not role.endswith("taps.weight"):
        return tensor
    mixer = spec.layers[int(role.split(".")[1])].mixer
    assert isinstance(mixer, ShortConv)
    return Taps(tensor, mixer.reach)


LFM2 = Family(
    ("Lfm2ForCausalLM", "Lfm2Model"),
    ("lfm2",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
)
