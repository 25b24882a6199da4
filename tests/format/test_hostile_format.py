"""Hostile and broken files: every change is refused or reported, in bounded memory, by both readers alike."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.errors import FormatError, GGQError
from ggq.format import Reader, Writer, edit_metadata, open_reader, verify
from ggq.format.identify import identify
from ggq.format.native import frame
from ggq.format.native.values import LazyArray
from tests.kit.format_files import FOUR, data_of, write_small
from tests.kit.support import ROOT, run_python
from tools import read_ggq
from tools.bad_file import full

GOOD = ROOT / "spec" / "vectors" / "good"
BAD = ROOT / "spec" / "vectors" / "bad"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hostile.ggq"


def consume(reader: Reader) -> None:
    """Asks for everything that an open file hands out."""
    for value in reader.metadata.values():
        list(value) if isinstance(value, (LazyArray, list)) else value
    for name, entry in reader.tensors.items():
        assert set(entry.segments) == set(entry.descriptor.roles)
        for role in entry.segments if entry.scheme is not None else ():
            assert len(reader.segment(name, role)) == entry.segments[role].length
    assert len(reader.assets) == len(list(reader.assets))


def complaints(path: Path) -> list[str | None]:
    """The tensors that verify names (None: damage outside of tensors); empty when all is well."""
    try:
        with open_reader(path) as reader:
            consume(reader)
            return [problem.tensor for problem in verify(reader)]
    except GGQError as error:
        assert str(error).startswith(f"{path}: ")
        return [None]


def second_accepts(path: Path) -> bool:
    try:
        read_ggq.read(str(path))
    except read_ggq.Refused:
        return False
    return True


def owners(path: Path) -> dict[int, str]:
    """The tensor of each byte that lies in one."""
    with open_reader(path) as reader:
        return {
            byte: name
            for name, entry in reader.tensors.items()
            for part in entry.segments.values()
            for byte in range(part.offset, part.offset + part.length)
        }


@pytest.mark.parametrize(
    ("name", "step", "bits"), [("worked", 1, (0, 3, 6)), ("edited", 4, (5,)), ("tensors", 31, (7,))]
)
def test_every_flipped_bit_is_reported(path: Path, name: str, step: int, bits: tuple[int, ...]) -> None:
    raw, tensor_of = (GOOD / f"{name}.ggq").read_bytes(), owners(GOOD / f"{name}.ggq")
    for position in range(0, len(raw), step):
        for bit in bits:
            data = bytearray(raw)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            assert complaints(path) == [tensor_of.get(position)], (position, bit)


def test_a_thousand_flipped_bits_in_a_larger_file_name_their_tensors(path: Path) -> None:
    with Writer(path) as writer:
        for number in range(40):
            writer.add_tensor(f"layer.{number}", (64, 640), FOUR, data_of(FOUR, (64, 640), number))
        writer.finish()
    tensor_of = owners(path)
    size = path.stat().st_size
    assert size > 900_000
    numbers = np.random.default_rng(7)
    with path.open("r+b", buffering=0) as file, open_reader(path) as reader:
        for position in numbers.integers(64, reader.footer.index_offset, 1000).tolist():
            bit = 1 << int(numbers.integers(8))
            file.seek(position)
            old = file.read(1)[0]
            for value in (old ^ bit, old):
                file.seek(position)
                file.write(bytes([value]))
                if value != old:
                    assert [problem.tensor for problem in verify(reader)] == [tensor_of.get(position)]
        assert verify(reader) == []


@pytest.mark.parametrize("name", ["minimal", "worked", "assets"])
def test_a_file_cut_at_any_byte_is_refused(path: Path, name: str) -> None:
    raw = (GOOD / f"{name}.ggq").read_bytes()
    with open_reader(GOOD / f"{name}.ggq") as reader:
        data_end = reader.footer.index_offset
    sizes = [*range(129), *range(129, data_end, 61), *range(data_end, len(raw))]
    for size in sorted(size for size in set(sizes) if size < len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(FormatError, match=r"\((C-1|C-10)\)"):
            open_reader(path)
        assert not second_accepts(path)


def seal(data: bytes, index: bytes) -> bytes:
    """A file with this index, its digest and checksum right, whatever the index says."""
    offset = len(data)
    digest = blake3(index).digest()
    body = struct.pack("<8sQQ32sI", b"\x89GGQEND\n", offset, len(index), digest, 0)
    checksum = struct.pack("<I", zlib.crc32(data[:64] + body))
    return data + index + bytes(-len(index) % 64) + body + checksum


def parts_of(raw: bytes) -> tuple[bytes, bytes]:
    """What is before the index, and the index."""
    offset, length = struct.unpack_from("<QQ", raw, len(raw) - 56)
    return raw[:offset], raw[offset : offset + length]


def check_agreement(path: Path, data: bytes, index: bytes) -> bool:
    """Both readers accept or both refuse, with an error of ours that names the file; returns whether they accept."""
    path.write_bytes(seal(data, index))
    try:
        with open_reader(path) as reader:
            consume(reader)
        accepted = True
    except GGQError as error:
        assert str(error).startswith(f"{path}: ")
        accepted = False
    assert second_accepts(path) == accepted, index.hex()
    return accepted


def changed_bytes(index: bytes) -> Iterator[bytes]:
    """The index with one byte changed in several ways, for every byte."""
    for position, old in enumerate(index):
        for new in sorted({0xFF, old ^ 0x80, (old + 1) % 256} - {old}):
            yield index[:position] + bytes([new]) + index[position + 1 :]


def test_every_changed_byte_of_an_index_is_read_alike_by_both_readers(path: Path) -> None:
    data, index = parts_of(full().build())
    results = [check_agreement(path, data, changed) for changed in changed_bytes(index)]
    assert 0 < sum(results) < len(results) / 2  # digests, names and floats may change; structure may not


def test_every_cut_or_grown_index_is_refused(path: Path) -> None:
    data, index = parts_of(full().build())
    assert check_agreement(path, data, index)
    for size in range(len(index)):
        assert not check_agreement(path, data, index[:size])
    assert not check_agreement(path, data, index + b"\0")


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4)


@settings(max_examples=250)
@given(st.sampled_from(["values", "tensors", "unknown", "edited", "newer"]), CHANGES, st.sampled_from("sid"))
def test_random_changes_of_an_index_are_read_alike(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[int, bytes]], how: str
) -> None:
    data, index = parts_of((GOOD / f"{name}.ggq").read_bytes())
    for position, new in changes:
        at = position % (len(index) + 1)
        end = {"s": at + len(new), "i": at, "d": at + len(new)}[how]
        index = index[:at] + (b"" if how == "d" else new) + index[end:]
    check_agreement(tmp_path_factory.getbasetemp() / "changed.ggq", data, index)


INTERESTING = st.sampled_from(
    [0, 1, 63, 64, 65, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 64, 2**64 - 1]
)


@settings(max_examples=200)
@given(st.integers(0, 1 << 16), INTERESTING, st.sampled_from(["<I", "<Q"]))
def test_large_numbers_anywhere_in_an_index(
    tmp_path_factory: pytest.TempPathFactory, position: int, number: int, form: str
) -> None:
    data, index = parts_of(full().build())
    new = struct.pack(form, number % (1 << 8 * struct.calcsize(form)))
    at = position % (len(index) - len(new))
    check_agreement(tmp_path_factory.getbasetemp() / "large.ggq", data, index[:at] + new + index[at + len(new) :])


@settings(max_examples=200)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89GGQ\r\n\x1a\n", (GOOD / "minimal.ggq").read_bytes()[:64]]))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes, head: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.ggq"
    path.write_bytes(head + raw)
    with pytest.raises(GGQError):
        open_reader(path)
    assert not second_accepts(path)


@pytest.mark.parametrize(
    "case", sorted(BAD.glob("*2-32*.ggq")) + sorted(BAD.glob("*past-end*.ggq")), ids=lambda p: p.stem
)
def test_counts_that_are_not_there_take_no_memory(case: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(GGQError):
            open_reader(case)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_an_index_of_nothing_but_entries(path: Path) -> None:
    """65,536 keys, a million empty strings: accepted, in memory in proportion."""
    keys = b"".join(struct.pack("<H6sBB", 6, b"%06d" % number, 1, 1) for number in range(65536 - 1))
    words = struct.pack("<H5sBBII", 5, b"words", 7, 5, 1_000_000, 0) + bytes(4_000_000)
    index = struct.pack("<8I", 65536, *[0] * 7) + keys + words + bytes(8)
    path.write_bytes(seal((GOOD / "minimal.ggq").read_bytes()[:64], index))
    tracemalloc.start()
    with open_reader(path) as reader:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        words_there = reader.metadata["words"]
        assert isinstance(words_there, LazyArray)
        assert (len(reader.metadata), len(words_there), words_there[999_999]) == (65536, 1_000_000, "")
    assert peak < 10 * len(index)


def test_a_footer_inside_a_tensor_is_no_footer(path: Path, tmp_path: Path) -> None:
    write_small(tmp_path / "inner.ggq")
    inner = (tmp_path / "inner.ggq").read_bytes()
    shape = (16, 2 * (-(-len(inner) // 32) * 32))
    codes = np.zeros(FOUR.geometry(shape).lengths["codes"], np.uint8)
    codes[: len(inner)] = np.frombuffer(inner, np.uint8)
    with Writer(path) as writer:
        writer.add_tensor("outer", shape, FOUR, {**data_of(FOUR, shape), "codes": codes})
        writer.finish()
    with open_reader(path) as reader:
        assert list(reader.tensors) == ["outer"]
        assert verify(reader) == []
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(FormatError, match=r"\(C-11\)"):  # the inner footer is whole, but its index lies elsewhere
        open_reader(path)


def test_the_search_for_a_footer_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "FOOTER_SEARCH_BYTES", 1 << 16)
    write_small(path)
    edit_metadata(path, {"general.name": "other"})
    read: list[int] = []
    whole = path.read_bytes()
    for extra, found in ((60_000, True), (70_000, False)):
        path.write_bytes(whole + bytes(extra))
        if found:
            with open_reader(path) as reader:
                assert reader.metadata["general.name"] == "other"
                assert reader.trailing == extra
            continue
        with pytest.raises(FormatError, match="no whole footer at the end: the file is cut short"):
            open_reader(path)

        def spy(offset: int, length: int) -> bytes:
            read.append(length)
            return path.read_bytes()[offset : offset + length]

        with pytest.raises(FormatError):
            frame.find_footer(spy, path.stat().st_size, whole[:64])
    assert sum(read) < (1 << 16) + 128


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"PK\3\4\x14\0", "a zip archive, perhaps a PyTorch checkpoint"),
        (b"\x80\x02}q\0", "a Python pickle, perhaps a PyTorch checkpoint"),
        (b"\x80\x05\x95", "a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a git-lfs pointer"),
        (b"  \n<!DOCTYPE html>\n", "an HTML page"),
        (b"\xef\xbb\xbf<HTML>", "an HTML page"),
        (b'{"a": 1}', "JSON text"),
        (struct.pack("<Q", 300) + b'{"__metadata__"', "a safetensors file; make a ggq file of it with `ggq convert`"),
        (b"\x1f\x8b\x08\0", "gzip data; unpack it first"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (b"\x7fELF\2\1", "a program"),
    ],
)
def test_foreign_files_are_named(path: Path, head: bytes, name: str) -> None:
    assert (identify(head) or "").startswith(name)
    path.write_bytes(head + bytes(200))
    with pytest.raises(FormatError, match=r"hostile.ggq: not a ggq file: .* \(C-1\)") as caught:
        open_reader(path)
    assert name in str(caught.value)


def test_bytes_that_look_like_nothing_are_shown_escaped(path: Path) -> None:
    path.write_bytes(b"\x1b[31mred" + bytes(200))
    with pytest.raises(FormatError) as caught:
        open_reader(path)
    assert "it begins with b'\\x1b[31mred'" in str(caught.value)


def test_the_second_reader_lists_and_refuses() -> None:
    script = str(ROOT / "tools" / "read_ggq.py")
    done = run_python(script, "--verify", str(GOOD / "worked.ggq"))
    assert done.returncode == 0 and '"general.name": "worked"' in done.stdout
    done = run_python(script, str(BAD / "bool-7.ggq"))
    assert done.returncode == 2 and done.stderr.endswith("a bool is neither 0 nor 1 (C-32)\n")
    assert run_python(script).returncode == 2


def test_the_second_reader_needs_only_the_standard_library() -> None:
    script = (
        "import sys; sys.modules['blake3'] = None; import tools.read_ggq as r; print(r.read(sys.argv[1])['metadata'])"
    )
    done = run_python("-c", script, str(GOOD / "worked.ggq"))
    assert "'general.name': 'worked'" in done.stdout, done.stderr
    source = (ROOT / "tools" / "read_ggq.py").read_text()
    assert "import ggq" not in source and "from ggq" not in source and "numpy" not in source
