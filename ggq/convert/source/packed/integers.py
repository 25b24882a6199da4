"""Matrices of whole numbers of steps: GPTQ, AWQ, compressed-tensors and bitsandbytes' eight bits.

Each is read as `scale * (code - zero)`, a scale and a zero-point for each group of columns of a row. A scheme expresses
that wherever f16 holds the scales and a group's columns lie beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ggq.convert.source.packed.packed import Packed, check_types, misfit
from ggq.convert.source.packed.parts import REAL, WORDS, ReadBytes, floats, stored, unpack
from ggq.convert.source.safetensors_header import SourceTensor
from ggq.errors import ConvertError, UnsupportedError
from ggq.models.fields import shown

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each four bits of a word of AWQ belong to, from the lowest bits on."""

Tensors = Mapping[str, SourceTensor]


@dataclass(frozen=True)
class Integers(Packed):
    """Codes, scales (and zero-points) by groups.

    Args:
        name: Of the matrix.
        size: Rows and columns.
        bits: Of a code.
        group: Columns that share a scale; 0 for a whole row.
        form: How codes lie: "gptq" (input columns packed, one word below the other), "awq" (eight rows in a word),
            "rows" (packed along a row) or "int8".
        zeros: Zero-points, packed in the same way; None where the middle of all codes is zero.
        more: What is added to a stored zero-point.
        order: The group of each column, where they do not follow each other.
        factor: What scales are multiplied by.
        extra: Tensors that say nothing more.
    """

    dtype: ClassVar[str] = "INTEGERS"
    name: str = ""
    size: tuple[int, int] = (0, 0)
    bits: int = 4
    group: int = 0
    form: str = "rows"
    zeros: SourceTensor | None = None
    more: int = 0
    order: SourceTensor | None = None
    factor: float = 1.0
    extra: tuple[SourceTensor, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Packed`."""
        return self.size

    @property
    def label(self) -> str:
        """See `Packed`."""
        zero, group = "" if self.zeros is None else "Z", f"G{self.group}" if self.group else "ROW"
        return f"INT{self.bits}{zero}-{group}" + ("-ORDERED" if self.order is not None else "")

    @property
    def parts(self) -> tuple[SourceTensor, ...]:
        """See `Packed`."""
        several = (self.codes, self.scales, self.zeros, self.order, *self.extra)
        return tuple(part for part in several if part is not None)

    def types(self) -> tuple[tuple[SourceTensor | None, tuple[str, ...]], ...]:
        """See `Packed`."""
        kinds = ("I8", "U8") if self.form == "int8" else WORDS
        return ((self.codes, kinds), (self.zeros, kinds), (self.scales, REAL), (self.order, ("I32", "I64")))

    def rows(self, read: ReadBytes, start: int, out: NDArray[np.float32]) -> None:
        """See `Packed`."""
        stop, columns = start + len(out), self.size[1]
        group = np.arange(columns) // (self.group or columns)
        if self.order is not None:
            group = stored(read, self.order).astype(np.int64)
        scales, zeros = levels(self, read)
        codes = self._codes(read, start, stop).astype(np.float32)
        codes -= np.float32(1 << (self.bits - 1)) if zeros is None else zeros[start:stop, group]
        np.multiply(codes, scales[start:stop, group], out=out)

    def _codes(self, read: ReadBytes, start: int, stop: int) -> NDArray[np.uint8]:
        """uint8 (rows, columns)."""
        if self.form == "int8":
            return np.asarray(stored(read, self.codes, start, stop).view(np.uint8) ^ 128)
        if self.form == "rows":
            return unpack(stored(read, self.codes, start, stop), self.bits, self.size[1])
        return whole_codes(self, read)[start:stop]


@lru_cache(maxsize=4)
def whole_codes(packed: Integers, read: ReadBytes) -> NDArray[np.uint8]:
    """All codes of a matrix whose rows do not lie beside each other in the file, (rows, columns)."""
    words = stored(read, packed.codes)
    if packed.form == "gptq":
        return unpack(np.ascontiguousarray(words.T), packed.bits, packed.size[1])
    return np.ascontiguousarray(_awq(words, packed.size[0]).T)


@lru_cache(maxsize=8)
def levels(packed: Integers, read: ReadBytes) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Scales and zero-points, float32 (rows, groups)."""
    rows = packed.size[0]
    by_column = packed.form in ("gptq", "awq")
    scales = floats(read, packed.scales)
    scales = (scales.T if by_column else scales.reshape(rows if scales.size > 1 else 1, -1)) * np.float32(packed.factor)
    scales = np.broadcast_to(scales, (rows, scales.shape[1]))
    if not np.isfinite(scales).all():
        raise ConvertError(
            "a scale that is not a number", path=packed.scales.file, where=f"tensor {packed.scales.name}"
        )
    if packed.zeros is None:
        return np.asarray(scales, np.float32), None
    raw = stored(read, packed.zeros)
    zeros: NDArray[Any]
    if packed.form == "gptq":
        zeros = unpack(raw, packed.bits, rows).T
    elif packed.form == "awq":
        zeros = _awq(raw, rows).T
    elif packed.form == "int8":
        zeros = raw.reshape(rows if raw.size > 1 else 1, -1).view(np.uint8) ^ 128
    else:  # packed along the rows
        zeros = unpack(np.ascontiguousarray(raw.T), packed.bits, rows).T
    found = zeros.astype(np.float32) + packed.more
    if (found >= 1 << packed.bits).any():
        problem = f"a zero-point of {1 << packed.bits}, which programs read differently"
        raise ConvertError(problem, path=packed.zeros.file, where=f"tensor {packed.zeros.name}")
    return np.asarray(scales, np.float32), np.broadcast_to(found, scales.shape)


def _awq(words: NDArray[Any], rows: int) -> NDArray[np.uint8]:
    """Eight columns in each word of AWQ, put in order: (words of a column, rows)."""
    found = unpack(words, 4, rows).reshape(len(words), -1, 8)
    out = np.empty_like(found)
    out[:, :, list(AWQ_ORDER)] = found
    return out.reshape(len(words), -1)


def gptq(tensors: Tensors, said: Mapping[str, Any], read: ReadBytes) -> Iterator[Packed]:
    """The matrices of a checkpoint of GPTQ's: qweight, qzeros, scales, g_idx.

    Source: AutoGPTQ and GPTQModel, formats "gptq" (zero-points are stored less one) and "gptq_v2".
    """
    form = said.get("checkpoint_format", "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise UnsupportedError(f"the format {shown(form)} of GPTQ is not read; gptq and gptq_v2 are")
    bits = said.get("bits")
    if bits not in (2, 3, 4, 8):
        raise UnsupportedError(f"{shown(bits)} bits of GPTQ are not read; 2, 3, 4 and 8 are")
    for name, codes in _named(tensors, ".qweight"):
        zeros, scales, order = (tensors.get(f"{name}.{part}") for part in ("qzeros", "scales", "g_idx"))
        if zeros is None or scales is None or len(codes.shape) != 2 or len(scales.shape) != 2:
            raise misfit(codes, scales or codes)
        columns, rows, groups = codes.shape[0] * 32 // bits, codes.shape[1], scales.shape[0]
        fits = scales.shape == (groups, rows) and zeros.shape == (groups, -(-rows * bits // 32))
        if not fits or columns % groups or (order is not None and order.shape != (columns,)):
            raise misfit(codes, scales)
        size = columns // groups
        made = Integers(
            codes,
            scales,
            f"{name}.weight",
            (rows, columns),
            bits,
            0 if groups == 1 else size,
            "gptq",
            zeros,
            1 if form == "gptq" else 0,
            order,
        )
        yield _plain(made, read, size)


def awq(tensors: Tensors, said: Mapping[str, Any], read: ReadBytes) -> Iterator[Packed]:
    """The matrices of a checkpoint of AWQ's, version "gemm": four bits, eight rows in a word.

    Source: AutoAWQ, awq/modules/linear/gemm.py.
    """
    version, bits = str(said.get("version", "gemm")).lower(), said.get("bits", said.get("w_bit", 4))
    if version != "gemm" or bits != 4:
        raise UnsupportedError(f"version {shown(version)} of AWQ with {shown(bits)} bits is not read; gemm with 4 is")
    for name, codes in _named(tensors, ".qweight"):
        zeros, scales = tensors.get(f"{name}.qzeros"), tensors.get(f"{name}.scales")
        if zeros is None or scales is None or len(codes.shape) != 2 or len(scales.shape) != 2:
            raise misfit(codes, scales or codes)
        columns, rows, groups = codes.shape[0], codes.shape[1] * 8, scales.shape[0]
        if scales.shape != (groups, rows) or zeros.shape != (groups, codes.shape[1]) or columns % groups:
            raise misfit(codes, scales)
        size = columns // groups
        group = 0 if groups == 1 else size
        made = Integers(codes, scales, f"{name}.weight", (rows, columns), 4, group, "awq", zeros)
        yield _plain(made, read, size)


def compressed(tensors: Tensors, said: Mapping[str, Any], read: ReadBytes) -> Iterator[Packed]:
    """The matrices of whole numbers of compressed-tensors: formats pack-quantized, int-quantized, naive-quantized.

    Source: compressed-tensors, compressors/quantized_compressors.
    """
    for name, codes in _named(tensors, ".weight_packed"):
        scales, shape = tensors.get(f"{name}.weight_scale"), tensors.get(f"{name}.weight_shape")
        if codes.dtype != "I32" or scales is None or shape is None or shape.shape != (2,) or len(codes.shape) != 2:
            continue  # floats of four bits, which others read
        rows, columns = (int(number) for number in stored(read, shape))
        bits = next((n for n in (2, 4, 8) if codes.shape == (rows, -(-columns * n // 32))), None)
        if bits is None or not _fits(scales, rows, columns):
            raise misfit(codes, scales)
        zeros, order = tensors.get(f"{name}.weight_zero_point"), tensors.get(f"{name}.weight_g_idx")
        if zeros is not None and (len(zeros.shape) != 2 or zeros.shape[0] != -(-rows * bits // 32)):
            raise misfit(codes, zeros)
        groups = prod(scales.shape) // rows if prod(scales.shape) > 1 else 1
        size = columns // groups
        group = 0 if groups == 1 else size
        made = Integers(
            codes, scales, f"{name}.weight", (rows, columns), bits, group, "rows", zeros, order=order, extra=(shape,)
        )
        yield _plain(made, read, size)
    for name, codes in _named(tensors, ".weight"):
        scales = tensors.get(f"{name}.weight_scale")
        if codes.dtype != "I8" or scales is None or len(codes.shape) != 2:
            continue
        if not _fits(scales, *codes.shape):
            raise misfit(codes, scales)
        groups = prod(scales.shape) // codes.shape[0] if prod(scales.shape) > 1 else 1
        size = codes.shape[1] // groups
        group = 0 if groups == 1 else size
        zeros = tensors.get(f"{name}.weight_zero_point")
        made = Integers(codes, scales, f"{name}.weight", (codes.shape[0], codes.shape[1]), 8, group, "int8", zeros)
        yield _plain(made, read, size)


def bytes8(tensors: Tensors, said: Mapping[str, Any], read: ReadBytes) -> Iterator[Packed]:
    """The matrices of bitsandbytes in eight bits: `code * SCB / 127`."""
    for name, codes in _named(tensors, ".weight"):
        scales, form = tensors.get(f"{name}.SCB"), tensors.get(f"{name}.weight_format")
        if codes.dtype != "I8" or scales is None or len(codes.shape) != 2:
            continue
        if scales.shape != codes.shape[:1]:
            raise misfit(codes, scales)
        extra = () if form is None else (form,)
        size = codes.shape[0], codes.shape[1]
        yield Integers(codes, scales, codes.name, size, 8, 0, "int8", factor=1 / 127, extra=extra)


def _named(tensors: Tensors, end: str) -> list[tuple[str, SourceTensor]]:
    """Tensors whose names have an end, by what is before it."""
    return [(name.removesuffix(end), tensor) for name, tensor in tensors.items() if name.endswith(end)]


def _fits(scales: SourceTensor, rows: int, columns: int) -> bool:
    """Whether there is one scale, one a row, or one for each group of columns of a row."""
    count = prod(scales.shape)
    return count == 1 or (scales.shape[:1] == (rows,) and columns % (count // rows) == 0)


def _plain(made: Integers, read: ReadBytes, size: int) -> Integers:
    """The same with what says nothing taken off: zero-points that are the middle, an order that is none."""
    check_types(made)
    extra = made.extra
    if made.order is not None:
        if made.order.shape != (made.size[1],):
            raise misfit(made.codes, made.order)
        groups = stored(read, made.order)
        if groups.min(initial=0) < 0 or groups.max(initial=0) >= max(1, made.size[1] // size):
            raise misfit(made.codes, made.order)
        if np.array_equal(groups, np.arange(made.size[1]) // size):
            extra, made = (*extra, made.order), replace(made, order=None)
    if made.zeros is not None:
        zeros = levels(made, read)[1]
        assert zeros is not None
        if (zeros == 1 << (made.bits - 1)).all():
            extra, made = (*extra, made.zeros), replace(made, zeros=None)
    return replace(made, extra=extra)
