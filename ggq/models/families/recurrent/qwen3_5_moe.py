"""Qwen3.5-MoE: Llama as Qwen3.5 changes it, with experts beside one, with a gate, for all tokens."""

from __future__ import annotations

from collections.abc import Mapping

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.families.experts import qwen2_moe
from ggq.models.families.recurrent import qwen3_5, qwen3_next
from ggq.models.family import Family
from ggq.models.names import Expression, Tensor
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **{key: value for key, value in qwen3_5.KEYS.items() if key != "intermediate_size"},
    **dict.fromkeys(("router_aux_loss_coef", "output_router_logits"), ANY),
    "num_key_value_heads": OrNull(2),
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 8,
    "num_experts": 256,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    return qwen3_5.parts(config, feed_forward=qwen3_next.mixture(config))


def expression(
    role: str, spec: ModelSpec, modules: Mapping[str, str] = qwen3_5.MODULES, layers: str = "model.layers"
) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    if ".experts." in role:
        return Tensor(str(qwen2_moe.expression(role, spec)).replace("model.layers", layers))
    return qwen3_5.expression(role.replace(".experts_norm.", ".mlp_norm."), spec, modules, layers)


QWEN3_5_MOE = Family(
    ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextModel"),
    ("qwen3_5_moe_text",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
    beside=("mtp.",),
    others=(decoder.stacked(expression),),
)
