"""Telling the user why the first run takes longer: kernels are being compiled."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from ggq.cli.output import printable
from ggq.errors import UsageError

KEEP = "set NUMBA_CACHE_DIR to a folder that can be written to"


@functools.cache
def announce_compiling(interpreter: str = "numba") -> None:
    """Say once on standard error, when a kernel has to be compiled and not only loaded, what happens and why.

    Args:
        interpreter: What will run; only "numba" compiles anything.
    """
    if interpreter != "numba":
        return
    import ggq_kernels

    told: list[str] = []

    def tell(name: str) -> None:
        if not told:
            folder = unwritable_folder()
            often = "once for this version and processor ..." if folder is None else "not to be kept:"
            print(f"compiling kernels for {ggq_kernels.instruction_set()}, {often}", file=sys.stderr, flush=True)
            if folder is not None:
                print(f"{printable(str(folder))} cannot be written to; {KEEP}", file=sys.stderr, flush=True)
        told.append(name)

    ggq_kernels.on_compile(tell)


def refuse_what_cannot_be_kept() -> None:
    """From now on, have compiling refused where its result cannot be kept.

    Raises:
        UsageError: When a kernel has to be compiled and the cache folder cannot be written to.
    """
    import ggq_kernels

    def check(name: str) -> None:
        folder = unwritable_folder()
        if folder is not None:
            raise UsageError("compiled kernels cannot be kept there", path=folder, fix=KEEP)

    ggq_kernels.on_compile(check)


def unwritable_folder() -> Path | None:
    """The cache folder of compiled kernels if it cannot be written to."""
    from ggq_kernels.store import own_folder

    folder = own_folder()
    return None if os.access(folder, os.W_OK | os.X_OK) else folder
