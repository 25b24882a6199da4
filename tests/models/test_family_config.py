"""What each family reads of config.json: every key of its class in transformers, its defaults, its refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.errors import GGQError, ModelError, UnsupportedError
from ggq.models.build import build_program, role_shapes
from ggq.models.config import COMMON, ROPE, Anything, Config, Only, OrNull, Required
from ggq.models.config_rope import read_rope
from ggq.models.family import Family
from ggq.models.metadata import from_metadata, to_metadata
from ggq.models.parts import ModelSpec
from ggq.models.registry import FAMILIES, find_architecture
from ggq.models.rope import Linear, Rope, frequencies
from tests.kit.family_models import (
    FACTS,
)
from tests.kit.small_families import FAMILIES as CONFIGS
from tests.kit.small_models import CONFIGS as LLAMAS
from tests.models.test_encoders import FACTS as ENCODERS


def value_of(known: object) -> object:
    """The default that a family has for a key."""
    return known.default if isinstance(known, OrNull) else known.value if isinstance(known, Only) else known


@pytest.mark.parametrize("family", [each for each in FAMILIES if not each.text], ids=lambda family: family.names[0])
def test_a_family_knows_every_key_that_its_class_in_transformers_reads(family: Family) -> None:
    """And has the same defaults; those that only the model's code looks for are named here."""
    (model_type,) = family.model_types
    read = {**ENCODERS["keys"], **FACTS["keys"]}[model_type]
    known = {**COMMON, **ROPE, **family.keys}
    assert set(read["common"]) | set(read["own"]) <= set(known)
    others = {"head_dim", "rope_theta", "rope_local_base_freq", "sliding_window_pattern", "partial_rotary_factor"}
    others |= {"rotary_emb_base", "rotary_pct", "_sliding_window_pattern", "block_ff_dim", "tie_embedding"}
    others |= {"full_attention_interval", "position_embedding_type", "is_causal", "global_attn_every_n_layers"}
    others |= {
        "sliding_rope_theta",
        "global_rope_theta",
        "local_rope_theta",
        "reference_compile",
        "repad_logits_with_grad",
        "global_head_dim",
        "num_global_key_value_heads",
        "per_layer_config",
        "num_nextn_predict_layers",
        "first_k_dense_replace",
        "hybrid_override_pattern",
        "layer_types",
        "num_hidden_layers",
    }
    assert set(family.keys) - set(read["own"]) <= others
    bases = read["rope_theta"] if isinstance(read["rope_theta"], dict) else {"global": read["rope_theta"]}
    local = next((known[key] for key in ("rope_local_base_freq", "local_rope_theta") if key in known), None)
    assert [known["rope_theta"], *(local for _ in list(bases)[1:])] == list(bases.values())
    for key, default in read["own"].items():
        if not isinstance(known[key], Required | Anything) and not (isinstance(known[key], Only) and default is None):
            assert value_of(known[key]) == default, key


def changed(model: str, **changes: Any) -> tuple[ModelSpec, tuple[str, ...]]:
    hf = {**CONFIGS[model], **changes}
    spec, unread = find_architecture(hf).read(hf, "config.json")
    return spec, tuple(unread)


@pytest.mark.parametrize(
    ("model", "changes", "kind", "message"),
    [
        ("gpt_oss", {"swiglu_limit": 6.0}, UnsupportedError, "swiglu_limit: 6.0 is not supported; supported: 7"),
        ("gpt_oss", {"swiglu_alpha": 1.5}, UnsupportedError, "swiglu_alpha: 1.5 is not supported; supported: 1.702"),
        ("falcon", {"alibi": True}, UnsupportedError, "alibi: true is not supported; supported: false"),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            UnsupportedError,
            "scale_attn_by_inverse_layer_idx: true is not supported; supported: false",
        ),
        ("nemotron_h", {"moe_latent_size": 16}, UnsupportedError, "moe_latent_size: 16 is not supported"),
        ("gemma2", {"use_bidirectional_attention": True}, UnsupportedError, "true is not supported; supported: false"),
        ("gemma2", {"hidden_activation": "mish"}, UnsupportedError, "hidden_activation: 'mish' is not supported"),
        ("gemma2", {"attn_logit_softcapping": 0.0}, ModelError, "attn_logit_softcapping: 0.0 found, a number above 0"),
        ("gemma2", {"sliding_window": 0}, ModelError, "sliding_window: 0 found, 1 to"),
        ("gemma2", {"sliding_window": None}, ModelError, "layer_types: sliding_attention found, and no window in use"),
        (
            "gemma2",
            {"layer_types": ["full_attention"] * 3},
            ModelError,
            "layer_types: a list of 3 found, a list of 4 kinds",
        ),
        (
            "gemma2",
            {"layer_types": "full_attention"},
            ModelError,
            "layer_types: 'full_attention' found, a list of 4 kinds",
        ),
        ("qwen3", {"layer_types": ["full_attention", "x", "x"]}, UnsupportedError, "layer_types: 'x' is not supported"),
        (
            "qwen2",
            {"layer_types": ["sliding_attention"] * 3},
            ModelError,
            "sliding_attention found, and no window in use",
        ),
        (
            "smollm3",
            {"no_rope_layers": [1, 1]},
            ModelError,
            "no_rope_layers: a list of 2 found, a list of 3 times",
        ),
        (
            "smollm3",
            {"no_rope_layers": [1, 2, 1]},
            ModelError,
            "no_rope_layers: a list of 3 found, a list of 3 times",
        ),
        ("cohere", {"use_qk_norm": True}, UnsupportedError, "use_qk_norm: true is not supported; supported: false"),
        (
            "gemma2",
            {"query_pre_attn_scalar": 1e-300},
            ModelError,
            r"layers\.mixer\.scale: 1e\+150 found, a number above 0",
        ),
        (
            "gemma3",
            {"original_max_position_embeddings": 64},
            UnsupportedError,
            "original_max_position_embeddings: only the object of a kind of layer may have it where each has a RoPE",
        ),
        (
            "gemma3",
            {"rope_parameters": {"sliding_attention": {"rope_theta": 0}}},
            ModelError,
            "rope_parameters.sliding_attention.rope_theta: 0 found",
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 4, "short_factor": [1.0] * 4}},
            ModelError,
            "RoPE has 4 factors for 3 pairs",
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 4, "short_factor": [1.0] * 3}},
            ModelError,
            "LongRoPE has 3 short and 4 long factors",
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "su", "long_factor": [1.0] * 3, "short_factor": [1.0, "x", 2.0]}},
            ModelError,
            "rope_scaling.short_factor: 'x' found, a number expected",
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "short_factor": [], "long_factor": [1.0] * 3}},
            ModelError,
            "a list of 0 found, 1 to 4096",
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "short_factor": 2}},
            ModelError,
            "2 found, a list of numbers",
        ),
        (
            "ministral3",
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "llama_4_scaling_beta": -1}},
            ModelError,
            "llama_4_scaling_beta: -1 found, 0, or a number above 0",
        ),
        ("phi3", {"rope_scaling": {"rope_type": "yarn", "factor": 2}}, UnsupportedError, "default, longrope, su$"),
        ("phi3", {"partial_rotary_factor": 0.1}, ModelError, "rotated: 1 found, 2 to"),
        ("stablelm", {"qk_layernorm": True}, UnsupportedError, "qk_layernorm: true is not supported; supported: false"),
        ("stablelm", {"partial_rotary_factor": 1.5}, ModelError, "partial_rotary_factor: 1.5 found, a number above 0"),
        ("stablelm", {"rope_parameters": {"rope_type": "dynamic"}}, ModelError, "rope_parameters.factor: missing"),
        ("gpt_neox", {"rotary_pct": 0}, ModelError, "rotary_pct: 0 found, a number above 0"),
        ("gpt_neox", {"rope_theta": 5.0}, UnsupportedError, "rope_theta: 5.0 is not supported; supported: 10000.0"),
        ("gemma3", {"sliding_window_pattern": 0}, ModelError, "sliding_window_pattern: 0 found, 1 to"),
        (
            "gemma3",
            {"partial_rotary_factor": 0.5},
            UnsupportedError,
            "partial_rotary_factor: rotating a part of each head is not supported",
        ),
        ("gemma2", {"layer_types": []}, ModelError, "layer_types: a list of 0 found, a list of 4 kinds"),
        (
            "qwen2_windows",
            {"rope_parameters": {"rope_type": "yarn"}, "max_position_embeddings": 1 << 27},
            ModelError,
            "scaling.factor: 4194304.0 found",
        ),
        (
            "qwen2_windows",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1}},
            ModelError,
            "YaRN needs a base above 1, not 1",
        ),
        (
            "qwen2_windows",
            {"rope_parameters": {"rope_type": "yarn", "beta_slow": 40}},
            ModelError,
            r"YaRN needs its slow beta \(40\) below the fast one \(32\)",
        ),
        ("lfm2", {"full_attn_idxs": 3}, ModelError, "full_attn_idxs: 3 found, a list of numbers of layers expected"),
        ("lfm2", {"layer_types": ["conv", "sliding"] * 2}, UnsupportedError, "layer_types: 'sliding' is not supported"),
        ("qwen3_5", {"linear_num_key_heads": 4}, ModelError, "6 heads cannot share 4 key heads evenly"),
        ("mamba2", {"head_dim": 10}, ModelError, "num_heads: 6 heads of 10 are not 3 times the width 40"),
        ("mamba2", {"n_groups": 4}, ModelError, "6 heads cannot share 4 groups evenly"),
        ("mamba2", {"time_step_limit": 1}, ModelError, "time_step_limit: 1 found, two numbers expected"),
        ("mamba2", {"time_step_limit": [-1, 1]}, ModelError, "time_step_limit.least: -1 found, 0, or a number above 0"),
        ("mamba2", {"time_step_limit": [2, 1]}, ModelError, "steps of at least 2 and at most 1 cannot be"),
        ("mamba2", {"hidden_act": "relu"}, UnsupportedError, "hidden_act: 'relu' is not supported"),
        (
            "granite_hybrid",
            {"position_embedding_type": "alibi"},
            UnsupportedError,
            "position_embedding_type: 'alibi' is not supported; supported: rope, nope, null",
        ),
        ("granite_hybrid", {"mamba_d_head": 7}, ModelError, "mamba_n_heads: 5 heads of 7 are not the inner width 80"),
        ("falcon_h1", {"mamba_d_ssm": 40}, ModelError, "mamba_n_heads: 6 heads of 6 are not the inner width 40"),
        ("falcon_h1", {"mlp_multipliers": [1]}, ModelError, "mlp_multipliers: a list of 1 found, 2 numbers above 0"),
        ("falcon_h1", {"ssm_multipliers": [1, 1, "x", 1, 1]}, ModelError, "5 numbers above 0 expected"),
        ("falcon_h1", {"key_multiplier": 0}, ModelError, "key_multiplier: 0 found, a number above 0"),
        ("granite", {"logits_scaling": 0}, ModelError, "logits_scaling: 0 found, a number above"),
        ("mistral", {"sliding_window": "all"}, ModelError, "sliding_window: 'all' found, an integer expected"),
    ],
)
def test_what_a_family_cannot_have_is_refused(model: str, changes: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        changed(model, **changes)
    assert str(caught.value).startswith("config.json: ")


ROPE_KEYS = ["rope_type", "type", "rope_theta", "factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([1, 2, 3, 0.5, 64, "yarn", "linear"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(ROPE_KEYS), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=60)
@pytest.mark.parametrize("name", CONFIGS)
@given(data=st.data())
def test_any_json_is_refused_in_the_family_or_accepted_whole(name: str, data: st.DataObject) -> None:
    """Each key that the family reads may hold anything; what is accepted makes a program and goes into a file."""
    family = find_architecture(CONFIGS[name])
    keys = sorted({*family.keys, *ROPE, "is_causal", "per_layer_config", "unknown"})
    changes = data.draw(st.dictionaries(st.sampled_from(keys), JSON, min_size=1, max_size=3))
    try:
        spec = family.config({**CONFIGS[name], **changes})
    except GGQError as problem:
        assert len(str(problem)) < 600
        return
    assert from_metadata(to_metadata(spec, family.names[0])) == spec
    assert {role for op in build_program(spec).ops for role in op.weights_read()} == set(role_shapes(spec))


def rope_of(spec: ModelSpec, layer: int) -> Rope:
    rope = spec.layers[layer].mixer.rope
    assert rope is not None
    return rope


def windows(spec: ModelSpec) -> list[int]:
    return [layer.mixer.window for layer in spec.layers]


def test_windows_are_those_of_transformers() -> None:
    assert windows(changed("mistral", sliding_window=None)[0]) == [0, 0, 0]
    left_out = {key: value for key, value in CONFIGS["mistral"].items() if key != "sliding_window"}
    assert windows(find_architecture(left_out).config(left_out)) == [4096] * 3
    assert windows(changed("gemma2")[0]) == [19, 0, 19, 0]
    assert windows(changed("gemma2", sliding_window=None, layer_types=["full_attention"] * 4)[0]) == [0] * 4
    assert windows(changed("qwen2_windows")[0]) == [0, 13, 13]
    assert windows(changed("qwen2_windows", use_sliding_window=False)[0]) == [0, 0, 0]
    assert windows(changed("qwen2_windows", sliding_window=None)[0]) == [0, 0, 0]
    assert windows(changed("qwen2", sliding_window=0)[0]) == [0, 0, 0]  # not in use
    assert windows(changed("qwen3")[0]) == [29, 0, 29]
    assert windows(changed("phi3", sliding_window=None)[0]) == [0, 0, 0]


def test_gemma_3_has_a_rope_for_each_kind_of_layer() -> None:
    """S-21, in the words of transformers 4 and 5; what it leaves out has the defaults of transformers."""
    plain = {
        key: value for key, value in CONFIGS["gemma3"].items() if not key.startswith("rope") and key[:7] != "sliding"
    }
    usual = find_architecture(plain).config({**plain, "num_hidden_layers": 7})
    assert windows(usual) == [4096] * 5 + [0, 4096]
    assert {rope_of(usual, n).theta for n in (0, 4, 6)} == {1e4} and rope_of(usual, 5) == Rope(1e6, "half", 14, None)
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    }
    new, unread = changed("gemma3", rope_parameters=nested, rope_scaling=None, rope_theta=7.0)
    assert (new, unread) == (changed("gemma3")[0], ("rope_theta",))
    assert rope_of(new, 2) == Rope(2e4, "half", 14, Linear(4.0)) and rope_of(new, 0) == Rope(500.0, "half", 14, None)
    assert changed("gemma3", rope_scaling={"type": "linear", "factor": 4.0})[1] == (
        "rope_scaling.type",  # transformers has "rope_type": "default" beside it
        "rope_scaling.factor",
    )
    assert changed("gemma3", rope_parameters={"full_attention": nested["full_attention"], "factor": 2})[1] == (
        "rope_parameters.factor",
    )


def test_a_part_of_each_head_turns_where_the_family_may() -> None:
    """S-22."""

    def rotated(**changes: Any) -> tuple[int, tuple[str, ...]]:
        spec, unread = changed("glm4", **changes)
        rope = spec.layers[0].mixer.rope
        assert rope is not None
        return rope.rotated, unread

    inside = {"rope_type": "default", "partial_rotary_factor": 0.34}
    assert rotated() == (6, ())
    assert rotated(partial_rotary_factor=1.0) == (12, ())
    assert rotated(rope_parameters=inside) == (4, ())
    assert rotated(rope_parameters=inside, partial_rotary_factor=0.5) == (4, ("partial_rotary_factor",))
    usual = {key: value for key, value in CONFIGS["stablelm"].items() if key != "partial_rotary_factor"}
    assert rope_of(find_architecture(usual).config({**usual, "num_attention_heads": 5}), 0).rotated == 2  # of 8
    whole = {key: value for key, value in CONFIGS["phi3"].items() if key != "partial_rotary_factor"}
    assert rope_of(find_architecture(whole).config(whole), 0).rotated == 10
    neox = {"rope_type": "default", "partial_rotary_factor": 1.0, "rope_theta": 7.0}
    spec, unread = changed("gpt_neox", rope_parameters=neox)
    assert rope_of(spec, 0) == Rope(7.0, "half", 10, None) and set(unread) == {"rotary_emb_base", "rotary_pct"}
    with pytest.raises(
        ModelError, match=r"RoPE rotates pairs, and the number of a head's numbers that turn, 3, is odd"
    ):
        rotated(partial_rotary_factor=0.25)
    with pytest.raises(UnsupportedError, match=r"rotating a part of each head is not supported"):
        changed("qwen3", rope_parameters=inside)


def test_null_is_a_value_where_transformers_takes_it_for_one() -> None:
    capless, _ = changed("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert capless.head.softcap == 0.0 and {layer.mixer.softcap for layer in capless.layers} == {0.0}
    left_out = {key: value for key, value in CONFIGS["gemma2"].items() if "softcapping" not in key}
    usual = find_architecture(left_out).config(left_out)
    assert usual.head.softcap == 30.0 and {layer.mixer.softcap for layer in usual.layers} == {50.0}
    assert {layer.mixer.kv_heads for layer in changed("qwen2", num_key_value_heads=None)[0].layers} == {5}


def test_leftovers_are_reported() -> None:
    spec, unread = changed("gemma2", hidden_act="gelu", cache_implementation="hybrid")
    assert (spec, unread) == (changed("gemma2")[0], ("hidden_act", "cache_implementation"))
    assert changed("gemma3", _sliding_window_pattern=6)[1] == ()
    assert changed("qwen2", attention_bias=True)[1] == ("attention_bias",)
    assert changed("mistral", max_window_layers=2)[1] == ("max_window_layers",)
    assert changed("qwen3", attention_dropout=0.5, use_cache=False)[1] == ()


@pytest.mark.parametrize("case", FACTS["rope"], ids=lambda case: "-".join(map(str, case["form"].values())))
def test_frequencies_are_those_of_transformers(case: dict[str, Any]) -> None:
    """Which takes them in float32: seven digits."""
    keys = {**ROPE, **find_architecture(LLAMAS["grouped"]).keys}
    rope = read_rope(Config({"rope_parameters": case["form"]}, keys), 32, 8192)
    assert np.allclose(frequencies(rope), case["frequencies"], rtol=2e-6, atol=0)
    assert np.isclose(rope.rotation().scale, case["attention_factor"], rtol=1e-12, atol=0)
