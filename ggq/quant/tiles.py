"""The tile layout: how codes, scales and floats of a matrix lie in its segments (spec/schemes.md, S5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ConvertError, FormatError
from ggq.format.scheme import TILE_ROWS, Geometry, Scheme, round_up
from ggq.format.scheme_names import scheme_name
from ggq.quant.floats import STORAGE
from ggq.quant.matrix import QuantizedMatrix, geometry, padding_code

Segments = dict[str, NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class MatrixView:
    """One quantized matrix inside its segments; writing to these arrays writes to the segments.

    Args:
        planes: uint32 (tiles, units, 16) each, low bits first.
        scales: float16 (tiles, groups, 16); with two levels (tiles, super-groups, 16).
        zeros: uint8 (tiles, groups, 16), or None.
        subscales: uint8 (tiles, blocks, 16) each plane, low bits first; none where scales have one level.
        minimums: Like the scales, or None.
        subminimums: Like the sub-scales.
        codebook: int8 (2**bits,) of the whole tensor, or None.
        input_scale: float32 (padded columns,), or None.
        input_order: uint32 (padded columns,), or None.
    """

    planes: tuple[NDArray[np.uint32], ...]
    scales: NDArray[np.float16]
    zeros: NDArray[np.uint8] | None = None
    subscales: tuple[NDArray[np.uint8], ...] = ()
    minimums: NDArray[np.float16] | None = None
    subminimums: tuple[NDArray[np.uint8], ...] = ()
    codebook: NDArray[np.int8] | None = None
    input_scale: NDArray[np.float32] | None = None
    input_order: NDArray[np.uint32] | None = None

    @property
    def tiled(self) -> list[NDArray[Any]]:
        """The arrays whose first dimension counts tiles, in an order that depends on the scheme only."""
        arrays = (*self.planes, self.scales, self.zeros, *self.subscales, self.minimums, *self.subminimums)
        return [array for array in arrays if array is not None]

    @property
    def shared(self) -> list[NDArray[Any]]:
        """The arrays that all rows have in common, in an order that depends on the scheme only."""
        return [array for array in (self.codebook, self.input_scale, self.input_order) if array is not None]


def view_matrix(scheme: Scheme, sizes: Geometry, segments: Mapping[str, NDArray[np.uint8]], index: int) -> MatrixView:
    """Matrix number `index` of a tensor whose segments have the lengths of `sizes`."""
    part = {role: whole.reshape(sizes.count, -1)[index] for role, whole in segments.items() if role != "codebook"}
    uppers, count = sizes.supers if scheme.subscale else sizes.groups, sizes.padded_rows // TILE_ROWS
    code_bytes = [sizes.padded_rows * sizes.padded_columns * width // 8 for width in scheme.planes]
    lower_bytes = [sizes.padded_rows * -(-sizes.groups * width // 8) for width in scheme.subscale_planes]

    def tiles(role: str, dtype: Any, columns: int) -> Any:
        return part[role].view(dtype).reshape(-1, columns, TILE_ROWS) if role in part else None

    def vector(role: str, dtype: str) -> Any:
        return part[role].view(dtype) if role in part else None

    return MatrixView(
        _split_planes(part["codes"], code_bytes, np.dtype(np.uint32), count),
        tiles("scales", STORAGE[scheme.scale], uppers),
        tiles("zeros", np.uint8, sizes.groups),
        _split_planes(part["subscales"], lower_bytes, np.dtype(np.uint8), count) if "subscales" in part else (),
        tiles("minimums", STORAGE[scheme.scale], uppers),
        _split_planes(part["subminimums"], lower_bytes, np.dtype(np.uint8), count) if "subminimums" in part else (),
        segments["codebook"].view(np.int8) if "codebook" in segments else None,
        vector("input_scale", "<f4"),
        vector("input_order", "<u4"),
    )


def _split_planes(
    raw: NDArray[np.uint8], lengths: Iterable[int], dtype: np.dtype[Any], tiles: int
) -> tuple[NDArray[Any], ...]:
    """Planes of these lengths in bytes, one behind the other, as (tiles, anything, 16)."""
    planes, start = [], 0
    for length in lengths:
        planes.append(raw[start : start + length].view(dtype).reshape(tiles, -1, TILE_ROWS))
        start += length
    return tuple(planes)


def view_floats(scheme: Scheme, sizes: Geometry, segments: Mapping[str, NDArray[np.uint8]]) -> NDArray[Any]:
    """The values of float matrices, (matrices, tiles, columns, 16), of type `STORAGE[scheme.value]`."""
    values = segments["values"].view(STORAGE[scheme.value])
    return values.reshape(sizes.count, sizes.padded_rows // TILE_ROWS, sizes.columns, TILE_ROWS)


def empty_segments(sizes: Geometry) -> Segments:
    """Segments of the right lengths, to be filled."""
    return {role: np.empty(length, np.uint8) for role, length in sizes.lengths.items()}


def as_segments(
    scheme: Scheme, shape: tuple[int, ...], segments: Mapping[str, Any], where: str | None = None
) -> tuple[Geometry, Segments]:
    """Segments as flat uint8 arrays of the right lengths, and the sizes of the tensor.

    Args:
        scheme: Of the tensor.
        shape: Of the tensor.
        segments: Bytes-like by role.
        where: The tensor's name, for the error.

    Raises:
        FormatError: A segment is missing, is one too many, or has the wrong length.
    """
    sizes = geometry(scheme, shape)
    if segments.keys() != sizes.lengths.keys():
        raise FormatError(
            f"segments {', '.join(sorted(segments)) or 'none'} found; "
            f"{scheme_name(scheme)} has {', '.join(sizes.lengths)}",
            where=where,
        )
    flat = {role: np.frombuffer(segments[role], np.uint8) for role in sizes.lengths}
    for role, length in sizes.lengths.items():
        if flat[role].size != length:
            raise FormatError(
                f"segment {role} has {flat[role].size} bytes; "
                f"{scheme_name(scheme)} of shape {list(shape)} takes {length}",
                where=where,
            )
    return sizes, flat


def pack_codes(codes: NDArray[np.uint8], widths: tuple[int, ...], planes: tuple[NDArray[np.uint32], ...]) -> None:
    """Lay out codes, uint8 (rows, columns) padded to tiles and units, in planes (tiles, units, 16) of these widths."""
    quads = np.ascontiguousarray(codes).view(np.uint32).reshape(len(codes) // TILE_ROWS, TILE_ROWS, -1)
    low = 0
    for width, plane in zip(widths, planes, strict=True):
        mask = np.uint32(0x01010101 * (2**width - 1))
        runs = 8 // width
        total = np.zeros((len(quads), TILE_ROWS, plane.shape[1]), np.uint32)
        for run in range(runs):
            total |= ((quads[:, :, run::runs] >> np.uint32(low)) & mask) << np.uint32(run * width)
        plane[...] = total.transpose(0, 2, 1)
        low += width


def unpack_codes(planes: tuple[NDArray[np.uint32], ...], widths: tuple[int, ...]) -> NDArray[np.uint8]:
    """The codes, uint8 (rows, columns) padded, that lie in planes (tiles, units, 16) of these widths."""
    tiles, units, _ = planes[0].shape
    quads = np.zeros((tiles, TILE_ROWS, units * (8 // widths[0])), np.uint32)
    low = 0
    for width, plane in zip(widths, planes, strict=True):
        mask = np.uint32(0x01010101 * (2**width - 1))
        runs = 8 // width
        rows = np.ascontiguousarray(plane.transpose(0, 2, 1))
        for run in range(runs):
            quads[:, :, run::runs] |= ((rows >> np.uint32(run * width)) & mask) << np.uint32(low)
        low += width
    return quads.view(np.uint8).reshape(tiles * TILE_ROWS, -1)


def pack_subscales(codes: NDArray[np.uint8], widths: tuple[int, ...], planes: tuple[NDArray[np.uint8], ...]) -> None:
    """Lay out sub-scales, uint8 (rows, groups) of whole tiles, in planes (tiles, blocks, 16) of these widths.

    A block of a plane of width b has a byte a row, whose bits [q*b, (q+1)*b) are those of group 8 / b * block + q.
    """
    low = 0
    for width, plane in zip(widths, planes, strict=True):
        fields = 8 // width
        groups = np.zeros((len(codes), plane.shape[1] * fields), np.uint8)
        groups[:, : codes.shape[1]] = codes >> low & (2**width - 1)
        shifts = np.arange(fields, dtype=np.uint8) * width
        blocks = np.bitwise_or.reduce(groups.reshape(len(codes), -1, fields) << shifts, axis=2)
        plane[...] = _interleave(blocks)
        low += width


def unpack_subscales(planes: tuple[NDArray[np.uint8], ...], widths: tuple[int, ...], groups: int) -> NDArray[np.uint8]:
    """The sub-scales, uint8 (rows, groups), that lie in planes (tiles, blocks, 16) of these widths."""
    codes = np.zeros((planes[0].shape[0] * TILE_ROWS, groups), np.uint8)
    low = 0
    for width, plane in zip(widths, planes, strict=True):
        shifts = np.arange(8 // width, dtype=np.uint8) * width
        fields = _rows(plane)[:, :, None] >> shifts & (2**width - 1)
        codes |= fields.reshape(len(codes), -1)[:, :groups] << low
        low += width
    return codes


def pad_rows(matrix: NDArray[Any], fill: int) -> NDArray[Any]:
    """A matrix with rows of `fill` below it, up to a whole tile."""
    rows, columns = matrix.shape
    if rows % TILE_ROWS == 0:
        return matrix
    padded = np.full((round_up(rows, TILE_ROWS), columns), fill, matrix.dtype)
    padded[:rows] = matrix
    return padded


def pack_rows(matrix: QuantizedMatrix, view: MatrixView, first_tile: int = 0) -> None:
    """Write rows of a matrix into its segments, from a tile on; a last tile that is not full is padded with zeros.

    Raises:
        ConvertError: A scale or a minimum is too large for f16.
    """
    scheme = matrix.scheme
    for what, numbers in (("scale", matrix.scales), ("minimum", matrix.minimums)):
        if numbers is not None and not np.isfinite(numbers).all():
            row, group = (int(i) for i in np.argwhere(~np.isfinite(numbers))[0])
            raise ConvertError(
                f"the {what} of row {first_tile * TILE_ROWS + row}, {'super-' if scheme.subscale else ''}group {group} "
                "is too large for f16, which ends at 65504",
                fix="keep this tensor in f32 or bf16",
            )
    codes = pad_rows(matrix.codes, padding_code(scheme))
    tiles = slice(first_tile, first_tile + len(codes) // TILE_ROWS)
    pack_codes(codes, scheme.planes, tuple(plane[tiles] for plane in view.planes))
    uppers = (matrix.scales, view.scales), (matrix.zeros, view.zeros), (matrix.minimums, view.minimums)
    for upper, target in uppers:
        if upper is not None and target is not None:
            target[tiles] = _interleave(pad_rows(upper, 0))
    for lower, planes in ((matrix.subscales, view.subscales), (matrix.subminimums, view.subminimums)):
        if lower is not None:
            pack_subscales(pad_rows(lower, 0), scheme.subscale_planes, tuple(plane[tiles] for plane in planes))
    shared = (matrix.codebook, matrix.input_scale, matrix.input_order)
    for place, whole in zip(view.shared, (each for each in shared if each is not None), strict=True):
        place[...] = whole


def unpack_rows(
    scheme: Scheme, view: MatrixView, shape: tuple[int, int], first_tile: int, tiles: int
) -> QuantizedMatrix:
    """`tiles` tiles of a matrix of this shape, from `first_tile` on, without their padding rows."""
    rows, columns = min(tiles * TILE_ROWS, shape[0] - first_tile * TILE_ROWS), shape[1]
    part = slice(first_tile, first_tile + tiles)

    def some(array: NDArray[Any] | None) -> Any:
        return None if array is None else _rows(array[part])[:rows]

    def lower(planes: tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8] | None:
        if not planes:
            return None
        groups = geometry(scheme, shape).groups
        return unpack_subscales(tuple(plane[part] for plane in planes), scheme.subscale_planes, groups)[:rows]

    return QuantizedMatrix(
        scheme,
        (rows, columns),
        unpack_codes(tuple(plane[part] for plane in view.planes), scheme.planes)[:rows],
        some(view.scales),
        some(view.zeros),
        lower(view.subscales),
        some(view.minimums),
        lower(view.subminimums),
        view.codebook,
        view.input_scale,
        view.input_order,
    )


def pack(matrix: QuantizedMatrix) -> Segments:
    """The segments of one quantized matrix.

    Returns:
        uint8 (length,) by role, as `Scheme.roles` has them.

    Raises:
        ConvertError: A scale or a minimum is too large for f16.

    Source: spec/schemes.md, S5.
    """
    sizes = geometry(matrix.scheme, matrix.shape)
    segments = empty_segments(sizes)
    pack_rows(matrix, view_matrix(matrix.scheme, sizes, segments, 0))
    return segments


def unpack(scheme: Scheme, shape: tuple[int, int], segments: Mapping[str, Any]) -> QuantizedMatrix:
    """The quantized matrix that lies in segments; `pack` gives them back.

    Args:
        scheme: A scheme of codes.
        shape: Rows and columns.
        segments: Bytes-like by role.

    Raises:
        FormatError: A segment is missing or has the wrong length.

    Source: spec/schemes.md, S5.
    """
    sizes, flat = as_segments(scheme, shape, segments)
    view = view_matrix(scheme, sizes, flat, 0)
    return unpack_rows(scheme, view, shape, 0, sizes.padded_rows // TILE_ROWS)


def _interleave(rows: NDArray[Any]) -> NDArray[Any]:
    """(rows, columns) as (tiles, columns, 16)."""
    return rows.reshape(-1, TILE_ROWS, rows.shape[1]).transpose(0, 2, 1)


def _rows(tiles: NDArray[Any]) -> NDArray[Any]:
    """(tiles, columns, 16) as (rows, columns)."""
    return np.ascontiguousarray(tiles.transpose(0, 2, 1)).reshape(-1, tiles.shape[1])
