"""Configurations of three families, varied at random: kernels against the interpreter, on random weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggq.format import Writer
from ggq.generate.loading import load
from ggq.models.metadata import to_metadata
from ggq.models.registry import find_architecture
from ggq.quant import encode_tensor, parse_scheme
from ggq.tape.program import Run
from tests.kit.small_models import numbers

VOCABULARY = 37
TOLERANCE = 1e-4
"""Of the largest logit, as for goldens: float32 sums and functions against float64. Small heads with a small epsilon of
norms and random weights reach 1.4e-5."""

Draw = Any


@st.composite
def sizes(draw: Draw, step: int = 2) -> dict[str, Any]:
    """What all three have: sizes, heads, ties, norms."""
    kv_heads, share = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": draw(st.integers(3, 40)) * 2,
        "intermediate_size": draw(st.integers(5, 70)),
        "num_attention_heads": kv_heads * share,
        "num_key_value_heads": kv_heads,
        "head_dim": step * draw(st.integers(2, 40 // step)),
        "max_position_embeddings": draw(st.integers(64, 300)),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-3])),
        "tie_word_embeddings": draw(st.booleans()),
    }


def rope(draw: Draw, part: float = 1.0) -> dict[str, Any]:
    """Parameters of a RoPE of some form."""
    form = draw(st.sampled_from(["default", "linear", "llama3", "yarn"]))
    found: dict[str, Any] = {"rope_type": form, "rope_theta": draw(st.sampled_from([100.0, 1e4, 1e6]))}
    if form != "default":
        found["factor"] = draw(st.sampled_from([1.5, 4.0, 8.0]))
    if form in ("llama3", "yarn"):
        found["original_max_position_embeddings"] = draw(st.sampled_from([16, 32]))
    if form == "llama3":
        found |= {"low_freq_factor": 1.0, "high_freq_factor": draw(st.sampled_from([2.0, 4.0]))}
    return {**found, **({"partial_rotary_factor": part} if part != 1.0 else {})}


@st.composite
def llamas(draw: Draw) -> dict[str, Any]:
    """Llama: biases, every form of RoPE."""
    named = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_parameters": rope(draw)}
    biases = {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
    return {**draw(sizes()), **named, **biases, "num_hidden_layers": draw(st.integers(1, 3))}


@st.composite
def gemmas(draw: Draw) -> dict[str, Any]:
    """Gemma 3: windows in any pattern, two RoPE bases, caps."""
    layers = draw(st.integers(1, 4))
    named = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "num_hidden_layers": layers}
    kinds = draw(st.lists(st.sampled_from(["sliding_attention", "full_attention"]), min_size=layers, max_size=layers))
    found = {"layer_types": kinds, "sliding_window": draw(st.integers(2, 40))}
    found["query_pre_attn_scalar"] = draw(st.integers(1, 64))
    found["rope_theta"], found["rope_local_base_freq"] = draw(st.sampled_from([1e4, 1e6])), 500.0
    if draw(st.booleans()):
        found |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}
    return {**draw(sizes()), **named, **found}


@st.composite
def hybrids(draw: Draw) -> dict[str, Any]:
    """Qwen3.5: delta nets and attention in any pattern, heads of unequal sizes, part of each head rotated."""
    layers, keys = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    kinds = draw(st.lists(st.sampled_from(["linear_attention", "full_attention"]), min_size=layers, max_size=layers))
    named = {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "num_hidden_layers": layers}
    found = {"layer_types": kinds, "linear_num_key_heads": keys, "linear_conv_kernel_dim": draw(st.integers(2, 5))}
    found["linear_num_value_heads"] = keys * draw(st.integers(1, 5))
    found["linear_key_head_dim"], found["linear_value_head_dim"] = draw(st.integers(2, 40)), draw(st.integers(2, 70))
    found["rope_parameters"] = rope(draw, part=0.5)
    return {**draw(sizes(step=4)), **named, **found}


def values(role: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Weights of a role: norms near 1, rows of matrices of unit variance, speeds at which states last."""
    found = numbers(int(np.prod(shape)), seed).reshape(shape)
    if role.endswith("norm.weight"):
        return 1 + found / 2
    if role.endswith("speed"):
        return found * 2 - 2
    return np.asarray(found * np.float32(0.3 if len(shape) == 1 else np.sqrt(3 / shape[-1])), np.float32)


def write(path: Path, config: dict[str, Any]) -> None:
    """A file with random weights of a config.json, in float32."""
    family, scheme = find_architecture(config), parse_scheme("f32")
    spec = family.config(config)
    with Writer(path) as writer:
        for key, value in to_metadata(spec, family.names[0]).items():
            writer.add_metadata(key, value)
        for index, each in enumerate(family.tensors(spec)):
            if each.role:
                made = values(each.role, each.shape, index)
                parts = encode_tensor(made, scheme)
                writer.add_tensor(each.name, each.shape, scheme, parts, attributes={"role": each.role})
        writer.finish()


def logits(path: Path, interpreter: str, prompts: list[list[int]], cuts: list[int]) -> np.ndarray:
    """Logits of all tokens: prompts beside each other in pieces that end at `cuts`, the last tokens one by one."""
    found = []
    with load(path, interpreter=interpreter, cache="f32", activations="float32") as model:
        sequences = [model.executor.open_sequence() for _ in prompts]
        borders = [0, *cuts, *range(cuts[-1] + 1, len(prompts[0]) + 1)]
        for start, stop in zip(borders, borders[1:]):
            pieces = [np.array(prompt[start:stop], np.int32) for prompt in prompts]
            runs = [Run(sequence, piece, "all") for sequence, piece in zip(sequences, pieces) if len(piece)]
            found.append(np.asarray(model.executor.forward(runs)))
    return np.concatenate(found)


@pytest.mark.parametrize("configs", [llamas(), gemmas(), hybrids()], ids=["llama", "gemma3", "qwen3_5"])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_kernels_compute_what_the_interpreter_does(configs: Any, data: st.DataObject) -> None:
    """In batches of unequal lengths, in pieces, over borders of chunks and windows."""
    config, tokens = data.draw(configs), data.draw(st.integers(4, 60))
    first = data.draw(st.integers(1, tokens - 2))
    rng = np.random.default_rng(tokens)
    prompts = [rng.integers(0, VOCABULARY, count).tolist() for count in (tokens, max(1, tokens // 2))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.ggq"
        write(path, config)
        expected = logits(path, "numpy", prompts, [first, tokens - 1])
        found = logits(path, "numba", prompts, [first, tokens - 1])
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert np.abs(expected).max() > 0
