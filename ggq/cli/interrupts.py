"""What Ctrl-C does before and after the program has something to clean up."""

from __future__ import annotations

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def heed_interrupts() -> None:
    """Raise interrupts as exceptions from now on: there is something to clean up or to report."""
    import signal

    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(*_: object) -> None:
    """End the process at once: the handler while nothing is there to clean up."""
    import os

    os._exit(INTERRUPTED)
