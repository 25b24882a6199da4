"""Telling the user why the first run takes longer: kernels are being compiled."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ggq.cli.output import printable
from ggq.errors import UsageError

KEEP = "set NUMBA_CACHE_DIR to a folder that can be written to"
OWN = "set NUMBA_CACHE_DIR to a folder that nobody else can write to, nor to any above it"
FREE = "free some space there, or set NUMBA_CACHE_DIR to another folder"


@functools.cache
def announce_compiling(interpreter: str = "numba") -> None:
    """Say once on standard error, when a kernel has to be compiled and not only loaded, what happens and why.

    Args:
        interpreter: What will run; only "numba" compiles anything.
    """
    if interpreter != "numba":
        return
    import ggq_kernels
    from ggq_kernels.code import store

    shown: set[str] = set()

    def say(text: str) -> None:
        if text not in shown:
            print(text, file=sys.stderr, flush=True)
        shown.add(text)

    def report(name: str) -> None:
        folder = unwritable_folder()
        kept = folder is None and not store.distrust()
        often = "once for this version and processor ..." if kept else "not to be kept:"
        say(f"compiling kernels for {ggq_kernels.instruction_set()}, {often}")
        if folder is not None:
            say(f"{printable(str(folder))} cannot be written to; {KEEP}")
        elif store.distrust():
            say(f"compiled code is neither loaded nor kept there: {printable(store.distrust())}; {OWN}")
        elif store.write_failures:
            say(f"{printable(str(store.own_folder()))}: they cannot be kept: {store.write_failures[0]}; {FREE}")

    ggq_kernels.on_compile(report)


def refuse_what_cannot_be_kept() -> Callable[[], None]:
    """From now on, have compiling refused where its result cannot be kept.

    Returns:
        What makes sure that all was kept, for the end.

    Raises:
        UsageError: When a kernel has to be compiled and the cache folder cannot be written to, or has no room.
    """
    import ggq_kernels
    from ggq_kernels.code import store

    def check() -> None:
        if store.write_failures:
            problem = f"compiled kernels cannot be kept there: {store.write_failures[0]}"
            raise UsageError(problem, path=store.own_folder(), fix=FREE)

    def check_folder(_: str) -> None:
        folder = unwritable_folder()
        if folder is not None:
            raise UsageError("compiled kernels cannot be kept there", path=folder, fix=KEEP)
        if store.distrust():
            raise UsageError(
                f"compiled kernels cannot be kept there: {store.distrust()}", path=store.own_folder(), fix=OWN
            )
        check()

    ggq_kernels.on_compile(check_folder)
    return check


def unwritable_folder() -> Path | None:
    """The cache folder of compiled kernels if it is not there or cannot be written to."""
    from ggq_kernels.code.store import own_folder

    folder = own_folder()
    return None if os.access(folder, os.W_OK | os.X_OK) else folder
