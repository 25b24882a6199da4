"""Telling the user why the first run takes longer: kernels are being compiled."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ggq.cli.layout import remark
from ggq.cli.output import printable
from ggq.errors import UsageError

if TYPE_CHECKING:
    from ggq_kernels.code.store import Left

KEEP = "set NUMBA_CACHE_DIR to a folder that can be written to"
OWN = "set NUMBA_CACHE_DIR to a folder that nobody else can write to, nor to any above it"
FREE = "free some space there, or set NUMBA_CACHE_DIR to another folder"
ERASE = "\r\x1b[K"


@functools.cache
def announce_compiling(interpreter: str = "numba") -> None:
    """Say on standard error, when a kernel has to be compiled and not only loaded, what happens and why, how many there
    are, and about how long it takes; on a terminal, how much is left.

    Args:
        interpreter: What will run; only "numba" compiles anything.
    """
    if interpreter != "numba":
        return
    from ggq_kernels.code import store

    announcer = _Announcer()
    store.listeners.append(announcer.compiled)
    store.watchers.append(announcer.left)


class _Announcer:
    """What is said, each line once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._changing = False

    def compiled(self, name: str) -> None:
        """A kernel is about to be compiled."""
        from ggq_kernels.code import store

        self._head("")
        folder = unwritable_folder()
        if folder is not None:
            self._say(f"{printable(str(folder))} cannot be written to; {KEEP}")
        elif store.distrust():
            self._say(f"compiled code is neither loaded nor kept there: {printable(store.distrust())}; {OWN}")
        elif store.write_failures:
            self._say(f"{printable(str(store.own_folder()))}: they cannot be kept: {store.write_failures[0]}; {FREE}")

    def left(self, left: Left) -> None:
        """So many of several are left."""
        if left.kernels:
            self._head(f"{left.total}, about {_seconds(left)}")
        self._erase()
        if left.kernels and sys.stderr.isatty():
            text = f"{left.kernels} of {left.total} kernels left, about {_seconds(left)}"
            print(text, end="", file=sys.stderr, flush=True)
            self._changing = True

    def _head(self, count: str) -> None:
        import ggq_kernels
        from ggq_kernels.code import store

        if "" not in self._said:
            kept = unwritable_folder() is None and not store.distrust()
            often = "once for this version and processor" if kept else "not to be kept"
            end = f": {count}" if count else " ..." if kept else ":"
            self._say(f"compiling kernels for {ggq_kernels.instruction_set()}, {often}{end}")
            self._said.add("")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._erase()
            remark(text)
        self._said.add(text)

    def _erase(self) -> None:
        if self._changing:
            print(ERASE, end="", file=sys.stderr, flush=True)
        self._changing = False


def _seconds(left: Left) -> str:
    return f"{max(left.seconds, 1):.0f} s"


def compile_seconds(interpreter: str = "numba") -> float:
    """Seconds that this process has spent on compiling until now."""
    if interpreter != "numba":
        return 0.0
    import ggq_kernels

    return ggq_kernels.compile_seconds()


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
