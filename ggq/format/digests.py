"""BLAKE3 digests: on all cores where that is faster, on one in a process that was forked."""

from __future__ import annotations

import os

from blake3 import blake3

from ggq.threads import all_startable

MANY_THREADS_FROM = 1 << 20
"""Bytes from which on several threads are faster."""

_threads = {"most": 0}
"""Threads that the library may use, 0 before the first use."""


def _forked() -> None:
    """A fork does not take the library's threads along: whoever asks them for work waits for ever."""
    _threads["most"] = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def hasher(size: int) -> blake3:
    """A BLAKE3-256 state.

    Args:
        size: Bytes that it will be given in pieces of a mebibyte or more, about.
    """
    if size >= MANY_THREADS_FROM and not _threads["most"]:  # it panics where it can start fewer than it wants
        _threads["most"] = blake3.AUTO if all_startable() else 1
    return blake3(max_threads=_threads["most"] if size >= MANY_THREADS_FROM else 1)


def digest_of(data: object) -> bytes:
    """BLAKE3-256 of a bytes-like object, 32 bytes."""
    view = memoryview(data)  # type: ignore[arg-type]
    state = hasher(view.nbytes)
    state.update(view)
    return state.digest()
