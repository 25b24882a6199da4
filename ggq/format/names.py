"""Which keys and names a file may hold."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ggq.format.native.cursor import refuse
from ggq.format.native.layout import MAX_KEY_BYTES, MAX_NAME_BYTES

KEPT = "kept.safetensors"
"""The asset with the tensors that no scheme holds: whole numbers, float64, single numbers, empty ones."""

_KEY = re.compile(r"[A-Za-z0-9_.-]+\Z")
_NAME = re.compile(r"[!-\[\]-~]+\Z")  # printable ASCII without space and backslash


def key_text(data: bytes, where: str) -> str:
    """A metadata or attribute key from its bytes."""
    text = data.decode("latin-1")
    if not _KEY.match(text):
        raise refuse("C-30", f"the key {text!r} has other characters than A-Z a-z 0-9 _ . -", where)
    return text


def check_key(key: str) -> None:
    """Refuses what cannot be a metadata or attribute key."""
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_BYTES or not _KEY.match(key):
        raise refuse("C-30", f"the key {key!r} is not 1 to {MAX_KEY_BYTES} of A-Z a-z 0-9 _ . -")


def check_names(names: Sequence[str], what: str) -> None:
    """Refuses tensor or asset names that are empty, too long, unprintable, paths out of a folder, or not unique."""
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise refuse("C-51", "the name comes twice", f"{what} {twice!r}")
    for name in names:
        if not name or len(name) > MAX_NAME_BYTES or not _NAME.match(name) or "/" in name:
            check_name(name, what)


def check_name(name: str, what: str) -> None:
    """Refuses one tensor or asset name."""
    problem = _problem(name)
    if problem is not None:
        raise refuse("C-50", problem, f"{what} {name[:80]!r}")


def _problem(name: str) -> str | None:
    if not 1 <= len(name) <= MAX_NAME_BYTES:
        return f"a name of {len(name)} bytes, allowed are 1 to {MAX_NAME_BYTES}"
    if not _NAME.match(name):
        return "a name holds other characters than printable ASCII, or a space or backslash"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "a name is absolute or leaves its folder"
    return None
