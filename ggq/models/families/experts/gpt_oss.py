"""gpt-oss: Llama with experts gated by a clamped SwiGLU, biases, sinks, and windows in every other layer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, Only, OrNull
from ggq.models.config_rope import read_rope, rope_source
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Interleaved, Matrix, Row, Tensor, Transposed
from ggq.models.parts import PLAIN, ModelSpec
from ggq.tape.ops.activations import CLAMP_LIMIT, CLAMP_SLOPE, CLAMPED

KEYS: Keys = {
    **decoder.BASE,
    **dict.fromkeys(("router_aux_loss_coef", "output_router_logits"), ANY),
    "num_key_value_heads": OrNull(8),
    "head_dim": OrNull(64),
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "attention_bias": True,
    "sliding_window": OrNull(128),
    "layer_types": OrNull(),
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "swiglu_alpha": Only(CLAMP_SLOPE),
    "swiglu_limit": Only(CLAMP_LIMIT),
}

USUAL = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    source = rope_source(config, USUAL)
    mixture = replace(decoder.experts(config), activation=CLAMPED, bias=True, router=replace(PLAIN, bias=True))
    spec = decoder.read_decoder(config, rope=partial(read_rope, inner=source), feed_forward=mixture)
    windows = decoder.layer_windows(config, decoder.read_window(config), slides=lambda number: number % 2 == 0)
    return decoder.with_windows(decoder.with_mixers(spec, sinks=True), windows)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role: of an expert, a matrix of a stack, transposed, whose rows of gate and up take turns."""
    if ".experts." not in role:
        names = decoder.MODULES | {"experts_norm": decoder.MODULES["mlp_norm"], "attention": "self_attn"}
        return Tensor(checkpoint_name(role, names))
    _, layer, _, expert, *matrix, kind = role.split(".")
    if not matrix:
        return Tensor(f"model.layers.{layer}.mlp.router.{kind}")
    name = f"model.layers.{layer}.mlp.experts.{'down' if matrix[0] == 'down' else 'gate_up'}_proj"
    bias, number, second = kind == "bias", int(expert), matrix[0] == "up"
    mine = Row(Tensor(f"{name}_bias"), number) if bias else Transposed(Matrix(Tensor(name), number))
    return mine if matrix[0] == "down" else Interleaved(mine, 2, second, 1 + second)


def packed(role: str, spec: ModelSpec) -> Expression:
    """The same where matrices of experts are codes and scales, which are not transposed."""
    found = expression(role, spec)
    inner = found.expression if isinstance(found, Interleaved) else found
    if not isinstance(inner, Transposed) or not isinstance(inner.expression, Matrix):
        return found
    mine = Matrix(Tensor(f"{inner.expression.expression.name}_blocks"), inner.expression.index)
    return replace(found, expression=mine) if isinstance(found, Interleaved) else mine


GPT_OSS = Family(("GptOssForCausalLM",), ("gpt_oss",), KEYS, parts, expression, decoder.constants, others=(packed,))
