"""Conversions between float32 and the float types of files: f32, f16 and bf16 (spec/schemes.md, S3)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import UnsupportedError

STORAGE: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}
"""NumPy types that hold the bits of each float type; bf16 has none of its own and is kept as its bits."""


def to_float32(raw: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Numbers of a float type as float32, exactly.

    Args:
        raw: Any shape; float32 for "f32", float16 for "f16", uint16 (the bits) for "bf16".
        dtype: "f32", "f16" or "bf16".

    Returns:
        float32, same shape; `raw` itself where it already is float32.

    Source: spec/schemes.md, S3.
    """
    if dtype == "bf16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


def widen(raw: NDArray[Any], dtype: str, out: NDArray[np.float32]) -> None:
    """`to_float32` into memory that is there: an array of the same shape."""
    if dtype == "bf16":
        np.left_shift(raw, 16, out=out.view(np.uint32), dtype=np.uint32)
    else:
        out[...] = raw


def from_float32(numbers: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """float32 numbers rounded to a float type, to nearest, halves to even.

    Args:
        numbers: float32, any shape, finite.
        dtype: "f32", "f16" or "bf16".

    Returns:
        Same shape, type `STORAGE[dtype]`; numbers too large for the type come out infinite.

    Source: spec/schemes.md, S3.
    """
    if dtype == "bf16":
        bits = numbers.astype(np.float32, copy=False).view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(STORAGE["bf16"])
    with np.errstate(over="ignore", under="ignore"):
        return numbers.astype(STORAGE[dtype], copy=False)


def finite(stored: NDArray[Any], dtype: str) -> NDArray[np.bool_]:
    """Which numbers of a float type are neither NaN nor infinite; `stored` as `from_float32` returns it."""
    good: NDArray[np.bool_] = (stored & 0x7F80) != 0x7F80 if dtype == "bf16" else np.isfinite(stored)
    return good


def source_type(weights: NDArray[Any]) -> str:
    """The float type of an array of weights: float32, float16, or uint16 for the bits of bf16.

    Raises:
        UnsupportedError: Any other type.
    """
    for name, storage in STORAGE.items():
        if weights.dtype == storage:
            return name
    raise UnsupportedError(f"weights are {weights.dtype}; allowed are float32, float16 and uint16 (the bits of bf16)")
