"""A team of threads that run one tape together: the caller leads, helpers join each operation while it is open.

The leader opens an operation, takes work from its counter like everybody else, closes it when there is none left, and
waits only for helpers that had joined. So a helper that the system has put aside costs its help and nothing more:
where another program takes one of two cores, a barrier of all threads made decoding half as fast as one thread alone.
Who computes what never changes a result. All of it runs with the GIL released, one call from Python for a token
whatever the depth; an empty operation costs a fraction of a microsecond. Waiting threads spin briefly, then sleep in
the kernel (futex on Linux, short sleeps elsewhere). It needs no OpenMP and survives a fork.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ggq_kernels.code.compiled import compiled, inlined
from ggq_kernels.code.processor import AARCH64, architecture
from ggq_kernels.vector.simd import I32, I64, call, pointer, primitive, read_i64

# The team's state: int64 words, each on a cache line of its own so that waiting threads do not disturb workers.
NEXT = 0  # first work item that nobody has taken
EPOCH = 64  # odd while an operation is open
SLEEPERS = 128  # helpers asleep on EPOCH
ACTIVE = 192  # helpers inside an operation
LEADER = 256  # 1 while the leader sleeps on ACTIVE
ROW = 320  # address of the open operation's row, 0 to end
STATE_BYTES = 384
ROW_BYTES = 256
"""Bytes of a tape row: the kernel's address, then up to 27 operands, MAY_BE_EMPTY, MANY, MANY_KERNEL and ALONE, all
int64."""
COUNT = 8
"""Where a row holds the address of the number of tokens."""
ALONE = ROW_BYTES - 8
"""Where a row holds up to how many tokens the leader computes it alone: opening it to others would take longer."""
MANY_KERNEL, MANY = ROW_BYTES - 16, ROW_BYTES - 24
"""Where a row holds the address of another kernel, 0 for none, and from how many tokens on it is called instead."""

MAY_BE_EMPTY = ROW_BYTES - 32
"""Where a row holds 1 if it is passed over where there are no tokens, such as those of an expert that none chose."""

_SPINS = 20000  # about 0.4 ms: longer than an operation without work for all, or than choosing a token
_FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}


_FUTEX = _FUTEX_NUMBER.get(architecture()) if sys.platform.startswith("linux") else None


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
    if architecture() == "x86_64":
        call(b, "llvm.x86.sse2.pause", ir.VoidType())
    elif architecture() == AARCH64:
        call(b, "llvm.aarch64.hint", ir.VoidType(), I32(1))  # yield


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


@primitive(types.int64, types.int64)
def allocate(b: Any, size: Any) -> Any:
    """Memory of so many bytes; arrays would need Numba's runtime, which a process with saved kernels does not have."""
    return call(b, "malloc", I64, size)


@primitive(types.void, types.int64)
def release(b: Any, address: Any) -> None:
    """Give memory back."""
    call(b, "free", ir.VoidType(), address)


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
def seen(team: int) -> int:
    """The first work item that nobody had taken when this thread looked."""
    return read_i64(team + NEXT)


@inlined
def kernel_of(row: int) -> int:
    """The address of the kernel that computes a row with as many tokens as there are."""
    if read_i64(row + MANY_KERNEL) != 0 and read_i64(read_i64(row + COUNT)) >= read_i64(row + MANY):
        return read_i64(row + MANY_KERNEL)
    return read_i64(row)


@inlined
def wait_while(address: int, sleepers: int, old: int) -> None:
    """Return once the word at an address is no longer `old`: spin, then sleep, counted among the sleepers."""
    for _ in range(_SPINS):
        if atomic_read(address) != old:
            return
        relax()
    fetch_add(sleepers, 1)
    while atomic_read(address) == old:
        sleep_while(address, old)
    fetch_add(sleepers, -1)


@inlined
def next_epoch(team: int) -> None:
    """Open or close an operation."""
    fetch_add(team + EPOCH, 1)
    if atomic_read(team + SLEEPERS) > 0:
        wake_all(team + EPOCH)


@compiled(1)
def serve(team: int) -> None:
    """A helper thread: join every operation that is still open when it is seen, until the row is 0."""
    seen = 0
    while True:
        wait_while(team + EPOCH, team + SLEEPERS, seen)
        seen = atomic_read(team + EPOCH)
        if seen % 2 == 0:
            continue
        fetch_add(team + ACTIVE, 1)
        row = 0
        # Either the leader sees this helper when it closes, or the helper sees here that it has closed.
        if atomic_read(team + EPOCH) == seen:
            row = atomic_read(team + ROW)
            if row != 0:
                call_op(kernel_of(row), row, team)
        else:
            row = 1
        if fetch_add(team + ACTIVE, -1) == 1 and atomic_read(team + LEADER) > 0:
            wake_all(team + ACTIVE)
        if row == 0:
            return


@compiled(5)
def lead(tape: int, first: int, last: int, team: int, threads: int) -> None:
    """Run rows first .. last - 1 of a tape with the helpers; a tape of 0 ends them."""
    for i in range(first, last):
        row = tape + i * ROW_BYTES if tape != 0 else 0
        if row != 0 and read_i64(row + MAY_BE_EMPTY) != 0 and read_i64(read_i64(row + COUNT)) == 0:
            continue
        atomic_write(team + NEXT, 0)
        atomic_write(team + ROW, row)
        shared = threads > 1
        if row != 0 and read_i64(row + ALONE) > 0:
            shared = shared and read_i64(read_i64(row + COUNT)) > read_i64(row + ALONE)
        if shared:
            next_epoch(team)
        if row == 0:
            return  # left open, so that every helper sees it
        call_op(kernel_of(row), row, team)
        if shared:
            fetch_add(team + EPOCH, 1)
            active = atomic_read(team + ACTIVE)
            while active != 0:
                wait_while(team + ACTIVE, team + LEADER, active)
                active = atomic_read(team + ACTIVE)
