"""One file of laid-out tensors: written beside the work, mapped where it is whole and nobody else's.

A file holds a page with a mark, its key and the digest of what follows, then the parts of all tensors one after the
other. It says nothing about where they lie: whoever reads it knows. A stamp beside it notes its times, as the system
keeps them, and the boot: while they are the same, nothing has been written to it since its digest was right. Otherwise
the digest is computed again, and a file that it does not fit is removed.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ggq.errors import FormatError
from ggq.format.digests import hasher
from ggq.format.paths import os_error
from ggq.gguf.kept import folder

MARK = b"ggq tiles 1\n\0\0\0\0"
KEY = DIGEST = 32
PAGE = 1 << 12
"""Bytes before the first part: mark, key, digest, zeros."""
CHUNK = 1 << 22

_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class Stopped(Exception):
    """The process ends before a file is whole."""


class LaidOut:
    """An open file that is to be trusted; use `find`.

    Args:
        path: The file.
        descriptor: It, open.
        size: Bytes of its parts.
    """

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path, self._descriptor, self._size = path, descriptor, size
        self._map = mmap.mmap(descriptor, PAGE + size, access=mmap.ACCESS_READ)
        self._state = _written(descriptor)

    def part(self, start: int, length: int) -> NDArray[np.uint8]:
        """A part as a view of the map."""
        return np.frombuffer(self._map, np.uint8, length, PAGE + start)

    def read(self, start: int, length: int) -> NDArray[np.uint8]:
        """A copy of a part, read-only."""
        out = np.empty(length, np.uint8)
        _fill(self._descriptor, PAGE + start, out, self.path)
        out.flags.writeable = False
        return out

    def mapped(self) -> NDArray[np.uint8]:
        """The whole file as one view of the map."""
        return np.frombuffer(self._map, np.uint8)

    def check_whole(self) -> None:
        """Raise FormatError when somebody has written to the file since it was opened."""
        if self._descriptor >= 0 and _written(self._descriptor) != self._state:
            problem = "the tensors that were kept of a GGUF file have changed while they were used"
            raise FormatError(problem, path=self.path, fix="load the model again")

    def close(self) -> None:
        """Close it; parts that are still referenced stay valid."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        with suppress(BufferError):
            self._map.close()


def find(key: bytes, size: int) -> LaidOut | None:
    """The kept file of a key, if it is whole and only this user or the administrator can have written it.

    Args:
        key: 32 bytes; see `ggq.gguf.kept.keeper.key_of`.
        size: Bytes of its parts.
    """
    from ggq_kernels.code.trust import untrusted

    place = folder.folder()
    if place is None or not folder.limit():
        return None
    path = _path(place, key)
    if not path.exists() or untrusted(place):
        return None
    try:
        descriptor = os.open(path, _OPEN)
    except OSError:
        return None
    try:
        if not _own(descriptor) or not _right(path, descriptor, key, size):
            folder.remove(path)
            os.close(descriptor)
            return None
        with suppress(OSError):
            os.utime(path.with_suffix(folder.STAMP))
        return LaidOut(path, descriptor, size)
    except (OSError, ValueError, FormatError):
        os.close(descriptor)
        return None


def keep(key: bytes, size: int, parts: Iterable[NDArray[np.uint8]], stopped: Callable[[], bool]) -> bool:
    """Write a file, unless there is no room for it; whether it is there.

    Args:
        key: 32 bytes.
        size: Bytes of its parts.
        parts: They, uint8, padding included.
        stopped: Whether to give up.
    """
    from ggq_kernels.code.trust import make_folder, untrusted

    place = folder.folder()
    if place is None:
        return False
    try:
        make_folder(place)
        if untrusted(place) or not folder.make_room(place, PAGE + size):
            return False
        descriptor, name = tempfile.mkstemp(dir=place, suffix=folder.PART)  # for this user alone
        try:
            path = _path(place, key)
            _write(descriptor, key, parts, stopped)
            os.replace(name, path)
            _stamp(path, descriptor)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        finally:
            os.close(descriptor)
    except (OSError, Stopped):
        return False
    return True


def _write(descriptor: int, key: bytes, parts: Iterable[NDArray[np.uint8]], stopped: Callable[[], bool]) -> None:
    state = blake3()
    os.lseek(descriptor, PAGE, os.SEEK_SET)
    for part in parts:
        for start in range(0, len(part), CHUNK):
            piece = part[start : start + CHUNK].data
            state.update(piece)
            done = 0
            while done < len(piece):
                if stopped():
                    raise Stopped
                done += os.write(descriptor, piece[done:])
    head = MARK + key + state.digest()
    os.pwrite(descriptor, head + bytes(PAGE - len(head)), 0)


def _right(path: Path, descriptor: int, key: bytes, size: int) -> bool:
    """Whether a file is of a key and whole."""
    if os.fstat(descriptor).st_size != PAGE + size:
        return False
    head = os.pread(descriptor, PAGE, 0)
    if head[: len(MARK) + KEY] != MARK + key or any(head[len(MARK) + KEY + DIGEST :]):
        return False
    if _stamped(path, descriptor):
        return True
    state, buffer = hasher(size), np.empty(min(CHUNK, size), np.uint8)
    for start in range(0, size, CHUNK):
        piece = buffer[: min(CHUNK, size - start)]
        _fill(descriptor, PAGE + start, piece, path)
        state.update(piece.data)
    if state.digest() != head[len(MARK) + KEY :][:DIGEST]:
        return False
    _stamp(path, descriptor)
    return True


def _stamped(path: Path, descriptor: int) -> bool:
    """Whether a file is as it was when its digest was right, in this boot."""
    from ggq_kernels.code.trust import read_own

    found, boot = read_own(path.with_suffix(folder.STAMP)), _boot()
    return bool(boot) and found == _mark(descriptor, boot)


def _stamp(path: Path, descriptor: int) -> None:
    """Note that a file is right as it is now; where that cannot be, it is looked at again the next time."""
    boot = _boot()
    with suppress(OSError):
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=folder.PART)
        with os.fdopen(handle, "wb") as file:
            file.write(_mark(descriptor, boot))
        os.replace(name, path.with_suffix(folder.STAMP))


def _mark(descriptor: int, boot: str) -> bytes:
    """What a stamp holds."""
    status = os.fstat(descriptor)
    times = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return json.dumps([boot, status.st_dev, status.st_ino, *times]).encode()


def _boot() -> str:
    """What tells this boot from others; "" where that is not known. What a system had not written down when it lost its
    power may have the right size and times."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _own(descriptor: int) -> bool:
    """Whether an open file is a regular one that only this user or the administrator can write to."""
    from ggq_kernels.code.trust import own_file

    return own_file(os.fstat(descriptor))


def _written(descriptor: int) -> tuple[int, int]:
    """Size and time of the last write."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _fill(descriptor: int, offset: int, out: NDArray[np.uint8], path: Path) -> None:
    done = 0
    try:
        while done < len(out):
            found = os.preadv(descriptor, [out[done:].data], offset + done)
            if not found:
                raise FormatError("the tensors that were kept of a GGUF file were cut short", path=path)
            done += found
    except OSError as error:
        raise os_error(error, str(path), "read") from None


def _path(place: Path, key: bytes) -> Path:
    return place / (key.hex() + folder.DATA)
