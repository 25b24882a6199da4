"""Matrices of floats of few bits: of eight with scales, NVFP4, MXFP4 in rows, bitsandbytes' four, MLX's; and f64."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ggq.convert.source.packed.packed import FP4, Packed, misfit
from ggq.convert.source.packed.parts import FLOATS8, REAL, ReadBytes, floats, stored, unpack
from ggq.convert.source.safetensors_header import SourceTensor
from ggq.errors import ConvertError

Tensors = Mapping[str, SourceTensor]

LARGEST_RECORD = 1 << 16
"""Bytes of the JSON object beside a matrix of bitsandbytes."""

NV_GROUP, MX_GROUP = 16, 32
"""Numbers that share a scale in NVFP4 and in MXFP4."""


@dataclass(frozen=True)
class _Floats(Packed):
    """Codes that are floats themselves, one a number."""

    @property
    def label(self) -> str:
        """See `Packed`."""
        return self.codes.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Packed`."""
        return self.codes.shape


@dataclass(frozen=True)
class Wide(_Floats):
    """f64 as it is, or a float of eight bits without scales; `scales` is the tensor itself."""

    dtype: ClassVar[str] = "WIDE"

    @property
    def parts(self) -> tuple[SourceTensor, ...]:
        """See `Packed`."""
        return (self.codes,)

    def rows(self, read: ReadBytes, start: int, out: NDArray[np.float32]) -> None:
        """See `Packed`."""
        out[...] = _flat_rows(read, self.codes, start, len(out))


@dataclass(frozen=True)
class Float8(_Floats):
    """Floats of eight bits (rows, columns) times scales: one, one a row, one a group of columns, or one a block.

    Args:
        block: Rows and columns of a block.
        extra: Tensors that are not read: scales of inputs.
    """

    dtype: ClassVar[str] = "F8"
    block: tuple[int, int] = (1, 1)
    extra: tuple[SourceTensor, ...] = ()

    @property
    def parts(self) -> tuple[SourceTensor, ...]:
        """See `Packed`."""
        return (self.codes, self.scales, *self.extra)

    def types(self) -> tuple[tuple[SourceTensor | None, tuple[str, ...]], ...]:
        """See `Packed`."""
        return ((self.scales, (*REAL, *FLOATS8)),)

    def rows(self, read: ReadBytes, start: int, out: NDArray[np.float32]) -> None:
        """See `Packed`."""
        scales = floats(read, self.scales)
        scales = scales.reshape(1, 1) if scales.size == 1 else scales.reshape(len(scales), -1)
        high, wide = self.block
        row = np.minimum(np.arange(start, start + len(out)) // high, len(scales) - 1)
        column = np.minimum(np.arange(out.shape[1]) // wide, scales.shape[1] - 1)
        np.multiply(floats(read, self.codes, start, start + len(out)), scales[row][:, column], out=out)


@dataclass(frozen=True)
class Float4(Packed):
    """Floats of four bits (rows, columns / 2), the first of two in the low half, times a scale of each group.

    Args:
        name: Of the matrix.
        group: Numbers that share a scale.
        outer: A scale of all, if any.
        divides: Whether scales are divided by it.
        extra: Tensors that are not read.
    """

    dtype: ClassVar[str] = "F4"
    name: str = ""
    group: int = NV_GROUP
    outer: SourceTensor | None = None
    divides: bool = False
    extra: tuple[SourceTensor, ...] = ()

    @property
    def label(self) -> str:
        """See `Packed`."""
        return "NVFP4" if self.group == NV_GROUP else "F4-G32"

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Packed`."""
        return (self.codes.shape[0], self.codes.shape[1] * 2)

    @property
    def parts(self) -> tuple[SourceTensor, ...]:
        """See `Packed`."""
        return (self.codes, self.scales, *(() if self.outer is None else (self.outer,)), *self.extra)

    def types(self) -> tuple[tuple[SourceTensor | None, tuple[str, ...]], ...]:
        """See `Packed`."""
        return ((self.codes, ("U8",)), (self.scales, ("U8", *REAL, *FLOATS8)), (self.outer, REAL))

    def rows(self, read: ReadBytes, start: int, out: NDArray[np.float32]) -> None:
        """See `Packed`."""
        stop = start + len(out)
        codes = stored(read, self.codes, start, stop)
        scales = floats(read, _as_e8m0(self.scales), start, stop)
        if self.outer is not None:
            outer = floats(read, self.outer).reshape(-1)[0]
            scales = scales / outer if self.divides else scales * outer
        if not np.isfinite(scales).all():
            raise ConvertError(
                "a scale that is not a number", path=self.scales.file, where=f"tensor {self.scales.name}"
            )
        numbers = np.stack([FP4[codes & 15], FP4[codes >> 4]], axis=-1).reshape(len(out), -1, self.group)
        np.multiply(numbers, scales[:, :, None], out=out.reshape(numbers.shape))


@dataclass(frozen=True)
class Table4(Packed):
    """bitsandbytes' four bits: places in a table of 16 floats, the first of two in the high half, times the largest
    magnitude of each block of the numbers one row after the other; these may be places in a table themselves.

    Args:
        name: Of the matrix.
        size: Its dimensions.
        block: Numbers that share a magnitude.
        levels: The table.
        inner: Of magnitudes that are places in a table: that, magnitudes of theirs, their block and what is added.
        extra: Tensors that are not read.
    """

    dtype: ClassVar[str] = "TABLE4"
    name: str = ""
    size: tuple[int, int] = (0, 0)
    block: int = 64
    levels: SourceTensor | None = None
    inner: tuple[SourceTensor, SourceTensor, int, float] | None = None
    extra: tuple[SourceTensor, ...] = ()

    @property
    def label(self) -> str:
        """See `Packed`."""
        return "BNB4"

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Packed`."""
        return self.size

    @property
    def parts(self) -> tuple[SourceTensor, ...]:
        """See `Packed`."""
        inner = () if self.inner is None else self.inner[:2]
        return (self.codes, self.scales, *(() if self.levels is None else (self.levels,)), *inner, *self.extra)

    def types(self) -> tuple[tuple[SourceTensor | None, tuple[str, ...]], ...]:
        """See `Packed`."""
        inner = () if self.inner is None else self.inner[:2]
        scales = REAL if self.inner is None else ("U8",)
        return ((self.codes, ("U8",)), (self.scales, scales), (self.levels, REAL), *((part, REAL) for part in inner))

    def rows(self, read: ReadBytes, start: int, out: NDArray[np.float32]) -> None:
        """See `Packed`."""
        first, stop = start * self.size[1], (start + len(out)) * self.size[1]
        assert self.levels is not None
        packed = stored(read, self.codes).reshape(-1)[first // 2 : -(-stop // 2)]
        codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)[first % 2 :][: stop - first]
        table = floats(read, self.levels).reshape(-1)
        out[...] = (table[codes] * self._magnitudes(read)[np.arange(first, stop) // self.block]).reshape(out.shape)

    def _magnitudes(self, read: ReadBytes) -> NDArray[np.float32]:
        if self.inner is None:
            return floats(read, self.scales).reshape(-1)
        table, upper, block, offset = self.inner
        places = stored(read, self.scales).reshape(-1)
        scales = floats(read, upper).reshape(-1)[np.arange(len(places)) // block]
        return np.asarray(floats(read, table).reshape(-1)[places] * scales + np.float32(offset), np.float32)


@dataclass(frozen=True)
class Affine(Packed):
    """MLX's: whole numbers times a scale, plus a bias, of each group of columns.

    Args:
        biases: What is added.
        bits: Of a code.
        columns: Of the matrix.
    """

    dtype: ClassVar[str] = "AFFINE"
    biases: SourceTensor | None = None
    bits: int = 4
    columns: int = 0

    @property
    def label(self) -> str:
        """See `Packed`."""
        return f"MLX{self.bits}"

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Packed`."""
        return (self.codes.shape[0], self.columns)

    @property
    def parts(self) -> tuple[SourceTensor, ...]:
        """See `Packed`."""
        return (self.codes, self.scales, *(() if self.biases is None else (self.biases,)))

    def types(self) -> tuple[tuple[SourceTensor | None, tuple[str, ...]], ...]:
        """See `Packed`."""
        return ((self.codes, ("U32",)), (self.scales, REAL), (self.biases, REAL))

    def rows(self, read: ReadBytes, start: int, out: NDArray[np.float32]) -> None:
        """See `Packed`."""
        stop = start + len(out)
        assert self.biases is not None
        codes = unpack(stored(read, self.codes, start, stop), self.bits, self.columns).astype(np.float32)
        scales, biases = (floats(read, part, start, stop)[:, :, None] for part in (self.scales, self.biases))
        groups = codes.reshape(len(out), scales.shape[1], -1)
        out[...] = (groups * scales + biases).reshape(out.shape)


def _flat_rows(read: ReadBytes, tensor: SourceTensor, start: int, count: int) -> NDArray[np.float32]:
    """Rows of a tensor, every dimension but the last counted as rows."""
    columns = tensor.shape[-1]
    flat = SourceTensor(tensor.name, tensor.dtype, (prod(tensor.shape) // columns, columns), *_place(tensor))
    return floats(read, flat, start, start + count)


def _place(tensor: SourceTensor) -> tuple[Any, int, int]:
    return tensor.file, tensor.offset, tensor.bytes


def _as_e8m0(tensor: SourceTensor) -> SourceTensor:
    """Exponents that are stored as bytes."""
    if tensor.dtype != "U8":
        return tensor
    return SourceTensor(tensor.name, "F8_E8M0", tensor.shape, *_place(tensor))


def float8(tensors: Tensors, said: Mapping[str, Any], read: ReadBytes) -> Iterator[Packed]:
    """Matrices of floats of eight bits, with scales beside them.

    Raises:
        ConvertError: Scales that do not fit.
    """
    wanted = said.get("weight_block_size")
    for name, codes in tensors.items():
        if codes.dtype not in FLOATS8 or not name.endswith(".weight") or len(codes.shape) != 2:
            continue
        ends = ("_scale_inv", "_scale")
        scales = next((tensors[name + end] for end in ends if name + end in tensors), None)
        if scales is None:
            continue
        count, (rows, columns) = prod(scales.shape), codes.shape
        if count == 1:
            block = (rows, columns)
        elif scales.shape in ((rows,), (rows, 1)):
            block = (1, columns)
        elif isinstance(wanted, list) and len(wanted) == 2 and all(type(n) is int and n > 0 for n in wanted):
            block = (wanted[0], wanted[1])
            if scales.shape != (-(-rows // block[0]), -(-columns // block[1])):
                raise misfit(codes, scales)
        elif len(scales.shape) == 2 and scales.shape[0] == rows and columns % scales.shape[1] == 0:
            block = (1, columns // scales.shape[1])
        else:
            raise misfit(codes, scales)
        base = name.removesuffix("weight")
        extra = tuple(tensors[base + end] for end in ("input_scale", "activation_scale") if base + end in tensors)
        yield Float8(codes, scales, block, extra)


def float4(tensors: Tensors, said: Mapping[str, Any], read: ReadBytes) -> Iterator[Packed]:
    """NVFP4 and MXFP4 of compressed-tensors, and NVFP4 of ModelOpt."""
    for name, codes in tensors.items():
        base = name.removesuffix(".weight_packed").removesuffix(".weight")
        scales = tensors.get(f"{base}.weight_scale")
        if base == name or codes.dtype != "U8" or scales is None or len(codes.shape) != 2 or len(scales.shape) != 2:
            continue
        group = NV_GROUP if scales.dtype == "F8_E4M3" else MX_GROUP
        if scales.shape != (codes.shape[0], codes.shape[1] * 2 // group) or scales.dtype not in (
            "F8_E4M3",
            "U8",
            "F8_E8M0",
        ):
            raise misfit(codes, scales)
        divided = tensors.get(f"{base}.weight_global_scale")
        outer = divided or tensors.get(f"{base}.weight_scale_2")
        if (outer is None) == (group == NV_GROUP):
            raise misfit(codes, scales)
        ends = ("input_scale", "input_global_scale")
        extra = tuple(tensors[f"{base}.{end}"] for end in ends if f"{base}.{end}" in tensors)
        yield Float4(codes, scales, f"{base}.weight", group, outer, divided is not None, extra)


def table4(tensors: Tensors, said: Mapping[str, Any], read: ReadBytes) -> Iterator[Packed]:
    """bitsandbytes' NF4 and FP4.

    Raises:
        ConvertError: The record beside a matrix does not fit it.
    """
    for name, codes in tensors.items():
        kinds = [kind for kind in ("nf4", "fp4") if f"{name}.quant_state.bitsandbytes__{kind}" in tensors]
        if not kinds:
            continue
        state = tensors[f"{name}.quant_state.bitsandbytes__{kinds[0]}"]
        if state.dtype != "U8" or state.bytes > LARGEST_RECORD:
            raise misfit(codes, state)
        record = json.loads(stored(read, state).tobytes())
        scales, levels = tensors.get(f"{name}.absmax"), tensors.get(f"{name}.quant_map")
        shape, block = record.get("shape"), record.get("blocksize")
        good = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)
        if not good or type(block) is not int or block < 1 or scales is None or levels is None:
            raise misfit(codes, scales or codes)
        count = shape[0] * shape[1]
        if prod(codes.shape) != -(-count // 2) or prod(scales.shape) != -(-count // block) or levels.shape != (16,):
            raise misfit(codes, scales)
        table, upper, inner = tensors.get(f"{name}.nested_quant_map"), tensors.get(f"{name}.nested_absmax"), None
        if table is not None and upper is not None:
            size, offset = record.get("nested_blocksize"), record.get("nested_offset")
            if type(size) is not int or size < 1 or not isinstance(offset, float) or table.shape != (256,):
                raise misfit(codes, upper)
            if prod(upper.shape) != -(-prod(scales.shape) // size):
                raise misfit(codes, upper)
            inner = (table, upper, size, offset)
        yield Table4(codes, scales, name, (shape[0], shape[1]), block, levels, inner, (state,))


def affine(tensors: Tensors, said: Mapping[str, Any], read: ReadBytes) -> Iterator[Packed]:
    """MLX's matrices; `said` is config.json's "quantization".

    Raises:
        ConvertError: Parts that do not fit each other.
    """
    for name, codes in tensors.items():
        base = name.removesuffix(".weight")
        scales, biases = tensors.get(f"{base}.scales"), tensors.get(f"{base}.biases")
        if base == name or codes.dtype != "U32" or scales is None or biases is None:
            continue
        own = said.get(base)
        settings = {**said, **(own if isinstance(own, Mapping) else {})}
        group, bits = settings.get("group_size"), settings.get("bits")
        if type(group) is not int or bits not in (2, 3, 4, 5, 6, 8) or len(codes.shape) != 2:
            raise misfit(codes, scales)
        columns = scales.shape[-1] * group
        if scales.shape != biases.shape or codes.shape != (scales.shape[0], columns * bits // 32):
            raise misfit(codes, scales)
        yield Affine(codes, scales, biases, bits, columns)


def wide(tensors: Tensors, taken: set[str]) -> Iterator[Packed]:
    """Tensors of f64, and of eight bits without scales, that are no part of another."""
    for name, tensor in tensors.items():
        if name not in taken and tensor.shape and tensor.bytes and tensor.dtype in ("F64", "F8_E4M3", "F8_E5M2"):
            yield Wide(tensor, tensor)
