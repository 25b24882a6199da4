"""Granite MoE: Granite 3 (Llama with multipliers) with experts, whose matrices a checkpoint keeps in stacks."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys
from ggq.models.families import granite
from ggq.models.family import Family
from ggq.models.names import Expression, Matrix, Rows, Tensor
from ggq.models.parts import Experts, ModelSpec

KEYS: Keys = {
    **{key: value for key, value in granite.KEYS.items() if key != "mlp_bias"},
    **dict.fromkeys(("router_aux_loss_coef", "output_router_logits"), ANY),
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    return decoder.with_layers(granite.parts(config), feed_forward=decoder.experts(config))


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role: one matrix of a stack, or rows of one, where gate and up are below each other."""
    if ".experts." not in role:
        return decoder.expression(role.replace(".experts_norm.", ".mlp_norm."), spec)
    _, layer, _, expert, *matrix, _ = role.split(".")
    names = {"gate": "input_linear", "up": "input_linear", "down": "output_linear"}
    whole = Tensor(f"model.layers.{layer}.block_sparse_moe.{names[matrix[0]] if matrix else 'router.layer'}.weight")
    if not matrix:
        return whole
    mine, part = Matrix(whole, int(expert)), decoder.layer_of(role, spec).feed_forward
    assert isinstance(part, Experts)
    places = {"gate": (0, part.width), "up": (part.width, 2 * part.width)}
    return Rows(mine, *places[matrix[0]]) if matrix[0] in places else mine


GRANITE_MOE = Family(("GraniteMoeForCausalLM",), ("granitemoe",), KEYS, parts, expression, decoder.constants)
