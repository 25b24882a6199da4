"""GLM-4.7-Flash: Llama as DeepSeek V3 changes it, with a word for each layer that says whether it has experts."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.families.experts import deepseek_v3
from ggq.models.family import Family
from ggq.models.fields import shown
from ggq.models.parts import MOST_LAYERS, ModelSpec

KEYS: Keys = {
    **{key: value for key, value in deepseek_v3.KEYS.items() if key not in ("first_k_dense_replace", "num_mtp_layers")},
    "max_position_embeddings": 202752,
    "rms_norm_eps": 1e-5,
    "q_lora_rank": OrNull(768),
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "n_routed_experts": 64,
    "moe_intermediate_size": 1536,
    "num_experts_per_tok": 4,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.8,
    "mlp_layer_types": OrNull(),
    "first_k_dense_replace": 1,
    "partial_rotary_factor": 1.0,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    count, kinds = config.integer("num_hidden_layers", (1, MOST_LAYERS)), config.get("mlp_layer_types")
    if kinds is None:
        config.get("first_k_dense_replace")  # said beside, and read by nobody
        kinds = ["dense"] + ["sparse"] * (count - 1)
    if not isinstance(kinds, list) or len(kinds) != count or not set(kinds) <= {"dense", "sparse"}:
        raise config.error("mlp_layer_types", f"{shown(kinds)} found, a list of {count} of dense, sparse expected")
    return deepseek_v3.mixed(config, deepseek_v3.mixture(config), [kind == "sparse" for kind in kinds])


GLM4_MOE_LITE = Family(
    ("Glm4MoeLiteForCausalLM", "Glm4MoeLiteModel"),
    ("glm4_moe_lite",),
    KEYS,
    parts,
    deepseek_v3.expression,
    lambda spec: decoder.tied_output(spec, deepseek_v3.expression),
    others=(decoder.stacked(deepseek_v3.expression),),
)
