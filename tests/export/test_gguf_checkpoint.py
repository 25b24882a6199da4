"""A GGUF file straight from a checkpoint, mixes, and importance matrices."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import ggq
from ggq.convert.options import Options
from ggq.errors import FormatError, GGQError, UsageError
from ggq.export.gguf import export_gguf
from ggq.export.gguf_checkpoint import convert_to_gguf
from ggq.export.gguf_mixes import MIXES
from ggq.format.gguf.reader import GGUFReader
from ggq.format.gguf.types import TYPES
from ggq.gguf.blocks import numbers, rows_of
from ggq.gguf.imatrix import Imatrix, read_imatrix, write_imatrix
from tests.gguf.test_model import WIDE
from tests.kit.small_models import checkpoint, write_ggq
from tests.kit.support import DEMO, run_ggq


def write_checkpoint(folder: Path, config: dict[str, Any], weights: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    with GGUFReader(path) as reader:
        return {n: (TYPES[t.type].name, reader.raw(n).tobytes()) for n, t in reader.tensors.items()}


@pytest.mark.parametrize("kind", ["q4_k_m", "q3_k", "q8_0", None])
def test_it_is_what_an_export_of_its_floats_is(kind: str | None, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "m", WIDE, checkpoint(WIDE))
    done = convert_to_gguf(source, tmp_path / "m.gguf", type=kind, options=Options())
    ggq.convert(source, tmp_path / "m.ggq", scheme="f32")
    export_gguf(tmp_path / "m.ggq", tmp_path / "again.gguf", type=kind)
    assert tensors(tmp_path / "m.gguf") == tensors(tmp_path / "again.gguf")
    assert done.bytes == (tmp_path / "m.gguf").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.gguf", "m", "m.ggq", "m.gguf"]


def test_mixes_name_the_types_that_llama_cpp_uses() -> None:
    def kinds(mix: str, stem: str) -> str:
        return " ".join(TYPES[MIXES[mix].kind(f"blk.{i}.{stem}.weight", 16)].name[1] for i in range(16))

    assert kinds("q4_k_m", "ffn_down") == "6 6 4 4 6 4 4 6 4 4 6 4 4 6 6 6"
    assert kinds("q4_k_s", "attn_v") == "5 5 5 5 " + " ".join("4" * 12)
    assert kinds("q3_k_m", "ffn_down") == "5 " + " ".join("4" * 15)
    assert kinds("q3_k_m", "attn_v") == "5 5 " + " ".join("4" * 14)
    for name, mix in MIXES.items():
        assert TYPES[mix.kind("output.weight", 16)].name == "Q6_K"
        assert TYPES[mix.kind("blk.3.attn_q.weight", 16)].name.lower() == name[:4]


def test_the_command_writes_a_mix(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "m", WIDE, checkpoint(WIDE))
    done = run_ggq("convert", source, tmp_path / "m.gguf", "--type", "q4_k_m", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["types"]["Q6_K"] >= 3 and found["types"]["Q4_K"] >= 8 and 0.03 < found["worst"] < 0.09
    with GGUFReader(tmp_path / "m.gguf") as reader:
        assert reader.metadata["general.file_type"] == 15


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importance matrix of the demo model, written beside a GGUF file."""
    folder = tmp_path_factory.mktemp("known")
    text = folder / "text"
    text.write_bytes((DEMO / "valid.txt").read_bytes()[:20000])
    options = Options(calibration=text, calibration_tokens=512, calibration_context=64)
    convert_to_gguf(DEMO, folder / "m.gguf", type="q4_0", imatrix=folder / "i.gguf", options=options)
    return folder


def test_calibration_writes_an_importance_matrix(known: Path) -> None:
    found = read_imatrix(known / "i.gguf")
    assert found.datasets == ("text",) and (found.chunks, found.context) == (8, 64)
    assert set(found.counts.values()) == {512} and "token_embd.weight" in found.means
    with GGUFReader(known / "i.gguf") as reader:
        assert reader.metadata["general.type"] == "imatrix"
        sums = reader.tensors["blk.0.attn_q.weight.in_sum2"]
        assert sums.type == 0 and sums.shape == (1, len(found.means["blk.0.attn_q.weight"]))
    plain = known / "plain.gguf"
    convert_to_gguf(DEMO, plain, type="q4_0", options=Options(force=True))
    convert_to_gguf(DEMO, known / "read.gguf", type="q4_0", imatrix=known / "i.gguf", options=Options(force=True))
    assert tensors(known / "read.gguf") == tensors(known / "m.gguf") != tensors(plain)


@pytest.mark.parametrize("kind", ["q4_0", "q4_k", "q2_k"])
def test_errors_count_by_an_importance_matrix(kind: str, tmp_path: Path) -> None:
    weights = checkpoint(WIDE)
    ours = write_ggq(tmp_path / "m.ggq", WIDE, weights, "f32")
    name, columns = "blk.0.ffn_up.weight", WIDE["hidden_size"]
    counts = np.ones(columns, np.float32)
    counts[::8] = 100
    write_imatrix(tmp_path / "i.gguf", Imatrix({name: counts}, {name: 10}))
    errors = []
    expected = next(w for key, w in weights.items() if "layers.0.mlp.up_proj" in key)
    for imatrix in (None, tmp_path / "i.gguf"):
        export_gguf(ours, tmp_path / "m.gguf", type=kind, imatrix=imatrix, force=True)
        with GGUFReader(tmp_path / "m.gguf") as reader:
            t = reader.tensors[name]
            found = numbers(t.type, rows_of(t.type, reader.raw(name), t.shape))
        errors.append(float(((found - expected) ** 2 * counts).sum()))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("kind", ["q4_0", "q4_k_m"])
def test_errors_make_up_for_each_other(kind: str, known: Path, tmp_path: Path) -> None:
    options = Options(calibration=known / "text", calibration_tokens=512, calibration_context=64, force=True)
    convert_to_gguf(DEMO, tmp_path / "plain.gguf", type=kind, options=options)
    convert_to_gguf(DEMO, tmp_path / "m.gguf", type=kind, options=Options(**{**vars(options), "method": "gptq"}))
    plain, found = tensors(tmp_path / "plain.gguf"), tensors(tmp_path / "m.gguf")
    assert plain.keys() == found.keys() and {n: k for n, (k, _) in plain.items()} == {
        n: k for n, (k, _) in found.items()
    }
    changed = {name for name in found if found[name] != plain[name]}
    assert "blk.0.ffn_down.weight" in changed and "token_embd.weight" not in changed


def old_form(entries: list[tuple[bytes, int, list[float]]], end: bytes = b"") -> bytes:
    parts = [struct.pack("<i", len(entries))]
    for name, calls, values in entries:
        head = struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values))
        parts += [head, np.array(values, "<f4").tobytes()]
    return b"".join(parts) + end


def test_the_older_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(old_form([(b"blk.0.attn_q.weight", 4, [4.0, 8.0])], struct.pack("<ii", 7, 3) + b"abc"))
    found = read_imatrix(path)
    assert found.means["blk.0.attn_q.weight"].tolist() == [1.0, 2.0] and found.counts == {"blk.0.attn_q.weight": 4}
    assert found.chunks == 7 and found.datasets == ("abc",)


GOOD = old_form([(b"w", 4, [4.0, 8.0])])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no importance matrix, or cut short"),
        (struct.pack("<i", 0), "it has no entries"),
        (struct.pack("<i", -1), "is -1, allowed are 0 to"),
        (struct.pack("<i", 2**31 - 1), "no importance matrix: the number of matrices is 2147483647"),
        (GOOD[:-1], "cut short: 8 bytes wanted, 7 left"),
        (old_form([(b"w", 4, [float("nan")])]), "NaN, infinite or negative"),
        (old_form([(b"w", 4, [-1.0])]), "NaN, infinite or negative"),
        (old_form([(b"w", 4, [])]), "no values"),
        (old_form([(b"\xff", 4, [1.0])]), "no UTF-8"),
        (old_form([(b"w", 4, [1.0]), (b"w", 4, [1.0])]), "comes again"),
        (GOOD + struct.pack("<ii", 1, 9) + b"abc", "a text.s name is 9, allowed are 0 to [0-9]+"),
        (struct.pack("<ii", 1, 2**30) + bytes(9), "the length of a name is 1073741824, allowed are 0 to 255"),
    ],
)
def test_broken_importance_matrices_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message):
        read_imatrix(path)


def test_every_cut_of_the_older_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    for length in range(len(GOOD)):
        path.write_bytes(GOOD[:length])
        with pytest.raises(FormatError):
            read_imatrix(path)


def test_a_model_is_no_importance_matrix(known: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="general.type: no importance matrix"):
        read_imatrix(known / "m.gguf")
    write_imatrix(
        tmp_path / "i.gguf", Imatrix({"blk.0.attn_q.weight": np.ones(3, np.float32)}, {"blk.0.attn_q.weight": 1})
    )
    with pytest.raises(UsageError, match="3 columns found, the model's matrix has"):
        convert_to_gguf(DEMO, tmp_path / "m.gguf", type="q4_0", imatrix=tmp_path / "i.gguf", options=Options())
    assert [path.name for path in tmp_path.iterdir()] == ["i.gguf"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "q9"], "type must be one of f32, f16"),
        (["--scheme", "q4-g32"], "--scheme is for .ggq files; a GGUF file has --type"),
        (["--imatrix", "none.gguf"], "it does not exist yet"),
        (["--dry-run"], "--dry-run is for .ggq files"),
        (["--type", "q4_k", "--method", "hqq"], "--method is 'hqq', allowed for a GGUF file is gptq"),
        (["--type", "q4_k", "--method", "gptq"], "--method gptq needs --calibration TEXT"),
    ],
)
def test_odd_options_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run_ggq("convert", DEMO, tmp_path / "m.gguf", *arguments)
    assert done.returncode == 2 and message in done.stderr and not list(tmp_path.iterdir())


def test_options_of_gguf_files_need_one(tmp_path: Path) -> None:
    done = run_ggq("convert", DEMO, tmp_path / "m.ggq", "--type", "q4_k")
    assert done.returncode == 2 and "--type and --imatrix are for a result whose name ends in .gguf" in done.stderr
    with pytest.raises(UsageError, match="--type and --mix do not go together"):
        export_gguf(tmp_path / "m.ggq", tmp_path / "m.gguf", type="q4_k", mix="q4_k_m")
    with pytest.raises(UsageError, match="mix must be one of q2_k_m"):
        export_gguf(tmp_path / "m.ggq", tmp_path / "m.gguf", mix="q4_k")


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN or infinite"), (1e-30, "little is left"), (1e30, "little is left")]
)
def test_weights_that_a_type_cannot_hold_are_refused(value: Any, message: str, tmp_path: Path) -> None:
    weights = checkpoint(WIDE)
    name = next(name for name in weights if "layers.1.mlp.up_proj" in name)
    weights[name] = np.full_like(weights[name], value) * np.sign(weights[name])
    source = write_checkpoint(tmp_path / "m", WIDE, weights)
    with pytest.raises(GGQError, match=message):
        convert_to_gguf(source, tmp_path / "m.gguf", type="q4_k", options=Options())
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
