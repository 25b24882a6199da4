"""Permission to use the tile registers of AMX, which Linux gives to a process that asks: without it their first
instruction is an illegal one."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18
"""Number of the system call on x86-64; ARCH_REQ_XCOMP_PERM; the number of the state that holds tiles.

Source: Linux, Documentation/arch/x86/xstate.rst.
"""


@functools.cache
def tiles_allowed() -> bool:
    """Whether the system lets this process use tile registers; asked once, for all threads and children."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    return int(ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA)) == 0
