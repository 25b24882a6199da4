"""`ggq warmup`: compile the kernels now."""

from __future__ import annotations

import sys

from ggq.cli.compiling import announce_compiling, refuse_what_cannot_be_kept


def warmup() -> None:
    """Compile the kernels now instead of at the first run.

    Kernels are compiled for this machine's processor and kept in the user's cache folder; a change of ggq, numba or the
    processor makes it necessary again. Where everything is compiled already this takes a moment.

    Example:
        ggq warmup
    """
    import ggq_kernels

    check_kept = refuse_what_cannot_be_kept()
    announce_compiling()
    seconds = ggq_kernels.warmup(_report if sys.stderr.isatty() else None)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    check_kept()
    spent = f"after {seconds:.1f} s of compiling" if seconds else "and were so before"
    print(f"the kernels for {ggq_kernels.instruction_set()} are ready {spent}")


def _report(done: int, total: int, name: str) -> None:
    """How far it is, on a line that is rewritten in place."""
    print(f"\r\x1b[K{done} of {total} kernels are ready; next: {name}", end="", file=sys.stderr, flush=True)
