"""Falcon-H1: Llama with a scan of Mamba-2 beside the attention of every layer, and multipliers of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.families.recurrent import mamba2
from ggq.models.family import Family
from ggq.models.fields import shown
from ggq.models.names import Expression
from ggq.models.parts import Embedding, Head, Hybrid, Mamba2, ModelSpec

SCALES = {
    "lm_head_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "key_multiplier": 1.0,
    "attention_out_multiplier": 1.0,
    "attention_in_multiplier": 1.0,
    "ssm_in_multiplier": 1.0,
    "ssm_out_multiplier": 1.0,
}

KEYS: Keys = {
    **{key: value for key, value in decoder.BASE.items() if key != "head_dim"},
    "num_key_value_heads": OrNull(8),
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "num_logits_to_keep": ANY,
    "mamba_d_ssm": OrNull(1024),
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": ANY,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "mamba_norm_before_gate": True,
    "mamba_rms_norm": False,
    "time_step_limit": [0.0, float("inf")],
    "projectors_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "mlp_multipliers": OrNull(),
    "ssm_multipliers": OrNull(),
    **SCALES,
}

MODULES = decoder.MODULES | {
    "norm": "model.final_layernorm",
    "hybrid_norm": "input_layernorm",
    "mlp_norm": "pre_ff_layernorm",
    "mlp.gate": "feed_forward.gate_proj",
    "mlp.up": "feed_forward.up_proj",
    "mlp.down": "feed_forward.down_proj",
    "mamba.inputs": "mamba.in_proj",
    "mamba.taps": "mamba.conv1d",
    "mamba.norm": "mamba.norm",
    "mamba.o": "mamba.out_proj",
}
"""Names of modules in a checkpoint."""


def parts(config: Config) -> ModelSpec:
    """The model of a config.json; its other multipliers go into the tensors (`scaled`)."""
    spec, least_most = decoder.read_decoder(config), mamba2.limits(config)
    heads, given = config.take("mamba_n_heads", Mamba2, "heads"), config.get("mamba_d_ssm")
    width = config.integer("mamba_expand", (1, 64)) * spec.hidden_size
    width = width if given is None else config.integer("mamba_d_ssm", (1, 1 << 27))
    size = width // heads if config.get("mamba_d_head") == "auto" else config.take("mamba_d_head", Mamba2, "head_dim")
    if heads * size != width:
        raise config.error("mamba_n_heads", f"{heads} heads of {size} are not the inner width {width}")
    scan = Mamba2(
        heads=heads,
        groups=config.take("mamba_n_groups", Mamba2, "groups"),
        head_dim=size,
        state_size=config.take("mamba_d_state", Mamba2, "state_size"),
        reach=config.take("mamba_d_conv", Mamba2, "reach"),
        least_step=least_most[0],
        most_step=least_most[1],
        taps_bias=config.flag("mamba_conv_bias"),
        bias=config.flag("mamba_proj_bias"),
        output_bias=config.flag("projectors_bias"),
        norm=decoder.rms_norm(config) if config.flag("mamba_rms_norm") else None,
        norm_first=config.flag("mamba_norm_before_gate"),
    )
    config.choice("hidden_act", ("silu", "swish"))
    for key in SCALES:
        config.number(key, (0.0, 1e6))
    for key, count in (("mlp_multipliers", 2), ("ssm_multipliers", 5)):
        multipliers(config, key, count)
    layers = (replace(layer, mixer=Hybrid(layer.attention, scan)) for layer in spec.layers)
    embedding = replace(spec.embedding, scale=config.take("embedding_multiplier", Embedding, "scale"))
    head = replace(spec.head, scale=config.take("lm_head_multiplier", Head, "scale"))
    return replace(spec, layers=tuple(layers), embedding=embedding, head=head)


def multipliers(config: Config, key: str, count: int) -> None:
    """Refuse what is no list of so many numbers; null stands for ones."""
    given = config.get(key)
    if given is None:
        return
    numbers = given if isinstance(given, list) and len(given) == count else [None]
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and 0 < each < 1e6 for each in numbers):
        raise config.error(key, f"{shown(given)} found, {count} numbers above 0 expected")


def scaled(hf: Mapping[str, Any], role: str, spec: ModelSpec) -> tuple[tuple[int, float], ...]:
    """The multipliers of the rows of a tensor."""
    if not role.startswith("layers.") or "norm" in role:
        return ()
    scale = {key: float(hf.get(key) or 1.0) for key in SCALES}
    gate, down = hf.get("mlp_multipliers") or (1.0, 1.0)
    layer, (name, kind) = decoder.layer_of(role, spec), role.split(".")[-2:]
    scan, attention, weight = layer.scan, layer.attention, kind == "weight"
    inner, shared = scan.heads * scan.head_dim, scan.groups * scan.state_size
    into = scale["attention_in_multiplier"] if weight else 1.0
    if ".mamba." in role:
        z, x, b, c, step = (hf.get("ssm_multipliers") or (1.0,) * 5) if name != "o" else (1.0,) * 5
        into = scale["ssm_in_multiplier"] if weight else 1.0
        found = {
            "gate": ((inner, z * into),),
            "mixed": ((inner, x * into), (inner + shared, b * into), (inner + 2 * shared, c * into)),
            "step": ((scan.heads, step * into),),
            "o": ((spec.hidden_size, scale["ssm_out_multiplier"]),),
        }.get(name, ())
    else:
        keys = attention.kv_heads * attention.head_dim
        found = {
            "q": ((attention.heads * attention.head_dim, into),),
            "k": ((keys, into * scale["key_multiplier"]),),
            "v": ((keys, into),),
            "o": ((spec.hidden_size, scale["attention_out_multiplier"]),),
            "gate": ((layer.mlp.width, gate),),
            "down": ((spec.hidden_size, down),),
        }.get(name, ())
    return found if any(factor != 1 for _, factor in found) else ()


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, without its multipliers."""
    return mamba2.expression(role, spec, MODULES, "model.layers", "mamba")


FALCON_H1 = Family(
    ("FalconH1ForCausalLM", "FalconH1Model"),
    ("falcon_h1",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
    scaled=scaled,
)
