"""What happens when a page of a file's map is gone: zeros take its place, a word says so, and the pass goes on.

A file that is cut short while it is mapped has pages that nothing stands behind, and who reads one gets a signal
(SIGBUS) that ends the process. The handler of that signal is this module's one kernel: it looks the address up in a
table of ranges (guard.py writes it), notes that the range has lost pages, puts zeros in place of the rest of the range,
and returns, so that the instruction is tried again and finds them. Whoever ran the pass asks afterwards and throws its
result away. A fault anywhere else is handed to the handler that was there before.

Machine code and not a callback into Python: a signal comes between any two instructions, on a thread that may have
nothing to do with the interpreter; only system calls are safe there. Source: signal-safety(7), sigaction(2), mmap(2).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.code.compiled import compiled
from ggq_kernels.run.team import atomic_read, atomic_write
from ggq_kernels.vector.simd import I32, I64, call, primitive, read_i32, read_i64

# The table: int64 words, then MOST ranges.
PAGE = 0  # bytes of a page
PREVIOUS = 8  # the handler that was there before: 0 for the default, 1 for none, else its address
RANGES = 64
START = 0  # first address of a range, 0 where there is none; written last
END = 8  # the address behind its last page
LOST = 16  # 1 once pages of it were gone
RANGE_BYTES = 32
MOST = 256
"""Ranges that can be watched at a time."""
TABLE_BYTES = RANGES + MOST * RANGE_BYTES

SI_CODE, SI_ADDRESS = 8, 16
"""Where Linux's siginfo_t holds, on 64-bit machines, why a signal was sent (0 and below: by a process) and the address
of a fault."""
READ, PRIVATE_ANONYMOUS_FIXED = 1, 0x32
"""PROT_READ; MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED."""


@primitive(types.int64)
def table(b: Any) -> Any:
    """The address of the table, which `keep_table` was told; one word of the kernel's own."""
    return b.load(_word(b))


@primitive(types.void, types.int64)
def keep_table(b: Any, address: Any) -> None:
    """Remember where the table lies."""
    b.store(address, _word(b))


def _word(b: Any) -> Any:
    name = "ggq_fault_table"
    if name in b.module.globals:
        return b.module.get_global(name)
    word = ir.GlobalVariable(b.module, I64, name)
    word.linkage, word.initializer = "internal", I64(0)
    return word


@primitive(types.int64, types.int64, types.int64)
def put_zeros(b: Any, address: Any, size: Any) -> Any:
    """Put pages of zeros in place of what is mapped at an address; the address, or another number where that fails."""
    return call(b, "mmap", I64, address, size, I32(READ), I32(PRIVATE_ANONYMOUS_FIXED), I32(-1), I64(0))


@primitive(types.void, types.int64)
def default_action(b: Any, signal: Any) -> None:
    """Have a signal do what it does where nobody handles it."""
    call(b, "signal", I64, b.trunc(signal, I32), I64(0))


@primitive(types.void, types.int64)
def send_again(b: Any, signal: Any) -> None:
    """Send a signal to this thread; it comes when the handler has returned."""
    call(b, "raise", I32, b.trunc(signal, I32))


@primitive(types.void, types.int64, types.int64, types.int64, types.int64)
def hand_on(b: Any, handler: Any, signal: Any, info: Any, context: Any) -> None:
    """Call another handler."""
    kind = ir.FunctionType(ir.VoidType(), [I32, I64, I64])
    b.call(b.inttoptr(handler, kind.as_pointer()), [b.trunc(signal, I32), info, context])


@compiled(3)
def on_fault(signal: int, info: int, context: int) -> None:
    """The handler of SIGBUS, void(int, siginfo_t *, void *). Python calls it once, with a signal of 0 and the address
    of the table."""
    if signal & 0xFFFF == 0:
        keep_table(info)
        return
    sent, address, end = read_i32(info + SI_CODE) <= 0, read_i64(info + SI_ADDRESS), 0
    if not sent:
        for i in range(MOST):
            place = table() + RANGES + i * RANGE_BYTES
            start = atomic_read(place + START)
            if start != 0 and start <= address and address < read_i64(place + END):
                atomic_write(place + LOST, 1)
                end = read_i64(place + END)
    if end != 0:
        page = address & -read_i64(table() + PAGE)
        if put_zeros(page, end - page) == page:
            return
    previous = read_i64(table() + PREVIOUS)
    if previous > 1:
        hand_on(previous, signal, info, context)
    elif not (sent and previous == 1):
        default_action(signal)
        if sent:
            send_again(signal)
