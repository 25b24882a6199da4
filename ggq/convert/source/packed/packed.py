"""Matrices that a checkpoint keeps as codes and scales, read as the numbers that they stand for.

A packed matrix takes the place of its parts among the tensors of a checkpoint. It is read by rows like any other, in
float32 without an error, and a method and a scheme are named here that keep every number of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ggq.convert.source.safetensors_header import SourceTensor
from ggq.errors import ConvertError

ReadBytes = Callable[[SourceTensor, int, NDArray[np.uint8]], None]
"""Fills memory with bytes of a tensor from an offset on."""

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The numbers of a code of MXFP4 (OCP Microscaling Formats 1.0, section 5.3.3)."""

MX_GROUP = 32
"""Numbers of MXFP4 that share a scale."""


@dataclass(frozen=True)
class Packed(ABC):
    """A matrix, or several of one shape, as codes and scales.

    Args:
        codes: Its codes, whose name it has.
        scales: Its scales.
    """

    dtype: ClassVar[str]
    codes: SourceTensor
    scales: SourceTensor

    @property
    def name(self) -> str:
        """The matrix's name."""
        return self.codes.name

    @property
    def label(self) -> str:
        """What its type is called: a name in PACKED where a scheme keeps every number."""
        return self.dtype

    @property
    def parts(self) -> tuple[SourceTensor, ...]:
        """The tensors that it takes the place of."""
        return (self.codes, self.scales)

    def types(self) -> tuple[tuple[SourceTensor | None, tuple[str, ...]], ...]:
        """Parts, and the types that safetensors may have them in, where `rows` takes that for granted."""
        return ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Its dimensions as a tensor of numbers."""

    @abstractmethod
    def rows(self, read: ReadBytes, start: int, out: NDArray[np.float32]) -> None:
        """Fill float32 (rows, columns) with its rows from `start` on, every dimension but the last counted as rows."""

    def tensor(self) -> SourceTensor:
        """As a tensor of the checkpoint."""
        codes, size = self.codes, sum(part.bytes for part in self.parts)
        return SourceTensor(self.name, self.label, self.shape, codes.file, codes.offset, size)


@dataclass(frozen=True)
class Mxfp4(Packed):
    """Codes (..., rows, groups, 16), two numbers a byte, the first in the low half; scales (..., rows, groups): powers
    of two, their exponents plus 127."""

    dtype: ClassVar[str] = "MXFP4"

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Packed`."""
        return (*self.codes.shape[:-2], self.codes.shape[-2] * MX_GROUP)

    def rows(self, read: ReadBytes, start: int, out: NDArray[np.float32]) -> None:
        """See `Packed`."""
        groups = self.codes.shape[-2]
        codes, scales = np.empty((len(out), groups, 16), np.uint8), np.empty((len(out), groups), np.uint8)
        read(self.codes, start * groups * 16, codes.reshape(-1))
        read(self.scales, start * groups, scales.reshape(-1))
        if (scales == 255).any():
            raise ConvertError(
                "a scale that is not a number", path=self.scales.file, where=f"tensor {self.scales.name}"
            )
        numbers = np.stack([FP4[codes & 15], FP4[codes >> 4]], axis=-1).reshape(len(out), groups, MX_GROUP)
        np.ldexp(numbers, scales[..., None].astype(np.int32) - 127, out=out.reshape(numbers.shape))


@dataclass(frozen=True)
class Bits2(Packed):
    """Ternary codes of BitNet, (rows / 4, columns): the four pairs of bits of a byte are -1, 0 or 1, plus 1, of rows a
    quarter of all apart; one scale for all, which numbers are multiplied with or divided by.

    Args:
        divides: Whether they are divided.
        scale: That number.
    """

    dtype: ClassVar[str] = "TERNARY"
    divides: bool = False
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Packed`."""
        return (4 * self.codes.shape[0], self.codes.shape[1])

    def rows(self, read: ReadBytes, start: int, out: NDArray[np.float32]) -> None:
        """See `Packed`."""
        quarter, columns = self.codes.shape
        factor = np.float32(1 / self.scale) if self.divides else np.float32(self.scale)
        done = 0
        while done < len(out):
            part, first = divmod(start + done, quarter)
            count = min(quarter - first, len(out) - done)
            codes = np.empty((count, columns), np.uint8)
            read(self.codes, first * columns, codes.reshape(-1))
            found = codes >> np.uint8(2 * part) & np.uint8(3)
            if (found == 3).any():
                raise ConvertError("a code of 3", path=self.codes.file, where=f"tensor {self.codes.name}")
            out[done : done + count] = (found.astype(np.float32) - 1) * factor
            done += count


def mxfp4(tensors: Mapping[str, SourceTensor]) -> Any:
    for name, codes in tensors.items():
        scales = tensors.get(name.removesuffix("_blocks") + "_scales")
        if not name.endswith("_blocks") or scales is None:
            continue
        if codes.dtype != "U8" or scales.dtype != "U8" or codes.shape[:-1] != scales.shape or codes.shape[-1:] != (16,):
            raise misfit(codes, scales)
        yield Mxfp4(codes, scales)


def ternary(tensors: Mapping[str, SourceTensor], said: Mapping[str, Any], read: ReadBytes) -> Any:
    from ggq.quant.floats import STORAGE, to_float32

    kinds = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
    for name, codes in tensors.items():
        scales = tensors.get(f"{name}_scale")
        if not name.endswith(".weight") or scales is None:
            continue
        if codes.dtype != "U8" or len(codes.shape) != 2 or prod(scales.shape) != 1 or scales.dtype not in kinds:
            raise misfit(codes, scales)
        kind, memory = kinds[scales.dtype], np.empty(scales.bytes, np.uint8)
        read(scales, 0, memory)
        scale = float(to_float32(memory.view(STORAGE[kind]), kind)[0])
        if not np.isfinite(scale) or scale == 0:
            raise ConvertError(f"a scale of {scale}", path=scales.file, where=f"tensor {scales.name}")
        yield Bits2(codes, scales, said.get("linear_class", "bitlinear") == "bitlinear", scale)


def check_types(packed: Packed) -> None:
    """Refuse parts of types that `rows` would take for something else."""
    for part, kinds in packed.types():
        if part is not None and part.dtype not in kinds:
            raise misfit(packed.codes, part)


def misfit(codes: SourceTensor, scales: SourceTensor) -> ConvertError:
    """Parts of a matrix whose types or shapes contradict each other."""
    found = f"{codes.dtype} {list(codes.shape)} and {scales.dtype} {list(scales.shape)} of {scales.name} found"
    return ConvertError(f"{found}, which do not fit each other", path=codes.file, where=f"tensor {codes.name}")
