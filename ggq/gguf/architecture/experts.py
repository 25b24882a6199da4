"""Keys of architectures with experts, as config.json has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggq.errors import UnsupportedError
from ggq.gguf.architecture.hyper import Keys

Shapes = Mapping[str, tuple[int, ...]]
Values = dict[str, Any]


def local(keys: Keys) -> Values:
    """How many experts there are, and how many a token goes through, as Mixtral calls them."""
    return {
        "num_local_experts": keys.integer("expert_count"),
        "num_experts_per_tok": keys.integer("expert_used_count"),
    }


def mixtral(keys: Keys) -> Values:
    """Mixtral, which files call "llama"."""
    kind = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "sliding_window": None}
    return {**kind, **local(keys)}


def _many(keys: Keys, renormalised: bool) -> Values:
    """Qwen's words; the width of experts is missing in older files, where the feed-forward's is theirs."""
    width = keys.integer("expert_feed_forward_length", keys.integer("feed_forward_length", 0))
    if keys.get("expert_weights_norm", renormalised) != renormalised:
        where = f"{keys.architecture}.expert_weights_norm"
        raise UnsupportedError(f"{not renormalised} is not supported", path=keys.path, where=where)
    return {
        "num_experts": keys.integer("expert_count"),
        "num_experts_per_tok": keys.integer("expert_used_count"),
        "moe_intermediate_size": width,
        "intermediate_size": keys.integer("feed_forward_length", width),
        "norm_topk_prob": renormalised,
    }


def qwen2_moe(keys: Keys, shapes: Shapes) -> Values:
    """Qwen2-MoE: a shared expert, whose width follows from its matrix where no key says it."""
    shared = shapes.get("blk.0.ffn_up_shexp.weight", (0,))[0]
    return {
        **_many(keys, renormalised=False),
        "shared_expert_intermediate_size": keys.integer("expert_shared_feed_forward_length", shared),
        "use_sliding_window": False,
        "qkv_bias": "blk.0.attn_q.bias" in shapes,
    }


def qwen3_moe(keys: Keys, shapes: Shapes) -> Values:
    """Qwen3-MoE."""
    return {**_many(keys, renormalised=True), "use_sliding_window": False, "attention_bias": False}


def olmoe(keys: Keys, shapes: Shapes) -> Values:
    """OLMoE, whose experts have the feed-forward's width."""
    found = _many(keys, renormalised=False)
    return {**found, "moe_intermediate_size": None}


def gpt_oss(keys: Keys, shapes: Shapes) -> Values:
    """gpt-oss."""
    width = keys.integer("expert_feed_forward_length", keys.integer("feed_forward_length", 0))
    return {
        **local(keys),
        "intermediate_size": width,
        "sliding_window": keys.integer("attention.sliding_window"),
        "attention_bias": True,
    }
