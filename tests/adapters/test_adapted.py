"""Adapters that are computed beside a model's matrices give what the same adapters give that were added to them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import ggq
from ggq.errors import ConvertError, GGQError, UnsupportedError, UsageError
from tests.kit.checkpoints import tiny
from tests.kit.family_models import write_checkpoint
from tests.kit.support import run_ggq

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3], np.int32)


def adapter(folder: Path, modules: dict[str, tuple[int, int]], seed: int = 1, rank: int = 4, **config: Any) -> Path:
    """An adapter that changes matrices of (rows, columns)."""
    rng, tensors = np.random.default_rng(seed), {}
    for module, (rows, columns) in modules.items():
        name = f"base_model.model.{module}.lora_"
        tensors[f"{name}A.weight"] = rng.standard_normal((rank, columns)).astype(np.float32) / 8
        tensors[f"{name}B.weight"] = rng.standard_normal((rows, rank)).astype(np.float32) / 8
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    found = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(found))
    return folder


def logits(path: Path, lora: list[str] | None = None, **options: Any) -> np.ndarray:
    with ggq.load(path, lora=lora or (), activations="float32", **options) as model:
        return np.asarray(model.logits(TOKENS))


def compared(checkpoint: Path, work: Path, lora: list[str], **options: Any) -> tuple[float, float]:
    """The largest differences of logits, relative to the largest: beside against merged, and against without."""
    plain, merged = work / "plain.ggq", work / "merged.ggq"
    ggq.convert(checkpoint, plain, scheme="f32", embedding="f32", **options)
    ggq.convert(checkpoint, merged, scheme="f32", embedding="f32", lora=lora)
    wanted, without = logits(merged), logits(plain)
    scale = np.abs(wanted).max()
    results = [logits(plain, lora, interpreter=interpreter) for interpreter in ("numba", "numpy")]
    return max(np.abs(r - wanted).max() for r in results) / scale, np.abs(without - wanted).max() / scale


def test_several_adapters_with_weights_give_what_merged_ones_give(tmp_path: Path) -> None:
    first = adapter(tmp_path / "one", {Q: (32, 32), DOWN: (32, 44)})
    second = adapter(tmp_path / "two", {Q: (32, 32)}, seed=2, rank=3, use_rslora=True)
    error, changed = compared(tiny(tmp_path / "base"), tmp_path, [f"{first}=0.5", f"{second}=-1"])
    assert error < 2e-6
    assert changed > 1e-3


def test_what_is_fused_transposed_or_scaled_in_the_checkpoint(tmp_path: Path) -> None:
    """Phi-3 has queries, keys and values in one matrix, GPT-2 inputs as rows, GPT-NeoX heads in turns."""
    for family, module, fan in (
        ("phi3", "model.layers.0.self_attn.qkv_proj", False),
        ("gpt2", "transformer.h.0.attn.c_attn", True),
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value", False),
    ):
        work = tmp_path / family
        work.mkdir()
        checkpoint = write_checkpoint(work / "checkpoint", family)
        shape = shape_of(checkpoint, f"{module}.weight")
        shape = shape[::-1] if fan else shape
        folder = adapter(work / "a", {module: shape}, fan_in_fan_out=fan)
        error, changed = compared(checkpoint, work, [str(folder)])
        assert error < 5e-6, family
        assert changed > 1e-4, family


def shape_of(checkpoint: Path, name: str) -> tuple[int, int]:
    from safetensors import safe_open

    with safe_open(next(checkpoint.glob("*.safetensors")), "np") as file:
        rows, columns = file.get_slice(name).get_shape()
        return rows, columns


def test_scales_and_orders_that_a_method_has_folded_meet_the_adapter_too(tmp_path: Path) -> None:
    modules = {
        f"model.layers.{layer}.{name}": shape
        for layer in (0, 1)
        for name, shape in (("self_attn.q_proj", (32, 32)), ("mlp.up_proj", (44, 32)), ("mlp.down_proj", (32, 44)))
    }
    folder = adapter(tmp_path / "a", modules)
    text = tmp_path / "text"
    text.write_text("one two three four five six seven " * 60)
    checkpoint, path = tiny(tmp_path / "base"), tmp_path / "awq.ggq"
    calibrated: dict[str, Any] = {"calibration": text, "calibration_tokens": 128, "calibration_context": 32}
    ggq.convert(checkpoint, path, scheme="q8-g32", embedding="f32", method="awq", **calibrated)
    with ggq.open(path) as file:
        assert any("folded" in tensor.attributes for tensor in file.tensors.values())
    merged = tmp_path / "merged.ggq"
    ggq.convert(checkpoint, merged, scheme="f32", embedding="f32", lora=[str(folder)])
    wanted = logits(merged)
    off = np.abs(logits(path, [str(folder)]) - wanted).max() / np.abs(wanted).max()
    assert off < 0.02 < np.abs(logits(path) - wanted).max() / np.abs(wanted).max()


def test_half_numbers_stay_halves_and_batches_and_steps_agree(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", {Q: (32, 32), DOWN: (32, 44)}, lora_alpha=8)
    path = tmp_path / "m.ggq"
    ggq.convert(tiny(tmp_path / "base"), path, scheme="q4-g32")
    with ggq.load(path, lora=[f"{folder}=30"]) as model, ggq.load(path) as plain:
        texts = ["one two", "three four five six", "seven"]
        alone = [model.generate(text, max_tokens=8, temperature=0) for text in texts]
        assert model.generate_batch(texts, max_tokens=8, temperature=0) == alone
        assert alone != [plain.generate(text, max_tokens=8, temperature=0) for text in texts]
        again = pickle.loads(pickle.dumps(model))
        with again:
            assert [again.generate(text, max_tokens=8, temperature=0) for text in texts] == alone


@pytest.mark.parametrize(
    ("modules", "config", "problem", "error"),
    [
        ({"model.layers.7.self_attn.q_proj": (32, 32)}, {}, "no such matrix", ConvertError),
        ({Q: (32, 31)}, {}, r"a change of shape \[32, 31\] found, the matrix has \[32, 32\]", ConvertError),
        ({Q: (32, 32)}, {"fan_in_fan_out": True}, "in another form", UnsupportedError),
        ({"model.embed_tokens": (320, 32)}, {}, "whose rows are looked up", UnsupportedError),
        ({Q: (32, 32)}, {"use_dora": True}, "use_dora: True is not supported", UnsupportedError),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, modules: dict[str, tuple[int, int]], config: dict[str, Any], problem: str, error: type[GGQError]
) -> None:
    path = tmp_path / "m.ggq"
    ggq.convert(tiny(tmp_path / "base"), path, scheme="q8-g32")
    with pytest.raises(error, match=problem):
        ggq.load(path, lora=[str(adapter(tmp_path / "a", modules, **config))])


def test_a_weight_that_is_none_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "m.ggq"
    ggq.convert(tiny(tmp_path / "base"), path, scheme="q8-g32")
    folder = adapter(tmp_path / "a", {Q: (32, 32)})
    with pytest.raises(UsageError, match="must be a number"):
        ggq.load(path, lora=[f"{folder}=much"])
    tensors = {f"base_model.model.{Q}.lora_{kind}.weight": np.ones((4, 32), np.float32) for kind in "A"}
    tensors[f"base_model.model.{Q}.lora_B.weight"] = np.full((32, 4), np.nan, np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ConvertError, match="not finite"):
        ggq.load(path, lora=[str(folder)])


def test_the_command_line(tmp_path: Path) -> None:
    path, folder = tmp_path / "m.ggq", adapter(tmp_path / "a", {Q: (32, 32), DOWN: (32, 44)})
    ggq.convert(tiny(tmp_path / "base"), path, scheme="q8-g32")
    words = ["run", str(path), "one two", "-n", "8", "--greedy"]
    plain, adapted = run_ggq(*words), run_ggq(*words, "--lora", f"{folder}=30")
    assert (plain.returncode, adapted.returncode) == (0, 0), adapted.stderr
    assert plain.stdout != adapted.stdout
    refused = run_ggq(*words, "--lora", str(tmp_path / "none"))
    assert refused.returncode == 2
    assert "none" in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2
