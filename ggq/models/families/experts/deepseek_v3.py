"""DeepSeek V3: Llama with latent attention, and experts beside shared ones that sigmoids choose, from groups first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.config_rope import attention_factor, read_rope
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Interleaved, Rows, Tensor, Transposed
from ggq.models.parts import PLAIN, Experts, LatentAttention, ModelSpec
from ggq.models.rope import Yarn

KEYS: Keys = {
    **decoder.base_without("head_dim"),
    **dict.fromkeys(("output_router_logits", "pretraining_tp", "num_key_value_heads"), ANY),
    **dict.fromkeys(("num_mtp_layers", "num_nextn_predict_layers", "head_dim"), ANY),  # heads that draft: left out
    "max_position_embeddings": 4096,
    "attention_bias": False,
    "kv_lora_rank": 512,
    "q_lora_rank": OrNull(1536),
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "rope_interleave": True,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}

MODULES = decoder.MODULES | {
    "attention.query_latent": "self_attn.q_a_proj",
    "attention.query_norm": "self_attn.q_a_layernorm",
    "attention.latent": "self_attn.kv_a_proj_with_mqa",
    "attention.key_turned": "self_attn.kv_a_proj_with_mqa",
    "attention.latent_norm": "self_attn.kv_a_layernorm",
    "attention.kv_b": "self_attn.kv_b_proj",
    "experts_norm": "post_attention_layernorm",
    "experts.router": "mlp.gate",
    "experts.shared.gate": "mlp.shared_experts.gate_proj",
    "experts.shared.up": "mlp.shared_experts.up_proj",
    "experts.shared.down": "mlp.shared_experts.down_proj",
}
"""Names of modules in a checkpoint."""


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    dense = config.integer("first_k_dense_replace", (0, 1 << 12))
    return mixed(config, mixture(config), [number >= dense for number in range(1 << 12)])


def mixed(config: Config, part: Experts, sparse: Sequence[bool]) -> ModelSpec:
    """The model with latent attention, and experts in the layers that have them."""
    context = config.take("max_position_embeddings", ModelSpec, "context_length")
    spec = decoder.read_decoder(config, mixer=latent(config, context))
    chosen = (replace(layer, feed_forward=part) if has else layer for layer, has in zip(spec.layers, sparse))
    return replace(spec, layers=tuple(chosen))


def latent(config: Config, context: int) -> LatentAttention:
    """The attention of all layers."""
    turned = config.take("qk_rope_head_dim", LatentAttention, "turned_dim")
    plain = config.take("qk_nope_head_dim", LatentAttention, "plain_dim")
    pairs = "rope_interleave" not in config.keys or config.flag("rope_interleave")
    rope, scale, bias = (
        read_rope(config, turned, context, "pairs" if pairs else "half"),
        (plain + turned) ** -0.5,
        False,
    )
    inner = config.inside[-1].values if config.inside else {}
    if isinstance(rope.scaling, Yarn) and inner.get("mscale_all_dim"):
        scale *= attention_factor(rope.scaling.factor, float(str(inner["mscale_all_dim"]))) ** 2
    bias = config.flag("attention_bias")
    return LatentAttention(
        heads=config.take("num_attention_heads", LatentAttention, "heads"),
        query_rank=config.maybe("q_lora_rank", LatentAttention, "query_rank") or 0,
        rank=config.take("kv_lora_rank", LatentAttention, "rank"),
        plain_dim=plain,
        turned_dim=turned,
        value_dim=config.take("v_head_dim", LatentAttention, "value_dim"),
        scale=scale,
        rope=rope,
        norm=replace(decoder.rms_norm(config), epsilon=1e-6),
        bias=bias,
        output_bias=bias,
    )


def mixture(config: Config) -> Experts:
    """Experts beside shared ones."""
    groups, chosen = (
        1 if config.get(key) is None else config.integer(key, (1, 63)) for key in ("n_group", "topk_group")
    )
    shared = config.integer("n_shared_experts", (0, 1 << 10)) * config.integer("moe_intermediate_size", (1, 1 << 22))
    return replace(
        decoder.experts(config),
        router=replace(
            PLAIN, score="sigmoid", correction=True, groups=groups, chosen_groups=chosen, best=2, least=1e-20
        ),
        scale=config.take("routed_scaling_factor", Experts, "scale"),
        shared_width=shared,
    )


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint, or rows of one."""
    if not role.startswith("layers."):
        return decoder.expression(role, spec)
    _, layer, part, name, *rest = role.split(".")
    if part == "experts" and name.isdecimal():
        return Tensor(f"model.layers.{layer}.mlp.experts.{name}.{rest[0]}_proj.{rest[1]}")
    if name == "score_correction":
        return Tensor(f"model.layers.{layer}.mlp.gate.e_score_correction_bias")
    mixer = decoder.layer_of(role, spec).mixer
    assert isinstance(mixer, LatentAttention)
    if name in ("k_up", "v_up"):
        each, head = mixer.plain_dim + mixer.value_dim, int(rest[0])
        whole, first = Tensor(f"model.layers.{layer}.self_attn.kv_b_proj.weight"), head * each
        middle = first + mixer.plain_dim
        return Transposed(Rows(whole, first, middle)) if name == "k_up" else Rows(whole, middle, first + each)
    if name in ("q_turned", "q_plain"):
        each, place = mixer.plain_dim + mixer.turned_dim, (0, mixer.plain_dim)
        place = place if name == "q_plain" else (mixer.plain_dim, each)
        return Interleaved(
            Tensor(f"model.layers.{layer}.self_attn.q_{'b_' * bool(mixer.query_rank)}proj.weight"), each, *place
        )
    tensor = Tensor(checkpoint_name(role, MODULES))
    ends = {"latent": (0, mixer.rank), "key_turned": (mixer.rank, mixer.rank + mixer.turned_dim)}
    return Rows(tensor, *ends[name]) if name in ends else tensor


DEEPSEEK_V3 = Family(
    ("DeepseekV3ForCausalLM", "DeepseekV3Model"),
    ("deepseek_v3",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
    others=(decoder.stacked(expression),),
)
