"""LFM2-MoE: Llama as LFM2 changes it, with experts that sigmoids choose in all layers but the first."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.families.recurrent import lfm2
from ggq.models.family import Family
from ggq.models.names import Expression, Tensor
from ggq.models.parts import MOST_LAYERS, PLAIN, Experts, Mlp, ModelSpec

ADJUSTED = ("block_ff_dim", "block_multiple_of", "block_ffn_dim_multiplier", "block_auto_adjust_ff_dim")

KEYS: Keys = {
    **{key: value for key, value in lfm2.KEYS.items() if key not in (*ADJUSTED, "full_attn_idxs")},
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_dense_layers": 2,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "output_router_logits": ANY,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
    "layer_types": OrNull(),
}

MATRICES = {"gate": "w1", "down": "w2", "up": "w3"}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    router = replace(PLAIN, score="sigmoid", correction=config.flag("use_expert_bias"), least=1e-6)
    scale = config.take("routed_scaling_factor", Experts, "scale")
    mixture = replace(decoder.experts(config), router=router, scale=scale)
    dense = config.integer("num_dense_layers", (0, MOST_LAYERS))
    spec = lfm2.mixed(config, config.take("intermediate_size", Mlp, "width"))
    layers = (replace(each, feed_forward=mixture) if n >= dense else each for n, each in enumerate(spec.layers))
    return replace(spec, layers=tuple(layers))


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    if ".experts." not in role:
        return lfm2.expression(role.replace(".experts_norm.", ".mlp_norm."), spec)
    _, layer, _, expert, *matrix, _ = role.split(".") if not role.endswith("correction") else (*role.split("."), "")
    names = {"router": "gate.weight", "score_correction": "expert_bias"}
    name = names[expert] if not matrix else f"experts.{expert}.{MATRICES[matrix[0]]}.weight"
    return Tensor(f"model.layers.{layer}.feed_forward.{name}")


LFM2_MOE = Family(
    ("Lfm2MoeForCausalLM", "Lfm2MoeModel"),
    ("lfm2_moe",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
)
