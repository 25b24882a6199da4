"""The architectures of GGUF files: which family each is, and what its keys mean in that family's config.json.

To add one, write the function of its keys and list it in ARCHITECTURES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ggq.errors import ModelError, UnsupportedError
from ggq.gguf.architecture import experts
from ggq.gguf.architecture.hyper import Keys
from ggq.gguf.architecture.places import GATE_UP, QKV, Names
from ggq.models.fields import shown

Shapes = Mapping[str, tuple[int, ...]]
Values = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """An architecture of GGUF files.

    Args:
        name: Class of transformers.
        model_type: Its "model_type".
        config: Keys of config.json beyond those that all have, or instead of them; None for one that it has not.
        permuted: Whether rows of queries and keys were put in pairs.
        names: Of its tensors.
        partial: Key of config.json that says which part of a head turns; "" where all of it does.
        norm: Key of config.json for the epsilon of its norms; those of layer norms have another key in the file.
    """

    name: str
    model_type: str
    config: Callable[[Keys, Shapes], Values] = lambda keys, shapes: {}
    permuted: bool = False
    names: Names = field(default_factory=Names)
    partial: str = ""
    norm: str = "rms_norm_eps"

    @property
    def epsilon(self) -> str:
        """The file's key of the epsilon of norms."""
        return f"attention.layer_norm_{'rms_' if self.norm == 'rms_norm_eps' else ''}epsilon"


def _has(shapes: Shapes, *names: str) -> bool:
    return any(f"blk.0.{name}" in shapes for name in names)


def _biases(keys: Keys, shapes: Shapes) -> Values:
    return {"attention_bias": _has(shapes, "attn_q.bias"), "mlp_bias": _has(shapes, "ffn_up.bias")}


def _llama(keys: Keys, shapes: Shapes) -> Values:
    return _biases(keys, shapes) if not keys.get("expert_count", 0) else experts.mixtral(keys)


def _windowless(keys: Keys, shapes: Shapes) -> Values:
    return {"use_sliding_window": False}


def _qwen3(keys: Keys, shapes: Shapes) -> Values:
    return {"use_sliding_window": False, "attention_bias": _has(shapes, "attn_q.bias")}


def _gemma(keys: Keys, layers_of_largest: int) -> Values:
    """The largest model of either family scales scores by the width of its rows, not of its heads."""
    largest = keys.integer("block_count") == layers_of_largest
    by_rows = keys.integer("embedding_length") // keys.integer("attention.head_count")
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": keys.integer("attention.sliding_window"),
        "query_pre_attn_scalar": by_rows if largest else keys.integer("attention.key_length"),
    }


def _gemma2(keys: Keys, shapes: Shapes) -> Values:
    return {
        **_gemma(keys, 46),
        "attn_logit_softcapping": keys.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": keys.number("final_logit_softcapping", 30.0),
    }


def _gemma3(keys: Keys, shapes: Shapes) -> Values:
    """Whether a layer has a window is not in the file: five of six have one."""
    keys.get("attention.sliding_window_pattern")
    return {
        **_gemma(keys, 62),
        "rope_theta": keys.number("rope.freq_base", 1e6),
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 10000.0),
        "sliding_window_pattern": 6,
    }


def _phi3(keys: Keys, shapes: Shapes) -> Values:
    return {"head_dim": None, "sliding_window": keys.get("attention.sliding_window") or None}


def _smollm3(keys: Keys, shapes: Shapes) -> Values:
    """Which layers do not turn is not in the file: every fourth."""
    return {**_biases(keys, shapes), "no_rope_layer_interval": 4, "use_sliding_window": False}


def _arcee(keys: Keys, shapes: Shapes) -> Values:
    return {**_biases(keys, shapes), "hidden_act": "relu2"}


def _granite(keys: Keys, shapes: Shapes) -> Values:
    return {**_biases(keys, shapes), **_multipliers(keys)}


def _multipliers(keys: Keys) -> Values:
    usual = keys.integer("embedding_length") // keys.integer("attention.head_count")
    width = keys.integer("attention.key_length", usual)
    return {
        "embedding_multiplier": keys.number("embedding_scale", 1.0),
        "attention_multiplier": keys.number("attention.scale", width**-0.5),
        "residual_multiplier": keys.number("residual_scale", 1.0),
        "logits_scaling": keys.number("logit_scale", 1.0),
    }


def _granite_moe(keys: Keys, shapes: Shapes) -> Values:
    shared = keys.integer("expert_shared_feed_forward_length", 0)
    found = {**_multipliers(keys), **experts.local(keys), "intermediate_size": keys.integer("feed_forward_length")}
    if not shared:
        return found
    kind = {"architectures": ["GraniteMoeSharedForCausalLM"], "model_type": "granitemoeshared"}
    return {**found, **kind, "shared_intermediate_size": shared}


def _cohere(keys: Keys, shapes: Shapes) -> Values:
    return {"logit_scale": keys.number("logit_scale")}


def _cohere2(keys: Keys, shapes: Shapes) -> Values:
    """Whether a layer has a window is not in the file: three of four have one."""
    window = keys.integer("attention.sliding_window")
    return {**_cohere(keys, shapes), "sliding_window": window, "sliding_window_pattern": 4}


def _exaone4(keys: Keys, shapes: Shapes) -> Values:
    """Whether a layer has a window is not in the file: where there are windows, three of four layers have one."""
    return {"sliding_window": keys.get("attention.sliding_window") or None, "sliding_window_pattern": 4}


def _glm4(keys: Keys, shapes: Shapes) -> Values:
    return {"attention_bias": _has(shapes, "attn_q.bias")}


def _ernie(keys: Keys, shapes: Shapes) -> Values:
    return {"use_bias": _has(shapes, "attn_q.bias")}


def _stablelm(keys: Keys, shapes: Shapes) -> Values:
    return {
        "head_dim": None,
        "use_qkv_bias": _has(shapes, "attn_q.bias"),
        "use_parallel_residual": bool(keys.get("use_parallel_residual", False)),
    }


def _starcoder2(keys: Keys, shapes: Shapes) -> Values:
    return {
        "head_dim": None,
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": _has(shapes, "attn_q.bias"),
        "sliding_window": None,
    }


def _gpt_neox(keys: Keys, shapes: Shapes) -> Values:
    return {
        **dict.fromkeys(("head_dim", "num_key_value_heads", "rope_theta")),
        "hidden_act": "gelu",
        "attention_bias": _has(shapes, "attn_qkv.bias"),
        "use_parallel_residual": bool(keys.get("use_parallel_residual", True)),
        "rotary_emb_base": keys.number("rope.freq_base", 10000.0),
    }


def _gpt2(keys: Keys, shapes: Shapes) -> Values:
    usual = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return {
        **dict.fromkeys((*usual, "head_dim", "max_position_embeddings", "hidden_act", "rope_theta")),
        "n_positions": keys.integer("context_length"),
        "n_embd": keys.integer("embedding_length"),
        "n_layer": keys.integer("block_count"),
        "n_head": keys.integer("attention.head_count"),
        "n_inner": keys.integer("feed_forward_length"),
        "activation_function": "gelu_new",
    }


def _falcon(keys: Keys, shapes: Shapes) -> Values:
    """Two norms of a layer are of the later form, where attention has the second."""
    shared, two = keys.integer("attention.head_count_kv", 1), _has(shapes, "attn_norm_2.weight")
    if _has(shapes, "ffn_norm.weight"):
        where = "tensor blk.0.ffn_norm.weight"
        raise UnsupportedError("a feed-forward behind attention is not supported", path=keys.path, where=where)
    keys.get("tensor_data_layout")
    return {
        **dict.fromkeys(("intermediate_size", "head_dim", "hidden_act", "num_key_value_heads")),
        "ffn_hidden_size": keys.integer("feed_forward_length"),
        "num_kv_heads": shared,
        "multi_query": shared == 1 and not two,
        "new_decoder_architecture": two,
        "parallel_attn": True,
        "bias": _has(shapes, "attn_qkv.bias"),
        "activation": "gelu",
    }


LLAMA3_STYLE = Names(stems={"experts_norm": "ffn_norm"})
SECOND_NORM = Names(stems={"attention_norm": "attn_norm_2", "mlp_norm": "attn_norm"}, fused=QKV)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", "llama", _llama, permuted=True),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2", _windowless),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3", _qwen3),
    "gemma2": Architecture("Gemma2ForCausalLM", "gemma2", _gemma2),
    "gemma3": Architecture("Gemma3ForCausalLM", "gemma3_text", _gemma3),
    "phi3": Architecture(
        "Phi3ForCausalLM", "phi3", _phi3, names=Names(fused=QKV | GATE_UP), partial="partial_rotary_factor"
    ),
    "olmo2": Architecture("Olmo2ForCausalLM", "olmo2"),
    "granite": Architecture("GraniteForCausalLM", "granite", _granite, permuted=True),
    "granitemoe": Architecture("GraniteMoeForCausalLM", "granitemoe", _granite_moe, permuted=True),
    "smollm3": Architecture("SmolLM3ForCausalLM", "smollm3", _smollm3, permuted=True),
    "arcee": Architecture("ArceeForCausalLM", "arcee", _arcee, permuted=True),
    "command-r": Architecture("CohereForCausalLM", "cohere", _cohere, norm="layer_norm_eps"),
    "cohere2": Architecture("Cohere2ForCausalLM", "cohere2", _cohere2, norm="layer_norm_eps"),
    "exaone4": Architecture("Exaone4ForCausalLM", "exaone4", _exaone4),
    "glm4": Architecture("Glm4ForCausalLM", "glm4", _glm4, names=Names(fused=GATE_UP), partial="partial_rotary_factor"),
    "ernie4_5": Architecture("Ernie4_5ForCausalLM", "ernie4_5", _ernie),
    "hunyuan-dense": Architecture("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense"),
    "stablelm": Architecture(
        "StableLmForCausalLM", "stablelm", _stablelm, partial="partial_rotary_factor", norm="layer_norm_eps"
    ),
    "starcoder2": Architecture("Starcoder2ForCausalLM", "starcoder2", _starcoder2, norm="norm_epsilon"),
    "gptneox": Architecture(
        "GPTNeoXForCausalLM", "gpt_neox", _gpt_neox, names=Names(fused=QKV), partial="rotary_pct", norm="layer_norm_eps"
    ),
    "gpt2": Architecture("GPT2LMHeadModel", "gpt2", _gpt2, names=Names(fused=QKV), norm="layer_norm_epsilon"),
    "falcon": Architecture("FalconForCausalLM", "falcon", _falcon, names=Names(fused=QKV), norm="layer_norm_epsilon"),
    "qwen2moe": Architecture("Qwen2MoeForCausalLM", "qwen2_moe", experts.qwen2_moe),
    "qwen3moe": Architecture("Qwen3MoeForCausalLM", "qwen3_moe", experts.qwen3_moe),
    "olmoe": Architecture("OlmoeForCausalLM", "olmoe", experts.olmoe),
    "gpt-oss": Architecture(
        "GptOssForCausalLM", "gpt_oss", experts.gpt_oss, names=Names(stems={"experts_norm": "post_attention_norm"})
    ),
}
"""Architectures by "general.architecture"."""


def find_architecture(metadata: Mapping[str, Any], path: str) -> Architecture:
    """The architecture that a file names.

    Raises:
        ModelError: It names none.
        UnsupportedError: No such architecture here.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ModelError("missing: the file holds no model", path=path, where="general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        problem = f"{shown(name)} is not supported as a GGUF file; supported: {known}"
        raise UnsupportedError(problem, path=path, where="general.architecture")
    return ARCHITECTURES[name]


def names_of(metadata: Mapping[str, Any], shapes: Shapes, path: str) -> Names:
    """The names of a file's tensors: files before 2024 have a tensor for each matrix of an expert, and some
    architectures come in two forms.

    Raises:
        ModelError, UnsupportedError: As of `find_architecture`.
    """
    names = find_architecture(metadata, path).names
    if metadata["general.architecture"] == "falcon" and _has(shapes, "attn_norm_2.weight"):
        names = SECOND_NORM
    stacked = not _has(shapes, "ffn_gate.0.weight", "ffn_up.0.weight")
    return Names(names.stems, names.fused, stacked)
