"""Where laid-out tensors are kept, how much of them, and what is removed when there are too many."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from ggq.errors import UsageError

VARIABLE = "GGQ_GGUF_CACHE"
MOST_BYTES = 20 << 30
"""Of all files together, where the environment says nothing else."""
LEAST_BYTES = 32 << 20
"""Smaller models are laid out as quickly as a file is looked for."""
FREE = 4
"""A file is kept where the disk has room for so many like it."""
ABANDONED = 600.0
"""Seconds after which an unfinished file is nobody's."""

DATA, STAMP, PART = ".tiles", ".stamp", ".part"
_SIZE = re.compile(r"(\d+)(?:([KMGT])I?B?|B)?", re.IGNORECASE)


def limit() -> int:
    """Most bytes to keep; 0 where nothing is.

    Raises:
        UsageError: The environment's GGQ_GGUF_CACHE is neither "off" nor a size.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return MOST_BYTES
    if text.lower() == "off":
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{VARIABLE} is {text[:40]!r}, allowed are off and sizes such as 20GB")
    return int(match[1]) << 10 * " KMGT".index((match[2] or " ").upper())


def folder() -> Path | None:
    """The folder; None for a user without one."""
    from platformdirs import user_cache_dir

    try:
        return Path(user_cache_dir("ggq")).absolute() / "gguf"
    except RuntimeError:
        return None


def make_room(place: Path, size: int) -> bool:
    """Remove the files that were used longest ago until one of so many bytes fits; whether it does then.

    Args:
        place: The folder.
        size: Bytes of the new file.
    """
    most = limit()
    if size > most or shutil.disk_usage(place).free < FREE * size:
        return False
    found = []
    for path in place.iterdir():
        with suppress(OSError):
            status = path.stat()
            if path.suffix == PART and time.time() - status.st_mtime > ABANDONED:
                path.unlink()
            elif path.suffix == DATA:
                found.append((last_use(path), status.st_size, path))
    total = sum(each[1] for each in found)
    for _, other, path in sorted(found):
        if total + size <= most:
            break
        remove(path)
        total -= other
    return total + size <= most


def last_use(path: Path) -> float:
    """When a file was used last: its stamp is touched each time."""
    try:
        return path.with_suffix(STAMP).stat().st_mtime
    except OSError:
        return 0.0


def remove(path: Path) -> None:
    """Remove a kept file; processes that have mapped it go on."""
    for each in (path, path.with_suffix(STAMP)):
        with suppress(OSError):
            each.unlink()
