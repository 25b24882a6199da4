"""Writing that is interrupted: what was finished is resumed from, to the same bytes, and no failure is kept quiet."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from ggq.errors import ConvertError, GGQError
from ggq.format import Writer, paths
from ggq.format.native import journal
from ggq.format.native import writer as writer_module
from tests.kit.format_files import FLOAT, TENSORS, add_tensors, data_of, describe, fail_after, left_over, write_small
from tests.kit.support import run_python

NAMES = [name for name, _, _ in TENSORS]


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


def test_pieces_of_a_tensor_that_never_ended_are_written_again(path: Path, whole: bytes) -> None:
    with pytest.raises(ZeroDivisionError), Writer(path, fingerprint=b"f") as writer:
        add_tensors(writer, skip=set(NAMES[2:]))
        writer.begin_tensor(NAMES[2], b"123")
        raise ZeroDivisionError
    assert resume(path) == set(NAMES[:2])
    assert path.read_bytes() == whole


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
    with pytest.raises(ConvertError, match="the journal cannot be read: a symbolic link.*\nremove it to"):
        Writer(path, resume=True)
    written.unlink()
    written.mkdir()
    with pytest.raises(ConvertError, match="the journal cannot be read: a directory has the temporary name"):
        Writer(path, resume=True)


def test_a_journal_that_others_may_write_to(path: Path) -> None:
    begin(path, 2)
    os.chmod(f"{path}.journal", 0o666)
    with pytest.raises(ConvertError, match="other users may write to it\nremove it to begin again"):
        resume(path)


def test_only_its_user_reads_and_writes_a_journal(path: Path) -> None:
    begin(path, 2)
    assert os.stat(f"{path}.journal").st_mode & 0o777 == 0o600


def forge(path: Path, record: object) -> None:
    """Put a line with a right checksum in the place of the first tensor's record."""
    written = Path(f"{path}.journal")
    lines = written.read_bytes().splitlines()
    text = record if isinstance(record, bytes) else json.dumps(record).encode()
    written.write_bytes(b"\n".join([lines[0], b"%08x %s" % (crc32(text), text), *lines[2:]]) + b"\n")


@pytest.mark.parametrize("record", [b"9" * 5000, b"[" * 100_000, b"[]", b"3", b"{", b'"x"', b"\xff", b"null"])
def test_a_line_that_is_no_record(path: Path, record: bytes) -> None:
    begin(path, 3)
    forge(path, record)
    with pytest.raises(ConvertError, match=r"line 2: the journal's line is no record\nrun it without"):
        resume(path)


def bent(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A record with one thing wrong, in all ways that came to mind."""
    first, name, shape = record["segments"][0], record["name"], record["shape"]
    others: dict[str, list[Any]] = {
        "name": [None, 5, "", "../x", "a" * 300],
        "shape": [[], None, [2**64, 1], [-1, 4], [shape[0] + 17, *shape[1:]], [True, 40], ["20", 40], 5, [1] * 20],
        "scheme": [5, "", "00", "zz", record["scheme"] * 2, "ff" * 40, None],
        "segments": [
            {},
            [5],
            [],
            [first],
            [first] * 2,
            [[first[0] + 1, *first[1:]], record["segments"][1]],
            [[first[0], first[1] - 1, first[2]], record["segments"][1]],
            [[first[0], 2**70, first[2]], record["segments"][1]],
            [[float(first[0]), *first[1:]], record["segments"][1]],
            [[*first[:2], "0"], record["segments"][1]],
        ],
        "attributes": [None, [], {"role": None}, {"role": []}, {"role": 2**80}, {"": 1}, {"a": float("nan")}],
    }
    found = [{**record, key: value} for key, values in others.items() for value in values]
    return [*found, {}, {"name": name}, {**record, "more": 1}]


def test_a_forged_record_is_refused_whatever_is_wrong_with_it(path: Path) -> None:
    begin(path, 3)
    whole_lines = Path(f"{path}.journal").read_bytes()
    for record in bent(json.loads(whole_lines.splitlines()[1][9:])):
        Path(f"{path}.journal").write_bytes(whole_lines)
        forge(path, record)
        with pytest.raises(ConvertError, match=r"record of tensor 1 is none: (?s:.*)run it without --resume"):
            resume(path)
        assert not path.exists()


def test_a_tensor_that_a_journal_names_twice(path: Path) -> None:
    begin(path, 3)
    lines = Path(f"{path}.journal").read_bytes().splitlines()
    forge(path, {**json.loads(lines[1][9:]), "name": NAMES[1]})
    with pytest.raises(ConvertError, match=f"tensor {NAMES[1]}: the journal names a tensor twice"):
        resume(path)


@pytest.mark.parametrize("place", [64, 100, -1])
def test_a_flipped_bit_of_the_unfinished_file(path: Path, place: int) -> None:
    begin(path, 3)
    partial = Path(f"{path}.partial")
    data = bytearray(partial.read_bytes())
    data[place] ^= 1
    partial.write_bytes(data)
    name = NAMES[2] if place < 0 else NAMES[0]
    with pytest.raises(ConvertError, match=f"tensor {name}: the unfinished file does not hold the bytes"):
        resume(path)
    assert not path.exists()


def test_a_forged_digest_of_the_finished_file(path: Path) -> None:
    begin(path, 3)
    with open(f"{path}.journal", "ab") as file:
        text = b'{"finished":5}'
        file.write(b"%08x %s\n" % (crc32(text), text))
    with pytest.raises(ConvertError, match="the journal's digest of the finished file is none"):
        resume(path)


KILLED = """
import os, signal, sys
from pathlib import Path
from ggq.format import Writer
from ggq.format.native import journal
from tests.kit.format_files import TENSORS, add_tensors
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
    how = " with --resume" if Path(f"{path}.partial").exists() else ""  # else there is nothing to go on from
    message = f"{path}.partial: cannot write: No space left on device\nfree some space and run it again{how}"
    assert str(caught.value) == message
    assert bool(how) == (count > 700)
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
        "from tests.kit.format_files import write_small\n"
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
    fix = "its disk, or the limit that `ulimit -f` tells, takes no larger file"
    assert done.stderr == f"{path}.partial: cannot write: File too large\n{fix}\n"
    assert not path.exists()
    assert os.path.getsize(f"{path}.partial") <= 4096


def test_where_no_thread_can_be_started_it_is_synced_in_the_foreground(
    path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(journal, "SYNC_BYTES", 1)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    begin(path, 2)
    assert resume(path) == set(NAMES[:2]) and path.read_bytes() == whole
