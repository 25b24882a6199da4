"""Where the program starts: an interrupt while it is still importing ends it without a word."""

from __future__ import annotations

from ggq.cli.interrupts import INTERRUPTED, leave


def main() -> int:
    """Run the command line on the process's own arguments.

    Returns:
        The exit status; see `ggq.cli.main.main`.
    """
    import gc

    gc.set_threshold(200_000)  # from 700: imports make objects that stay, and looking at them takes 40 ms of a start
    try:
        import signal

        # Raised as an exception, an interrupt of an import may be lost in a callback, or leave by a traceback.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, leave)
        from ggq.cli.main import main as run

        status = run()
    except KeyboardInterrupt:
        status = INTERRUPTED
    # If what was interrupted is an `exec` of text, such as dataclasses are made by, CPython lets the whole process die
    # of the signal in the end, although the interrupt was dealt with. Another `exec` makes it forget.
    exec("")
    return status
