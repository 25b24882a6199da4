"""Opening files and naming what the operating system refused."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from pathlib import Path

from ggq.errors import FormatError, GGQError, UsageError

DEMO_NAME, DEMO = "demo:", Path(__file__).parents[1] / "demo"
"""What the included checkpoint is called from anywhere, and where it lies."""


def included(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The path, or that of the included checkpoint for "demo:", which is never asked of a hub."""
    return DEMO if os.fspath(path) == DEMO_NAME else path


_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_FIXES = {
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EFBIG: "its disk, or the limit that `ulimit -f` tells, takes no larger file",
    errno.ENOENT: "check the path",
    errno.EACCES: "check the permissions",
    errno.EISDIR: "give the name of a file",
    errno.EROFS: "choose another place",
}


def os_error(error: OSError, path: str, doing: str, *, resume: bool = False) -> GGQError:
    """A refusal of the operating system as one sentence.

    Args:
        error: What was raised.
        path: The file.
        doing: "read", "write" ...
        resume: Whether `--resume` goes on from what is there when the disk has room again.
    """
    fix = _FIXES.get(error.errno or 0)
    if resume and error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = f"{fix} with --resume"
    if NAMES_KEPT and isinstance(error, PermissionError):
        fix = "close whatever has the file open"
    return GGQError(f"cannot {doing}: {error.strerror or str(error)}", path=path, fix=fix)


def kind_of(mode: int) -> str | None:
    """What a path is when it is no regular file, from its st_mode."""
    if stat.S_ISREG(mode):
        return None
    return next((name for test, name in _KINDS if test(mode)), "not a regular file")


def open_regular(
    path: str, problem: str = "not a ggq file: {} (C-1)", refusal: type[GGQError] = FormatError
) -> io.FileIO:
    """Opens a regular file for reading, and never waits for a FIFO.

    Args:
        path: The file.
        problem: What is said of a directory, a FIFO, a device or a socket, {} its kind.
        refusal: What is raised of it.

    Raises:
        refusal: It is a directory, a FIFO, a device or a socket.
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
    holds_model = kind == "a directory" and os.path.isfile(os.path.join(path, "config.json"))
    fix = "make a ggq file of the checkpoint with `ggq convert`" if holds_model else None
    raise refusal(problem.format(kind), path=path, fix=fix)


def open_text(path: str | os.PathLike[str]) -> io.FileIO:
    """`open_regular` for a text that a user names; raises UsageError of anything else."""
    return open_regular(os.fspath(path), "a text file expected, found {}", UsageError)


def check_place(path: str | os.PathLike[str], *, force: bool) -> None:
    """Refuses a place for a new file before anything is computed.

    Args:
        path: The file.
        force: Whether it may be there already.

    Raises:
        UsageError: It exists and `force` is not given, it is a folder, or its own folder is missing or cannot be
            written to.
    """
    name, real = os.fspath(path), os.path.realpath(path)
    folder = os.path.dirname(real)
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder {folder}", path=name, fix="make it first")
    if os.path.isdir(real):
        raise UsageError("the name of a file expected, found a folder", path=name)
    if os.path.exists(real) and not force:
        raise UsageError("the file exists already", path=name, fix="choose another name or give --force")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"the folder {folder} cannot be written to", path=name, fix="choose another place")


def check_not_input(path: str | os.PathLike[str], *inputs: object) -> None:
    """Refuses to replace what a new file is made from, whether or not it may replace files.

    Args:
        path: The new file.
        inputs: Paths of what is read; all else is passed over.

    Raises:
        UsageError: One of them is the same file.
    """
    for source in inputs:
        if isinstance(source, str | os.PathLike) and _same(source, path):
            raise UsageError("it would replace what it is made from", path=path, fix="choose another name")


def _same(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to one file, or would if it were there."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


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


NAMES_KEPT = sys.platform == "win32"
"""Whether a file that is open keeps its name: there it is closed before it is renamed or removed."""


def take_name(file: io.IOBase, temporary: str, name: str) -> None:
    """Gives a file that is whole its name, in place of one that has it. It stays claimed meanwhile where it can.

    Raises:
        OSError: The name cannot be taken; on Windows, that of a file that somebody has open.
    """
    if NAMES_KEPT:
        file.close()
    os.replace(temporary, name)


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
