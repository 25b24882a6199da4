"""Qwen3-Next: Llama as Qwen3.5 changes it, with experts beside one, with a gate, for all tokens, and the inputs of a
delta net in two matrices, key head by key head."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from ggq.models import decoder
from ggq.models.combined import Joined
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.families.experts import qwen2_moe
from ggq.models.families.recurrent import qwen3_5
from ggq.models.family import Family
from ggq.models.names import Expression, Interleaved, Tensor
from ggq.models.parts import Experts, GatedDelta, ModelSpec

KEYS: Keys = {
    **qwen3_5.KEYS,
    **dict.fromkeys(("router_aux_loss_coef", "output_router_logits"), ANY),
    "intermediate_size": 5632,
    "num_key_value_heads": OrNull(2),
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": OrNull(),
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    return decoder.with_experts(qwen3_5.parts(config), config, mixture(config))


def mixture(config: Config) -> Experts:
    """Experts beside one, with a gate, for all tokens."""
    shared = config.take("shared_expert_intermediate_size", Experts, "shared_width")
    if not shared:
        raise config.unsupported("shared_expert_intermediate_size", "0 is not supported")
    return replace(decoder.experts(config), shared_width=shared, shared_gate=True)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role; rows of a delta net's inputs lie key head by key head: query, key, values, gates."""
    if ".experts." in role:
        return qwen2_moe.expression(role, spec)
    role = role.replace(".experts_norm.", ".mlp_norm.")
    name = role.split(".")[-2]
    if ".delta." not in role or name not in ("mixed", "gate", "rate", "decay"):
        return qwen3_5.expression(role, spec)
    delta = decoder.layer_of(role, spec).mixer
    assert isinstance(delta, GatedDelta)
    each, keys = delta.heads // delta.key_heads, delta.key_dim
    values, layer = each * delta.value_dim, f"model.layers.{role.split('.')[1]}.linear_attn"
    period, second = 2 * (keys + values), name == "decay"
    if name in ("rate", "decay"):
        return Interleaved(Tensor(f"{layer}.in_proj_ba.weight"), 2 * each, second * each, (second + 1) * each)
    ends = (0, keys, 2 * keys, 2 * keys + values, period)
    whole = Tensor(f"{layer}.in_proj_qkvz.weight")
    found = [Interleaved(whole, period, *place) for place in pairwise(ends)]
    heights = tuple(delta.key_heads * (stop - start) for start, stop in pairwise(ends))
    return found[3] if name == "gate" else Joined(tuple(found[:3]), heights[:3])


QWEN3_NEXT = Family(
    ("Qwen3NextForCausalLM", "Qwen3NextModel"),
    ("qwen3_next",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
    beside=("mtp.",),
    others=(decoder.stacked(expression),),
)
