"""Which folders and files nobody but this user and the administrator can have put machine code into.

Every folder from the root to the cache belongs to the user or to the administrator and is writable by nobody else.
Above the cache, a folder such as /tmp that all may write to is good enough when it has the sticky bit: nobody can
rename or remove there what belongs to another. Links on the way are followed, and what they lead through is looked at
in the same way.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

MOST_LINKS = 40
"""Links on the way to a folder, as many as Linux follows."""

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def untrusted(folder: Path) -> str:
    """Why a folder cannot be trusted, in a few words; "" where it can.

    Args:
        folder: Absolute.
    """
    if not hasattr(os, "geteuid"):  # Windows: the user's cache folder is the user's alone
        return ""
    place, left, links = "/", [part for part in folder.parts if part != "/"], 0
    try:
        while True:
            status = os.lstat(place)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > MOST_LINKS:
                    return f"{place}: too many links"
                if not _ours(status):
                    return f"{place} is another user's link"
                target = os.readlink(place)
                left = [*(part for part in target.split("/") if part), *left]
                place = "/" if target.startswith("/") else os.path.dirname(place)
                continue
            if problem := _problem(place, status, last=not left):
                return problem
            if not left:
                return ""
            part = left.pop(0)
            place = os.path.dirname(place) if part == ".." else os.path.join(place, part)
    except OSError as error:
        return f"{place}: {error.strerror}"


def _ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _problem(place: str, status: os.stat_result, *, last: bool) -> str:
    if not stat.S_ISDIR(status.st_mode):
        return f"{place} is no folder"
    if not _ours(status):
        return f"{place} belongs to another user"
    if status.st_mode & OTHERS_WRITE and (last or not status.st_mode & stat.S_ISVTX):
        return f"others may write to {place}"
    return ""


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, for this user alone; raises OSError where it cannot be."""
    for place in [*reversed(folder.parents), folder]:
        if not os.path.lexists(place):
            place.mkdir(mode=0o700, exist_ok=True)


def read_own(path: Path) -> bytes:
    """The bytes of a regular file that only this user or the administrator can have written; none of any other."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # told apart before it is opened
            return b""
        with os.fdopen(os.open(path, _OPEN | getattr(os, "O_BINARY", 0)), "rb") as file:
            return file.read() if own_file(os.fstat(file.fileno())) else b""
    except OSError:
        return b""


def own_file(status: os.stat_result) -> bool:
    """Whether a file is a regular one that only this user or the administrator can have written.

    Args:
        status: Of the open file.
    """
    if not stat.S_ISREG(status.st_mode):
        return False
    return not hasattr(os, "geteuid") or (_ours(status) and not status.st_mode & OTHERS_WRITE)
