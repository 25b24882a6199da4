"""The journal: which tensors of an unfinished file are whole on the disk."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from typing import Any, NamedTuple
from zlib import crc32

from ggq.errors import ConvertError, GGQError
from ggq.format.native.layout import MAJOR, MINOR
from ggq.format.paths import open_regular, write_all

SYNC_BYTES = 1 << 26
"""Bytes of new data after which the file is synced and the journal written: the disk works while codes are computed,
so that little is left to wait for at the end."""

SYNC_SECONDS = 2.0
"""Seconds after which the same happens with less data."""

_VERSION = f"{MAJOR}.{MINOR}-1"


class Saved(NamedTuple):
    """What a journal holds: a record for each finished tensor, and the bytes of the journal that are whole."""

    records: list[dict[str, Any]]
    length: int


def read_journal(path: str, fingerprint: bytes) -> Saved | None:
    """Reads a journal up to its first torn line.

    Args:
        path: The journal.
        fingerprint: Digest of the inputs and options that the unfinished file must have been begun with.

    Returns:
        The records, or None when there is no usable journal.

    Raises:
        ConvertError: The unfinished file was begun with another fingerprint.
    """
    try:
        with open_regular(path) as file:
            data = file.readall()
    except (GGQError, OSError) as error:
        if not os.path.lexists(path):
            return None
        reason = error.problem if isinstance(error, GGQError) else error.strerror
        raise ConvertError(f"the journal cannot be read: {reason}", path=path, fix="remove it to begin again") from None
    records, length = [], 0
    for line in data.splitlines(keepends=True):
        record = _parse_line(line)
        if record is None:
            break
        records.append(record)
        length += len(line)
    if not records or records[0].get("version") != _VERSION:
        return None
    if records[0].get("fingerprint") != fingerprint.hex():
        raise ConvertError(
            "the unfinished file was begun from other inputs or with other options",
            path=path,
            fix="run it without --resume to begin again",
        )
    return Saved(records[1:], length)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """A record, or None when the line is torn."""
    if not line.endswith(b"\n") or line[8:9] != b" " or line[:8] != b"%08x" % crc32(line[9:-1]):
        return None
    record = json.loads(line[9:-1])
    return record if isinstance(record, dict) else None


def _format_line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (crc32(text), text)


class Journal:
    """Writes down finished tensors once their bytes are on the disk, in the background.

    Args:
        path: The journal, made anew unless `saved` is given.
        fingerprint: Digest of the inputs and options.
        data: The unfinished file.
        saved: What `read_journal` returned, to go on from there.
    """

    def __init__(self, path: str, fingerprint: bytes, data: io.FileIO, saved: Saved | None) -> None:
        self._data = data
        self._file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")
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
        self._thread = threading.Thread(target=self._sync, args=(lines,), daemon=True)
        self._thread.start()

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
