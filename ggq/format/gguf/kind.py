"""Whether a file is a GGUF file, told without what reads one."""

from __future__ import annotations

import os

MAGIC = b"GGUF"


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file begins as a GGUF file does; False for one that cannot be read."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False
