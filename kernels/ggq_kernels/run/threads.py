"""The threads of a team, which run one tape together (team.py is what they run)."""

from __future__ import annotations

import os
import threading
import weakref

import numpy as np

from ggq_kernels.code import ready
from ggq_kernels.run.cores import available_cores, physical_cores

team = ready.module("team")


class Team:
    """Threads that run tapes together.

    Args:
        threads: How many, the caller's own included; by default one for each physical core. More than the processors
            that this process may use are not started.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = team_size(threads)
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._state = aligned_zeros(team.STATE_BYTES)
        self.address = int(self._state.ctypes.data)
        self._process = os.getpid()
        arguments = (self._state, self.address)
        helpers = range(1, self.threads)
        self._helpers = [threading.Thread(target=_help, args=arguments, name=f"ggq-{i}", daemon=True) for i in helpers]
        for number, helper in enumerate(self._helpers):
            try:
                helper.start()
            except RuntimeError:  # a limit of processes: those that there are do the work
                self._helpers = self._helpers[:number]
                self.threads = number + 1
                break
        # Also when nobody calls `close`: when the team is collected, and before the interpreter ends.
        self._finish = weakref.finalize(self, _end, self._state, self.threads, self._process)

    def run(self, tape: np.ndarray, first: int = 0, last: int | None = None) -> None:
        """Run rows of a tape, int64 (n, ROW_BYTES / 8), C-contiguous; returns when all are done."""
        last = len(tape) if last is None else last
        if first >= last:
            return
        with self._lock:
            if self._process != os.getpid():  # a forked child has none of the helper threads
                self._start()
            team.lead(tape.ctypes.data, first, last, self.address, self.threads)

    def close(self) -> None:
        """End the helper threads and wait until they have; what is run later is run by the caller alone."""
        with self._lock:
            self._finish()
            self.threads = 1
            if self._process == os.getpid():
                for helper in self._helpers:
                    helper.join()
            self._helpers = []


def team_size(threads: int | None = None) -> int:
    """How many threads a team has that is asked for `threads`, or for the default."""
    return max(1, min(threads or physical_cores(), available_cores()))


def _help(state: np.ndarray, address: int) -> None:
    team.serve(address)  # holding `state` keeps the memory alive until this thread ends


def _end(state: np.ndarray, threads: int, process: int) -> None:
    if threads > 1 and process == os.getpid():
        team.lead(0, 0, 1, state.ctypes.data, threads)


def aligned_zeros(size: int, to: int = 64) -> np.ndarray:
    """Zeroed uint8 (size,) whose address is a multiple of `to`."""
    raw = np.zeros(size + to, np.uint8)
    start = -raw.ctypes.data % to
    return raw[start : start + size]
