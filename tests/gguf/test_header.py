"""Reading GGUF headers: every bound is checked before it is believed, and what is broken is named."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.errors import FormatError, GGQError, UnsupportedError, UsageError
from ggq.format.digests import digest_of
from ggq.format.gguf import reader as gguf_reader
from ggq.format.gguf.header import Header
from ggq.format.gguf.kind import is_gguf
from ggq.format.gguf.reader import GGUFReader
from tests.kit.gguf_files import Raw, gguf, string, write_gguf
from tests.kit.support import run_ggq, shared

KEYS: dict[str, Any] = {
    "general.architecture": "llama",
    "a.number": 7,
    "a.float": 0.5,
    "a.flag": True,
    "a.list": np.array([1, -2, 3]),
    "a.texts": ["x", "", "ü"],
}
TENSORS: dict[str, Any] = {
    "w": np.arange(64, dtype=np.float32).reshape(2, 32),
    "q": ("Q4_0", (2, 64), bytes(range(72))),
    "v": np.ones(5, np.float32),
}


def read(data: bytes) -> Header:
    return Header(memoryview(data), "file.gguf")


def test_keys_and_tensors_are_read_back(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", KEYS, TENSORS)
    with GGUFReader(path) as reader:
        found = {key: reader.metadata[key] for key in reader.metadata}
        assert list(found) == list(KEYS) and reader.version == 3
        for key, value in KEYS.items():
            assert np.array_equal(found[key], value) if isinstance(value, np.ndarray) else found[key] == value
        assert [reader.kind(key) for key in KEYS] == ["string", "u32", "f32", "bool", "array of i32", "array of string"]
        assert {name: tensor.shape for name, tensor in reader.tensors.items()} == {
            "w": (2, 32),
            "q": (2, 64),
            "v": (5,),
        }
        assert reader.raw("q").tobytes() == bytes(range(72))
        assert np.array_equal(reader.raw("w").view("<f4").reshape(2, 32), TENSORS["w"])
    assert is_gguf(path) and not is_gguf(tmp_path) and not is_gguf(tmp_path / "none")


def test_alignment_and_version_2(tmp_path: Path) -> None:
    keys = {**KEYS, "general.alignment": 256}
    with GGUFReader(write_gguf(tmp_path / "m.gguf", keys, TENSORS, version=2, alignment=256)) as reader:
        assert reader.version == 2
        assert reader.raw("q").tobytes() == bytes(range(72))


def test_a_vocabulary_of_150000_tokens_opens_soon(tmp_path: Path) -> None:
    keys = {**KEYS, "tokens": [f"token{i}" for i in range(150_000)]}
    path = write_gguf(tmp_path / "m.gguf", keys, TENSORS)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        GGUFReader(path).close()
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5  # 0.02 s on an idle machine; decoding them all takes ten times as long


WHOLE = gguf(KEYS, TENSORS)


def test_every_truncation_is_refused() -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(GGQError, match="file.gguf"):
            read(WHOLE[:length])
    read(WHOLE)


HUGE = (1 << 32, 1 << 40, 1 << 63, (1 << 64) - 1)


@pytest.mark.parametrize("count", HUGE)
@pytest.mark.parametrize("place", [8, 16])
def test_huge_counts_are_refused_at_once(place: int, count: int) -> None:
    data = bytearray(WHOLE)
    data[place : place + 8] = struct.pack("<Q", count)
    with pytest.raises(FormatError, match="announced, the file has room for"):
        read(bytes(data))


def listed(name: str | bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in shape)
    return string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def with_tensor(*entries: bytes, data: int = 4096) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), 0) + b"".join(entries)
    return head + b"\0" * (-len(head) % 32 + data)


BROKEN: list[tuple[str, bytes, str]] = [
    ("magic", b"GGML" + WHOLE[4:], "not a GGUF file"),
    ("old", WHOLE[:4] + struct.pack("<I", 1) + WHOLE[8:], "GGUF version 1; 2 and 3 can be read"),
    ("future", WHOLE[:4] + struct.pack("<I", 4) + WHOLE[8:], "GGUF version 4"),
    ("big-endian", WHOLE[:4] + struct.pack(">I", 3) + WHOLE[8:], "a big-endian GGUF file"),
    ("type of value", gguf({"k": Raw(struct.pack("<II", 13, 0))}, {}), "key 'k': a value of unknown type 13"),
    ("nested", gguf({"k": Raw(struct.pack("<IIQ", 9, 9, 0))}, {}), "key 'k': an array of arrays"),
    ("twice", gguf({"k": 1}, {})[:16] + struct.pack("<Q", 2) + (string("k") + struct.pack("<II", 4, 1)) * 2, "twice"),
    ("long array", gguf({"k": Raw(struct.pack("<IIQ", 9, 4, 1 << 60))}, {}), "needs 4611686018427387904 bytes"),
    ("long strings", gguf({"k": Raw(struct.pack("<IIQ", 9, 8, 1 << 60))}, {}), "announced, the file has room for"),
    ("string end", gguf({"k": Raw(struct.pack("<IQ", 8, 1 << 40))}, {}), "goes on behind the end"),
    ("alignment", gguf({"general.alignment": 3}, {}), "alignment 3, a power of two"),
    ("alignment 0", gguf({"general.alignment": 0}, {}), "alignment 0, a power of two"),
    ("alignment text", gguf({"general.alignment": "32"}, {}), "alignment '32', a power of two"),
    ("no name", with_tensor(listed("", (32,), 0, 0)), "a name that is empty"),
    ("control", with_tensor(listed("a\x1b[2J", (32,), 0, 0)), "control characters"),
    ("utf-8", with_tensor(listed(b"\xff\xfe", (32,), 0, 0)), "no UTF-8"),
    ("same name", with_tensor(listed("a", (8,), 0, 0), listed("a", (8,), 0, 32)), "the name comes twice"),
    ("no dimensions", with_tensor(listed("a", (), 0, 0)), "0 dimensions found"),
    ("dimensions", with_tensor(listed("a", (1,) * 5, 0, 0)), "5 dimensions found, 1 to 4 allowed"),
    ("zero", with_tensor(listed("a", (0, 4), 0, 0)), r"shape \[4, 0\] found"),
    ("wrap", with_tensor(listed("a", (1 << 32, 1 << 32), 0, 0)), "sizes of at least 1 expected"),
    ("blocks", with_tensor(listed("a", (33,), 2, 0)), "rows of 33 numbers, Q4_0 has blocks of 32"),
    ("offset", with_tensor(listed("a", (8,), 0, 8)), "its offset 8 is no multiple of 32"),
    ("hole", with_tensor(listed("a", (8,), 0, 64)), "begins at byte 64 of the data, 0 expected"),
    ("overlap", with_tensor(listed("a", (64,), 0, 0), listed("b", (8,), 0, 32)), "256 bytes of F32 expected"),
    ("fork", with_tensor(listed("a", (128,), 42, 0), listed("b", (8,), 0, 128)), "begins at byte 128"),
    ("short", with_tensor(listed("a", (4096,), 0, 0)), "16384 bytes are announced, 4096 are left"),
]


@pytest.mark.parametrize(("name", "data", "message"), BROKEN, ids=[each[0] for each in BROKEN])
def test_what_is_broken_is_named(name: str, data: bytes, message: str) -> None:
    with pytest.raises(GGQError, match=message) as refused:
        read(data)
    assert "file.gguf" in str(refused.value) and len(str(refused.value).splitlines()) <= 2


def test_an_unknown_type_is_listed_and_refused_only_when_used(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(with_tensor(listed("a", (8,), 99, 0), listed("b", (8,), 0, 64)))
    with GGUFReader(path) as reader:
        assert reader.tensors["a"].type_name == "type 99" and reader.tensors["a"].bytes is None
        assert len(reader.raw("b")) == 32
        with pytest.raises(UnsupportedError, match="tensor a: type 99 is not known"):
            reader.raw("a")
    done = run_ggq("inspect", path, "--tensors")
    assert done.returncode == 0 and "type 99" in done.stdout


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, byte in changes:
        data[place] = byte
    try:
        header = read(bytes(data))
        for key in header.values:
            header.value(key)
    except GGQError as error:
        assert "file.gguf" in str(error)


def split(folder: Path, **changes: Any) -> Path:
    for number in range(3):
        keys = {"split.no": number, "split.count": 3, "split.tensors.count": 3, **(KEYS if number == 0 else {})}
        name = list(TENSORS)[number]
        write_gguf(folder / f"m-{number + 1:05}-of-00003.gguf", {**keys, **changes}, {name: TENSORS[name]})
    return folder / "m-00001-of-00003.gguf"


def test_a_split_model_is_read_as_one(tmp_path: Path) -> None:
    with GGUFReader(split(tmp_path)) as reader:
        assert list(reader.tensors) == list(TENSORS)
        assert reader.raw("q").tobytes() == bytes(range(72))
    with pytest.raises(FormatError, match=r"not the first file of a split model\ngive .*m-00001-of-00003.gguf"):
        GGUFReader(tmp_path / "m-00002-of-00003.gguf")
    os.rename(tmp_path / "m-00003-of-00003.gguf", tmp_path / "x")
    with pytest.raises(GGQError, match="m-00003-of-00003.gguf"):
        GGUFReader(tmp_path / "m-00001-of-00003.gguf")
    os.rename(tmp_path / "x", tmp_path / "m-00003-of-00003.gguf")
    write_gguf(tmp_path / "m-00002-of-00003.gguf", {"split.no": 1, "split.count": 3}, {"w": TENSORS["w"]})
    with pytest.raises(FormatError, match="tensor w: is in two files"):
        GGUFReader(tmp_path / "m-00001-of-00003.gguf")


def test_a_file_that_becomes_shorter_is_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", KEYS, TENSORS)
    with GGUFReader(path) as reader:
        os.truncate(path, 100)
        with pytest.raises(FormatError, match="100 bytes found"):
            reader.raw("w")


@pytest.mark.parametrize("first", [24, 32, 100, 150, 400])
def test_a_header_that_goes_on_behind_what_was_read_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Nothing is mapped, so the header is looked for in more and more of the file."""
    path = write_gguf(tmp_path / "m.gguf", KEYS, TENSORS)
    with GGUFReader(path) as reader:
        right = {key: reader.metadata[key] for key in reader.metadata}, reader.tensors, reader.raw("w").tobytes()
        assert reader.digest() == digest_of(path.read_bytes())
    monkeypatch.setattr(gguf_reader, "HEADER_BYTES", (first, first + 1, first + 90, 1000))
    monkeypatch.setattr(gguf_reader, "CHUNK", 50)
    with GGUFReader(path) as reader:
        found = {key: reader.metadata[key] for key in reader.metadata}, reader.tensors, reader.raw("w").tobytes()
        assert str(found) == str(right) and reader.digest() == digest_of(path.read_bytes())
    with pytest.raises(UsageError, match="the file is closed"):
        _closed(path).read_tensor(right[1]["w"], 0, np.empty(4, np.uint8))
    monkeypatch.setattr(gguf_reader, "HEADER_BYTES", (24, 60))
    with pytest.raises(FormatError, match="a header of more than 60 bytes"):
        GGUFReader(path)


def _closed(path: Path) -> gguf_reader._File:
    file = gguf_reader._File(os.fspath(path))
    file.close()
    return file


def test_a_file_cut_short_while_its_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "m.gguf", KEYS, TENSORS)
    monkeypatch.setattr(gguf_reader, "HEADER_BYTES", (100, 1 << 20))
    read = gguf_reader._File._read

    def cut(self: gguf_reader._File, offset: int, count: int) -> np.ndarray:
        found = read(self, offset, count)
        os.truncate(path, 50)
        return found

    monkeypatch.setattr(gguf_reader._File, "_read", cut)
    with pytest.raises(FormatError, match="50 bytes found, [0-9]+ when it was opened"):
        GGUFReader(path)


def test_files_from_elsewhere_are_read_or_refused() -> None:
    folder = shared("gguf")
    for name, message in (
        ("llamacpp-42a152-example.gguf", "not a GGUF file"),
        ("llamacpp-30fef3-test_writer.gguf", "a value of unknown type 13"),
        ("weight-inspect-tiny.gguf", "the file is incomplete"),
    ):
        with pytest.raises(FormatError, match=message):
            GGUFReader(folder / name)
    with GGUFReader(folder / "llama-2-tiny-random.gguf") as reader:
        assert len(reader.tensors) == 12
    assert run_ggq("inspect", folder / "weight-inspect-empty.gguf").returncode == 0
