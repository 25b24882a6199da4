"""`--generic`: any tensors by the recipe, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ggq
from ggq.errors import GGQError
from ggq.export.export import export
from ggq.format import open_reader
from tests.kit.support import DEMO, run_ggq

RNG = np.random.default_rng(11)

TENSORS = {
    "conv.weight": RNG.standard_normal((24, 8, 3, 3), dtype=np.float32),
    "conv.bias": RNG.standard_normal(24, dtype=np.float32),
    "fc.weight": RNG.standard_normal((40, 70)).astype(np.float16),
    "cell.weight": RNG.standard_normal((3, 48, 64), dtype=np.float32),
    "narrow": RNG.standard_normal((300, 2), dtype=np.float32),
    "batches": np.array(7, np.int64),
    "mask": np.array([True, False]),
    "wide": RNG.standard_normal(5),
    "scale": np.array(0.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "vision"
    made.mkdir()
    save_file(TENSORS, made / "diffusion.safetensors")
    (made / "config.json").write_text('{"model_type": "nobody-knows"}')
    return made


def test_every_tensor_is_stored_and_comes_back(folder: Path, tmp_path: Path) -> None:
    report = ggq.convert(folder, tmp_path / "v.ggq", generic=True, scheme="q4-g32")
    assert "kept.safetensors" in "".join(report.notes)
    with open_reader(tmp_path / "v.ggq") as reader:
        schemes = {name: (entry.scheme.kind, entry.shape) for name, entry in reader.tensors.items() if entry.scheme}
        assert "model.kind" not in reader.metadata
        assert all("role" not in entry.attributes for entry in reader.tensors.values())
    assert schemes == {
        "conv.weight": ("uniform", (24, 72)),  # rows of three would be padded to 16
        "conv.bias": ("float", (24,)),
        "fc.weight": ("uniform", (40, 70)),
        "cell.weight": ("uniform", (3, 48, 64)),
        "narrow": ("float", (300, 2)),  # codes would be padded to 32 columns
    }
    export(tmp_path / "v.ggq", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, numbers in TENSORS.items():
        assert found[name].shape == numbers.shape
        if schemes.get(name, ("float",))[0] == "float":
            assert found[name].dtype == numbers.dtype
            np.testing.assert_array_equal(found[name], numbers)
        else:
            error = np.square(found[name] - numbers.astype(np.float64)).mean() / np.square(numbers.astype(float)).mean()
            assert 1e-4 < error**0.5 < 0.12
    assert (tmp_path / "out" / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_the_tools_work_on_it(folder: Path, tmp_path: Path) -> None:
    done = run_ggq("convert", folder, tmp_path / "v.ggq", "--generic", "--keep", "fc=q8-g32")
    assert done.returncode == 0, done.stderr
    assert run_ggq("verify", tmp_path / "v.ggq").returncode == 0
    assert "kept.safetensors" in run_ggq("inspect", tmp_path / "v.ggq").stdout
    compared = run_ggq("compare", tmp_path / "v.ggq", folder, "--json")
    found = {t["name"]: t for t in json.loads(compared.stdout)["tensors"]}
    assert found["conv.weight"]["shape"] == [24, 8, 3, 3] and found["conv.weight"]["relative_rmse"] < 0.01
    one = run_ggq("compare", tmp_path / "v.ggq", folder / "diffusion.safetensors", "--json")
    assert json.loads(one.stdout)["tensors"] == json.loads(compared.stdout)["tensors"]
    for command in ("run", "bench", "eval"):
        extra = [] if command != "eval" else ["--text", folder / "config.json"]
        refused = run_ggq(command, tmp_path / "v.ggq", *extra, *(["-p", "x"] if command == "run" else []))
        assert refused.returncode == 2
        assert "a bundle of tensors without a model" in refused.stderr


def test_one_file_and_a_folder_without_a_config(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").unlink()
    ggq.convert(folder, tmp_path / "a.ggq", generic=True)
    ggq.convert(folder / "diffusion.safetensors", tmp_path / "b.ggq", generic=True)
    with open_reader(tmp_path / "a.ggq") as a, open_reader(tmp_path / "b.ggq") as b:
        assert list(a.tensors) == list(b.tensors)
        for name, entry in a.tensors.items():
            for part in entry.segments:
                np.testing.assert_array_equal(a.segment(name, part), b.segment(name, part))


def test_a_model_that_ggq_knows_is_stored_too(tmp_path: Path) -> None:
    ggq.convert(DEMO, tmp_path / "d.ggq", generic=True, scheme="q8-g32")
    export(tmp_path / "d.ggq", tmp_path / "out")
    ggq.convert(tmp_path / "out", tmp_path / "again.ggq", scheme="q8-g32")
    with ggq.load(tmp_path / "again.ggq", interpreter="numpy") as model:
        assert model.logits([1, 2, 3]).shape[0] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gptq"}, "calibration"),
        ({"calibration": "t.txt"}, "--generic and --calibration cannot be combined"),
        ({"preset": "small"}, "--generic and --preset cannot be combined"),
        ({"target_bpw": 4.0}, "--generic and --target-bpw cannot be combined"),
        ({"activations": "token"}, "--generic and --activations cannot be combined"),
        ({"embedding": "q8-g32"}, "--generic and --embedding cannot be combined"),
    ],
)
def test_what_needs_a_model_is_refused(folder: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(GGQError, match=message):
        ggq.convert(
            folder, tmp_path / "v.ggq", generic=True, scheme="q4-g32", **options
        ) if "preset" not in options and ("target_bpw" not in options) and "embedding" not in options else ggq.convert(
            folder, tmp_path / "v.ggq", generic=True, **options
        )
    assert not (tmp_path / "v.ggq").exists()


def test_names_that_no_file_can_have_are_refused_by_name(tmp_path: Path) -> None:
    save_file({"a b": np.ones((32, 32), np.float32)}, tmp_path / "s.safetensors")
    with pytest.raises(GGQError, match="(?s)s.safetensors: .*space.*leave it out with --ignore"):
        ggq.convert(tmp_path / "s.safetensors", tmp_path / "v.ggq", generic=True)
    save_file({"a": np.ones(32, np.float32)}, tmp_path / "s.safetensors")
    with pytest.raises(GGQError, match="nothing to quantize"):
        ggq.convert(tmp_path / "s.safetensors", tmp_path / "v.ggq", generic=True)
