"""Calibration: the statistics of a direct computation, in bounded memory, saved, reused, and refused where unfit."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

import ggq
from ggq.convert.calibrate import calibration_text
from ggq.convert.calibrate import calibrator as calibrate
from ggq.convert.calibrate.calibration import inputs_of
from ggq.convert.calibrate.calibration_text import read_windows
from ggq.convert.calibrate.calibrator import Calibrator, LayerStatistics
from ggq.convert.calibrate.statistics import SavedStatistics
from ggq.convert.convert import convert, plan
from ggq.errors import ConvertError, FormatError, GGQError, UsageError
from ggq.format import open_reader
from ggq.format.scheme import Scheme
from ggq.tape.ops import Product
from ggq.tape.program import Run
from ggq.tape.reference import Batch, NumpyExecutor
from tests.kit.checkpoints import TEXT, numbers, replace_tensors, tiny, write_safetensors
from tests.kit.support import DEMO, run_ggq


def calibrated(folder: Path, windows: np.ndarray, gram: bool = True) -> LayerStatistics:
    planned = plan(folder)
    program = planned.program
    found: dict[str, object] = {}
    for layer in Calibrator(
        planned.checkpoint, planned.expressions, program, windows, lambda role: {"gram", "samples"} if gram else set()
    ).layers():
        found.update(layer)
    return found  # type: ignore[return-value]


def direct(folder: Path, windows: np.ndarray) -> dict[str, np.ndarray]:
    """What each matrix is multiplied with, float64 (tokens, columns), from the reference interpreter."""
    planned, seen = plan(folder), dict[str, np.ndarray]()
    tensors = {t.role: numbers(folder / "model.safetensors", t.name) for t in planned.tensors}

    def watch(_: Batch, product: Product, source: np.ndarray) -> None:
        for role in product.weights:
            seen[role] = np.concatenate([seen[role], source]) if role in seen else source

    program, scheme = planned.program, Scheme("float", 32, "f32")
    executor = NumpyExecutor(program, lambda role: (scheme, tensors[role]), activations="float32", cache="f32")
    with patch.object(Batch, "observe", watch):
        for window in windows:
            executor.forward([Run(executor.open_sequence(), window, "all")])
    return seen


@pytest.mark.parametrize("tied", [True, False])
def test_statistics_are_those_of_a_direct_computation(
    tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "CHUNK_TOKENS", 30)  # three windows at a time, then the last one
    monkeypatch.setattr(calibrate, "MEMORY_BYTES", 100)  # hidden states in a file
    folder = tiny(tmp_path / "m", tied=tied)
    windows = np.random.default_rng(3).integers(0, 320, (7, 10)).astype(np.int32)
    found, exact = calibrated(folder, windows), direct(folder, windows)
    assert found.keys() == exact.keys()
    for role, x in exact.items():
        statistics = found[role]
        assert statistics.count == len(x) == 70 and statistics.trouble == ""
        limit = 2e-5 * np.abs(x).max()
        assert np.allclose(statistics.absolute_maximum, np.abs(x).max(axis=0), rtol=0, atol=limit)
        assert np.allclose(statistics.mean, x.mean(axis=0), rtol=0, atol=limit)
        assert np.allclose(statistics.mean_square, np.square(x).mean(axis=0), rtol=1e-4, atol=0)
        assert statistics.gram is not None
        assert statistics.samples is not None and np.allclose(statistics.samples, x, rtol=0, atol=limit)
        gram = x.T @ x / len(x)
        assert np.abs(statistics.gram - gram).max() < 2e-5 * np.abs(gram).max()
    monkeypatch.setattr(calibrate, "SAMPLE_TOKENS", 30)
    some = calibrated(folder, windows)["layers.1.mlp.down.weight"].samples
    assert some is not None and len(some) == calibrate.sample_count(70) == 24
    assert np.allclose(some, exact["layers.1.mlp.down.weight"][::3], rtol=0, atol=1e-4)
    for shared in (("q", "k", "v"), ("gate", "up")):
        block = "attention" if "q" in shared else "mlp"
        assert len({id(found[f"layers.1.{block}.{name}.weight"]) for name in shared}) == 1


def test_a_gram_is_kept_only_where_it_is_wanted(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m")
    windows = np.arange(20, dtype=np.int32).reshape(2, 10)
    assert all(each.gram is each.samples is None for each in calibrated(folder, windows, gram=False).values())


def test_no_layers_weights_or_grams_outlive_it(tmp_path: Path) -> None:
    import gc
    import weakref

    planned = plan(DEMO)
    windows = np.zeros((1, 8), np.int32)
    layers = Calibrator(
        planned.checkpoint, planned.expressions, planned.program, windows, lambda role: {"gram"}
    ).layers()
    before: list[weakref.ref] = []  # type: ignore[type-arg]
    for found in layers:
        gc.collect()
        assert all(each() is None for each in before)
        before = [weakref.ref(statistics.gram) for statistics in found.values()]
        del found


def test_windows_are_taken_evenly_from_a_long_text_and_whole_from_a_short_one(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(DEMO)
    tokenizer = planned.assets["tokenizer.json"]
    whole = read_windows(text, tokenizer, planned.tokens, 64, 10**6)
    assert whole.windows.shape[1] == 64 and whole.tokens > 5000
    few = read_windows(text, tokenizer, planned.tokens, 64, 4 * 64)
    assert few.windows.shape == (4, 64) and few.digest != whole.digest
    picked = [i * len(whole.windows) // 4 for i in range(4)]
    assert np.array_equal(few.windows, whole.windows[picked])
    assert read_windows(text, tokenizer, planned.tokens, 64, 3 * 64 + 1).digest == few.digest
    monkeypatch.setattr(calibration_text, "WHOLE_BYTES", 10)
    pieces = read_windows(text, tokenizer, planned.tokens, 64, 4 * 64)
    from tokenizers import Tokenizer

    decoded = [Tokenizer.from_buffer(tokenizer).decode(list(window)) for window in pieces.windows]
    assert pieces.windows.shape == (4, 64) and all(part[:30] in TEXT for part in decoded)
    assert [TEXT.index(part[:30]) for part in decoded] == sorted(TEXT.index(part[:30]) for part in decoded)
    assert TEXT.index(decoded[-1][:30]) > len(TEXT) // 2


def test_each_window_begins_as_the_model_expects(tmp_path: Path, text: Path) -> None:
    planned = plan(tiny(tmp_path / "m"))
    assert planned.tokens.add_bos
    windows = read_windows(text, planned.assets["tokenizer.json"], planned.tokens, 32, 200).windows
    assert (windows[:, 0] == planned.tokens.bos).all() and (windows[:, 1:] != planned.tokens.bos).any()


@pytest.mark.parametrize(
    "content, tokens, message",
    [
        ("too short", None, "the text is shorter than one window of 512 tokens"),
        (TEXT, 0, "calibration_tokens must be 1 or more, not 0"),
        (None, None, "cannot open: No such file"),
        ("a folder", None, "text.txt: a text file expected, found a directory"),
        (bytes(range(256)) * 20, None, "text.txt: .* of 5120 bytes are not UTF-8 text\ncalibrate on a UTF-8 text"),
        (b"\0a" * 2000, None, "text.txt: 2000 of 4000 bytes are not UTF-8 text"),
        (bytes(range(256)) * 8000, 600, "text.txt: .* bytes are not UTF-8 text"),  # not read whole
    ],
)
def test_texts_that_cannot_be_used(
    tmp_path: Path, content: str | bytes | None, tokens: int | None, message: str
) -> None:
    path = tmp_path / "text.txt"
    if content == "a folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ggq.GGQError, match=message):
        ggq.convert(
            DEMO, tmp_path / "m.ggq", scheme="q4-g32", method="mse", calibration=path, calibration_tokens=tokens
        )
    assert not list(tmp_path.glob("*.ggq*"))


def test_a_few_bytes_of_another_encoding_are_skipped(tmp_path: Path) -> None:
    planned, path = plan(DEMO), tmp_path / "text.txt"
    asset = planned.assets["tokenizer.json"]
    path.write_text(TEXT.replace("e", ""))
    expected = read_windows(path, asset, planned.tokens, 64)
    path.write_bytes(TEXT.replace("e", "\xfc", TEXT.count("e") // 4).encode("latin-1"))
    read_windows(path, asset, planned.tokens, 64)
    path.write_bytes(TEXT.replace("e", "").encode().replace(b"d", b"d\xfc", 9))
    assert read_windows(path, asset, planned.tokens, 64).digest == expected.digest


def test_a_result_never_replaces_what_it_is_made_from(tmp_path: Path, text: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('scheme = "q4-g32"\nmethod = "mse"\n')
    before = text.read_bytes()
    link = tmp_path / "link"
    link.hardlink_to(text)
    for out, options in (
        (text, {"calibration": text}),
        (link, {"calibration": text}),
        (recipe, {}),
        (tmp_path / "s", {"calibration": text, "statistics": tmp_path / "s"}),
    ):
        with pytest.raises(UsageError, match=f"{out}: it would replace what it is made from\nchoose another name"):
            ggq.convert(DEMO, out, recipe=recipe, force=True, **options)
    assert text.read_bytes() == before and recipe.read_text().startswith("scheme")


def test_calibration_that_nobody_needs_or_nobody_gives_is_refused(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="method gptq needs calibration\ngive --calibration TEXT"):
        ggq.convert(DEMO, tmp_path / "m.ggq", method="gptq")
    with pytest.raises(UsageError, match="nothing to calibrate: method absmax does not use statistics"):
        ggq.convert(DEMO, tmp_path / "m.ggq", scheme="q4-g32", calibration=text)
    with pytest.raises(UsageError, match="calibration_tokens and calibration_context need a text"):
        ggq.convert(DEMO, tmp_path / "m.ggq", method="mse", calibration_tokens=5)
    with pytest.raises(UsageError, match="calibration_context must be 2 to 512 for this model, not 5000"):
        ggq.convert(DEMO, tmp_path / "m.ggq", method="mse", calibration=text, calibration_context=5000)
    with pytest.raises(UsageError, match="this file of statistics does not exist yet"):
        ggq.convert(DEMO, tmp_path / "m.ggq", method="mse", statistics=tmp_path / "s")
    with pytest.raises(UsageError, match="there is no folder"):
        ggq.convert(DEMO, tmp_path / "m.ggq", method="mse", calibration=text, statistics=tmp_path / "none" / "s")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(text.parent / "kept"))
    (kept := tmp_path / "kept").mkdir()
    with pytest.raises(UsageError, match=f"{kept / 's'}: the folder {kept} cannot be written to"):
        ggq.convert(DEMO, tmp_path / "m.ggq", method="mse", calibration=text, statistics=kept / "s")
    kept.rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_saved_statistics_give_the_same_file_without_the_text(tmp_path: Path, text: Path) -> None:
    folder, options = tiny(tmp_path / "m"), {"method": "gptq", "scheme": "q3-g32"}
    saved = tmp_path / "m.statistics"
    paths = [tmp_path / f"{i}.ggq" for i in range(4)]
    ggq.convert(folder, paths[0], calibration=text, calibration_tokens=2000, **options)
    ggq.convert(folder, paths[1], calibration=text, calibration_tokens=2000, statistics=saved, **options)
    assert sorted(path.name for path in tmp_path.glob("m.*")) == ["m.statistics"]
    ggq.convert(folder, paths[2], statistics=saved, workers=3, **options)
    ggq.convert(folder, paths[3], calibration=text, calibration_tokens=2000, statistics=saved, workers=1, **options)
    assert len({path.read_bytes() for path in paths}) == 1
    with open_reader(paths[0]) as reader:
        methods = {entry.attributes.get("method") for entry in reader.tensors.values()}
        assert methods == {"gptq", None}
        # The embedding is the output too, so its inputs as such come last.
        assert sorted(list(reader.tensors)[-2:]) == ["model.embed_tokens.weight", "model.norm.weight"]


def test_statistics_are_refused_where_they_do_not_belong(tmp_path: Path, text: Path) -> None:
    folder, saved = tiny(tmp_path / "m"), tmp_path / "s.safetensors"
    out = tmp_path / "m.ggq"
    ggq.convert(folder, out, method="mse", calibration=text, calibration_tokens=500, statistics=saved)
    out.unlink()
    with pytest.raises(ConvertError, match="without the products of input columns that the method needs"):
        ggq.convert(folder, out, method="gptq", statistics=saved)
    with pytest.raises(ConvertError, match="made from another calibration text, number of tokens or context"):
        ggq.convert(folder, out, method="mse", calibration=text, calibration_tokens=1000, statistics=saved)
    with pytest.raises(ConvertError, match="made from another checkpoint"):
        ggq.convert(tiny(tmp_path / "n", seed=9), out, method="mse", statistics=saved)
    with pytest.raises(ConvertError, match=r"layers.0.attention.q.weight.*float32 of shape \[128\] expected"):
        ggq.convert(DEMO, out, method="mse", statistics=saved)
    with pytest.raises(ConvertError, match="a safetensors file, but none of calibration statistics"):
        ggq.convert(folder, out, method="mse", statistics=folder / "model.safetensors")
    with pytest.raises(FormatError, match="a safetensors file expected"):
        ggq.convert(folder, out, method="mse", statistics=text)
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-4])
    with pytest.raises(FormatError, match="the file is incomplete"):
        ggq.convert(folder, out, method="mse", statistics=saved)
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    header["__metadata__"]["tokens"] = "many"
    write_safetensors(saved, header, whole[8 + int.from_bytes(whole[:8], "little") :])
    with pytest.raises(FormatError, match="its note of where the statistics come from is damaged"):
        ggq.convert(folder, out, method="mse", statistics=saved)
    assert not out.exists() and not list(tmp_path.glob("*.partial"))


def test_statistics_can_be_read_by_others(tmp_path: Path, text: Path) -> None:
    from safetensors.numpy import load_file

    folder, saved = tiny(tmp_path / "m"), tmp_path / "s.safetensors"
    ggq.convert(folder, tmp_path / "m.ggq", method="gptq", calibration=text, calibration_tokens=500, statistics=saved)
    ours = SavedStatistics(saved, inputs_of(plan(folder)))
    found = {role: each for layer in ours.layers() for role, each in layer.items()}
    theirs = load_file(saved)
    assert np.array_equal(theirs["layers.0.mlp.down.weight.gram"], found["layers.0.mlp.down.weight"].gram)
    assert np.array_equal(theirs["embedding.weight.mean_square"], found["embedding.weight"].mean_square)


@pytest.mark.parametrize("kind", ["one idle", "idle", "infinite"])
def test_a_tensor_whose_inputs_are_unfit_falls_back_and_says_so(tmp_path: Path, text: Path, kind: str) -> None:
    folder, name = tiny(tmp_path / "m"), "model.layers.1.mlp.up_proj.weight"
    weights = numbers(folder / "model.safetensors", name).copy()
    reason = "no statistics: none of 44 input columns saw an activation"
    if kind != "infinite":
        weights[5 if kind == "one idle" else slice(None)] = 0  # its product with the gate is 0, so is down's input
        replace_tensors(folder / "model.safetensors", {name: weights})
    else:
        norm = numbers(folder / "model.safetensors", "model.layers.1.post_attention_layernorm.weight").copy()
        norm[:] = 3e38
        replace_tensors(folder / "model.safetensors", {"model.layers.1.post_attention_layernorm.weight": norm})
        reason = "no statistics: 32 of 32 input columns were NaN or infinite"
    out = tmp_path / "m.ggq"
    report = ggq.convert(folder, out, method="gptq", scheme="q4-g32", calibration=text, calibration_tokens=500)
    fallen = {tensor.name: tensor.fallback for tensor in report.tensors if tensor.fallback}
    with open_reader(out) as reader:
        entries = {name: entry.attributes for name, entry in reader.tensors.items()}
    if kind == "one idle":
        assert fallen == {}
    elif kind == "idle":
        assert fallen == {"model.layers.1.mlp.down_proj.weight": reason}
    else:
        assert fallen[name] == reason and "model.layers.0.mlp.up_proj.weight" not in fallen
    for each, text_found in fallen.items():
        assert entries[each]["fallback"] == text_found and entries[each]["method"] == "mse"


def test_a_resumed_conversion_is_the_same_and_knows_its_calibration(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ggq.convert.write import pipeline

    folder, options = tiny(tmp_path / "m"), {"method": "gptq", "calibration_tokens": 1000, "workers": 2}
    ggq.convert(folder, tmp_path / "whole.ggq", calibration=text, **options)
    out, real, left = tmp_path / "m.ggq", pipeline._write, 13

    def broken(*arguments: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_write", broken)
        with pytest.raises(KeyboardInterrupt):
            ggq.convert(folder, out, calibration=text, statistics=tmp_path / "s", **options)
    assert not list(tmp_path.glob("s*"))
    other = tmp_path / "other.txt"
    other.write_text(TEXT[::-1])
    with pytest.raises(ConvertError, match="begun with other options or another input|resume"):
        ggq.convert(folder, out, calibration=other, resume=True, **options)
    report = ggq.convert(folder, out, calibration=text, resume=True, **options)
    assert report.resumed == 12
    assert out.read_bytes() == (tmp_path / "whole.ggq").read_bytes()


def test_the_command_line(tmp_path: Path, text: Path) -> None:
    folder, saved, out = tiny(tmp_path / "m"), tmp_path / "s", tmp_path / "m.ggq"
    options = ["--method", "gptq", "--statistics", saved]
    result = run_ggq("convert", folder, out, *options, "--calibration", text, "--calibration-tokens", "600")
    assert result.returncode == 0, result.stderr
    assert "gptq" in result.stdout and saved.exists()
    again = run_ggq("convert", folder, out, "--force", *options)
    assert again.returncode == 0, again.stderr
    refused = run_ggq("convert", folder, out, "--force", "--method", "gptq")
    assert refused.returncode == 2 and "method gptq needs calibration" in refused.stderr


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, -1e38, 3e38])
def test_bent_numbers_in_saved_statistics_are_refused(folder: Path, text: Path, tmp_path: Path, number: float) -> None:
    kept, options = tmp_path / "kept.stat", {"scheme": "q4-g32", "method": "gptq", "force": True}
    convert(folder, tmp_path / "a.ggq", calibration=text, statistics=kept, **options)  # type: ignore[arg-type]
    data = bytearray(kept.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    start, end = next(value["data_offsets"] for key, value in header.items() if key.endswith(".gram"))
    for place in range(8 + length + start, 8 + length + end, 4 * 97):
        data[place : place + 4] = np.float32(number).tobytes()
    kept.write_bytes(data)
    with pytest.raises(FormatError, match="damaged: (?s:.*)calibrate anew"):
        convert(folder, tmp_path / "b.ggq", statistics=kept, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", ["9" * 5000, "-1", "0", "1e3", "٣"])
def test_counts_in_saved_statistics_that_are_none(folder: Path, text: Path, tmp_path: Path, count: str) -> None:
    kept, options = tmp_path / "kept.stat", {"scheme": "q4-g32", "method": "gptq", "force": True}
    convert(folder, tmp_path / "a.ggq", calibration=text, statistics=kept, **options)  # type: ignore[arg-type]
    data = kept.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["tokens"] = count
    new = json.dumps(header).encode()
    kept.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])
    with pytest.raises(FormatError, match="its note of where the statistics come from is damaged"):
        convert(folder, tmp_path / "b.ggq", statistics=kept, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EOPNOTSUPP])
def test_hidden_states_get_their_room_on_disk_before_they_are_written(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Writing to a map of a file that the disk has no room for ends the process (SIGBUS)."""
    taken: list[int] = []

    def fail(descriptor: int, start: int, size: int) -> None:
        taken.append(size)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(calibrate, "MEMORY_BYTES", 1 << 10)
    array = calibrate.scratch((64, 32))
    array[:] = 1
    assert isinstance(array, np.memmap) and array.sum() == 64 * 32
    monkeypatch.setattr(os, "posix_fallocate", fail, raising=False)
    if code == errno.EOPNOTSUPP:  # a file system that cannot promise room
        assert calibrate.scratch((64, 32)).shape == (64, 32)
    else:
        with pytest.raises(GGQError, match="cannot write 8192 bytes of hidden states"):
            calibrate.scratch((64, 32))
    assert taken == [8192]
