"""Broken and hostile safetensors files: each is refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.convert.convert import plan
from ggq.convert.source.safetensors_header import LONGEST_HEADER, read_header
from ggq.errors import FormatError, UnsupportedError
from tests.kit.checkpoints import UP, read_safetensors, refused, replace_tensors, write_safetensors

HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "dtype unknown": (lambda h: h[UP].update(dtype="F128"), "unknown dtype 'F128'; known: F64"),
    "dtype no string": (lambda h: h[UP].update(dtype=7), "unknown dtype 7"),
    "shape of another size": (
        lambda h: h[UP].update(shape=[44, 31]),
        r"shape \[44, 31\] of BF16 takes 2728 bytes, .* 2816",
    ),
    "shape empty": (lambda h: h[UP].update(shape=[]), r"shape \[\] of BF16 takes 2 bytes"),
    "dimension negative": (
        lambda h: h[UP].update(shape=[-44, -32]),
        r"whole numbers from 0 on expected, found \[-44, -32\]",
    ),
    "dimension huge": (lambda h: h[UP].update(shape=[2**63, 2]), r"found \[9223372036854775808, 2\]"),
    "product wraps to the right size": (lambda h: h[UP].update(shape=[2**62, 44, 32, 4]), "takes 519.* bytes"),
    "dimension a float": (lambda h: h[UP].update(shape=[44.0, 32]), r"found \[44.0, 32\]"),
    "dimension true": (lambda h: h[UP].update(shape=[True, 1408]), r"found \[True, 1408\]"),
    "shape a string": (lambda h: h[UP].update(shape="44x32"), "whole numbers from 0 on expected, found '44x32'"),
    "nine dimensions": (lambda h: h[UP].update(shape=[1] * 9), "a shape of up to 8"),
    "offsets of three": (
        lambda h: h[UP].update(data_offsets=[0, 1, 2]),
        r"data_offsets of two ascending .* \[0, 1, 2\]",
    ),
    "offsets descending": (lambda h: h[UP].update(data_offsets=[2816, 0]), "two ascending"),
    "offset negative": (lambda h: h[UP].update(data_offsets=[-2816, 0]), "two ascending"),
    "offset wrapping": (lambda h: h[UP].update(data_offsets=[2**64 - 2816, 2**64]), "two ascending"),
    "offset past the end": (lambda h: h[UP].update(data_offsets=[2**40, 2**40 + 2816]), "are announced, the file has"),
    "no offsets": (lambda h: h[UP].pop("data_offsets"), "an object of dtype, shape and data_offsets expected"),
    "entry no object": (lambda h: h.update({UP: 3}), "an object of dtype, shape and data_offsets expected"),
    "name empty": (lambda h: h.update({"": h.pop(UP)}), "a name of 0 characters"),
    "name too long": (lambda h: h.update({"x" * 2000: h.pop(UP)}), "a name of 2000 characters"),
    "metadata no object": (lambda h: h.update(__metadata__=[1]), "__metadata__: an object of strings expected"),
    "metadata no strings": (lambda h: h.update(__metadata__={"a": 1}), "__metadata__: an object of strings expected"),
    "a tensor left out": (lambda h: h.pop(UP), "unused bytes"),
    "ranges shared": (
        lambda h: h[UP].update(data_offsets=h["model.layers.0.mlp.gate_proj.weight"]["data_offsets"]),
        "shares",
    ),
    "overlap of one byte": (
        lambda h: h[UP].update(data_offsets=[end - 1 for end in h[UP]["data_offsets"]]),
        "shares 1 bytes with 'model.layers.0.mlp.gate_proj.weight'",
    ),
    "a hole of one byte": (
        lambda h: h[UP].update(data_offsets=[end + 1 for end in h[UP]["data_offsets"]]),
        "lies 1 unused bytes behind",
    ),
}


@pytest.mark.parametrize("change, message", HEADERS.values(), ids=HEADERS)
def test_headers_that_the_bytes_do_not_bear_out(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    header, data = read_safetensors(folder / "model.safetensors")
    change(header)
    write_safetensors(folder / "model.safetensors", header, data)
    error = refused(folder, message, FormatError)
    assert "model.safetensors: " in str(error)


@pytest.mark.parametrize(
    "start, message",
    [
        (b"", "a safetensors file expected, found an empty file"),
        (b"\x10\0\0\0\0\0\0", "a safetensors file expected, found 7 bytes of something else"),
        (b"GGUF\x03\0\0\0" + bytes(64), "a safetensors file expected, found a GGUF file"),
        (b"PK\x03\x04" + bytes(64), "found a zip archive, perhaps a PyTorch checkpoint"),
        (b"\x80\x02}q\0" + bytes(64), "found a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n" + bytes(64), "found a git-lfs pointer"),
        (b"<html><body>Not found</body></html>" + bytes(64), "found an HTML page"),
        (bytes(64), "a safetensors file expected"),
        (
            (2**64 - 1).to_bytes(8, "little") + b"{" * 64,
            "a header of 18446744073709551615 bytes is announced, 64 are left",
        ),
        ((65).to_bytes(8, "little") + b"{" * 64, "a header of 65 bytes is announced, 64 are left"),
        ((64).to_bytes(8, "little") + b"{" * 64, "header: not JSON"),
        ((2).to_bytes(8, "little") + b"[]" + bytes(64), "a safetensors file expected"),
        ((2).to_bytes(8, "little") + b"{}" + bytes(64), "byte 10: 64 unused bytes at the end"),
    ],
)
def test_files_that_are_something_else(folder: Path, start: bytes, message: str) -> None:
    (folder / "model.safetensors").write_bytes(start)
    refused(folder, message, FormatError)


def test_a_header_past_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:  # sparse: takes no room
        file.write((LONGEST_HEADER + 1).to_bytes(8, "little") + b"{")
        file.truncate(LONGEST_HEADER + 100)
    with pytest.raises(
        FormatError, match=f"a header of {LONGEST_HEADER + 1} bytes found, up to {LONGEST_HEADER} allowed"
    ):
        read_header(path, path)


def test_truncated_anywhere_in_header_or_data(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for length in [*range(0, header, 7), header, header + 1, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(FormatError, match="model.safetensors: "):
            plan(folder)
    for more in (b"\0", bytes(5000)):
        path.write_bytes(data + more)
        with pytest.raises(FormatError, match=f"{len(more)} unused bytes at the end"):
            plan(folder)


@settings(max_examples=150)
@given(data=st.data())
def test_a_header_with_a_few_bytes_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.safetensors"
    entries = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
    }
    write_safetensors(path, entries, bytes(32))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 33))] = data.draw(st.sampled_from(b'\x00\xff0129-{}[]",:aFNe\\'))
    path.write_bytes(raw)
    try:
        found = read_header(path, path)
    except FormatError as error:
        assert str(path) in str(error)
    else:
        assert sum(tensor.bytes for tensor in found.tensors) == found.size - 8 - len(found.header)


def test_numbers_are_not_called_floats_because_they_fit(folder: Path) -> None:
    weights = {UP: np.zeros((44, 32), np.int64)}
    replace_tensors(folder / "model.safetensors", weights)
    refused(folder, f"tensor {UP}: dtype must be F32, F16 or BF16, not I64", UnsupportedError)
