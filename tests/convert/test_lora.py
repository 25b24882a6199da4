"""LoRA adapters are added to the matrices before these are quantized."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import ggq
from ggq.convert.convert import plan
from ggq.convert.source import lora
from ggq.errors import ConvertError, GGQError, UsageError
from ggq.format import open_reader
from ggq.quant.stored import decoded
from tests.kit.checkpoints import edit_json, numbers, tiny
from tests.kit.family_models import write_checkpoint
from tests.kit.support import run_ggq

RNG = np.random.default_rng(3)
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def parts(module: str, rows: int, columns: int, rank: int = 4, kinds: tuple[str, str] = ("A", "B")) -> dict[str, Any]:
    name = f"base_model.model.{module}.lora_"
    down, up = RNG.standard_normal((rank, columns)), RNG.standard_normal((rows, rank))
    suffix = "" if kinds[0].startswith("embedding") else ".weight"
    return {
        f"{name}{kinds[0]}{suffix}": down.astype(np.float32),
        f"{name}{kinds[1]}{suffix}": up.astype(np.float32),
    }


def adapter(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    found = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "fan_in_fan_out": False, **config}
    (folder / "adapter_config.json").write_text(json.dumps(found))
    return folder


def product(tensors: dict[str, Any], module: str) -> Any:
    down, up = (tensors[f"base_model.model.{module}.lora_{kind}.weight"].astype(np.float64) for kind in "AB")
    return up @ down


def stored(path: Path, name: str) -> np.ndarray:
    with open_reader(path) as reader:
        return decoded(reader, reader.tensors[name])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny(tmp_path / "base")


def test_matrices_are_changed_and_others_are_not(base: Path, tmp_path: Path) -> None:
    tensors = parts(Q, 32, 32) | parts(DOWN, 32, 44)
    folder = adapter(tmp_path / "style", tensors, alpha_pattern={"down_proj": 2})
    report = ggq.convert(base, tmp_path / "m.ggq", scheme="f32", embedding="f32", lora=[f"{folder}=0.5"])
    for module, scale in ((Q, 0.5 * 8 / 4), (DOWN, 0.5 * 2 / 4)):
        exact = numbers(base / "model.safetensors", f"{module}.weight") + scale * product(tensors, module)
        np.testing.assert_allclose(stored(tmp_path / "m.ggq", f"{module}.weight"), exact, rtol=1e-6, atol=1e-6)
    other = "model.layers.1.self_attn.q_proj.weight"
    np.testing.assert_array_equal(stored(tmp_path / "m.ggq", other), numbers(base / "model.safetensors", other))
    assert "LoRA adapter style added to 2 matrices, times 0.25 to 1" in report.notes
    with open_reader(tmp_path / "m.ggq") as reader:
        assert list(reader.metadata["general.adapters"]) == ["style=0.5"]  # type: ignore[call-overload]


def test_several_adapters_add_up(base: Path, tmp_path: Path) -> None:
    one, two = parts(Q, 32, 32), parts(Q, 32, 32, rank=2)
    first = adapter(tmp_path / "one", one)
    second = adapter(tmp_path / "two", two, r=2, use_rslora=True)
    ggq.convert(base, tmp_path / "m.ggq", scheme="f32", embedding="f32", lora=[str(first), f"{second}=-1"])
    exact = numbers(base / "model.safetensors", f"{Q}.weight") + 2 * product(one, Q) - 8 / 2**0.5 * product(two, Q)
    np.testing.assert_allclose(stored(tmp_path / "m.ggq", f"{Q}.weight"), exact, rtol=1e-5, atol=1e-5)


def test_a_part_of_a_fused_matrix_takes_its_part(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "phi", "phi3")
    plain, merged = tmp_path / "plain.ggq", tmp_path / "merged.ggq"
    ggq.convert(base, plain, scheme="f32", embedding="f32")
    module = "model.layers.0.self_attn.qkv_proj"
    with open_reader(plain) as reader:
        names = [name for name in reader.tensors if name.startswith("layers.0.attention.")]
        rows, columns = sum(reader.tensors[n].shape[0] for n in names), reader.tensors[names[0]].shape[1]
    tensors = parts(module, rows, columns)
    ggq.convert(base, merged, scheme="f32", embedding="f32", lora=[str(adapter(tmp_path / "a", tensors))])
    change = np.concatenate([stored(merged, name) - stored(plain, name) for name in names])
    np.testing.assert_allclose(change, 2 * product(tensors, module), atol=1e-5)


def test_an_embedding_and_transposed_matrices(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base", tied=False)
    name = "model.embed_tokens"
    tensors = parts(name, 32, 320, kinds=("embedding_A", "embedding_B"))
    ggq.convert(base, tmp_path / "m.ggq", scheme="f32", embedding="f32", lora=[str(adapter(tmp_path / "a", tensors))])
    down, up = (tensors[f"base_model.model.{name}.lora_embedding_{kind}"] for kind in "AB")
    exact = numbers(base / "model.safetensors", f"{name}.weight") + 2 * (up @ down).T
    np.testing.assert_allclose(stored(tmp_path / "m.ggq", f"{name}.weight"), exact, atol=1e-5)
    turned = parts(Q, 32, 32)
    folder = adapter(tmp_path / "t", turned, fan_in_fan_out=True)
    ggq.convert(base, tmp_path / "t.ggq", scheme="f32", embedding="f32", lora=[str(folder)])
    exact = numbers(base / "model.safetensors", f"{Q}.weight") + 2 * product(turned, Q).T
    np.testing.assert_allclose(stored(tmp_path / "t.ggq", f"{Q}.weight"), exact, atol=1e-5)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("dora", parts(Q, 32, 32), {"use_dora": True}, "use_dora: True is not supported"),
    ("bias", parts(Q, 32, 32), {"bias": "all"}, "bias: 'all' is not supported"),
    ("unknown", parts(Q, 32, 32), {"new_trick": 3}, "new_trick: 3 is not supported"),
    ("kind", parts(Q, 32, 32), {"peft_type": "IA3"}, "peft_type: 'IA3' is no LoRA"),
    ("rank", parts(Q, 32, 32), {"r": 8}, "rank 8 said, 4 found in module"),
    ("shape", parts(Q, 32, 16), {}, r"a change of shape \[32, 16\] found, the matrix has \[32, 32\]"),
    ("name", parts("model.layers.9.self_attn.q_proj", 32, 32), {}, "the model has no such matrix"),
    ("saved", {"base_model.model.lm_head.weight": np.ones((3, 3), np.float32)}, {}, "more than a low-rank change"),
    ("half", dict([next(iter(parts(Q, 32, 32).items()))]), {}, "lora_A and lora_B belong together"),
    ("alpha", parts(Q, 32, 32), {"lora_alpha": None}, "lora_alpha: None found, a number expected"),
    ("tied", parts("model.embed_tokens", 32, 320, kinds=("embedding_A", "embedding_B")), {}, "the output too"),
]


@pytest.mark.parametrize(("name", "tensors", "config", "message"), REFUSED, ids=[each[0] for each in REFUSED])
def test_what_would_be_computed_otherwise_is_refused_by_name(
    base: Path, tmp_path: Path, name: str, tensors: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    folder = adapter(tmp_path / name, tensors, **config)
    with pytest.raises(GGQError, match=message) as refused:
        plan(base, scheme="q4-g32", lora=[str(folder)])
    assert str(folder) in str(refused.value)


def test_folders_and_weights(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the weight must be a number, not 'much'"):
        plan(base, scheme="q4-g32", lora=["a=much"])
    with pytest.raises(GGQError, match="adapter_config.json: missing: not a LoRA adapter"):
        plan(base, scheme="q4-g32", lora=[str(base)])
    folder = adapter(tmp_path / "a=b", parts(Q, 32, 32))
    assert plan(base, scheme="q4-g32", lora=[str(folder)]).adapters == ("a=b",)
    refused = run_ggq("convert", folder, tmp_path / "m.ggq")
    assert refused.returncode == 2 and not (tmp_path / "m.ggq").exists()
    edit_json(folder / "adapter_config.json", peft_type=None)
    done = run_ggq("convert", base, tmp_path / "m.ggq", "--lora", folder)
    assert done.returncode == 2 and "peft_type: None is no LoRA" in done.stderr


def test_the_first_pattern_that_fits_the_end_of_a_name_decides(base: Path, tmp_path: Path) -> None:
    r"""As in PEFT: re.match(rf"(.*\.)?({pattern})$", module)."""
    given = {"proj": 1, "q_proj": 2, r"layers\.\d+\.self_attn\.q_proj": 3, "self_attn.q_proj": 4, r"(o|k)_proj": 5}
    said = lora._ByModule({"alpha_pattern": given, "lora_alpha": 9}, "alpha_pattern", "lora_alpha", tmp_path)
    modules = (Q, DOWN, "q_proj", "k_proj", "model.layers.0.self_attn.o_proj", "model.xq_proj")
    for module in modules:
        expected = next((n for text, n in given.items() if re.match(rf"(.*\.)?({text})$", module)), 9)
        assert said[module] == expected, module
    assert [said[module] for module in modules] == [2, 9, 2, 5, 5, 9]


def test_patterns_of_a_stranger_take_no_time(base: Path, tmp_path: Path) -> None:
    many = {f"model.layers.0.x{i}": 1 for i in range(60_000)} | {"(a+)+$": 1, "(.*)*x": 1}
    folder = adapter(tmp_path / "many", parts(Q, 32, 32), rank_pattern=many, alpha_pattern=many)
    start = time.perf_counter()
    plan(base, scheme="q4-g32", lora=[str(folder)])
    assert time.perf_counter() - start < 5
    odd = {f"x{i}?": 1 for i in range(65)}
    folder = adapter(tmp_path / "odd", parts(Q, 32, 32), alpha_pattern=odd)
    with pytest.raises(ConvertError, match="alpha_pattern: 65 regular expressions found, up to 64 allowed"):
        plan(base, scheme="q4-g32", lora=[str(folder)])
