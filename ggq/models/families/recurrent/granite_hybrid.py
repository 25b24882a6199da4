"""Granite 4 hybrids: Llama with scans of Mamba-2 instead of attention in most layers, no RoPE unless
asked for, gate and up of the feed-forward in one matrix, and Granite's multipliers."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.families import granite
from ggq.models.families.experts import granite_moe
from ggq.models.families.recurrent import mamba2
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Rows, Tensor
from ggq.models.parts import Experts, Mamba2, ModelSpec

KEYS: Keys = {
    **{key: value for key, value in granite.KEYS.items() if key not in ("head_dim", "mlp_bias")},
    "intermediate_size": 11008,  # of experts
    "shared_intermediate_size": 1024,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    **dict.fromkeys(("output_router_logits", "router_aux_loss_coef"), ANY),
    "position_embedding_type": OrNull(),
    "layer_types": OrNull(),
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_head": "auto",
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": ANY,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "time_step_limit": [0.0, float("inf")],
}

MODULES = decoder.MODULES | {
    "mamba_norm": "input_layernorm",
    "mamba.inputs": "mamba.in_proj",
    "mamba.taps": "mamba.conv1d",
    "mamba.norm": "mamba.norm",
    "mamba.o": "mamba.out_proj",
    "mlp.gate_up": "shared_mlp.input_linear",
    "mlp.down": "shared_mlp.output_linear",
}
"""Names of modules in a checkpoint."""

WORDS = {"full_attention": "attention", "linear_attention": "mamba", "attention": "attention", "mamba": "mamba"}
"""Kinds of layers, as transformers 5 and 4 write them."""


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    spec = granite.parts(config)
    if config.get("num_local_experts") == 0:
        config.get("intermediate_size"), config.get("num_experts_per_tok")  # of experts
    else:
        width = config.take("shared_intermediate_size", Experts, "shared_width")
        spec = decoder.with_layers(spec, feed_forward=replace(decoder.experts(config), shared_width=width))
    place = config.get("position_embedding_type")
    if place not in (None, "rope", "nope"):
        raise config.unsupported("position_embedding_type", f"{place!r} is not supported; supported: rope, nope, null")
    if place != "rope":
        spec = decoder.with_mixers(spec, rope=None)
    kinds = decoder.layer_kinds(config, tuple(WORDS), lambda number: "linear_attention")
    mixer = scan(config, spec)
    layers = (
        replace(layer, mixer=mixer) if WORDS[kind] == "mamba" else layer for layer, kind in zip(spec.layers, kinds)
    )
    return replace(spec, layers=tuple(layers))


def scan(config: Config, spec: ModelSpec) -> Mamba2:
    """The scan of the layers that have one."""
    heads = config.take("mamba_n_heads", Mamba2, "heads")
    width = config.integer("mamba_expand", (1, 64)) * spec.hidden_size
    size = width // heads if config.get("mamba_d_head") == "auto" else config.take("mamba_d_head", Mamba2, "head_dim")
    if heads * size != width:
        raise config.error("mamba_n_heads", f"{heads} heads of {size} are not the inner width {width}")
    least, most = mamba2.limits(config)
    return Mamba2(
        heads=heads,
        groups=config.take("mamba_n_groups", Mamba2, "groups"),
        head_dim=size,
        state_size=config.take("mamba_d_state", Mamba2, "state_size"),
        reach=config.take("mamba_d_conv", Mamba2, "reach"),
        least_step=least,
        most_step=most,
        taps_bias=config.flag("mamba_conv_bias"),
        bias=config.flag("mamba_proj_bias"),
        output_bias=config.flag("mamba_proj_bias"),
        norm=decoder.rms_norm(config),
        norm_first=False,
    )


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role: rows of a fused matrix, or a tensor of a checkpoint."""
    if ".experts." in role:
        return granite_moe.expression(role, spec)
    role = role.replace(".experts_norm.", ".mlp_norm.")
    for place, name in enumerate(("gate", "up")):
        if f".mlp.{name}." in role:
            width = decoder.layer_of(role, spec).mlp.width
            whole = Tensor(checkpoint_name(role.replace(f".{name}.", ".gate_up."), MODULES))
            return Rows(whole, place * width, (place + 1) * width)
    return mamba2.expression(role, spec, MODULES, "model.layers", "mamba")


GRANITE_HYBRID = Family(
    ("GraniteMoeHybridForCausalLM", "GraniteMoeHybridModel"),
    ("granitemoehybrid",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
)
