"""The journal: which tensors of an unfinished file are whole on the disk."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import threading
import time
from typing import Any, NamedTuple
from zlib import crc32

from ggq.errors import ConvertError, GGQError
from ggq.format.native.layout import MAJOR, MINOR
from ggq.format.paths import write_all
from ggq.format.unfinished import open_own, open_unfinished

SYNC_BYTES = 1 << 26
"""Bytes of new data after which the file is synced and the journal written: the disk works while codes are computed,
so that little is left to wait for at the end."""

SYNC_SECONDS = 2.0
"""Seconds after which the same happens with less data."""

_VERSION = f"{MAJOR}.{MINOR}-1"


_BEGIN = b' {"version":"'
_ANEW = "run it without --resume to begin again"


class Saved(NamedTuple):
    """What a journal holds.

    Args:
        records: One for each finished tensor; nobody has looked at what they say.
        length: Bytes of the journal that are whole, up to the last of these records.
        finished: Digest of the finished file, when all that is left is to give it its name or to remove the journal.
    """

    records: list[dict[str, Any]]
    length: int
    finished: bytes | None = None


def read_journal(path: str, fingerprint: bytes) -> Saved | None:
    """Reads a journal up to its first torn line.

    Args:
        path: The journal.
        fingerprint: Digest of the inputs and options that the unfinished file must have been begun with.

    Returns:
        The records, or None when there is no usable journal.

    Raises:
        ConvertError: The unfinished file was begun with another fingerprint; the journal is no regular file of this
            user alone, or holds a whole line that no writer has written.
    """
    lines = _lines(path)
    if not lines or lines[0][0].get("version") != _VERSION:
        return None
    if lines[0][0].get("fingerprint") != fingerprint.hex():
        problem = "the unfinished file was begun from other inputs or with other options"
        raise ConvertError(problem, path=path, fix=_ANEW)
    records, length, finished = [], lines[0][1], None
    for record, size in lines[1:]:
        if set(record) == {"finished"}:
            finished = _digest(record["finished"], path)
            break
        records.append(record)
        length += size
    return Saved(records, length, finished)


def finished_digest(path: str) -> bytes | None:
    """The digest of the finished file that a journal tells of, whatever it was made from; None where it tells none."""
    last = _lines(path)[-1:]
    return _digest(last[0][0]["finished"], path) if last and set(last[0][0]) == {"finished"} else None


def _lines(path: str) -> list[tuple[dict[str, Any], int]]:
    """The whole lines of a journal, and their lengths in bytes; none where there is no journal."""
    try:
        with open_own(path, write=False) as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH) and hasattr(os, "geteuid"):
                raise GGQError("other users may write to it")
            data = file.readall()
    except FileNotFoundError:
        return []
    except (GGQError, OSError) as error:
        reason = error.problem if isinstance(error, GGQError) else error.strerror
        raise ConvertError(f"the journal cannot be read: {reason}", path=path, fix="remove it to begin again") from None
    found = []
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if not line.endswith(b"\n") or line[8:9] != b" " or line[:8] != b"%08x" % crc32(line[9:-1]):
            break  # torn
        try:
            record = json.loads(line[9:-1])
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ConvertError("the journal's line is no record", path=path, where=f"line {number}", fix=_ANEW)
        found.append((record, len(line)))
    return found


def _digest(text: object, path: str) -> bytes:
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
        raise ConvertError("the journal's digest of the finished file is none", path=path, fix=_ANEW)
    return bytes.fromhex(text)


def is_journal(head: bytes) -> bool:
    """Whether a file that begins so is a journal, perhaps of another version, perhaps torn in its first line."""
    digits = re.match(rb"[0-9a-f]{0,8}", head)
    rest = head[digits.end() :] if digits else head
    return rest[: len(_BEGIN)] == _BEGIN[: len(rest)] and (len(head) - len(rest) == 8 or not rest)


def _format_line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (crc32(text), text)


class Journal:
    """Writes down finished tensors once their bytes are on the disk, in the background.

    Args:
        path: The journal, made anew unless `saved` is given; nobody else can read or write it.
        fingerprint: Digest of the inputs and options.
        data: The unfinished file.
        saved: What `read_journal` returned, to go on from there.
        force: Replace another file of that name.
    """

    def __init__(
        self, path: str, fingerprint: bytes, data: io.FileIO, saved: Saved | None, *, force: bool = False
    ) -> None:
        self._data = data
        self._file = open_unfinished(path, is_journal, force=force, mode=0o600)
        self._file.truncate(saved.length if saved else 0)
        self._file.seek(0, os.SEEK_END)
        self._pending: list[bytes] = []
        self._bytes = 0
        self._last = time.monotonic()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        if saved is None:
            self._pending.append(_format_line({"version": _VERSION, "fingerprint": fingerprint.hex()}))

    def add(self, record: dict[str, Any]) -> None:
        """Notes a tensor whose bytes have been written."""
        self._pending.append(_format_line(record))

    def finish(self, digest: bytes) -> None:
        """Notes that the whole file is on the disk, and returns when that note is; raises OSError when it cannot be."""
        self._pending.append(_format_line({"finished": digest.hex()}))
        self.flush()

    def wrote(self, size: int) -> None:
        """Counts `size` bytes that have been written, and now and then makes all that was noted last; raises the
        OSError of an earlier sync."""
        self._bytes += size
        if self._bytes < SYNC_BYTES and time.monotonic() - self._last < SYNC_SECONDS:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        self.wait()
        lines, self._pending, self._bytes, self._last = self._pending, [], 0, time.monotonic()
        thread = threading.Thread(target=self._sync, args=(lines,), daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:  # a limit of processes
            self._sync(lines)

    def flush(self) -> None:
        """Returns when all that was added is on the disk; raises OSError when it cannot be."""
        self.wait()
        lines, self._pending = self._pending, []
        self._sync(lines)
        self.wait()

    def close(self) -> None:
        """Closes the journal without writing anything more."""
        if self._thread is not None:
            self._thread.join()
        self._file.close()

    def wait(self) -> None:
        """Returns when nothing is being synced; raises the OSError of a sync that failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _sync(self, lines: list[bytes]) -> None:
        try:  # data first: a tensor that the journal names is on the disk whatever happens next
            getattr(os, "fdatasync", os.fsync)(self._data.fileno())
            if lines:
                write_all(self._file, b"".join(lines))
                os.fsync(self._file.fileno())
        except OSError as error:
            self._error = error
