"""config.json and metadata to a model's parts: every value is checked, every refusal says where."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.errors import GGQError, ModelError, UnsupportedError
from ggq.models.build import role_shapes
from ggq.models.decoder import ACTIVATIONS
from ggq.models.family import Reading
from ggq.models.metadata import from_metadata, to_metadata
from ggq.models.parts import ModelSpec, Norm
from ggq.models.registry import FAMILIES, find_architecture
from ggq.models.rope import Dynamic, Linear, Llama3, Rope, Yarn
from tests.kit.small_models import CONFIGS, LLAMA3
from tests.kit.support import DEMO, shared

WORDS, SUPPORTED = (
    ", ".join(ACTIVATIONS),
    ", ".join(family.names[0].removesuffix("ForCausalLM").removesuffix("Model") for family in FAMILIES),
)
ELSE = "docs/families.md lists what is supported; `ggq convert --generic` stores tensors without a model"

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def reading_of(**changes: Any) -> Reading:
    hf = {key: value for key, value in {**LLAMA, **changes}.items() if value is not ...}
    return find_architecture(hf).read(hf, "config.json")


def config_of(**changes: Any) -> ModelSpec:
    return reading_of(**changes).spec


def rope_of(spec: ModelSpec) -> Rope:
    """The RoPE of all layers."""
    (rope,) = {layer.mixer.rope for layer in spec.layers}
    assert rope is not None
    return rope


def test_what_config_json_leaves_out_has_the_default_of_transformers() -> None:
    spec = config_of()
    (layer,) = set(spec.layers)
    attention = layer.mixer
    assert (attention.kv_heads, attention.head_dim, spec.context_length) == (4, 8, 2048)
    assert layer.mixer_norm == layer.feed_forward_norm == spec.head.norm == Norm("rms", 1e-6, weight=True, bias=False)
    assert attention.rope == Rope(10000.0, "half", 8, None)
    assert not (spec.head.tied or spec.head.bias or layer.feed_forward.bias or attention.output_bias)
    assert not (attention.query_bias or attention.key_bias or attention.value_bias)


def test_both_spellings_of_rope_are_the_same() -> None:
    old = config_of(rope_theta=5e5, rope_scaling={"type": "llama3", **LLAMA3})
    new = config_of(rope_parameters={"rope_type": "llama3", "rope_theta": 500000, **LLAMA3})
    assert old == new
    assert rope_of(old) == Rope(5e5, "half", 8, Llama3(8.0, 1.0, 4.0, 32))


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
        ({"head_dim": 9}, "config.json: RoPE rotates pairs, and the number of a head's numbers that turn, 9, is odd"),
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
        ({"hidden_act": "mish"}, f"hidden_act: 'mish' is not supported; supported: {WORDS}"),
        ({"hidden_act": "\x1b[31m"}, rf"hidden_act: '\x1b[31m' is not supported; supported: {WORDS}"),
        (
            {"rope_scaling": {"type": "proportional", "factor": 2}},
            "rope_scaling.type: 'proportional' is not supported; supported: default, linear, dynamic, llama3, yarn",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            "rope_parameters.rope_type: 'longrope' is not supported; supported: default, linear, dynamic, llama3, yarn",
        ),
        ({"is_causal": False}, "is_causal: false is not supported; supported: true"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder: true is not supported; supported: false"),
        ({"per_layer_config": {"0": {}}}, "per_layer_config: an object is not supported; supported: null"),
        (
            {"rope_parameters": {"full": {"rope_type": "default"}}},
            "rope_parameters.full: an object found: this form of RoPE is not supported",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: rotating a part of each head is not supported"),
        (
            {"architectures": ["T5Model"]},
            f"architectures: 'T5Model' is not supported; supported: {SUPPORTED}\n{ELSE}",
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
        ({}, UnsupportedError, "architectures: missing; supported: Llama, Qwen2"),
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


SCALED: dict[str, Any] = {"rope_type": "llama3", **LLAMA3}


@pytest.mark.parametrize(
    ("rule", "changes", "theta", "original", "unread"),
    [
        (
            "S-1",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_scaling": SCALED},
            1e4,
            32,
            ["rope_parameters"],
        ),
        (
            "S-1",
            {"rope_parameters": {**SCALED, "rope_theta": 5e5}, "rope_scaling": {"type": "default"}},
            1e4,
            None,
            ["rope_parameters"],
        ),
        ("S-1", {"rope_parameters": SCALED, "rope_scaling": SCALED}, 1e4, 32, []),
        ("S-1", {"rope_parameters": {**SCALED, "rope_theta": 5e5}, "rope_scaling": {}}, 5e5, 32, []),
        ("S-1", {"rope_parameters": {**SCALED, "rope_theta": 5e5}, "rope_scaling": False}, 5e5, 32, []),
        ("S-1", {"rope_scaling": False}, 1e4, None, []),
        ("S-2", {"rope_theta": 7e5, "rope_scaling": {**SCALED, "rope_theta": 5e3}}, 5e3, 32, ["rope_theta"]),
        ("S-2", {"rope_theta": 5e3, "rope_scaling": {**SCALED, "rope_theta": 5e3}}, 5e3, 32, []),
        (
            "S-2",
            {"rope_theta": 7e5, "rope_parameters": {"rope_theta": 5e5}, "rope_scaling": SCALED},
            7e5,
            32,
            ["rope_parameters"],
        ),
        ("S-2", {"rope_theta": 7e5, "rope_parameters": {"rope_type": "default"}}, 7e5, None, []),
        ("S-3", {"rope_scaling": {**SCALED, "type": "default"}}, 1e4, 32, ["rope_scaling.type"]),
        ("S-3", {"rope_scaling": {**SCALED, "type": "llama3"}}, 1e4, 32, []),
        (
            "S-3",
            {"rope_scaling": {"factor": 2.0, "rope_type": "default", "type": "llama3"}},
            1e4,
            None,
            ["rope_scaling.factor", "rope_scaling.type"],
        ),
        (
            "S-4",
            {"rope_scaling": SCALED, "original_max_position_embeddings": 64},
            1e4,
            64,
            ["rope_scaling.original_max_position_embeddings"],
        ),
    ],
)
def test_which_source_of_rope_wins(
    rule: str, changes: dict[str, Any], theta: float, original: int | None, unread: list[str]
) -> None:
    """docs/sources.md; each value is what transformers 5.24 computes with. What is overruled and differs is told."""
    spec, found = reading_of(**changes)
    rope = rope_of(spec)
    scaling = None if original is None else Llama3(8.0, 1.0, 4.0, original)
    assert (rope, sorted(found)) == (Rope(theta, "half", 8, scaling), unread), rule


def test_other_forms_of_rope() -> None:
    linear = config_of(rope_parameters={"rope_type": "linear", "factor": 2})
    assert rope_of(linear).scaling == Linear(2.0)
    dynamic = config_of(rope_parameters={"rope_type": "dynamic", "factor": 2})
    assert rope_of(dynamic).scaling == Dynamic(2.0)
    assert rope_of(dynamic).rotation() == rope_of(config_of()).rotation()  # as long as the context is kept
    yarn = config_of(rope_parameters={"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32})
    expected = Yarn(4.0, 32, 32.0, 1.0, truncate=True, attention_factor=0.1 * math.log(4) + 1)
    assert rope_of(yarn).scaling == expected
    given = {"beta_fast": 8, "beta_slow": 2, "truncate": False, "mscale": 0.5, "mscale_all_dim": 2.0}
    yarn = config_of(
        max_position_embeddings=64, rope_scaling={"type": "yarn", **given}, original_max_position_embeddings=16
    )
    factor = (0.05 * math.log(4) + 1) / (0.2 * math.log(4) + 1)
    assert rope_of(yarn).scaling == Yarn(4.0, 16, 8.0, 2.0, truncate=False, attention_factor=factor)


@pytest.mark.parametrize(
    ("changes", "unread"),
    [
        ({"sliding_window": 16}, ["sliding_window"]),
        ({"attention_multiplier": 0.5}, ["attention_multiplier"]),
        ({"final_logit_softcapping": 30.0}, ["final_logit_softcapping"]),
        ({"logit_scale": 0.0625}, ["logit_scale"]),
        ({"qk_norm": True}, ["qk_norm"]),
        ({"layer_types": ["sliding_attention"] * 2, "unsloth_fixed": True}, ["layer_types", "unsloth_fixed"]),
        ({"rope_scaling": {**LLAMA3, "rope_type": "llama3", "attention_factor": 2}}, ["rope_scaling.attention_factor"]),
        ({"pretraining_tp": 2, "attention_dropout": 0.1, "torch_dtype": "float16", "use_cache": False}, []),
    ],
)
def test_a_key_that_nobody_reads_changes_nothing_and_is_reported(changes: dict[str, Any], unread: list[str]) -> None:
    """What transformers' LlamaConfig does not read either; of what it reads nothing is left over."""
    plain = {"rope_scaling": {**LLAMA3, "rope_type": "llama3"}} if "rope_scaling" in changes else {}
    spec, found = reading_of(**changes)
    assert spec == config_of(**plain) and sorted(found) == unread


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
        written = to_metadata(config, "LlamaForCausalLM")[key]
        assert written == value and (value == 7 or (value == 0 and key.endswith((".window", ".softcap"))))


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
        assert len(str(problem)) < 900  # the longest names every family
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
    gpt2 = {"n_positions": 64, "n_embd": 40, "n_layer": 2, "n_head": 4}  # which has keys of its own
    checked = 0
    for hf in CONFIGS.values():
        for architecture in FAMILIES:  # not all of them have every form of RoPE, on which names do not depend
            if architecture.text:
                continue
            try:
                config = architecture.config({**gpt2, **{key: hf[key] for key in hf if not key.startswith("rope")}})
            except GGQError:
                continue  # its own sizes cannot be left out
            checked += 1
            stored = [spec for spec in architecture.tensors(config) if spec.role]
            assert [spec.role for spec in stored] == list(role_shapes(config))
            assert len({spec.name for spec in stored}) == len(stored)
    assert checked > 30 * len(CONFIGS)
