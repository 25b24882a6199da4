"""AMX in software, for machines without it: Linux sends SIGILL for each tile instruction, and a handler does what the
instruction would have done, so that the very machine code that an AMX processor runs is run and tested anywhere.

A signal takes some microseconds, nearly all of them in the system. So the handler goes on with the instructions behind
while it knows them: other tile instructions, and the three that close a loop of them. Registers, memory and the order
of additions are as the manual has them; subnormal numbers, which the processor takes for 0, are not flushed.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (LDTILECFG, TILELOADD, TILESTORED,
TDPBF16PS); Linux, arch/x86/include/uapi/asm/sigcontext.h.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import int64, types
from numba.core import cgutils

from ggq_kernels.run.team import fetch_add
from ggq_kernels.vector.simd import (
    I32,
    I64,
    F32x16,
    I32x16,
    constant,
    load,
    multiply_add,
    primitive,
    read_i32,
    read_i64,
    read_u8,
    read_u16,
    splat,
    store,
    write_i32,
    write_i64,
)

REGISTERS = 40
"""Where a signal's context holds the general registers, 8 bytes each."""
RIP, FLAGS = REGISTERS + 16 * 8, REGISTERS + 17 * 8
ZERO = 64
"""The flag that the last result was zero."""
PLACES = np.array([13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7], np.int64)
"""Where among them a register lies, by its number in an instruction: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 ..."""
THREADS, STATE = 1024, 64 + 8 * 1024
"""Threads that may ever use tiles, and bytes of a thread's state: a configuration, and the registers."""
SIGINFO = 4

_states = np.zeros(THREADS * STATE, np.uint8)
_owners = np.zeros(1 + THREADS, np.int64)  # how many threads there are, and what the system calls each
STATES, OWNERS, PLACE = (int(a.ctypes.data) for a in (_states, _owners, PLACES))
_libc = ctypes.CDLL(None)
_self = _libc.pthread_self
_self.argtypes, _self.restype = (), ctypes.c_int64
_abort = _libc.abort
_abort.argtypes, _abort.restype = (), None


@primitive(types.void, *[types.int64] * 4)
def add_products(b: Any, sums: Any, tokens: Any, rows: Any, pairs: Any) -> None:
    """One row of TDPBF16PS: 16 float32 += (pairs, 2) bf16 times (pairs, 16, 2) bf16; even and odd columns are added up
    apart, then together, then to the sums."""
    totals = [cgutils.alloca_once_value(b, constant(F32x16.ir, 0.0)) for _ in range(2)]
    with cgutils.for_range(b, pairs) as loop:
        x = splat(b, I32x16.ir, load(b, b.add(tokens, b.mul(loop.index, I64(4))), I32, 1))
        w = load(b, b.add(rows, b.mul(loop.index, I64(64))), I32x16.ir, 1)
        for place, total in enumerate(totals):
            bits = [b.shl(b.lshr(v, constant(I32x16.ir, 16 * place)), constant(I32x16.ir, 16)) for v in (x, w)]
            b.store(multiply_add(b, *(b.bitcast(v, F32x16.ir) for v in bits), b.load(total)), total)
    both = b.fadd(*(b.load(total) for total in totals))
    store(b, b.fadd(load(b, sums, F32x16.ir, 1), both), sums, 1)


@numba.njit
def state_of_thread() -> int:
    """Address of this thread's state; the first time a new one, of zeros."""
    me = _self()
    for i in range(read_i64(OWNERS)):
        if read_i64(OWNERS + 8 + 8 * i) == me:
            return STATES + i * STATE
    place = fetch_add(OWNERS, 1)
    if place >= THREADS:
        _abort()
    write_i64(OWNERS + 8 + 8 * place, me)
    return STATES + place * STATE


@numba.njit
def register(context: int, number: int) -> int:
    """Contents of a general register."""
    return read_i64(register_at(number, context))


@numba.njit
def register_at(number: int, context: int) -> int:
    """Where a signal's context holds a general register."""
    return context + REGISTERS + 8 * read_i64(PLACE + 8 * number)


@numba.njit
def operand(context: int, prefix: int, modrm: int) -> tuple[int, int, int]:
    """A memory operand: its base with the displacement, its index times the scale, and its bytes behind the opcode."""
    flipped = ~int64(read_u8(prefix + 1))
    mode, base, size, index = modrm >> 6, modrm & 7, 1, int64(0)
    if base == 4:
        sib = int64(read_u8(prefix + 5))
        size, base = 2, sib & 7
        number = (sib >> 3 & 7) | (flipped >> 6 & 1) << 3
        if number != 4:
            index = register(context, number) << (sib >> 6)
    if mode == 0 and base == 5:
        _abort()  # an address that no kernel of ours uses
    address = register(context, base | (flipped >> 5 & 1) << 3)
    if mode == 1:
        displacement = int64(read_u8(prefix + 4 + size))
        address += displacement - (displacement >> 7 << 8)
        size += 1
    elif mode == 2:
        address += int64(read_i32(prefix + 4 + size))
        size += 4
    return address, index, size


@numba.njit
def move_rows(state: int, tile: int, address: int, stride: int, to_memory: bool) -> None:
    """TILELOADD, TILESTORED: the rows of a register lie `stride` bytes apart; what is not loaded becomes 0."""
    rows, width, place = int64(read_u8(state + 48 + tile)), int64(read_u16(state + 16 + 2 * tile)), tile_at(state, tile)
    if not to_memory:
        clear(place, 1024)
    for r in range(rows):
        for c in range(0, width, 4):
            here, there = place + 64 * r + c, address + stride * r + c
            write_i32(there if to_memory else here, read_i32(here if to_memory else there))


@numba.njit
def tile_at(state: int, tile: int) -> int:
    """Address of a register."""
    return state + 64 + 1024 * tile


@numba.njit
def clear(address: int, size: int) -> None:
    """Write zeros."""
    for i in range(0, size, 8):
        write_i64(address + i, 0)


@numba.njit
def execute(context: int) -> int:
    """Do what the instruction at the context's program counter says; the bytes of it, 0 for one that is none of AMX."""
    at = read_i64(context + RIP)
    last, opcode, modrm = int64(read_u8(at + 2)), int64(read_u8(at + 3)), int64(read_u8(at + 4))
    if read_u8(at) != 0xC4 or read_u8(at + 1) & 31 != 2 or last & 0x84 != 0:
        return 0
    prefix, state, tile = last & 3, state_of_thread(), modrm >> 3 & 7  # prefix: none, 66, F3, F2
    if opcode == 0x49 and modrm >> 6 != 3 and prefix == 0:
        address, _, size = operand(context, at, modrm)
        for i in range(0, 64, 8):
            write_i64(state + i, read_i64(address + i))
        clear(state + 64, 8 * 1024)
        return 4 + size
    if opcode == 0x49 and modrm == 0xC0 and prefix == 0:
        clear(state, 64)
        return 5
    if read_u8(state) != 1:  # not configured: the processor would raise this signal too
        return 0
    if opcode == 0x49 and modrm >> 6 == 3 and prefix == 3:
        clear(tile_at(state, tile), 1024)
        return 5
    if opcode == 0x4B and modrm >> 6 != 3 and modrm & 7 == 4 and prefix != 0:
        address, stride, size = operand(context, at, modrm)
        move_rows(state, tile, address, stride, prefix == 2)
        return 4 + size
    if opcode == 0x5C and modrm >> 6 == 3 and prefix == 2:
        tokens, rows = tile_at(state, modrm & 7), tile_at(state, ~last >> 3 & 7)
        for r in range(read_u8(state + 48 + tile)):
            pairs = int64(read_u16(state + 16 + 2 * (modrm & 7))) // 4
            add_products(tile_at(state, tile) + 64 * r, tokens + 64 * r, rows, pairs)
        return 5
    return 0


@numba.njit
def close_loop(context: int) -> int:
    """Do an addition of a number to a register, a decrement, or a jump if that was not zero; the bytes from this
    instruction to the next that is to be done, 0 for any other."""
    at = read_i64(context + RIP)
    first, second, third = int64(read_u8(at)), int64(read_u8(at + 1)), int64(read_u8(at + 2))
    if first == 0x75:
        far = second - (second >> 7 << 8)
        return 2 if read_i64(context + FLAGS) & ZERO else 2 + far
    if first | 1 != 0x49:  # 64-bit operands, one of the first eight registers or of the others
        return 0
    place = register_at((third & 7) | (first & 1) << 3, context)
    if second == 0x81 and third >> 3 == 0xC0 >> 3:
        write_i64(place, read_i64(place) + int64(read_i32(at + 3)))
        return 7
    if second == 0x05 and first == 0x48:
        write_i64(register_at(0, context), register(context, 0) + int64(read_i32(at + 2)))
        return 6
    if second == 0xFF and third >> 3 == 0xC8 >> 3:
        write_i64(place, read_i64(place) - 1)
        flags = read_i64(context + FLAGS) & ~ZERO
        write_i64(context + FLAGS, flags | ZERO if read_i64(place) == 0 else flags)
        return 3
    return 0


@numba.cfunc(types.void(types.int32, types.int64, types.int64), nopython=True, error_model="numpy")
def handle(_: int, __: int, context: int) -> None:
    """The signal handler: go on behind the instruction, and those after it that are known."""
    size = execute(context)
    if size == 0:
        _abort()
    while size != 0:
        write_i64(context + RIP, read_i64(context + RIP) + size)
        size = execute(context)
        if size == 0:
            size = close_loop(context)


class _Action(ctypes.Structure):
    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def install() -> None:
    """Have the tile instructions of this process emulated from now on, and allowed.

    Raises:
        OSError: The system takes no handler.
    """
    from ggq_kernels.code import permission

    action = _Action(handler=handle.address, flags=SIGINFO)
    if _libc.sigaction(int(signal.SIGILL), ctypes.byref(action), None) != 0:
        raise OSError("no handler of SIGILL could be set")
    permission.tiles_allowed = lambda: True


def target(features: Iterable[str]) -> dict[str, str]:
    """Environment of a process whose kernels are compiled for the tiles of AMX besides a processor's own features, and
    without those that the name of a processor with AMX stands for and this one lacks."""
    added = {*features, "amx-tile", "amx-bf16"}
    lacking = {name for name, there in get_host_cpu_features().items() if not there} - added
    listed = [f"+{name}" for name in sorted(added)] + [f"-{name}" for name in sorted(lacking)]
    return {"NUMBA_CPU_NAME": "sapphirerapids", "NUMBA_CPU_FEATURES": ",".join(listed)}
