"""Keeping what has been laid out of a GGUF file, in a thread that does not delay the work."""

from __future__ import annotations

import atexit
import json
import os
import pkgutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ggq.format.digests import digest_of
from ggq.format.gguf.reader import GGUFReader
from ggq.gguf.kept import laid_out

SETTLED = 2.0
"""Seconds since a file was last written to, from which on its times tell a later write: clocks of files are coarse."""
AT_EXIT = 3.0
"""Most seconds that the end of a process waits for a file that is being written."""
PRIORITY = 5
"""Of the thread: the kernels come first, and the end of a process does not wait long for it."""

PROGRAM = (
    *(("ggq.gguf", f"{name}.py") for name in ("blocks", "block_parts", "block_bytes", "grid_blocks", "grids")),
    *(("ggq.gguf", f"{name}.py") for name in ("level_matrices", "layout", "container", "beside", "kept/laid_out")),
    *(("ggq.quant", f"{name}.py") for name in ("tiles", "matrix", "floats")),
    *(("ggq_kernels.quantize", f"{name}.py") for name in ("repack", "repack_rows")),
)
"""Sources of what lays tensors out: a file that others have laid out is another file."""

_waiting: weakref.WeakSet[Keeper] = weakref.WeakSet()


def key_of(reader: GGUFReader, places: object) -> bytes | None:
    """The key of what is laid out of an open file; None where it was written to just now.

    Args:
        reader: The file.
        places: Where the parts of its tensors lie, as JSON holds it.
    """
    state = reader.state()
    if any(time.time() - changed * 1e-9 < SETTLED for *_, changed in state):
        return None
    program = digest_of(b"".join(pkgutil.get_data(*part) or b"" for part in PROGRAM))
    said = json.dumps([sys.byteorder, state, places]).encode()
    return digest_of(reader.header_digest() + program + said)


class Keeper:
    """Writes one file.

    Args:
        key: Of it.
        size: Bytes of its parts.
        parts: They, uint8, padding included; nothing may write to them.
        unchanged: Whether the GGUF file is the same as before it was read.
    """

    def __init__(
        self, key: bytes, size: int, parts: Sequence[NDArray[np.uint8]], unchanged: Callable[[], bool]
    ) -> None:
        self._key, self._size, self._parts, self._stop = key, size, parts, False
        if not unchanged():
            return
        self._thread = threading.Thread(target=self._run, name="ggq-keep", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # a limit of processes
            return
        if not _waiting:
            atexit.register(_end)
        _waiting.add(self)

    def _run(self) -> None:
        if sys.platform.startswith("linux"):
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)
        try:
            laid_out.keep(self._key, self._size, self._parts, lambda: self._stop)
        finally:
            self._parts = ()

    def wait(self, seconds: float) -> None:
        """Wait for the file to be whole; give up then."""
        self._thread.join(max(0.0, seconds))
        self._stop = True
        self._thread.join(1.0)


def _end() -> None:
    """Give the files that are being written some time before the process ends."""
    until = time.monotonic() + AT_EXIT
    for keeper in list(_waiting):
        keeper.wait(until - time.monotonic())
