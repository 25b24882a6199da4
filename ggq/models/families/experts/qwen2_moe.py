"""Qwen2-MoE: Qwen2 (Llama with biases) with experts in some layers, beside one, with a gate, for all tokens."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.family import Family
from ggq.models.names import Expression, Tensor
from ggq.models.parts import Experts, ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    **dict.fromkeys(("router_aux_loss_coef", "output_router_logits"), ANY),
    "num_key_value_heads": 16,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": OrNull(4096),
    "max_window_layers": 28,
    "layer_types": OrNull(),
    "decoder_sparse_step": 1,
    "mlp_only_layers": OrNull(),
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "norm_topk_prob": False,
    "qkv_bias": True,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    bias, first = config.flag("qkv_bias"), config.integer("max_window_layers", (0, 1 << 20))
    spec = decoder.with_mixers(decoder.read_decoder(config), query_bias=bias, key_bias=bias, value_bias=bias)
    used = config.flag("use_sliding_window")
    window = decoder.read_window(config, used=used)
    windows = decoder.layer_windows(config, window, slides=lambda number: used and number < first and number % 2 == 0)
    shared = config.take("shared_expert_intermediate_size", Experts, "shared_width")
    if not shared:
        raise config.unsupported("shared_expert_intermediate_size", "0 is not supported")
    mixture = replace(decoder.experts(config), shared_width=shared, shared_gate=True)
    return decoder.with_experts(decoder.with_windows(spec, windows), config, mixture)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    if ".experts." not in role:
        return decoder.expression(role.replace(".experts_norm.", ".mlp_norm."), spec)
    _, layer, _, expert, *matrix, _ = role.split(".")
    names = {"router": "gate", "shared_share": "shared_expert_gate", "shared": "shared_expert"}
    name = names.get(expert, f"experts.{expert}") + "".join(f".{each}_proj" for each in matrix)
    return Tensor(f"model.layers.{layer}.mlp.{name}.weight")


QWEN2_MOE = Family(("Qwen2MoeForCausalLM",), ("qwen2_moe",), KEYS, parts, expression, decoder.constants)
