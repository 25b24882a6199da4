"""The tile layout: how codes, scales, zero-points and floats of a matrix lie in its segments (spec/schemes.md, S5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ConvertError, FormatError
from ggq.format.scheme import TILE_ROWS, Geometry, Scheme, round_up
from ggq.format.scheme_names import scheme_name
from ggq.quant.floats import STORAGE
from ggq.quant.matrix import QuantizedMatrix, geometry, middle

Segments = dict[str, NDArray[np.uint8]]

QUAD_BYTES = 4
"""Bytes of one row in one unit; they are handled as one uint32, since no operation below carries from byte to byte."""


@dataclass(frozen=True, eq=False)
class MatrixView:
    """One quantized matrix inside its segments; writing to these arrays writes to the segments.

    Args:
        planes: uint32 (tiles, units, 16) each, low bits first.
        scales: float16 (tiles, groups, 16).
        zeros: uint8 (tiles, groups, 16), or None.
    """

    planes: tuple[NDArray[np.uint32], ...]
    scales: NDArray[np.float16]
    zeros: NDArray[np.uint8] | None


def view_matrix(scheme: Scheme, sizes: Geometry, segments: Mapping[str, NDArray[np.uint8]], index: int) -> MatrixView:
    """Matrix number `index` of a tensor whose segments have the lengths of `sizes`."""
    tiles = sizes.padded_rows // TILE_ROWS
    part = {role: whole.reshape(sizes.count, -1)[index] for role, whole in segments.items()}
    planes, start = [], 0
    for width in scheme.planes:
        end = start + sizes.padded_rows * sizes.padded_columns * width // 8
        planes.append(part["codes"][start:end].view(np.uint32).reshape(tiles, -1, TILE_ROWS))
        start = end
    scales = part["scales"].view(STORAGE[scheme.scale]).reshape(tiles, sizes.groups, TILE_ROWS)
    zeros = part["zeros"].reshape(tiles, sizes.groups, TILE_ROWS) if "zeros" in part else None
    return MatrixView(tuple(planes), scales, zeros)


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
        ConvertError: A scale is too large for f16.
    """
    scheme = matrix.scheme
    if not np.isfinite(matrix.scales).all():
        row, group = (int(i) for i in np.argwhere(~np.isfinite(matrix.scales))[0])
        raise ConvertError(
            f"the scale of row {first_tile * TILE_ROWS + row}, group {group} is too large for f16, which ends at 65504",
            fix="keep this tensor in f32 or bf16",
        )
    codes = pad_rows(matrix.codes, middle(scheme) if matrix.zeros is None else 0)
    tiles = slice(first_tile, first_tile + len(codes) // TILE_ROWS)
    pack_codes(codes, scheme.planes, tuple(plane[tiles] for plane in view.planes))
    view.scales[tiles] = _interleave(pad_rows(matrix.scales, 0))
    if matrix.zeros is not None and view.zeros is not None:
        view.zeros[tiles] = _interleave(pad_rows(matrix.zeros, 0))


def unpack_rows(
    scheme: Scheme, view: MatrixView, shape: tuple[int, int], first_tile: int, tiles: int
) -> QuantizedMatrix:
    """`tiles` tiles of a matrix of this shape, from `first_tile` on, without their padding rows."""
    rows, columns = min(tiles * TILE_ROWS, shape[0] - first_tile * TILE_ROWS), shape[1]
    part = slice(first_tile, first_tile + tiles)
    codes = unpack_codes(tuple(plane[part] for plane in view.planes), scheme.planes)[:rows]
    zeros = None if view.zeros is None else _rows(view.zeros[part])[:rows]
    return QuantizedMatrix(scheme, (rows, columns), codes, _rows(view.scales[part])[:rows], zeros)


def pack(matrix: QuantizedMatrix) -> Segments:
    """The segments of one quantized matrix.

    Returns:
        uint8 (length,) by role: "codes", "scales" and, with zero-points, "zeros".

    Raises:
        ConvertError: A scale is too large for f16.

    Source: spec/schemes.md, S5.
    """
    sizes = geometry(matrix.scheme, matrix.shape)
    segments = empty_segments(sizes)
    pack_rows(matrix, view_matrix(matrix.scheme, sizes, segments, 0))
    return segments


def unpack(scheme: Scheme, shape: tuple[int, int], segments: Mapping[str, Any]) -> QuantizedMatrix:
    """The quantized matrix that lies in segments; `pack` gives them back.

    Args:
        scheme: A uniform scheme.
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
