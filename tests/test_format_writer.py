"""Writing: the same bytes every time, whatever interrupts it."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.errors import ConvertError, FormatError, GGQError, UsageError
from ggq.format import Scheme, Writer, journal, open_reader, paths
from ggq.format import writer as writer_module
from tests.format_files import FLOAT, FOUR, TENSORS, add_tensors, data_of, describe, write_small
from tests.support import run_python

NAMES = [name for name, _, _ in TENSORS]


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The bytes of a file that nothing interrupted."""
    path = tmp_path / "whole.ggq"
    write_small(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made.ggq"


def begin(path: Path, count: int, *, fingerprint: bytes = b"f", resume: bool = False) -> None:
    """Adds the first `count` tensors and stops as an error would."""
    with pytest.raises(ZeroDivisionError), Writer(path, fingerprint=fingerprint, resume=resume) as writer:
        add_tensors(writer, skip=set(NAMES[count:]) | writer.finished)
        raise ZeroDivisionError


def resume(path: Path, *, fingerprint: bytes = b"f") -> set[str]:
    """Goes on to the end; returns what had been finished before."""
    with Writer(path, fingerprint=fingerprint, resume=True) as writer:
        finished = writer.finished
        add_tensors(writer, skip=finished)
        describe(writer)
        writer.finish()
    return finished


def left_over(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir() if found.name.startswith(path.name))


def test_the_same_calls_give_the_same_bytes(path: Path, whole: bytes) -> None:
    digest = write_small(path)
    assert path.read_bytes() == whole
    assert left_over(path) == ["made.ggq"]
    with open_reader(path) as reader:
        assert reader.digest == digest
        assert reader.verify() == []


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


def test_pieces_of_a_tensor_that_never_ended_are_written_again(path: Path, whole: bytes) -> None:
    with pytest.raises(ZeroDivisionError), Writer(path, fingerprint=b"f") as writer:
        add_tensors(writer, skip=set(NAMES[2:]))
        writer.begin_tensor(NAMES[2], b"123")
        raise ZeroDivisionError
    assert resume(path) == set(NAMES[:2])
    assert path.read_bytes() == whole


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
        assert reader.verify() == []


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
    monkeypatch.setattr("ggq.format.index.MAX_INDEX_BYTES", 200)
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
        ("busy.ggq", "cannot write: it is a FIFO"),
        ("a\0b", "cannot write: the name holds a null byte"),
        ("unwritable.ggq", "cannot write: Is a directory"),
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
        assert reader.verify() == []


def test_a_finished_writer_takes_nothing_more(path: Path) -> None:
    with Writer(path) as writer:
        writer.finish()
        for call in (add(), lambda w: w.add_metadata("k", 1), lambda w: w.add_asset("a", b""), lambda w: w.finish()):
            with pytest.raises(UsageError, match="the writer is finished already"):
                call(writer)


@pytest.mark.parametrize("count", range(1, len(TENSORS) + 1))
def test_an_interrupted_file_is_resumed(path: Path, whole: bytes, count: int) -> None:
    begin(path, count)
    assert left_over(path) == ["made.ggq.journal", "made.ggq.partial"]
    assert resume(path) == set(NAMES[:count])
    assert path.read_bytes() == whole
    assert left_over(path) == ["made.ggq"]


def test_resuming_twice(path: Path, whole: bytes) -> None:
    begin(path, 1)
    begin(path, 3, resume=True)
    assert resume(path) == set(NAMES[:3])
    assert path.read_bytes() == whole


def test_nothing_is_left_when_nothing_was_finished(path: Path) -> None:
    begin(path, 0)
    assert left_over(path) == []
    assert resume(path) == set()


def test_without_resume_it_begins_anew(path: Path, whole: bytes) -> None:
    begin(path, 3)
    write_small(path)
    assert path.read_bytes() == whole
    assert left_over(path) == ["made.ggq"]


def test_another_fingerprint_is_refused_and_nothing_lost(path: Path, whole: bytes) -> None:
    begin(path, 2)
    with pytest.raises(ConvertError, match="begun from other inputs or with other options\nrun it without --resume"):
        Writer(path, resume=True, fingerprint=b"g")
    assert resume(path) == set(NAMES[:2])
    assert path.read_bytes() == whole


def test_a_journal_cut_anywhere_is_resumed_from(path: Path, whole: bytes) -> None:
    begin(path, 3)
    partial, written = Path(f"{path}.partial"), Path(f"{path}.journal")
    data, lines = partial.read_bytes(), written.read_bytes()
    for size in [*range(0, len(lines), 7), len(lines)]:
        path.unlink(missing_ok=True)
        partial.write_bytes(data + b"torn")
        written.write_bytes(lines[:size])
        whole_lines = lines[:size].count(b"\n")
        assert resume(path) == set(NAMES[: max(0, whole_lines - 1)])
        assert path.read_bytes() == whole


def test_a_journal_with_a_flipped_bit_is_read_up_to_it(path: Path, whole: bytes) -> None:
    begin(path, 3)
    written = Path(f"{path}.journal")
    lines = written.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"stack"', b'"stakk"')
    written.write_bytes(b"".join(lines))
    assert resume(path) == set(NAMES[:1])
    assert path.read_bytes() == whole


def test_an_unfinished_file_that_lost_bytes(path: Path) -> None:
    begin(path, 3)
    os.truncate(f"{path}.partial", 500)
    with pytest.raises(ConvertError, match="the journal names bytes that the unfinished file lacks"):
        resume(path)


def test_a_journal_without_its_file(path: Path, whole: bytes) -> None:
    begin(path, 3)
    Path(f"{path}.partial").unlink()
    assert resume(path) == set()
    assert path.read_bytes() == whole


def test_a_journal_that_cannot_be_read(path: Path) -> None:
    written = Path(f"{path}.journal")
    written.symlink_to(written)
    with pytest.raises(ConvertError, match="the journal cannot be read: cannot open: Too many levels.*\nremove it to"):
        Writer(path, resume=True)
    written.unlink()
    written.mkdir()
    with pytest.raises(ConvertError, match="the journal cannot be read: .* a directory"):
        Writer(path, resume=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from ggq.format import Writer, journal
from tests.format_files import TENSORS, add_tensors
journal.SYNC_BYTES = 1
writer = Writer(Path(sys.argv[1]), fingerprint=b"f")
for number, (name, _, _) in enumerate(TENSORS):
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    add_tensors(writer, skip={other for other, _, _ in TENSORS} - {name})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_is_resumed(path: Path, whole: bytes) -> None:
    done = run_python("-c", KILLED, str(path), "3")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not path.exists()
    finished = resume(path)
    assert finished in [set(NAMES[:count]) for count in range(4)]
    assert path.read_bytes() == whole


def fail_after(count: int, error: OSError) -> Any:
    """A write_all that fails once `count` bytes have been written, after half of what it was given."""
    written = 0

    def write_all(file: Any, data: Any) -> int:
        nonlocal written
        size = memoryview(data).nbytes
        written += size
        if written > count:
            paths.write_all(file, memoryview(data).cast("B")[: size // 2])
            raise error
        return paths.write_all(file, data)

    return write_all


@pytest.mark.parametrize("count", [100, 700, 2000, 5000, -800, -400, -70, -1])
def test_a_full_disk(path: Path, whole: bytes, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"old")
    count = count % len(whole)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "write_all", fail_after(count, full))
        with pytest.raises(GGQError) as caught, Writer(path, force=True, fingerprint=b"f") as writer:
            add_tensors(writer)
            describe(writer)
            writer.finish()
    message = f"{path}.partial: cannot write: No space left on device\nfree some space and run it again with --resume"
    assert str(caught.value) == message
    assert path.read_bytes() == b"old"
    path.unlink()
    finished = resume(path)
    assert finished in [set(NAMES[:number]) for number in range(len(NAMES) + 1)]
    assert path.read_bytes() == whole


def test_a_sync_that_fails_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail, raising=False)
    monkeypatch.setattr(journal, "SYNC_BYTES", 1)
    with pytest.raises(GGQError, match="cannot write: Input/output error"), Writer(path) as writer:
        add_tensors(writer)
        describe(writer)
        writer.finish()
    assert not path.exists()


def test_a_background_sync_that_fails_last_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journal, "SYNC_BYTES", 10_000)
    with pytest.raises(GGQError, match="cannot write: Input/output error"), Writer(path) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            writer.add_tensor("large", (4096,), FLOAT, data_of(FLOAT, (4096,)))
            thread = writer._journal._thread
            assert thread is not None
            thread.join()
        writer.finish()
    assert not path.exists()


def test_a_rename_that_fails_can_be_resumed(path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(GGQError, match="cannot write: Permission denied"), Writer(path, fingerprint=b"f") as writer:
            add_tensors(writer)
            writer.finish()
    assert left_over(path) == ["made.ggq.journal", "made.ggq.partial"]
    assert resume(path) == set(NAMES)
    assert path.read_bytes() == whole


def test_a_line_is_journaled_only_after_its_bytes_are_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_sync, real_write = os.fdatasync, paths.write_all

    def sync(descriptor: int) -> None:
        events.append("data")
        real_sync(descriptor)

    def write(file: Any, data: Any) -> int:
        events.append("journal")
        return real_write(file, data)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(journal, "write_all", write)
    begin(path, 2)
    assert events == ["data", "journal"]


def test_a_limit_on_file_size(path: Path) -> None:
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from ggq.errors import GGQError\n"
        "from tests.format_files import write_small\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    write_small(Path(sys.argv[1]))\n"
        "except GGQError as error:\n"
        "    sys.exit(str(error))\n"
    )
    if sys.platform == "win32":
        pytest.skip("needs RLIMIT_FSIZE")
    done = run_python("-c", script, str(path))
    assert done.stderr == f"{path}.partial: cannot write: File too large\n"
    assert not path.exists()
    assert os.path.getsize(f"{path}.partial") <= 4096
