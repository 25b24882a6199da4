"""Writing: the same bytes every time, and nothing that the format does not allow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.errors import FormatError, GGQError, UsageError
from ggq.format import Scheme, Writer, open_reader, verify
from tests.kit.format_files import FLOAT, FOUR, add_tensors, data_of, describe, left_over, write_small


def test_the_same_calls_give_the_same_bytes(path: Path, whole: bytes) -> None:
    digest = write_small(path)
    assert path.read_bytes() == whole
    assert left_over(path) == ["made.ggq"]
    with open_reader(path) as reader:
        assert reader.digest == digest
        assert verify(reader) == []


def test_ranges_lie_in_the_order_of_the_calls(path: Path) -> None:
    write_small(path)
    with open_reader(path) as reader:
        offsets = [part.offset for entry in reader.tensors.values() for part in entry.segments.values()]
        offsets += [asset.offset for asset in reader.assets.values()] + [reader.footer.index_offset]
    assert offsets[0] == 64
    assert offsets == sorted(offsets)


def test_segments_may_be_any_contiguous_buffer(path: Path) -> None:
    with Writer(path) as writer:
        writer.add_tensor("a", (3,), FLOAT, {"values": np.array([1.5, -2, 0.25], np.float32)})
        writer.add_tensor("b", [3], FLOAT, {"values": b"abcdefghijkl"})
        writer.finish()
    with open_reader(path) as reader:
        assert reader.segment("a", "values").view("<f4").tolist() == [1.5, -2, 0.25]
        assert reader.segment("b", "values").tobytes() == b"abcdefghijkl"


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_a_first_segment_may_come_in_pieces(path: Path, whole: bytes, size: int) -> None:
    class Pieces(Writer):
        def add_tensor(self, name: str, shape: Any, scheme: Scheme, segments: Any, attributes: Any = None) -> None:
            first = memoryview(next(iter(segments.values())))
            for start in range(0, len(first) - 3, size):  # the rest comes with the whole
                self.begin_tensor(name, first[start : min(start + size, len(first) - 3)])
            super().add_tensor(name, shape, scheme, segments, attributes)

    with Pieces(path) as writer:
        describe(writer)
        add_tensors(writer)
        writer.finish()
    assert path.read_bytes() == whole


def test_what_was_begun_must_be_ended(path: Path, whole: bytes) -> None:
    data = data_of(FLOAT, (3,))
    with pytest.raises(UsageError, match="tensor a has been begun and not ended"), Writer(path) as writer:
        writer.begin_tensor("a", b"1")
        with pytest.raises(UsageError, match="tensor a has been begun and must come next, not b"):
            writer.add_tensor("b", (3,), FLOAT, data)
        writer.finish()
    with pytest.raises(UsageError, match="13 bytes of a segment of 12 have been written"), Writer(path) as writer:
        writer.begin_tensor("a", bytes(13))
        writer.add_tensor("a", (3,), FLOAT, data)
    assert left_over(path) == []


def add(name: str = "a", shape: Any = (3,), scheme: Scheme = FLOAT, **options: Any) -> Any:
    """A call of add_tensor with good data unless told otherwise."""
    segments = options.pop("segments", None)
    attributes = options.pop("attributes", None)

    def call(writer: Writer) -> None:
        data = data_of(scheme, shape) if segments is None else segments
        writer.add_tensor(name, shape, scheme, data, attributes=attributes)

    return call


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (add(name="first"), "tensor 'first': the name comes twice (C-51)"),
        (add(name="../x"), "tensor '../x': a name is absolute or leaves its folder (C-50)"),
        (add(shape=(), segments={"values": b""}), "tensor a: 0 dimensions, allowed are 1 to 8 (C-55)"),
        (add(shape=(1,) * 9, segments={}), "9 dimensions"),
        (
            add(shape=(0, 3), segments={}),
            "the shape (0, 3), allowed are dimensions from 1 and 2**63 - 1 elements (C-55)",
        ),
        (add(shape=(-1,), segments={}), "the shape (-1,)"),
        (add(shape=(2**32, 2**32), segments={}), "the shape (4294967296, 4294967296)"),
        (add(scheme=FOUR, shape=(512,), segments={}), "one dimension can only be stored as floats (C-52)"),
        (
            add(scheme=Scheme("uniform", 4, "", 64, "f16", "none"), shape=(16, 32), segments={}),
            "groups of 64 are larger",
        ),
        (add(scheme=Scheme("uniform", 7, "", 32, "f16", "none"), segments={}), "cannot be described in a file"),
        (add(segments={}), "segment roles , needed are values (C-44)"),
        (add(segments={"values": bytes(12), "zeros": b""}), "segment roles values, zeros, needed are values (C-44)"),
        (add(segments={"values": bytes(13)}), "tensor a: 13 bytes of values, the shape (3,) needs 12 (C-54)"),
        (add(attributes={"x": [1]}), "tensor a, attribute x: a value of type list cannot be stored (C-31)"),
        (add(attributes={"x": b"1"}), "attribute x: an attribute is a bool, integer, float or string (C-36)"),
        (add(attributes={"x": float("nan")}), "tensor a, attribute x: a NaN cannot be stored (C-34)"),
        (add(attributes={"a b": 1}), "the key 'a b' is not 1 to 255"),
        (lambda writer: writer.add_metadata("k", 1), "metadata k: the key comes twice (C-30)"),
        (lambda writer: writer.add_metadata("a b", 1), "the key 'a b' is not 1 to 255"),
        (lambda writer: writer.add_metadata("x", None), "metadata x: a value of type NoneType"),
        (lambda writer: writer.add_asset("there", b""), "asset 'there': the name comes twice (C-51)"),
        (lambda writer: writer.add_asset("/etc/passwd", b""), "a name is absolute or leaves its folder (C-50)"),
    ],
)
def test_what_the_format_does_not_allow_is_not_written(path: Path, call: Any, message: str) -> None:
    with Writer(path) as writer:
        writer.add_metadata("k", 1)
        writer.add_asset("there", b"1")
        add(name="first")(writer)
        with pytest.raises(FormatError) as caught:
            call(writer)
        assert message in str(caught.value)
        writer.finish()
    with open_reader(path) as reader:
        assert (list(reader.metadata), list(reader.tensors), list(reader.assets)) == (["k"], ["first"], ["there"])
        assert verify(reader) == []


def test_attributes_of_any_type_come_back(path: Path) -> None:
    attributes = {
        "a": {"x": True, "y": -1, "z": "\u00e9"},
        "b": {"x": 2**64 - 1, "y": float("inf")},
        "c": {},
        "d": {"y": 5, "x": np.float64(0.5)},
    }
    with Writer(path) as writer:
        for name, items in attributes.items():
            add(name=name, attributes=items)(writer)
        writer.finish()
    with open_reader(path) as reader:
        found = {name: entry.attributes for name, entry in reader.tensors.items()}
    assert found == attributes
    assert [[type(found[name][key]) for key in "xy" if key in found[name]] for name in "abd"] == [
        [bool, int],
        [int, float],
        [float, int],
    ]


def test_too_many_entries_are_refused(path: Path) -> None:
    with pytest.raises(FormatError, match=r"257 entries of columns, allowed are 256 \(C-22\)"), Writer(path) as writer:
        add(attributes={f"key{number}": number for number in range(257)})(writer)
        writer.finish()


def test_an_index_that_is_too_large_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggq.format.native.index.MAX_INDEX_BYTES", 200)
    with pytest.raises(FormatError, match=r"bytes, allowed are 200 \(C-14\)"), Writer(path) as writer:
        writer.add_metadata("long", "x" * 200)
        writer.finish()
    assert left_over(path) == []


def test_an_existing_file_is_kept_unless_forced(path: Path, whole: bytes) -> None:
    path.write_bytes(b"old")
    for again in (False, True):
        with pytest.raises(UsageError, match="made.ggq: the file exists already\nchoose another name or give --force"):
            Writer(path, resume=again)
    assert path.read_bytes() == b"old"
    with Writer(path, force=True) as writer:
        describe(writer)
        add_tensors(writer)
        assert path.read_bytes() == b"old"
        writer.finish()
    assert path.read_bytes() == whole


def test_a_file_that_appears_meanwhile_is_kept(path: Path) -> None:
    with pytest.raises(UsageError, match="the file exists already"), Writer(path) as writer:
        add_tensors(writer)
        path.write_bytes(b"other")
        writer.finish()
    assert path.read_bytes() == b"other"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "cannot write: it is a directory\ngive the name of a file"),
        ("nothing/x.ggq", "cannot write: No such file or directory"),
        ("file/x.ggq", "cannot write: Not a directory"),
        ("fifo", "cannot write: it is a FIFO"),
        ("loop", "cannot write: Too many levels of symbolic links"),
        ("n" * 250 + ".ggq", "cannot write: File name too long"),
        ("busy.ggq", "a FIFO has the temporary name\nremove it, or choose another name"),
        ("a\0b", "cannot write: the name holds a null byte"),
        ("unwritable.ggq", "a directory has the temporary name"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    os.mkfifo(tmp_path / "busy.ggq.partial")
    (tmp_path / "unwritable.ggq.journal").mkdir()
    with pytest.raises(GGQError) as caught:
        Writer(os.path.join(tmp_path, name), force=True)
    assert message in str(caught.value)


def test_a_link_is_written_through(tmp_path: Path, whole: bytes) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "link.ggq"
    link.symlink_to(folder / "real.ggq")
    write_small(link)
    assert link.is_symlink()
    assert (folder / "real.ggq").read_bytes() == whole


def test_two_writers_of_one_file(path: Path) -> None:
    with Writer(path) as writer:
        with pytest.raises(GGQError, match="another process is writing this file\nwait until it is done"):
            Writer(path)
        add_tensors(writer)
        describe(writer)
        writer.finish()
    with open_reader(path) as reader:
        assert verify(reader) == []


def test_a_finished_writer_takes_nothing_more(path: Path) -> None:
    with Writer(path) as writer:
        writer.finish()
        for call in (add(), lambda w: w.add_metadata("k", 1), lambda w: w.add_asset("a", b""), lambda w: w.finish()):
            with pytest.raises(UsageError, match="the writer is finished already"):
                call(writer)
