"""A row of a tape: the address of a kernel and its operands, in 32 words.

Addresses are of memory that the caller keeps alive. The records of operands (`NormRow` ...) hold byte offsets; a kernel
reads its operands where its record says, and `operands` writes them there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ggq_kernels.code import ready, store
from ggq_kernels.run.guard import WATCHED

team = ready.module("team")
ROW_BYTES, ALONE, MANY, MANY_KERNEL = team.ROW_BYTES, team.ALONE, team.MANY, team.MANY_KERNEL
MAY_BE_EMPTY = team.MAY_BE_EMPTY

SMALL = 2048
"""Columns of one token that a thread is done with sooner than another has joined."""
BF16_TOKENS = 32
"""From how many tokens on a product takes tiles of bf16, where the processor has them.

One core of Emerald Rapids, 8192 x 2048, q4-g32: VNNI takes 84 us a token. Expanding the matrix to bf16 takes 1.4 ms,
and all but the multiplications 2.0 ms for 16 tokens, 2.3 for 32 (measured where AMX was hidden by the hypervisor)."""


class HasAddress(Protocol):
    """A kernel, saved or not."""

    @property
    def address(self) -> int:
        """Address of its machine code."""
        ...


@dataclass(frozen=True)
class Rows:
    """A float32 buffer: its address, the bytes from row to row, the columns in use; and the address of its numbers
    rounded to bf16, `bf16_bytes`, 0 where no product wants them."""

    address: int
    stride: int
    width: int
    bf16: int = 0


@dataclass(frozen=True)
class Int8Rows:
    """A buffer of activations rounded to int8 per `group` of its (padded) `columns`, in tiles of tokens.

    Where `bf16` is the address of `bf16_bytes`, many tokens are rounded to bf16 and written there instead."""

    codes: int
    scales: int
    offsets: int
    sums: int
    columns: int
    group: int
    bf16: int = 0


TEAM = ["team.lead", "team.serve", *(["fault.on_fault"] if WATCHED else [])]
"""Kernels that run the others, and the one that watches the maps that they read."""

Kernels = list[tuple[HasAddress, HasAddress | None]]
"""Of each row its kernel, and the one for many tokens where it has one."""
_waiting: ContextVar[Kernels | None] = ContextVar("waiting", default=None)


@contextmanager
def addresses_later() -> Iterator[Kernels]:
    """Rows that are made meanwhile hold no addresses of kernels; the list names their kernels in the same order, for
    `link`."""
    kernels: Kernels = []
    token = _waiting.set(kernels)
    try:
        yield kernels
    finally:
        _waiting.reset(token)


def keys_of(kernels: Kernels) -> list[str]:
    """What a tape with these kernels needs, "module.name" each, with those that run it."""
    return [kernel.key for pair in kernels for kernel in pair if isinstance(kernel, ready.Kernel)] + TEAM


def link(tape: np.ndarray, kernels: Kernels) -> None:
    """Write the addresses of its kernels into a tape; what must be compiled for it is compiled by two processes at
    once."""
    keys = keys_of(kernels)
    if not all(map(store.is_saved, dict.fromkeys(keys))):
        from ggq_kernels.code.together import compile_missing

        compile_missing(keys)
    for words, pair in zip(tape, kernels, strict=True):
        _link_row(words, *pair)


def _link_row(words: np.ndarray, kernel: HasAddress, many: HasAddress | None) -> None:
    words[0] = kernel.address
    words[MANY_KERNEL // 8] = many.address if many else 0


def operands(record: NamedTuple, **values: int | float) -> dict[int, int | float]:
    """Operands of a row by byte offset; `values` are those of all fields of its record.

    Raises:
        TypeError: An operand that is missing, or that the record does not have.
    """
    if values.keys() != set(record._fields):
        odd = ", ".join(sorted(values.keys() ^ set(record._fields)))
        raise TypeError(f"{type(record).__name__}: operands missing or unknown: {odd}")
    return {getattr(record, name): value for name, value in values.items()}


def row(
    kernel: HasAddress, operands: Mapping[int, int | float], alone: int = 0, many: HasAddress | None = None
) -> np.ndarray:
    """int64 (32,): the kernel's address and its operands by byte offset, floats as float64; up to `alone` tokens are
    not worth sharing, and BF16_TOKENS and more are computed by the kernel `many` where that is given."""
    words = np.zeros(ROW_BYTES // 8, np.int64)
    waiting = _waiting.get()
    if waiting is None:
        _link_row(words, kernel, many)
    else:
        waiting.append((kernel, many))
    words[ALONE // 8], words[MANY // 8] = alone, BF16_TOKENS
    floats = words.view(np.float64)
    for offset, value in operands.items():
        (floats if isinstance(value, float) else words)[offset // 8] = value
    return words
