"""DeepSeek V2: Llama with latent attention, and experts beside shared ones, chosen by a softmax, from groups first."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config, Keys, Only, OrNull
from ggq.models.families.experts import deepseek_v3
from ggq.models.family import Family
from ggq.models.parts import PLAIN, ModelSpec

KEYS: Keys = {
    **{key: value for key, value in deepseek_v3.KEYS.items() if key not in ("rope_interleave", "num_mtp_layers")},
    "max_position_embeddings": 2048,
    "mlp_bias": Only(False),
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "moe_intermediate_size": 1407,
    "num_experts_per_tok": OrNull(),
    "first_k_dense_replace": 0,
    "n_group": OrNull(),
    "topk_group": OrNull(),
    "topk_method": "greedy",
    "norm_topk_prob": False,  # which transformers does not heed when it computes
    "routed_scaling_factor": 1.0,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    part = deepseek_v3.mixture(config)
    grouped = config.choice("topk_method", ("greedy", "group_limited_greedy")) != "greedy"
    router = replace(PLAIN, groups=part.router.groups, chosen_groups=part.router.chosen_groups) if grouped else PLAIN
    dense = config.integer("first_k_dense_replace", (0, 1 << 12))
    sparse = [number >= dense for number in range(1 << 12)]
    return deepseek_v3.mixed(config, replace(part, router=router, renormalised=False), sparse)


DEEPSEEK_V2 = Family(
    ("DeepseekV2ForCausalLM", "DeepseekV2Model"),
    ("deepseek_v2",),
    KEYS,
    parts,
    deepseek_v3.expression,
    lambda spec: decoder.tied_output(spec, deepseek_v3.expression),
    others=(decoder.stacked(deepseek_v3.expression),),
)
