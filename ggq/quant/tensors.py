"""Whole tensors to segments and back, by blocks of rows so that memory stays small whatever the tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ConvertError
from ggq.format.scheme import TILE_ROWS, Geometry, Scheme
from ggq.quant.floats import STORAGE, finite, from_float32, refuse_not_finite, source_type, to_float32
from ggq.quant.matrix import geometry
from ggq.quant.methods import Method, choose_method
from ggq.quant.reference import decode
from ggq.quant.tiles import (
    Segments,
    as_segments,
    empty_segments,
    pack_rows,
    pad_rows,
    unpack_rows,
    view_floats,
    view_matrix,
)

BLOCK_WEIGHTS = 1 << 18
"""Weights of a block, about: 1 MiB of float32, which the second-level cache of a core holds."""


def encode_tensor(
    weights: NDArray[Any], scheme: Scheme, method: str | None = None, *, where: str | None = None
) -> Segments:
    """The segments of a tensor under a scheme.

    Args:
        weights: float32, float16 or uint16 (the bits of bf16); one dimension (float schemes only), two, or more (matrices
            stored one after the other).
        scheme: One with a name (`parse_scheme`).
        method: A name of METHODS; None for the scheme's default. Float schemes take none and ignore it.
        where: The tensor's name, for errors.

    Returns:
        uint8 (length,) by role; memory beyond them is a few blocks of BLOCK_WEIGHTS weights, or of 16 rows if those are more.

    Raises:
        ConvertError: Weights that are NaN, infinite or too large for the scheme; a method that is unknown or cannot fill it.
        UnsupportedError: A type or a shape that the scheme cannot hold.

    Source: spec/schemes.md, S3 to S8.
    """
    sizes = geometry(scheme, weights.shape)
    chosen = None if scheme.kind == "float" else choose_method(scheme, method)
    segments = empty_segments(sizes)
    try:
        if weights.ndim == 1:
            _encode_vector(weights, scheme, segments["values"])
        else:
            _encode_matrices(weights.reshape(sizes.count, sizes.rows, sizes.columns), scheme, chosen, sizes, segments)
    except ConvertError as error:
        if error.where is None and where is not None:
            raise ConvertError(error.problem, where=where, fix=error.fix) from None
        raise
    return segments


def decode_tensor(
    scheme: Scheme, shape: tuple[int, ...], segments: Mapping[str, Any], *, where: str | None = None
) -> NDArray[np.float32]:
    """The numbers that segments stand for.

    Args:
        scheme: One with a name.
        shape: Of the tensor.
        segments: Bytes-like by role.
        where: The tensor's name, for errors.

    Returns:
        float32 of that shape.

    Raises:
        FormatError: A segment is missing, is one too many, or has the wrong length.
        UnsupportedError: A shape that the scheme cannot hold.

    Source: spec/schemes.md, S3 to S5.
    """
    sizes, flat = as_segments(scheme, shape, segments, where)
    out = np.empty((sizes.count, sizes.rows, sizes.columns), np.float32)
    for index, rows, block in decoded_blocks(scheme, shape, sizes, flat):
        out[index, rows] = block
    return out.reshape(shape)


def decoded_blocks(
    scheme: Scheme, shape: tuple[int, ...], sizes: Geometry, segments: Segments
) -> Iterator[tuple[int, slice, NDArray[np.float32]]]:
    """Decoded blocks of rows in order: number of the matrix, rows, float32 (rows, columns)."""
    if len(shape) == 1:
        values = segments["values"].view(STORAGE[scheme.value])
        yield 0, slice(0, 1), to_float32(values, scheme.value)[None]
        return
    floats = view_floats(scheme, sizes, segments) if scheme.kind == "float" else None
    for index in range(sizes.count):
        view = None if floats is not None else view_matrix(scheme, sizes, segments, index)
        for rows in row_blocks(sizes):
            first, tiles = rows.start // TILE_ROWS, -(-(rows.stop - rows.start) // TILE_ROWS)
            if floats is not None:
                block = to_float32(floats[index, first : first + tiles], scheme.value).transpose(0, 2, 1)
                yield index, rows, block.reshape(-1, sizes.columns)[: rows.stop - rows.start]
            elif view is not None:
                yield index, rows, decode(unpack_rows(scheme, view, (sizes.rows, sizes.columns), first, tiles))


def row_blocks(sizes: Geometry) -> Iterator[slice]:
    """Rows of a matrix in blocks of whole tiles, about BLOCK_WEIGHTS weights each."""
    step = max(1, BLOCK_WEIGHTS // (sizes.padded_columns * TILE_ROWS)) * TILE_ROWS
    for start in range(0, sizes.rows, step):
        yield slice(start, min(start + step, sizes.rows))


def _encode_vector(weights: NDArray[Any], scheme: Scheme, out: NDArray[np.uint8]) -> None:
    numbers = to_float32(weights, source_type(weights))
    if not np.isfinite(numbers).all():
        bad = np.flatnonzero(~np.isfinite(numbers))
        raise refuse_not_finite(bad.size, numbers.size, (int(bad[0]),), None)
    out.view(STORAGE[scheme.value])[:] = _to_stored(numbers, scheme, ())


def _encode_matrices(
    matrices: NDArray[Any], scheme: Scheme, method: Method | None, sizes: Geometry, segments: Segments
) -> None:
    dtype = source_type(matrices)
    floats = view_floats(scheme, sizes, segments) if method is None else None
    for index in range(sizes.count):
        view = None if method is None else view_matrix(scheme, sizes, segments, index)
        for rows in row_blocks(sizes):
            block = to_float32(matrices[index, rows], dtype)
            if not np.isfinite(block).all():
                raise _count_not_finite(matrices, dtype, sizes)
            first = rows.start // TILE_ROWS
            if method is not None and view is not None:
                pack_rows(method.quantize(block, scheme), view, first)
            elif floats is not None:
                stored = pad_rows(_to_stored(block, scheme, (index, rows.start)), 0)
                tiles = stored.reshape(-1, TILE_ROWS, sizes.columns).transpose(0, 2, 1)
                floats[index, first : first + len(tiles)] = tiles


def _to_stored(numbers: NDArray[np.float32], scheme: Scheme, start: tuple[int, ...]) -> NDArray[Any]:
    """Finite numbers in the scheme's float type; refuses those that become infinite."""
    stored = from_float32(numbers, scheme.value)
    good = finite(stored, scheme.value)
    if not good.all():
        place = [int(i) for i in np.argwhere(~good)[0]]
        number = float(numbers[tuple(place)])
        if start:
            place[0] += start[1]
        raise ConvertError(
            f"weight {number:g} at {place} is too large for {scheme.value}", fix="keep this tensor in f32 or bf16"
        )
    return stored


def _count_not_finite(matrices: NDArray[Any], dtype: str, sizes: Geometry) -> ConvertError:
    """The refusal of a tensor that holds NaN or infinities, after counting them block by block."""
    count, first = 0, None
    for index in range(sizes.count):
        for rows in row_blocks(sizes):
            bad = ~np.isfinite(to_float32(matrices[index, rows], dtype))
            count += int(bad.sum())
            if first is None and bad.any():
                row, column = (int(i) for i in np.argwhere(bad)[0])
                first = (index, rows.start + row, column)
    assert first is not None
    return refuse_not_finite(count, matrices.size, first if sizes.count > 1 else first[1:], None)
