"""A team of threads that walk one tape together: a barrier after each operation, and a counter that hands out its work.

Each thread runs `walk` with the GIL released, so a token costs one call from Python whatever the depth. The threads
meet at a barrier that spins briefly, then sleeps in the kernel (futex on Linux, short sleeps elsewhere): an empty
operation costs under a microsecond, and nobody spins while idle or while more threads than cores want to run. It
needs no OpenMP, survives fork in a process that has not started it, and who computes what never changes a result.
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
import threading
import weakref
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ggq_kernels.compiled import compiled, inlined
from ggq_kernels.simd import I32, I64, call, pointer, primitive, read_i64, write_i64

# The team's state: int64 words, each on a cache line of its own so that waiting threads do not disturb workers.
NEXT, ARRIVED, TURN, SLEEPERS = 0, 64, 128, 192
JOB, JOB_SLEEPERS, JOB_ROWS = 256, 320, 384
STATE_BYTES = 448
ROW_BYTES = 256
"""Bytes of a tape row: the kernel's address, then up to 31 operands, all int64."""

_BARRIER_SPINS, _JOB_SPINS = (
    4000,
    20000,
)  # about 0.1 ms and 0.4 ms: longer than an operation, longer than choosing a token
_FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}


_FUTEX = _FUTEX_NUMBER.get(platform.machine()) if sys.platform.startswith("linux") else None


@primitive(types.int64, types.int64, types.int64)
def fetch_add(b: Any, address: Any, x: Any) -> Any:
    """Add to the word at an address; returns what it was."""
    return b.atomic_rmw("add", pointer(b, address, I64), x, "seq_cst")


@primitive(types.int64, types.int64)
def atomic_read(b: Any, address: Any) -> Any:
    """The word at an address, with all that was written before it."""
    return b.load_atomic(pointer(b, address, I64), "seq_cst", 8)


@primitive(types.void, types.int64, types.int64)
def atomic_write(b: Any, address: Any, x: Any) -> None:
    """Write a word after all that was written before it."""
    b.store_atomic(x, pointer(b, address, I64), "seq_cst", 8)


@primitive(types.void)
def relax(b: Any) -> None:
    """Tell the core that this is a waiting loop."""
    if platform.machine() in ("x86_64", "AMD64"):
        call(b, "llvm.x86.sse2.pause", ir.VoidType())


def _futex(b: Any, address: Any, operation: int, value: Any) -> None:
    kind = ir.FunctionType(I64, [I64], var_arg=True)
    function = cgutils.get_or_insert_function(b.module, kind, "syscall")
    b.call(function, [I64(_FUTEX), address, I64(operation), value, I64(0), I64(0), I64(0)])


@primitive(types.void, types.int64, types.int64)
def sleep_while(b: Any, address: Any, value: Any) -> None:
    """Sleep until somebody wakes this address, unless the word there is no longer `value`."""
    if _FUTEX:
        _futex(b, address, 128, value)  # FUTEX_WAIT_PRIVATE compares the low 32 bits, enough to see a change
    elif sys.platform == "win32":
        call(b, "Sleep", ir.VoidType(), I32(1))
    else:
        call(b, "usleep", I32, I32(50))


@primitive(types.void, types.int64)
def wake_all(b: Any, address: Any) -> None:
    """Wake all who sleep on this address."""
    if _FUTEX:
        _futex(b, address, 129, I64(0x7FFFFFFF))  # FUTEX_WAKE_PRIVATE


@primitive(types.void, types.int64, types.int64, types.int64)
def call_op(b: Any, address: Any, row: Any, team: Any) -> None:
    """Call the operation at an address."""
    kind = ir.FunctionType(ir.VoidType(), [I64, I64])
    b.call(b.inttoptr(address, kind.as_pointer()), [row, team])


@inlined
def take(team: int, count: int) -> int:
    """The first of `count` work items that nobody has taken yet."""
    return fetch_add(team + NEXT, count)


@inlined
def barrier(team: int, threads: int) -> None:
    """Wait until all threads are here; the last one resets the work counter."""
    turn = atomic_read(team + TURN)
    if fetch_add(team + ARRIVED, 1) == threads - 1:
        atomic_write(team + ARRIVED, 0)
        atomic_write(team + NEXT, 0)
        fetch_add(team + TURN, 1)
        if atomic_read(team + SLEEPERS) > 0:
            wake_all(team + TURN)
        return
    wait_for_change(team + TURN, team + SLEEPERS, turn, _BARRIER_SPINS)


@inlined
def wait_for_change(address: int, sleepers: int, old: int, spins: int) -> None:
    """Return once the word at an address is no longer `old`: spin, then sleep."""
    for _ in range(spins):
        if atomic_read(address) != old:
            return
        relax()
    fetch_add(sleepers, 1)
    while atomic_read(address) == old:
        sleep_while(address, old)
    fetch_add(sleepers, -1)


@inlined
def walk(tape: int, first: int, last: int, team: int, threads: int) -> None:
    """Run rows first .. last - 1 of the tape at an address as one thread of the team."""
    for i in range(first, last):
        row = tape + i * ROW_BYTES
        call_op(read_i64(row), row, team)
        barrier(team, threads)


@compiled("void(int64, int64)")
def serve(team: int, threads: int) -> None:
    """A helper thread: wait for a tape, walk it with the others, again, until the tape is 0."""
    seen = 0
    while True:
        wait_for_change(team + JOB, team + JOB_SLEEPERS, seen, _JOB_SPINS)
        seen += 1
        tape = read_i64(team + JOB_ROWS)
        if tape == 0:
            return
        walk(tape, read_i64(team + JOB_ROWS + 8), read_i64(team + JOB_ROWS + 16), team, threads)


@compiled("void(int64, int64, int64, int64, int64)")
def lead(tape: int, first: int, last: int, team: int, threads: int) -> None:
    """Hand a tape to the helper threads and walk it with them; a tape of 0 ends them."""
    if threads > 1:
        write_i64(team + JOB_ROWS, tape)
        write_i64(team + JOB_ROWS + 8, first)
        write_i64(team + JOB_ROWS + 16, last)
        fetch_add(team + JOB, 1)
        if atomic_read(team + JOB_SLEEPERS) > 0:
            wake_all(team + JOB)
    if tape != 0:
        walk(tape, first, last, team, threads)


class Team:
    """Threads that run tapes together.

    Args:
        threads: How many, the caller's own included; more than the cores that this process may use are not started.
    """

    def __init__(self, threads: int | None = None) -> None:
        cores = available_cores()
        self.threads = max(1, min(threads or cores, cores))
        self._lock = threading.Lock()
        self._start()
        _TEAMS.add(self)

    def _start(self) -> None:
        self._state = aligned_zeros(STATE_BYTES)
        self.address = int(self._state.ctypes.data)
        self._process = os.getpid()
        for i in range(1, self.threads):
            arguments = (self._state, self.address, self.threads)
            threading.Thread(target=_help, args=arguments, name=f"ggq-{i}", daemon=True).start()

    def run(self, tape: np.ndarray, first: int = 0, last: int | None = None) -> None:
        """Run rows of a tape, int64 (n, ROW_BYTES / 8), C-contiguous; returns when all are done."""
        last = len(tape) if last is None else last
        if first >= last:  # without a barrier the helpers could miss this tape and walk the next one twice
            return
        with self._lock:
            if self._process != os.getpid():  # a forked child has none of the helper threads
                self._start()
            lead(tape.ctypes.data, first, last, self.address, self.threads)

    def close(self) -> None:
        """End the helper threads."""
        with self._lock:
            if self.threads > 1 and self._process == os.getpid():
                lead(0, 0, 0, self.address, self.threads)
            self.threads = 1


def _help(state: np.ndarray, address: int, threads: int) -> None:
    serve(address, threads)  # holding `state` keeps the memory alive until this thread ends


_TEAMS: weakref.WeakSet[Team] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for team in list(_TEAMS):
        team.close()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def aligned_zeros(size: int, to: int = 64) -> np.ndarray:
    """Zeroed uint8 (size,) whose address is a multiple of `to`."""
    raw = np.zeros(size + to, np.uint8)
    start = -raw.ctypes.data % to
    return raw[start : start + size]
