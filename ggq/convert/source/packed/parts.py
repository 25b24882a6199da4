"""Reading the parts of packed matrices: numbers of every type that safetensors has, and codes of a few bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.convert.source.safetensors_header import SourceTensor

ReadBytes = Callable[[SourceTensor, int, NDArray[np.uint8]], None]
"""Fills memory with bytes of a tensor from an offset on."""

STORED = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "U32": "<u4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "F8_E4M3": "|u1",
    "F8_E5M2": "|u1",
    "F8_E8M0": "|u1",
}
"""NumPy types that hold the numbers, or the bits, of safetensors' types."""

REAL = ("F64", "F32", "F16", "BF16")
"""Types of plain floats."""

WORDS = ("I32", "U32")
"""Types of words that codes are packed in."""

FLOATS8 = ("F8_E4M3", "F8_E5M2", "F8_E8M0")


def stored(read: ReadBytes, tensor: SourceTensor, start: int = 0, stop: int | None = None) -> NDArray[Any]:
    """Numbers of a tensor as they are stored: all, or those of some rows of its first dimension."""
    kind = np.dtype(STORED[tensor.dtype])
    first = tensor.shape[0] if tensor.shape else 1
    stop, row = first if stop is None else stop, prod(tensor.shape[1:]) * kind.itemsize
    memory = np.empty((stop - start) * row, np.uint8)
    read(tensor, start * row, memory)
    return memory.view(kind).reshape((stop - start, *tensor.shape[1:]) if tensor.shape else ())


def floats(read: ReadBytes, tensor: SourceTensor, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
    """The same as float32: exact, but for f64, which is rounded."""
    found = stored(read, tensor, start, stop)
    if tensor.dtype == "BF16":
        return np.asarray((found.astype(np.uint32) << 16).view(np.float32))
    if tensor.dtype in FLOATS8:
        return np.asarray(table(tensor.dtype)[found])
    with np.errstate(over="ignore"):
        return np.asarray(found.astype(np.float32))


@cache
def table(dtype: str) -> NDArray[np.float32]:
    """What every byte of a float of eight bits stands for, float32 (256,).

    Source: OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats 1.0, section 5.4.1.
    """
    byte = np.arange(256)
    if dtype == "F8_E5M2":
        return (byte.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    if dtype == "F8_E8M0":
        return np.where(byte == 255, np.nan, np.ldexp(1.0, byte - 127)).astype(np.float32)
    exponent, fraction = byte >> 3 & 15, byte & 7
    size = np.where(exponent == 0, np.ldexp(fraction / 8, -6), np.ldexp(1 + fraction / 8, exponent - 7))
    size = np.where(byte & 127 == 127, np.nan, size)
    return np.where(byte >> 7, -size, size).astype(np.float32)


def unpack(words: NDArray[Any], bits: int, count: int) -> NDArray[np.uint8]:
    """Codes that follow each other from the lowest bit of words of 32 bits on.

    Args:
        words: int32 or uint32 (rows, words).
        bits: Of a code; one of three bits may begin in one word and end in the next.
        count: Codes of a row.

    Returns:
        uint8 (rows, count).
    """
    raw = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = raw[:, :, None] >> shifts & np.uint8((1 << bits) - 1)
        return np.asarray(codes.reshape(len(words), -1)[:, :count])
    single = np.unpackbits(raw, axis=1, bitorder="little")[:, : count * bits].reshape(len(words), count, bits)
    return np.asarray(np.packbits(single, axis=2, bitorder="little")[:, :, 0])
