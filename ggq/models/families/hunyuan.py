"""Hunyuan (dense): Llama with norms of the heads of query and key behind RoPE, whose base an "alpha" may raise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys
from ggq.models.config_rope import read_rope, rope_source
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Tensor
from ggq.models.parts import ModelSpec
from ggq.models.rope import Rope

KEYS: Keys = {
    **decoder.BASE,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "pretraining_tp": ANY,
    "eod_token_id": ANY,
}

MODULES = decoder.MODULES | {
    "attention.q_norm": "self_attn.query_layernorm",
    "attention.k_norm": "self_attn.key_layernorm",
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm, spec = decoder.rms_norm(config), decoder.read_decoder(config, rope=rope)
    return decoder.with_mixers(spec, query_norm=norm, key_norm=norm, normed="turned")


def rope(config: Config, head_dim: int, *more: Any) -> Rope:
    """RoPE; "dynamic" with an "alpha" means a fixed base of theta * alpha ** (head_dim / (head_dim - 2))."""
    inner = rope_source(config)
    found = read_rope(config, head_dim, *more, inner=inner)
    alpha = inner.number("alpha", (0.0, 1e9)) if "alpha" in inner and "dynamic" in inner.values.values() else 1.0
    for key in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim") if alpha != 1 else ():
        inner.get(key, 0)  # which only other forms have
    return (
        found if alpha == 1 else replace(found, theta=found.theta * alpha ** (head_dim / (head_dim - 2)), scaling=None)
    )


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    return Tensor(checkpoint_name(role, MODULES))


NAMES = ("HunYuanDenseV1ForCausalLM", "HunYuanDenseV1Model")
HUNYUAN = Family(NAMES, ("hunyuan_v1_dense",), KEYS, parts, expression, decoder.constants)
