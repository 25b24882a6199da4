"""Files of each architecture, named and laid out as llama.cpp's converter does, give the checkpoint's logits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import UnsupportedError
from ggq.gguf.architecture.places import Names, places, tensor_name
from ggq.gguf.architecture.table import ARCHITECTURES, SECOND_NORM
from ggq.models.build import role_shapes
from ggq.models.registry import find_architecture
from tests.gguf.test_model import keys_of, logits, pairs
from tests.kit.family_models import CONFIGS, checkpoint
from tests.kit.gguf_files import write_gguf
from tests.kit.small_models import made, write_ggq

MULTIPLIERS = {"embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5}
GRANITE_KEYS = {"embedding_scale": 3.0, "attention.scale": 0.3, "residual_scale": 0.5, "logit_scale": 8.0}
NO_WINDOW: dict[str, Any] = {"use_sliding_window": False, "sliding_window": None}
LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
EXPERTS = {"expert_count": 6, "expert_used_count": 3}

CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "mixtral": ("llama", "mixtral", {"expert_count": 5, "expert_used_count": 2}, {"sliding_window": None}),
    "phi3": ("phi3", "phi3", {}, {"sliding_window": None, "partial_rotary_factor": 0.8}),
    "phi3 with a window": ("phi3", "phi3", {"attention.sliding_window": 21}, {"sliding_window": 21}),
    "olmo2": ("olmo2", "olmo2", {}, {}),
    "granite": ("granite", "granite", GRANITE_KEYS, {**MULTIPLIERS, "logits_scaling": 8.0, "mlp_bias": False}),
    "granitemoe": (
        "granitemoe",
        "granite_moe",
        {**GRANITE_KEYS, "expert_count": 5, "expert_used_count": 3},
        {**MULTIPLIERS, "logits_scaling": 8.0},
    ),
    "granitemoe, shared": (
        "granitemoe",
        "granite_moe_shared",
        {**GRANITE_KEYS, "expert_shared_feed_forward_length": 37, "expert_count": 4, "expert_used_count": 2},
        {**MULTIPLIERS, "logits_scaling": 8.0},
    ),
    "smollm3": ("smollm3", "smollm3", {}, {"no_rope_layer_interval": 4, "num_hidden_layers": 4, **NO_WINDOW}),
    "arcee": ("arcee", "arcee", {}, {}),
    "command-r": ("command-r", "cohere", {"logit_scale": 0.25}, {"logit_scale": 0.25}),
    "cohere2": (
        "cohere2",
        "cohere2",
        {"logit_scale": 0.25, "attention.sliding_window": 21},
        {"sliding_window_pattern": 4, "num_hidden_layers": 4},
    ),
    "exaone4": (
        "exaone4",
        "exaone4",
        {"attention.sliding_window": 18},
        {"sliding_window_pattern": 4, "num_hidden_layers": 4},
    ),
    "glm4": ("glm4", "glm4", {}, {}),
    "ernie4_5": ("ernie4_5", "ernie4_5", {}, {}),
    "stablelm": ("stablelm", "stablelm", {}, {}),
    "stablelm, parallel": ("stablelm", "stablelm_parallel", {"use_parallel_residual": True, **LINEAR}, {}),
    "starcoder2": ("starcoder2", "starcoder2", {}, {"sliding_window": None}),
    "gptneox": ("gptneox", "gpt_neox", {"use_parallel_residual": True}, {}),
    "gptneox, serial": ("gptneox", "gpt_neox_serial", {"use_parallel_residual": False}, {"hidden_act": "gelu"}),
    "gpt2": ("gpt2", "gpt2", {}, {}),
    "falcon": ("falcon", "falcon", {}, {}),
    "falcon, two norms": ("falcon", "falcon_new", {}, {}),
    "qwen2moe": ("qwen2moe", "qwen2_moe", EXPERTS, {"mlp_only_layers": [], "num_experts_per_tok": 3, **NO_WINDOW}),
    "qwen3moe": (
        "qwen3moe",
        "qwen3_moe",
        {"expert_count": 7, "expert_used_count": 3},
        {"decoder_sparse_step": 1, **NO_WINDOW},
    ),
    "olmoe": ("olmoe", "olmoe", EXPERTS, {}),
    "gpt-oss": (
        "gpt-oss",
        "gpt_oss",
        {
            "expert_count": 5,
            "expert_used_count": 3,
            "attention.sliding_window": 23,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 16,
        },
        {},
    ),
}
"""By name: the architecture, the configuration of tests/kit/small_families.py, keys of the file and what the
configuration is to have instead, since files cannot say it."""


def config_of(case: str) -> dict[str, Any]:
    _, family, _, changed = CASES[case]
    return {**CONFIGS[family], **changed}


def weights_of(case: str) -> dict[str, np.ndarray]:
    """The family's checkpoint; layers that it has not, or not of this kind, are one of the others."""
    weights = checkpoint(CASES[case][1])
    for name in list(weights):
        for number in range(len(find_architecture(config_of(case)).config(config_of(case)).layers)):
            weights.setdefault(re.sub(r"\.\d+\.", f".{number}.", name, count=1), weights[name])
    return weights


def common_keys(config: dict[str, Any], name: str, spec: Any) -> dict[str, Any]:
    """The keys that converters write for all architectures, from the parts of the model."""
    attention, norm = spec.layers[0].mixer, spec.head.norm
    usual = {"hidden_size": spec.embedding.width, "num_hidden_layers": len(spec.layers)}
    usual |= {"max_position_embeddings": spec.context_length, "num_attention_heads": attention.heads}
    first = spec.layers[0].feed_forward
    keys = keys_of({**usual, "intermediate_size": first.width}, name)
    keys[f"{name}.attention.head_count_kv"] = attention.kv_heads
    del keys[f"{name}.attention.layer_norm_rms_epsilon"], keys[f"{name}.rope.freq_base"]
    keys[f"{name}.{ARCHITECTURES[name].epsilon}"] = float(norm.epsilon)
    turns = [layer.mixer.rope for layer in spec.layers if layer.mixer.rope is not None]
    if turns:
        keys |= {f"{name}.rope.freq_base": float(turns[0].theta), f"{name}.rope.dimension_count": turns[0].rotated}
    if attention.head_dim * attention.heads != spec.embedding.width:
        keys |= {f"{name}.attention.key_length": attention.head_dim}
        keys |= {f"{name}.attention.value_length": attention.head_dim}
    if hasattr(first, "count") and name not in ("llama", "granitemoe"):
        keys[f"{name}.expert_feed_forward_length"] = first.width
    return keys


def tensors_of(case: str, names: Names) -> dict[str, np.ndarray]:
    """The tensors of a GGUF file: fused, stacked and permuted as the architecture has them."""
    architecture = CASES[case][0]
    config = config_of(case)
    family = find_architecture(config)
    spec, weights = family.config(config), weights_of(case)
    roles = {each.role: made(each, weights) for each in family.tensors(spec) if each.role}
    found: dict[str, list[np.ndarray]] = {}
    mixer = spec.layers[0].attention
    for role, place in places(role_shapes(spec), names).items():
        values = roles[role]
        if ARCHITECTURES[architecture].permuted and ".attention.q." in role:
            values = pairs(values, mixer.heads)
        if ARCHITECTURES[architecture].permuted and ".attention.k." in role:
            values = pairs(values, mixer.kv_heads)
        found.setdefault(place.tensor, []).append(values)
    joined = {}
    for name, parts in found.items():
        stacked = "_exps." in name
        joined[name] = np.stack(parts) if stacked else np.concatenate(parts)
        if name.endswith("ffn_gate_inp_shexp.weight"):
            joined[name] = joined[name][0]
    return joined


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_checkpoint(case: str, tmp_path: Path) -> None:
    architecture, _, more, _ = CASES[case]
    config = config_of(case)
    spec = find_architecture(config).config(config)
    names = SECOND_NORM if case == "falcon, two norms" else ARCHITECTURES[architecture].names
    keys = common_keys(config, architecture, spec) | {f"{architecture}.{key}": value for key, value in more.items()}
    path = write_gguf(tmp_path / "m.gguf", keys, tensors_of(case, names))
    ours = write_ggq(tmp_path / "m.ggq", config, weights_of(case), "f32")
    tokens = [int(token) for token in np.random.default_rng(3).integers(3, 61, 40)]
    np.testing.assert_allclose(logits(path, tokens), logits(ours, tokens), atol=1e-5)
    report = ggq.convert(path, tmp_path / "again.ggq")
    assert all(tensor.relative_rmse == 0 for tensor in report.tensors)
    np.testing.assert_array_equal(logits(tmp_path / "again.ggq", tokens), logits(path, tokens))


def test_every_architecture_is_tested() -> None:
    tested = {case[0] for case in CASES.values()} | {"llama", "qwen2", "qwen3", "gemma2", "gemma3"}
    assert set(ARCHITECTURES) - tested == {"hunyuan-dense"}


def test_names_of_experts() -> None:
    assert tensor_name("layers.2.experts.11.gate.weight") == "blk.2.ffn_gate.11.weight"
    assert tensor_name("layers.2.attention.sinks") == "blk.2.attn_sinks.weight"


def test_a_part_of_a_head_that_turns_is_refused_where_all_of_it_does(tmp_path: Path) -> None:
    config = config_of("olmo2")
    keys = common_keys(config, "olmo2", find_architecture(config).config(config)) | {"olmo2.rope.dimension_count": 4}
    path = write_gguf(tmp_path / "m.gguf", keys, tensors_of("olmo2", Names()))
    with pytest.raises(UnsupportedError, match="olmo2.rope.dimension_count: 4 of 10 numbers of a head turn"):
        ggq.load(path)
