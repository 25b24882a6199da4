"""tools/add_outliers.py: the same function, with outliers where there were none."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError, UsageError
from tests.kit.checkpoints import numbers, read_safetensors, replace_tensors, tiny
from tests.kit.support import DEMO, shared
from tools.add_outliers import add_outliers, main


def logits(folder: Path, path: Path, ids: list[int]) -> np.ndarray:
    """What a checkpoint computes in full precision."""
    ggq.convert(folder, path, scheme="f32")
    with ggq.load(path, interpreter="numpy") as model:
        return model.logits(ids)


def same_function(source: Path, tmp_path: Path, **options: int) -> list[int]:
    """Compare the logits of a checkpoint with those of its outlier version; the channels."""
    channels = add_outliers(source, tmp_path / "outliers", **options)
    ids = np.random.default_rng(0).integers(0, 300, 24).tolist()
    before = logits(source, tmp_path / "before.ggq", ids)
    after = logits(tmp_path / "outliers", tmp_path / "after.ggq", ids)
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()
    return channels.tolist()


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"dtype": "f32"}, {"dtype": "f16"}, {"shards": 2}])
def test_small_models_compute_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    source = tiny(tmp_path / "source", **options)
    channels = same_function(source, tmp_path, channels=3)
    assert len(set(channels)) == 3


@pytest.mark.parametrize("name", ["demo", "pylm"])
def test_trained_models_compute_the_same(name: str, tmp_path: Path) -> None:
    same_function(DEMO if name == "demo" else shared("models", name), tmp_path)


def test_which_weights_change(tmp_path: Path) -> None:
    channels = add_outliers(DEMO, tmp_path / "out", channels=2, factor=32, seed=3)
    assert channels.tolist() == add_outliers(DEMO, tmp_path / "again", channels=2, factor=32, seed=3).tolist()
    assert channels.tolist() != add_outliers(DEMO, tmp_path / "other", channels=2, factor=32, seed=4).tolist()
    before, after = DEMO / "model.safetensors", tmp_path / "out" / "model.safetensors"
    header = read_safetensors(before)[0]
    header.pop("__metadata__", None)
    others = np.setdiff1d(np.arange(128), channels)
    for name in header:
        old, new = numbers(before, name), numbers(after, name)
        step = 1.0
        if name.endswith("layernorm.weight"):
            step = 32
        elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            step = 1 / 32
        assert np.array_equal(new[..., channels], old[..., channels] * step) or step == 1, name
        if step == 1:
            assert np.array_equal(new, old), name
        else:
            assert np.array_equal(new[..., others], old[..., others]), name
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} < kept


def test_weights_that_no_type_can_hold_smaller(tmp_path: Path) -> None:
    source = tiny(tmp_path / "source", dtype="f32")
    name = "model.layers.1.self_attn.q_proj.weight"
    weights = numbers(source / "model.safetensors", name)
    weights[:] = np.finfo(np.float32).smallest_subnormal
    replace_tensors(source / "model.safetensors", {name: weights})
    with pytest.raises(GGQError, match=f"tensor {name}: its weights are too large or too small for the factor"):
        add_outliers(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arguments_out_of_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for options, problem in (
        ({"factor": 48}, "the factor is 48, a power of two up to 1048576 expected"),
        ({"factor": 1 << 21}, "a power of two up to 1048576 expected"),
        ({"channels": 0}, "0 channels asked for, 1 to 128 possible"),
        ({"channels": 129}, "129 channels asked for"),
    ):
        with pytest.raises(UsageError, match=problem):
            add_outliers(DEMO, tmp_path / "out", **options)
    (tmp_path / "there").mkdir()
    monkeypatch.setattr("sys.argv", ["add_outliers.py", str(DEMO), str(tmp_path / "there")])
    assert main() == 2
    assert "exists already" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["add_outliers.py", str(DEMO), str(tmp_path / "new"), "--channels", "2"])
    assert main() == 0
    assert "times 64" in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_what_is_not_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "config.json")

    monkeypatch.setattr("tools.add_outliers.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left on device"):
        add_outliers(DEMO, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    add_outliers(DEMO, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
