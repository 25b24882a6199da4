"""Files under temporary names: made exclusively, never through a link, and only in place of what is surely ours."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from ggq.errors import GGQError, UsageError
from ggq.format import paths
from ggq.format.paths import kind_of, lock, os_error, sync_folder, take_name

HEAD_BYTES = 4096
"""Bytes of a file that say what it is."""

_FLAGS = (
    os.O_RDWR
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_FIX = "remove it, or choose another name"


def open_unfinished(path: str, ours: Callable[[bytes], bool], *, force: bool = False, mode: int = 0o666) -> io.FileIO:
    """Open a file for reading and writing under a temporary name, and claim it until it is closed.

    A file that is there already is only taken when it is regular, has no other name, belongs to this user and is what
    an interrupted run has left; it keeps its bytes. With `force` another regular file of this user is replaced.

    Args:
        path: The temporary name.
        ours: Says from a file's first HEAD_BYTES bytes whether an interrupted run has left it.
        force: Replace a file that nobody knows.
        mode: Permissions of a new file, less the umask.

    Raises:
        UsageError: A link, FIFO, folder or device has this name, or a file that must not be lost.
        GGQError: Another process writes the file.
        OSError: It cannot be opened.
    """
    while True:
        try:
            file = io.FileIO(os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, mode), "r+b")
        except FileExistsError:
            try:
                file = open_own(path)
            except FileNotFoundError:  # whoever had it is done with it
                continue
        try:
            lock(file, path)
            head = os.pread(file.fileno(), HEAD_BYTES, 0) if hasattr(os, "pread") else _head(file)
            if not head or ours(head):
                return file
            if not force:
                problem = "a file of the temporary name is there, and no interrupted run has left it"
                raise UsageError(problem, path=path, fix="move it away, choose another name, or give --force")
            if paths.NAMES_KEPT:
                file.close()
            os.unlink(path)
        except BaseException:
            file.close()
            raise
        file.close()


def _head(file: io.FileIO) -> bytes:
    file.seek(0)
    head = file.read(HEAD_BYTES) or b""
    file.seek(0)
    return head


def open_own(path: str, *, write: bool = True) -> io.FileIO:
    """Open a regular file of this user that has no other name; never waits for a FIFO, never follows a link.

    Raises:
        UsageError: It is something else.
        FileNotFoundError: There is none.
        OSError: It cannot be opened.
    """
    try:
        status = os.lstat(path)
        _check_own(path, status)
        file = io.FileIO(os.open(path, _FLAGS if write else _FLAGS & ~os.O_RDWR), "r+b" if write else "rb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError("a symbolic link has the temporary name", path=path, fix=_FIX) from None
        raise
    try:
        _check_own(path, os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def _check_own(path: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise UsageError("a symbolic link has the temporary name", path=path, fix=_FIX)
    kind = kind_of(status.st_mode)
    if kind is not None:
        raise UsageError(f"{kind} has the temporary name", path=path, fix=_FIX)
    if status.st_nlink > 1:
        raise UsageError("the file of the temporary name has another name too (a hard link)", path=path, fix=_FIX)
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise UsageError("the file of the temporary name belongs to another user", path=path, fix=_FIX)


@contextmanager
def replacing(path: str | os.PathLike[str], marker: bytes, *, force: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which takes its name when the block ends, and is removed when it fails.

    Args:
        path: The file; until it is whole it is PATH.partial.
        marker: Bytes near the beginning of every such file, by which one that was never finished is known.
        force: See `open_unfinished`.

    Raises:
        UsageError: See `open_unfinished`.
        GGQError: The file cannot be written.
    """
    name, target = os.fspath(path), os.path.realpath(path)
    partial = f"{target}.partial"
    try:
        raw = open_unfinished(partial, lambda head: marker in head, force=force)
        with raw, io.BufferedWriter(raw) as file:
            try:
                raw.truncate(0)
                yield cast(BinaryIO, file)
                file.flush()
                os.fsync(raw.fileno())
                take_name(file, partial, target)
            except BaseException:
                if paths.NAMES_KEPT:
                    _close(cast(BinaryIO, file))
                _remove(partial)
                raise
        sync_folder(target)
    except GGQError:
        raise
    except OSError as error:
        raise os_error(error, name, "write") from None


def _close(file: BinaryIO) -> None:
    try:
        file.close()
    except (OSError, ValueError):  # what is still buffered cannot be written
        pass


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
