"""`ggq warmup`: compile the kernels now."""

from __future__ import annotations

import sys
import time


def warmup() -> None:
    """Compile the kernels now instead of at the first run.

    Kernels are compiled for this machine's processor and kept in the user's cache folder; a change of ggq, numba or the
    processor makes it necessary again. Where everything is compiled already this takes a moment.

    Example:
        ggq warmup
    """
    import ggq_kernels
    from ggq_kernels.isa import ISA

    start = time.perf_counter()
    print(f"compiling kernels for {ISA}; this is done once for this version and processor", file=sys.stderr)
    ggq_kernels.warmup(_tell)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    print(f"kernels for {ISA} are ready after {time.perf_counter() - start:.1f} s")


def _tell(done: int, total: int, name: str) -> None:
    """One line that says how far it is, rewritten in place where somebody watches."""
    line = f"compiled {done} of {total}: {name}"
    print(f"\r\x1b[K{line}" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)
    sys.stderr.flush()
