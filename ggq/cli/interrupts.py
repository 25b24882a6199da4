"""What Ctrl-C does before and after the program has something to clean up."""

from __future__ import annotations

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def heed_interrupts() -> None:
    """Raise interrupts as exceptions from now on: there is something to clean up or to report."""
    import signal

    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted(left: str) -> int:
    """Say that the work was interrupted, and how it goes on where it has left a file of its own; the exit status."""
    import sys
    from pathlib import Path

    from ggq.cli.output import printable

    text = f"; the same command with --resume goes on from {left}" if Path(left).exists() else ""
    print(printable(f"interrupted{text}"), file=sys.stderr)
    return INTERRUPTED


def leave(*_: object) -> None:
    """End the process at once: the handler while nothing is there to clean up."""
    import os

    os._exit(INTERRUPTED)
