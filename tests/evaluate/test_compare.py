"""`ggq compare`: errors of tensors, against the same sums over whole arrays."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq import comparison as command
from ggq.cli.main import main
from ggq.errors import UnsupportedError, UsageError
from ggq.evaluate.compare import by_kind, compare, match, paired
from ggq.evaluate.plot import check_picture
from tests.kit.checkpoints import replace_tensors, tiny
from tests.kit.small_models import CONFIGS, checkpoint, read_checkpoint, write_ggq
from tests.kit.support import DEMO

Capture = pytest.CaptureFixture[str]


class Arrays:
    """Tensors in memory, handed out in blocks of some rows."""

    def __init__(self, rows: int, **tensors: np.ndarray) -> None:
        self.rows, self.tensors = rows, tensors
        self.shapes = {name: array.shape for name, array in tensors.items()}

    def form(self, name: str) -> str:
        return f"by {self.rows}"

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        array = self.tensors[name]
        if array.dtype != np.float32:
            raise UnsupportedError(f"{array.dtype} cannot be compared")
        flat = array.reshape(-1, array.shape[-1])
        for start in range(0, len(flat), self.rows):
            yield flat[start : start + self.rows]


def expected(found: np.ndarray, exact: np.ndarray) -> tuple[float, float, float]:
    """The error in float64, all at once."""
    difference = found.astype(np.float64) - exact
    relative = float(np.sqrt((difference**2).sum() / (exact.astype(np.float64) ** 2).sum()))
    return relative, -20 * np.log10(relative), float(np.abs(difference).max())


def test_errors_are_the_sums_over_whole_tensors() -> None:
    random = np.random.default_rng(1)
    exact = {"a": random.normal(size=(7, 5)), "b": random.normal(size=(2, 3, 4)), "c": random.normal(size=9)}
    exact = {name: array.astype(np.float32) for name, array in exact.items()}
    noisy = {name: (array + random.normal(0, 0.1, array.shape)).astype(np.float32) for name, array in exact.items()}
    found = compare(Arrays(3, **noisy), Arrays(2, **exact))
    for tensor in found.tensors:
        assert tensor.error == pytest.approx(expected(noisy[tensor.name], exact[tensor.name])), tensor.name
        assert (tensor.form, tensor.reference_form) == ("by 3", "by 2")
    together = [np.concatenate([tensors[name].reshape(-1) for name in "ab"]) for tensors in (noisy, exact)]
    assert found.matrices == pytest.approx(expected(*together))
    assert found.worst()[0].error.relative_rmse == max(tensor.error.relative_rmse for tensor in found.tensors)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("others", [1, 4, 100])
def test_rows_meet_their_own_whatever_the_blocks(rows: int, others: int) -> None:
    array = np.arange(22, dtype=np.float32).reshape(11, 2)
    pairs = list(paired(Arrays(rows, a=array).blocks("a"), Arrays(others, a=array).blocks("a")))
    assert all(np.array_equal(one, other) for one, other in pairs)
    assert np.array_equal(np.concatenate([one for one, _ in pairs]), array)


def test_what_cannot_be_compared_is_named() -> None:
    here = {"same": (2, 3), "shape": (2, 3), "mine": (1,), "empty": (0, 3)}
    there = {"same": (2, 3), "shape": (3, 2), "empty": (0, 3), "yours": (1,)}
    common, skipped = match(here, there)
    assert common == {"same": (2, 3)}
    assert skipped == {
        "shape": "shape 2 x 3 in the first, 3 x 2 in the second",
        "mine": "only in the first",
        "yours": "only in the second",
    }
    one = np.ones((2, 2), np.float32)
    found = compare(Arrays(1, a=one, b=np.ones((2, 2), np.int32)), Arrays(1, a=one, b=one))
    assert found.skipped == {"b": "int32 cannot be compared"}
    assert [tensor.name for tensor in found.tensors] == ["a"]
    assert found.matrices == (0.0, np.inf, 0.0)
    with pytest.raises(UsageError, match="the two have no tensor of the same name and shape"):
        compare(Arrays(1, a=one), Arrays(1, b=one))


def test_progress_counts_numbers() -> None:
    seen: list[tuple[int, int]] = []
    arrays = Arrays(2, a=np.ones((3, 4), np.float32), b=np.ones(5, np.float32))
    compare(arrays, arrays, lambda done, total: seen.append((done, total)))
    assert seen == [(8, 17), (12, 17), (17, 17)]


def test_a_file_against_its_checkpoint(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors that the converter has measured and kept, found again."""
    monkeypatch.setattr(command, "BLOCK_WEIGHTS", 1000)
    path = tmp_path / "demo.ggq"
    ggq.convert(DEMO, path, scheme="q3-g32")
    assert main(["compare", str(path), str(DEMO), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bits_per_weight"] == pytest.approx(3.93, abs=0.01) and found["reference_bits_per_weight"] is None
    exact = read_checkpoint(DEMO)
    with ggq.open(path) as file:
        assert [tensor["name"] for tensor in found["tensors"]] == list(file.tensors)
        for tensor in found["tensors"]:
            entry = file.tensors[tensor["name"]]
            assert tensor["relative_rmse"] == pytest.approx(entry.attributes["relative_rmse"], rel=1e-3)
            assert tensor["max_error"] == pytest.approx(entry.attributes["max_error"], rel=1e-3)
            if len(entry.shape) == 2:
                numbers = (tensor["relative_rmse"], tensor["sqnr_db"], tensor["max_error"])
                assert numbers == pytest.approx(expected(entry.dequantize(), exact[entry.name]), rel=1e-6)
        forms = {(tensor["form"], tensor["reference_form"]) for tensor in found["tensors"]}
    assert forms == {("q3-g32", "bf16"), ("q6-g32", "bf16"), ("f32", "bf16")}


def test_two_files(tmp_path: Path, capsys: Capture) -> None:
    config = CONFIGS["biased"]
    tensors = checkpoint(config)
    paths = [write_ggq(tmp_path / f"{scheme}.ggq", config, tensors, scheme) for scheme in ("q4-g32", "q8-row")]
    assert main(["compare", *map(str, paths), "--worst", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tensor", "shape", "A", "B", "error", "SQNR", "dB", "largest"]
    assert lines[5].startswith("all matrices ") and lines[6] == ""
    with ggq.open(paths[0]) as a, ggq.open(paths[1]) as b:
        errors = {name: expected(a.tensors[name].dequantize(), b.tensors[name].dequantize())
                  for name in tensors if tensors[name].ndim == 2}  # fmt: skip
    worst = sorted(errors, key=lambda name: -errors[name][0])[:3]
    assert [line.split()[0] for line in lines[2:5]] == worst
    assert lines[2].split()[1:5] == ["x".join(map(str, tensors[worst[0]].shape)), "q4-g32", "q8-row",
                                     f"{errors[worst[0]][0]:.5f}"]  # fmt: skip
    assert main(["compare", str(paths[0]), str(paths[0])]) == 0
    (total,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("all matrices")]
    assert total.split() == ["all", "matrices", "0.00000", "inf", "0"]


def test_tensors_that_differ_are_listed(tmp_path: Path, capsys: Capture) -> None:
    source = tiny(tmp_path / "source", dtype="f32")
    path = tmp_path / "model.ggq"
    ggq.convert(source, path, scheme="q4-g32")
    shard = source / "model.safetensors"
    nan = np.full((32, 32), np.nan, np.float32)
    changes: dict[str, Any] = {
        "model.norm.weight": None,
        "model.layers.0.self_attn.k_proj.weight": np.ones((2, 2), np.float32),
        "model.layers.0.self_attn.q_proj.weight": nan,
        "model.layers.1.self_attn.q_proj.weight": np.ones((32, 32), np.int64),
        "extra\x1b[31m": np.ones(3, np.float32),
    }
    replace_tensors(shard, changes)
    assert main(["compare", str(path), str(source)]) == 0
    out = capsys.readouterr().out
    assert "\nmodel.norm.weight                       only in the first\n" in out
    assert "shape 16 x 32 in the first, 2 x 2 in the second" in out
    assert "dtype I64 and shape [32, 32] cannot be compared" in out
    assert "extra\\x1b[31m" in out and "\x1b" not in out
    assert any(line.startswith("model.layers.0.self_attn.q_proj.weight") and "nan" in line for line in out.splitlines())
    assert main(["compare", str(path), str(source), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert {tensor["name"]: tensor["relative_rmse"] for tensor in found["tensors"]}[
        "model.layers.0.self_attn.q_proj.weight"
    ] is None


def test_things_that_are_no_models(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "model.ggq"
    ggq.convert(tiny(tmp_path / "source"), path, scheme="f32")
    other = tmp_path / "other.txt"
    other.write_text("hello")
    (tmp_path / "folder").mkdir()
    for second, problem in (
        (other, "not a ggq file"),
        (tmp_path / "none.ggq", "No such file"),
        (tmp_path / "folder", "not a Hugging Face checkpoint"),
        (DEMO, "the two have no tensor of the same name and shape"),
    ):
        assert main(["compare", str(path), str(second)]) == 2
        captured = capsys.readouterr()
        assert problem in captured.err
        assert captured.out == "" and len(captured.err.splitlines()) <= 2


def test_the_picture(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "demo.ggq"
    ggq.convert(DEMO, path, scheme="q3-g32")
    assert main(["compare", str(path), str(DEMO), "--plot", str(tmp_path / "errors.png")]) == 0
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    for name, problem in (
        ("kept/errors.png", f"the folder {tmp_path / 'kept'} cannot be written to"),
        ("errors.doc", "the name of a picture must end in"),
        ("no/errors.png", "there is no folder"),
    ):
        assert main(["compare", str(path), str(DEMO), "--plot", str(tmp_path / name)]) == 2
        assert problem in capsys.readouterr().err
    picture = tmp_path / "model.png"
    path.rename(picture)
    assert main(["compare", str(picture), str(DEMO), "--plot", str(picture)]) == 2
    assert "it would replace what it is made from" in capsys.readouterr().err


def test_lines_of_the_picture(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
    exact = {name: random.normal(size=(4, 4)).astype(np.float32) for name in (*names, "model.layers.1.broken.weight")}
    noisy = {name: array + np.float32(0.1) for name, array in exact.items()}
    noisy["model.layers.1.broken.weight"][:] = np.inf
    found = compare(Arrays(4, **noisy), Arrays(4, **exact))
    errors = {tensor.name: tensor.error.relative_rmse for tensor in found.tensors}
    assert by_kind(found) == {
        "embed_tokens": [(None, errors[names[0]])],
        "mlp.up_proj": [(0, errors[names[1]]), (1, errors[names[2]])],
    }


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UnsupportedError, match="plots need matplotlib\ninstall it: pip install matplotlib"):
        check_picture(tmp_path / "plot.png")
