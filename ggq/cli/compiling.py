"""Telling the user why the first run takes longer: kernels are being compiled."""

from __future__ import annotations

import functools
import sys


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
            print(
                f"compiling kernels for {ggq_kernels.instruction_set()}, once for this version and processor ...",
                file=sys.stderr,
                flush=True,
            )
        told.append(name)

    ggq_kernels.on_compile(tell)
