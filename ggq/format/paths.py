"""Opening files and naming what the operating system refused."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys

from ggq.errors import FormatError, GGQError

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_FIXES = {
    errno.ENOSPC: "free some space and run it again with --resume",
    errno.EDQUOT: "free some space and run it again with --resume",
    errno.ENOENT: "check the path",
    errno.EACCES: "check the permissions",
    errno.EROFS: "choose another place",
}


def os_error(error: OSError, path: str, doing: str) -> GGQError:
    """A refusal of the operating system as one sentence.

    Args:
        error: What was raised.
        path: The file.
        doing: "read", "write" ...
    """
    reason = error.strerror or str(error)
    return GGQError(f"cannot {doing}: {reason}", path=path, fix=_FIXES.get(error.errno or 0))


def kind_of(mode: int) -> str | None:
    """What a path is when it is no regular file, from its st_mode."""
    if stat.S_ISREG(mode):
        return None
    return next((name for test, name in _KINDS if test(mode)), "not a regular file")


def open_regular(path: str) -> io.FileIO:
    """Opens a regular file for reading, and never waits for a FIFO.

    Raises:
        FormatError: It is a directory, a FIFO, a device or a socket.
        GGQError: It cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        kind = kind_of(os.stat(path).st_mode)
        if kind is None:
            descriptor = os.open(path, flags)
            kind = kind_of(os.fstat(descriptor).st_mode)
            if kind is None:
                return io.FileIO(descriptor, "rb")
            os.close(descriptor)
    except OSError as error:
        raise os_error(error, path, "open") from None
    except ValueError as error:  # a NUL in the path
        raise GGQError(f"cannot open: {error}", path=repr(path)) from None
    raise FormatError(f"not a ggq file: {kind} (C-1)", path=path)


def lock(file: io.FileIO, path: str) -> None:
    """Claims a file for this process until it is closed; raises GGQError when another one has it."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GGQError("another process is writing this file", path=path, fix="wait until it is done") from None
    except OSError:  # file systems without locks
        return


def sync_folder(path: str) -> None:
    """Makes names in the folder of `path` last; does nothing where folders cannot be synced."""
    try:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(folder)
    except OSError:
        pass
    finally:
        os.close(folder)


def write_all(file: io.FileIO, data: object) -> int:
    """Writes a bytes-like object whole and returns its length in bytes."""
    view = memoryview(data).cast("B")  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        done += file.write(view[done:]) or 0
    return done
