"""Scales beside matrices multiply their products, and go with the matrices into other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError
from ggq.export.gguf import export_gguf
from ggq.format.gguf.reader import GGUFReader
from ggq.gguf import container
from ggq.gguf.architecture.places import places
from ggq.gguf.blocks import numbers, rows_of
from ggq.gguf.packing import TABLES, kind_of
from ggq.models.build import role_shapes
from ggq.models.registry import find_architecture
from tests.gguf.test_blocks import IDS
from tests.gguf.test_model import WIDE, keys_of, llama, logits, pairs, quantized
from tests.kit.gguf_files import write_gguf
from tests.kit.small_models import checkpoint, made, prompt

EXPERTS = 4
MIXTRAL = {
    **WIDE,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "sliding_window": None,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
}
STACKED = {"llama.expert_count": EXPERTS, "llama.expert_used_count": 2}


def with_scales(tensors: dict[str, Any]) -> dict[str, Any]:
    """A scale beside each quantized matrix but the embedding, of each expert its own, and some for inputs."""
    found = dict(tensors)
    for i, (name, values) in enumerate(tensors.items()):
        if isinstance(values, tuple) and not name.startswith("token_embd"):
            count = values[1][0] if "_exps." in name else 1
            found[name.replace(".weight", ".scale")] = np.linspace(0.03 + 0.01 * i, 0.2, count).astype(np.float32)
            if i % 2:
                found[name.replace(".weight", ".input_scale")] = np.ones(count, np.float32)
    return found


def multiplied(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same model in float32 without scales: the second implementation."""
    found = {}
    for name, values in tensors.items():
        if isinstance(values, tuple):
            kind, shape, raw = values
            whole = numbers(IDS[kind], rows_of(IDS[kind], np.frombuffer(raw, np.uint8), shape)).reshape(shape)
            scale = tensors.get(name.replace(".weight", ".scale"), np.ones(1, np.float32))
            found[name] = whole * scale.reshape(-1, *[1] * (len(shape) - 1))
        elif not name.endswith("scale"):
            found[name] = values
    return found


def dense(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return keys_of(WIDE, "llama"), with_scales(quantized(llama(WIDE), kind))


def stacked(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Mixtral whose experts are of a type."""
    family, weights = find_architecture(MIXTRAL), checkpoint(MIXTRAL)
    spec = family.config(MIXTRAL)
    roles = {each.role: made(each, weights) for each in family.tensors(spec) if each.role}
    parts: dict[str, list[np.ndarray]] = {}
    for role, place in places(role_shapes(spec), container.names_of({"general.architecture": "llama"}, {}, "")).items():
        heads = MIXTRAL["num_attention_heads" if ".q." in role else "num_key_value_heads"]
        values = (
            pairs(roles[role], heads) if role.endswith(("attention.q.weight", "attention.k.weight")) else roles[role]
        )
        parts.setdefault(place.tensor, []).append(values)
    tensors = {name: np.stack(each) if "_exps." in name else each[0] for name, each in parts.items()}
    stacks = {name: values for name, values in tensors.items() if "_exps." in name}
    return keys_of(MIXTRAL, "llama") | STACKED, with_scales(tensors | quantized(stacks, kind))


FILES = {"dense": dense, "stacked": stacked}


@pytest.mark.parametrize(
    ("form", "kind"), [("dense", "NVFP4"), ("stacked", "NVFP4"), ("dense", "Q4_0"), ("dense", "IQ2_XS")]
)
def test_products_are_multiplied(form: str, kind: str, tmp_path: Path) -> None:
    keys, tensors = FILES[form](kind)
    path = write_gguf(tmp_path / "m.gguf", keys, tensors)
    plain = write_gguf(tmp_path / "plain.gguf", keys, multiplied(tensors))
    without = write_gguf(
        tmp_path / "none.gguf", keys, {name: v for name, v in tensors.items() if not name.endswith("scale")}
    )
    tokens = prompt(WIDE, 20)
    found, expected = logits(path, tokens), logits(plain, tokens)
    largest = np.abs(expected).max()
    assert np.abs(found - expected).max() < 2e-6 * largest
    assert np.abs(logits(without, tokens) - expected).max() > 0.1 * largest
    report = ggq.convert(path, tmp_path / "m.ggq")
    assert all(tensor.relative_rmse == 0 for tensor in report.tensors)
    np.testing.assert_array_equal(logits(tmp_path / "m.ggq", tokens), found)
    with ggq.open(tmp_path / "m.ggq") as file:
        for name, values in multiplied(tensors).items():
            if name in file.tensors and "attn_q" not in name and "attn_k" not in name:  # those have other rows
                np.testing.assert_allclose(file.tensors[name].dequantize(), values, rtol=1e-6)


@pytest.mark.kernels
@pytest.mark.parametrize(("form", "kind"), [("dense", "NVFP4"), ("stacked", "NVFP4"), ("dense", "Q4_0")])
def test_kernels_multiply_too(form: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "LEAST_BYTES", 0)
    keys, tensors = FILES[form](kind)
    path = write_gguf(tmp_path / "m.gguf", keys, tensors)
    plain, tokens = write_gguf(tmp_path / "plain.gguf", keys, multiplied(tensors)), prompt(WIDE, 20)
    expected = logits(plain, tokens)
    assert np.abs(logits(path, tokens, "numba") - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("form", FILES)
def test_an_export_has_the_same_bytes(form: str, tmp_path: Path) -> None:
    keys, tensors = FILES[form]("NVFP4")
    path = write_gguf(tmp_path / "m.gguf", keys, tensors)
    ggq.convert(path, tmp_path / "m.ggq")
    done = export_gguf(tmp_path / "m.ggq", tmp_path / "again.gguf")
    assert done.encoded == 0
    with GGUFReader(path) as before, GGUFReader(tmp_path / "again.gguf") as after:
        names = {name for name in before.tensors if not name.endswith(".input_scale")}
        assert names == set(after.tensors)
        for name in names:
            assert before.tensors[name].type == after.tensors[name].type, name
            assert before.raw(name).tobytes() == after.raw(name).tobytes(), name
    other = export_gguf(tmp_path / "m.ggq", tmp_path / "f32.gguf", type="f32")
    assert set(other.types) == {"F32"}
    tokens = prompt(WIDE, 20)
    found, expected = logits(tmp_path / "f32.gguf", tokens), logits(path, tokens)
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()


FLOAT = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("blk.0.ffn_up.scale", np.ones(2, np.float32), r"F32 of shape \[2\] found, F32 of shape \[1\] expected"),
        ("blk.0.ffn_up.scale", ("F16", (1,), b"\0\0"), "F16 of shape .* found"),
        ("blk.0.ffn_up.scale", np.array([np.nan], np.float32), "NaN or infinite"),
        ("blk.0.ffn_up.input_scale", np.array([np.inf], np.float32), "NaN or infinite"),
        ("blk.0.ffn_norm.scale", FLOAT, "beside a tensor of type F32 is not supported"),
        ("blk.0.ffn_up.weight.scale", FLOAT, "1 tensors that the architecture does not have"),
        ("blk.7.ffn_up.scale", FLOAT, "1 tensors that the architecture does not have"),
    ],
)
def test_others_are_refused_by_name(name: str, values: Any, message: str, tmp_path: Path) -> None:
    tensors = quantized(llama(WIDE), "NVFP4")
    path = write_gguf(tmp_path / "m.gguf", keys_of(WIDE, "llama"), {**tensors, name: values})
    with pytest.raises(GGQError, match=message) as refused:
        ggq.load(path, interpreter="numpy")
    assert str(path) in str(refused.value) and name in str(refused.value)


def test_a_type_is_kept_where_it_has_the_scales() -> None:
    fp4, iq4 = (np.array(TABLES[kind], np.int8) for kind in (40, 20))
    half = np.array([[0.5, 2.0**-9, 224.0, 0.0]], np.float16)
    assert kind_of("c4-g16", fp4, lambda: half) == 40 and kind_of("c4-g16", iq4, lambda: half) is None
    assert kind_of("c4-g16", fp4, lambda: -half) is None and kind_of("c4-g16", fp4, lambda: half * 2) is None
    assert kind_of("c4-g32", fp4, lambda: half[:, :2]) == 39 and kind_of("c4-g32", fp4, lambda: half) is None
    assert kind_of("c4-g32", iq4, lambda: half) == 20 and kind_of("q4-g32", None, lambda: half) == 2
