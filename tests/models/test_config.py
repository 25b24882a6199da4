"""config.json and metadata to ModelConfig: every value is checked, every refusal says what and where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.errors import GGQError, ModelError, UnsupportedError
from ggq.models.config import ModelConfig
from ggq.models.decoder import role_shapes
from ggq.models.metadata import from_metadata, to_metadata
from ggq.models.registry import ARCHITECTURES, find_architecture
from tests.kit.small_models import CONFIGS, LLAMA3
from tests.kit.support import DEMO, shared

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def config_of(**changes: Any) -> ModelConfig:
    hf = {key: value for key, value in {**LLAMA, **changes}.items() if value is not ...}
    return find_architecture(hf).config(hf, "config.json")


def test_what_config_json_leaves_out_has_the_default_of_transformers() -> None:
    config = config_of()
    assert (config.kv_heads, config.head_dim, config.context_length) == (4, 8, 2048)
    assert (config.norm_epsilon, config.rope.theta, config.rope.scaling) == (1e-6, 10000.0, "none")
    assert not (config.tied_embedding or config.query_bias or config.output_bias or config.mlp_bias)


def test_both_spellings_of_rope_are_the_same() -> None:
    old = config_of(rope_theta=5e5, rope_scaling={"type": "llama3", **LLAMA3})
    new = config_of(rope_parameters={"rope_type": "llama3", "rope_theta": 500000, **LLAMA3})
    assert old.rope == new.rope
    assert (old.rope.theta, old.rope.scaling, old.rope.factor, old.rope.original_context_length) == (
        5e5,
        "llama3",
        8,
        32,
    )


def test_null_counts_as_left_out() -> None:
    assert config_of(head_dim=None, rope_scaling=None, num_key_value_heads=None) == config_of()


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@pytest.mark.parametrize("key", [*SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -1, 10**9, 2**40, 2**63, 2**64 - 1, 10**400, True, 4.0, "4", [4], float("nan")])
def test_impossible_sizes_are_refused(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf"^config\.json: {key}: .* (allowed|expected)$"):
        config_of(**{key: value})


@pytest.mark.parametrize("key", SIZES)
def test_missing_sizes_are_refused(key: str) -> None:
    with pytest.raises(ModelError, match=rf"^config\.json: {key}: missing$"):
        config_of(**{key: ...})


@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 1e300, 10**400, "1", False])
def test_impossible_numbers_are_refused(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf"^config\.json: {key}: .* (allowed|expected)$"):
        config_of(**{key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, "config.json: 4 heads cannot share 3 key-value heads evenly"),
        ({"num_key_value_heads": 8}, "config.json: 4 heads cannot share 8 key-value heads evenly"),
        ({"head_dim": 9}, "config.json: RoPE rotates pairs, and the head dimension 9 is odd"),
        ({"hidden_size": 30}, "config.json: num_attention_heads: 4 heads do not divide the hidden size 30"),
        ({"attention_bias": 1}, "config.json: attention_bias: 1 found, true or false expected"),
        ({"hidden_act": 5}, "config.json: hidden_act: 5 found, a string expected"),
        ({"rope_parameters": "llama3"}, "config.json: rope_parameters: 'llama3' found, an object expected"),
        (
            {"rope_scaling": {"type": "llama3", **LLAMA3, "low_freq_factor": 4.0}},
            "config.json: llama3 RoPE scaling needs its low frequency factor (4) below the high one (4)",
        ),
        ({"rope_scaling": {"type": "llama3"}}, "config.json: rope_scaling.factor: missing"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        config_of(**changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is not supported; supported: silu, swish"),
        ({"hidden_act": "\x1b[31m"}, r"hidden_act: '\x1b[31m' is not supported; supported: silu, swish"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            "rope_scaling.type: 'linear' is not supported; supported: default, llama3",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            "rope_parameters.rope_type: 'yarn' is not supported; supported: default, llama3",
        ),
        (
            {"rope_parameters": {"full": {"rope_type": "default"}}},
            "rope_parameters.full: an object found: this form of RoPE is not supported",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: rotating a part of each head is not supported"),
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "architectures: 'GPT2LMHeadModel' is not supported; supported: LlamaForCausalLM",
        ),
    ],
)
def test_what_the_engine_has_not_is_refused(changes: dict[str, Any], message: str) -> None:
    hf = {**LLAMA, **changes}
    with pytest.raises(UnsupportedError) as caught:
        find_architecture(hf, "config.json").config(hf, "config.json")
    assert str(caught.value) == f"config.json: {message}"


@pytest.mark.parametrize(
    "named",
    [
        {"architectures": ["LlamaForCausalLM"]},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": ["LlamaForCausalLM", "LlamaForCausalLM"]},
        {"architectures": ["LlamaModel"]},
        {"architectures": None, "model_type": "llama"},
        {"architectures": [], "model_type": "llama"},
        {"model_type": "llama"},
        {"architectures": ["LlamaForCausalLM", "LlamaModel"], "model_type": "llama"},
    ],
)
def test_a_family_is_known_by_its_class_or_its_model_type(named: dict[str, Any]) -> None:
    """S-5: as transformers, which goes by model_type and does not look at "architectures"."""
    assert find_architecture(named).names[0] == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("named", "kind", "message"),
    [
        ({}, UnsupportedError, "architectures: missing; supported: LlamaForCausalLM"),
        ({"architectures": [], "model_type": "t5"}, UnsupportedError, "model_type: 't5' is not supported"),
        ({"architectures": [1]}, ModelError, "architectures: a list of 1 found, a list of class names expected"),
        ({"architectures": {"a": 1}}, ModelError, "architectures: an object found, a list of class names expected"),
        ({"architectures": ["LlamaForCausalLM", "T5Model"]}, UnsupportedError, "architectures: 'T5Model'"),
        (
            {"architectures": ["LlamaForCausalLM"], "model_type": "t5"},
            ModelError,
            "model_type: 't5' found, and architectures 'LlamaForCausalLM': they name different models",
        ),
    ],
)
def test_what_names_no_family_or_two_is_refused(named: dict[str, Any], kind: type[GGQError], message: str) -> None:
    with pytest.raises(kind, match=message):
        find_architecture(named)


SCALED = {"rope_type": "llama3", **LLAMA3}


@pytest.mark.parametrize(
    ("rule", "changes", "theta", "scaling", "original"),
    [
        (
            "S-1",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_scaling": SCALED},
            1e4,
            "llama3",
            32,
        ),
        (
            "S-1",
            {"rope_parameters": {**SCALED, "rope_theta": 5e5}, "rope_scaling": {"type": "default"}},
            1e4,
            "none",
            0,
        ),
        ("S-1", {"rope_parameters": {**SCALED, "rope_theta": 5e5}, "rope_scaling": {}}, 5e5, "llama3", 32),
        ("S-1", {"rope_parameters": {**SCALED, "rope_theta": 5e5}, "rope_scaling": False}, 5e5, "llama3", 32),
        ("S-1", {"rope_scaling": False}, 1e4, "none", 0),
        ("S-2", {"rope_theta": 7e5, "rope_scaling": {**SCALED, "rope_theta": 5e3}}, 5e3, "llama3", 32),
        ("S-2", {"rope_theta": 7e5, "rope_parameters": {"rope_theta": 5e5}, "rope_scaling": SCALED}, 7e5, "llama3", 32),
        ("S-2", {"rope_theta": 7e5, "rope_parameters": {"rope_type": "default"}}, 7e5, "none", 0),
        ("S-3", {"rope_scaling": {**SCALED, "type": "default"}}, 1e4, "llama3", 32),
        ("S-3", {"rope_scaling": {**SCALED, "rope_type": "default", "type": "llama3"}}, 1e4, "none", 0),
        ("S-4", {"rope_scaling": SCALED, "original_max_position_embeddings": 64}, 1e4, "llama3", 64),
    ],
)
def test_which_source_of_rope_wins(
    rule: str, changes: dict[str, Any], theta: float, scaling: str, original: int
) -> None:
    """docs/sources.md; each value is what transformers 5.24 computes with."""
    rope = config_of(**changes).rope
    assert (rope.theta, rope.scaling, rope.original_context_length) == (theta, scaling, original), rule


def test_an_activation_has_several_names() -> None:
    assert config_of(hidden_act="swish") == config_of(hidden_act="silu")


@pytest.mark.parametrize("name", CONFIGS)
def test_metadata_gives_the_config_back(name: str) -> None:
    architecture = find_architecture(CONFIGS[name])
    config = architecture.config(CONFIGS[name])
    metadata = to_metadata(config, architecture.names[0])
    assert from_metadata(metadata) == config
    assert metadata["model.kind"] == "decoder" and metadata["model.architecture"] == "LlamaForCausalLM"


def metadata() -> dict[str, Any]:
    return dict(to_metadata(config_of(rope_scaling={"type": "llama3", **LLAMA3}), "LlamaForCausalLM"))


@pytest.mark.parametrize("key", [key for key in metadata() if key != "model.architecture"])
def test_metadata_has_no_defaults(key: str) -> None:
    entries = metadata()
    del entries[key]
    with pytest.raises(ModelError, match=rf"^m\.ggq: {key}: missing$"):
        from_metadata(entries, "m.ggq")


@pytest.mark.parametrize("key", [key for key in metadata() if key != "model.architecture"])
@pytest.mark.parametrize("value", [0, -1, 2**63 - 1, 2**64 - 1, float("nan"), float("inf"), "\x1b[31m", b"x", [1], 7])
def test_impossible_metadata_is_refused_or_has_a_meaning(key: str, value: object) -> None:
    try:
        config = from_metadata({**metadata(), key: value}, "m.ggq")
    except GGQError as problem:
        assert str(problem).startswith("m.ggq: ") and "\x1b" not in str(problem)
    else:
        assert value == 7 and to_metadata(config, "LlamaForCausalLM")[key] == 7


def test_a_feed_forward_without_gate_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="model.gated: a feed-forward without a gate is not supported"):
        from_metadata({**metadata(), "model.gated": False})


def test_an_unknown_kind_of_model_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="model.kind: 'encoder' is not supported; supported: decoder"):
        from_metadata({**metadata(), "model.kind": "encoder"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
KEYS = [*LLAMA, "rope_parameters", "rope_scaling", "rope_theta", "head_dim", "num_key_value_heads", "hidden_act"]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=3))
def test_any_json_is_refused_in_the_family_or_accepted_whole(changes: dict[str, Any]) -> None:
    hf = {**LLAMA, **changes}
    try:
        config = find_architecture(hf).config(hf)
    except GGQError as problem:
        assert len(str(problem)) < 300
        return
    assert from_metadata(to_metadata(config, "LlamaForCausalLM")) == config


@pytest.mark.parametrize("folder", ["demo", "stories260k", "pylm"])
def test_the_names_and_shapes_are_those_of_real_checkpoints(folder: str) -> None:
    from safetensors import safe_open

    path = DEMO if folder == "demo" else shared("models", folder)
    hf = json.loads((path / "config.json").read_text())
    architecture = find_architecture(hf)
    specs = {spec.name: spec for spec in architecture.tensors(architecture.config(hf))}
    with safe_open(path / "model.safetensors", framework="numpy") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}
    assert {name: specs[name].shape for name in shapes} == shapes
    assert {spec.name for spec in specs.values() if spec.required} <= set(shapes)


def test_every_role_has_one_name() -> None:
    for hf in CONFIGS.values():
        for architecture in ARCHITECTURES:
            config = architecture.config(hf)
            stored = [spec for spec in architecture.tensors(config) if spec.role]
            assert [spec.role for spec in stored] == list(role_shapes(config))
            assert len({spec.name for spec in stored}) == len(stored)
