"""Watching the map of a file while kernels read it, so that pages that are gone are told and end no process."""

from __future__ import annotations

import ctypes
import mmap
import platform
import signal
import sys
import threading
import weakref

import numpy as np

from ggq_kernels.code import ready
from ggq_kernels.run.threads import aligned_zeros

fault = ready.module("fault")

WATCHED = sys.platform.startswith("linux") and platform.machine() in ("x86_64", "aarch64") and sys.maxsize > 1 << 32
"""Whether the handler knows this system's records."""

_SIGINFO, _RESTART, _ONSTACK = 4, 0x10000000, 0x08000000
_lock = threading.Lock()
_table: list[np.ndarray] = []  # one, once the handler is there; it stays as long as the process


class _Action(ctypes.Structure):
    """Linux's struct sigaction, as C libraries of 64-bit machines lay it out."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


class Guard:
    """Watches one map; where the system is not known to `WATCHED`, or 256 maps are watched already, it sees nothing.

    Args:
        data: uint8, a view of the whole map, which is kept alive until `close`; None where nothing is mapped.
    """

    def __init__(self, data: np.ndarray | None) -> None:
        self._place = -1
        if data is None or not data.nbytes or not WATCHED:
            return
        with _lock:
            table = _table[0] if _table else _install()
            starts = table[fault.RANGES // 8 :: fault.RANGE_BYTES // 8]
            free = np.flatnonzero(starts == 0)
            if not len(free):
                return
            self._place = fault.RANGES // 8 + int(free[0]) * (fault.RANGE_BYTES // 8)
            start = int(data.ctypes.data)
            table[self._place + fault.LOST // 8] = 0
            table[self._place + fault.END // 8] = start + -(-data.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            table[self._place + fault.START // 8] = start
        self._finish = weakref.finalize(self, _release, self._place, data)
        self._finish.atexit = False  # helper threads may still read; the map stays until the process ends

    @property
    def lost(self) -> bool:
        """Whether pages were gone when somebody read them, and zeros were read instead."""
        return self._place >= 0 and bool(_table[0][self._place + fault.LOST // 8])

    def close(self) -> None:
        """Watch no more, and let go of the map."""
        if self._place >= 0:
            self._finish()
            self._place = -1


def _release(place: int, data: np.ndarray) -> None:
    """Free a range before its memory becomes somebody else's; `data` is held until then."""
    _table[0][place + fault.START // 8] = 0


def _install() -> np.ndarray:
    """Make the table and put the handler in its place, before whoever handled the signal until now."""
    table = aligned_zeros(fault.TABLE_BYTES).view(np.int64)
    system, before = ctypes.CDLL(None), _Action()
    number = ctypes.c_int(signal.SIGBUS)
    system.sigaction(number, None, ctypes.byref(before))
    table[fault.PAGE // 8], table[fault.PREVIOUS // 8] = mmap.PAGESIZE, before.handler or 0
    fault.on_fault(0, int(table.ctypes.data), 0)
    ours = _Action(handler=fault.on_fault.address, flags=_SIGINFO | _RESTART | _ONSTACK)
    system.sigaction(number, ctypes.byref(ours), None)
    _table.append(table)
    return table
