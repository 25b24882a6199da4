"""A file gives its checkpoint back: bit for bit where it holds floats, else what its codes stand for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import deserialize
from safetensors.numpy import save_file

import ggq
from ggq.errors import GGQError, UsageError
from ggq.export.export import export
from ggq.export.restore import restored
from ggq.format import open_reader
from ggq.models.combined import Product, Stack, Sum
from ggq.models.names import Interleaved, Matrix, Plus, Rows, Tensor, Transposed
from ggq.quant.floats import STORAGE, to_float32
from ggq.quant.stored import decoded
from tests.kit.checkpoints import edit_json, replace_tensors, tiny
from tests.kit.family_models import CONFIGS, checkpoint
from tests.kit.support import DEMO, run_ggq

FAMILIES = sorted(CONFIGS)


def read_all(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor as float32."""
    found = {}
    for path in folder.glob("*.safetensors"):
        for name, tensor in deserialize(path.read_bytes()):
            kind = {"F32": "f32", "F16": "f16", "BF16": "bf16"}[tensor["dtype"]]
            raw = np.frombuffer(bytes(tensor["data"]), STORAGE[kind])
            found[name] = to_float32(raw, kind).reshape(tensor["shape"])
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_from_floats(name: str, tmp_path: Path) -> None:
    source, tensors = tmp_path / name, checkpoint(name)
    source.mkdir()
    (source / "config.json").write_text(json.dumps(CONFIGS[name]))
    save_file(tensors, source / "model.safetensors")
    ggq.convert(source, tmp_path / "f32.ggq", scheme="f32")
    export(tmp_path / "f32.ggq", tmp_path / "out")
    found = read_all(tmp_path / "out")
    with open_reader(tmp_path / "f32.ggq") as reader:
        rounded = ("norm", "router.scale")  # 1 + w, and w times a number
        changed = {each for each in tensors if each not in reader.tensors or any(part in each for part in rounded)}
    assert set(found) <= set(tensors) and {n for n in tensors if n not in found} <= _unused(name, tensors)
    for each, numbers in found.items():
        assert numbers.shape == tensors[each].shape and numbers.dtype == np.float32
        if each in changed:
            np.testing.assert_allclose(numbers, tensors[each], rtol=0, atol=2e-7)
        else:
            np.testing.assert_array_equal(numbers, tensors[each])
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CONFIGS[name]
    again = tmp_path / "again.ggq"
    ggq.convert(tmp_path / "out", again, scheme="f32")


def _unused(name: str, tensors: dict[str, np.ndarray]) -> set[str]:
    """Constants that files do not keep, and scales that a configuration leaves out."""
    ends = (".masked_bias", ".attention.bias", ".act_fn.eps")
    ends += () if CONFIGS[name].get("altup_correct_scale", True) else (".correct_output_scale",)
    return {each for each in tensors if "inv_freq" in each or each.endswith(ends)}


def test_the_demo_comes_back_bit_for_bit_with_its_assets(tmp_path: Path) -> None:
    ggq.convert(DEMO, tmp_path / "kept.ggq", scheme="bf16")
    done = export(tmp_path / "kept.ggq", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_size
    assert done.dequantized == 0 and done.exact == len(read_raw(DEMO))
    assert read_raw(tmp_path / "out") == read_raw(DEMO)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (DEMO / name).read_bytes()


def read_raw(folder: Path) -> dict[str, tuple[Any, ...]]:
    data = (folder / "model.safetensors").read_bytes()
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in deserialize(data)}


def test_quantized_tensors_come_back_as_their_codes_stand_for(tmp_path: Path) -> None:
    ggq.convert(DEMO, tmp_path / "q4.ggq", scheme="q4-g32")
    done = export(tmp_path / "q4.ggq", tmp_path / "out")
    found = read_all(tmp_path / "out")
    with open_reader(tmp_path / "q4.ggq") as reader:
        for name, numbers in found.items():
            np.testing.assert_array_equal(numbers, decoded(reader, reader.tensors[name]))
    assert done.dequantized > 0 and json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    ggq.convert(tmp_path / "out", tmp_path / "again.ggq", scheme="f32", embedding="f32")
    with ggq.load(tmp_path / "q4.ggq", interpreter="numpy", activations="float32", cache="f32") as one:
        with ggq.load(tmp_path / "again.ggq", interpreter="numpy", activations="float32", cache="f32") as other:
            np.testing.assert_allclose(one.logits([1, 2, 3]), other.logits([1, 2, 3]), atol=1e-5)


def test_what_was_folded_is_undone(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m")
    text = tmp_path / "text.txt"
    text.write_text("def f(a, b):\n    return a + b\n" * 200)
    ggq.convert(folder, tmp_path / "awq.ggq", scheme="q8-g32", method="awq", calibration=text)
    export(tmp_path / "awq.ggq", tmp_path / "out")
    source, found = read_all(folder), read_all(tmp_path / "out")
    for name, numbers in source.items():
        scale = np.abs(numbers).max() + 1e-9
        assert np.abs(found[name].astype(np.float32) - numbers).max() / scale < 0.02, name


def test_many_files_get_an_index(tmp_path: Path) -> None:
    ggq.convert(DEMO, tmp_path / "m.ggq", scheme="f32")
    export(tmp_path / "m.ggq", tmp_path / "one")
    done = export(tmp_path / "m.ggq", tmp_path / "many", shard_bytes=200_000)
    names = [name for name in done.files if name.endswith(".safetensors")]
    assert len(names) > 2 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    one, many = read_all(tmp_path / "one"), read_all(tmp_path / "many")
    assert one.keys() == many.keys() and all(np.array_equal(one[name], many[name]) for name in one)
    ggq.convert(tmp_path / "many", tmp_path / "again.ggq", scheme="f32")


def test_an_output_that_is_not_tied_any_more_says_so(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m")
    edit_json(folder / "config.json", tie_word_embeddings=True)
    head = np.roll(read_all(folder)["model.embed_tokens.weight"], 1, axis=0)
    replace_tensors(folder / "model.safetensors", {"lm_head.weight": head})
    ggq.convert(folder, tmp_path / "m.ggq", scheme="f32", embedding="f32")
    export(tmp_path / "m.ggq", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_array_equal(read_all(tmp_path / "out")["lm_head.weight"], head)


def test_a_type_that_cannot_hold_a_number_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source = tmp_path / "s.safetensors"
    save_file({"w": np.full((32, 32), 1e6, np.float32)}, source)
    ggq.convert(source, tmp_path / "w.ggq", generic=True, scheme="q8-g32", method="absmax")
    with pytest.raises(GGQError, match="tensor w: a number is too large for f16"):
        export(tmp_path / "w.ggq", tmp_path / "out", dtype="f16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.safetensors", "w.ggq"]
    with pytest.raises(UsageError, match="dtype is 'f8', allowed are f32, f16, bf16"):
        export(tmp_path / "w.ggq", tmp_path / "out", dtype="f8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UsageError, match="out: it exists already"):
        export(tmp_path / "w.ggq", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["mine"]


def test_expressions_are_solved_for_their_sources() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((12, 5), dtype=np.float32), rng.standard_normal((4, 6), dtype=np.float32)
    pieces = [
        (Interleaved(Rows(Tensor("a"), 0, 6), 3, 0, 2), a[[0, 1, 3, 4]]),
        (Interleaved(Rows(Tensor("a"), 0, 6), 3, 2, 3), a[[2, 5]]),
        (Rows(Tensor("a"), 6, 12), a[6:]),
        (Plus(Transposed(Tensor("b")), 2.0), b.T + 2),
        (Stack((Tensor("c"), Transposed(Tensor("d")))), np.stack([a, a + 1])),
        (Rows(Matrix(Tensor("e"), 1), 0, 7), a[:7] + 2),
        (Matrix(Tensor("e"), 0), a + 3),
        (Rows(Matrix(Tensor("e"), 1), 7, 12), a[7:] + 2),
    ]
    found = restored(pieces)
    np.testing.assert_array_equal(found["a"], a)
    np.testing.assert_allclose(found["b"], b, atol=1e-6)
    np.testing.assert_array_equal(found["c"], a)
    np.testing.assert_array_equal(found["d"], (a + 1).T)
    np.testing.assert_array_equal(found["e"], np.stack([a + 3, a + 2]))
    for hopeless in (Sum(Tensor("a"), Tensor("b")), Product(Tensor("a"), Tensor("b"))):
        with pytest.raises(GGQError, match="cannot be told from it"):
            restored([(hopeless, a)])


def test_the_command(tmp_path: Path) -> None:
    ggq.convert(DEMO, tmp_path / "q4.ggq", scheme="q4-g32")
    done = run_ggq("export", tmp_path / "q4.ggq", tmp_path / "out", "--dtype", "bf16")
    assert done.returncode == 0, done.stderr
    assert "dequantized" in done.stdout and "model.safetensors" in done.stdout
    assert {dtype for dtype, _, _ in read_raw(tmp_path / "out").values()} == {"BF16"}
    refused = run_ggq("export", tmp_path / "q4.ggq", tmp_path / "o2", "--format", "onnx")
    assert refused.returncode == 2 and "--format is 'onnx', allowed are safetensors" in refused.stderr
    missing = run_ggq("export", tmp_path / "no.ggq", tmp_path / "o2")
    assert missing.returncode == 2 and "no.ggq" in missing.stderr and len(missing.stderr.splitlines()) <= 2
