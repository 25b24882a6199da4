"""Granite MoE: Granite 3 (Llama with multipliers) with stacks of experts."""

from __future__ import annotations

from dataclasses import replace

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
    mixture = decoder.experts(config)
    if "shared_intermediate_size" in config.keys:
        mixture = replace(mixture, shared_width=config.take("shared_intermediate_size", Experts, "shared_width"))
    return granite.multiplied(decoder.read_decoder(config, feed_forward=mixture), config)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role: one matrix of a stack, or rows of one, where gate and up are below each other."""
    if ".experts." not in role:
        return decoder.expression(role.replace(".experts_norm.", ".mlp_norm."), spec)
    _, layer, _, expert, *matrix, _ = role.split(".")
    names = {"gate": "input_linear", "up": "input_linear", "down": "output_linear"}
    module, shared = names[matrix[0]] if matrix else "router.layer", expert == "shared"
    whole = Tensor(f"model.layers.{layer}.{'shared_mlp' if shared else 'block_sparse_moe'}.{module}.weight")
    if not matrix:
        return whole
    mine, part = whole if shared else Matrix(whole, int(expert)), decoder.layer_of(role, spec).feed_forward
    assert isinstance(part, Experts)
    width = part.shared_width if shared else part.width
    places = {"gate": (0, width), "up": (width, 2 * width)}
    return Rows(mine, *places[matrix[0]]) if matrix[0] in places else mine


GRANITE_MOE = Family(("GraniteMoeForCausalLM",), ("granitemoe",), KEYS, parts, expression, decoder.constants)
