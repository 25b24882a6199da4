"""Mapping a file's pages in the background, while a process that starts still does other things."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

import numpy as np

from ggq.format.container import Container

POPULATE_READ = 22
"""Linux's MADV_POPULATE_READ, since 5.14; older ones refuse it, and pages are mapped when they are first read."""
LEAST_BYTES = 1 << 25
"""Below this a thread is not worth its start."""


def map_pages(container: Container) -> None:
    """Have the system map, and read where it must, all pages of a file that fits into memory; returns at once.

    One call without the GIL, so that it goes on while tokenizer.json is parsed, which holds it. A failure changes
    nothing: the pages are then mapped one by one.
    """
    if not sys.platform.startswith("linux"):
        return
    data = container.mapped()
    if data is None or not LEAST_BYTES <= data.nbytes <= _memory() * 3 // 4:
        return
    try:
        threading.Thread(target=_populate, args=(data,), name="ggq-pages", daemon=True).start()
    except RuntimeError:  # a limit of processes
        pass


def _populate(data: np.ndarray) -> None:
    address, size = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
    ctypes.CDLL(None).madvise(address, size, ctypes.c_int(POPULATE_READ))


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
