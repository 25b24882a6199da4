"""Whole tensors to segments and back, by blocks of rows so that memory stays small whatever the tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ConvertError, FormatError
from ggq.format.scheme import TILE_ROWS, Geometry, Scheme
from ggq.quant.floats import STORAGE, finite, from_float32, source_type, to_float32
from ggq.quant.matrix import geometry
from ggq.quant.reference import decode, decode_stored
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

if TYPE_CHECKING:
    from ggq.quant.methods import Method

BLOCK_WEIGHTS = 1 << 18
"""Weights of a block, about: 1 MiB of float32, which the second-level cache of a core holds."""


def encode_tensor(
    weights: NDArray[Any], scheme: Scheme, method: str | Method | None = None, *, where: str | None = None
) -> Segments:
    """The segments of a tensor under a scheme.

    Args:
        weights: float32, float16 or uint16 (the bits of bf16); one dimension (float schemes only), two, or more
            (matrices stored one after the other).
        scheme: One with a name (`parse_scheme`).
        method: A name of METHODS; None for the scheme's default; or a method that has learnt what the tensor's rows
            share (`ggq.quant.methods.prepared`). Float schemes take none and ignore it.
        where: The tensor's name, for errors.

    Returns:
        uint8 (length,) by role; memory beyond them is a few blocks of BLOCK_WEIGHTS weights, or of 16 rows if larger.

    Raises:
        ConvertError: Weights that are NaN, infinite or too large for the scheme; an unknown or unfit method.
        UnsupportedError: A type or a shape that the scheme cannot hold.

    Source: spec/schemes.md, S3 to S8.
    """
    from ggq.quant.methods import Learner, choose_method, prepared  # what only decodes does without: 30 ms

    sizes = geometry(scheme, weights.shape)
    known = method is None or isinstance(method, str)
    chosen: Method | None = None
    if scheme.kind != "float":
        chosen = choose_method(scheme, method) if method is None or isinstance(method, str) else method
    segments = empty_segments(sizes)
    try:
        if chosen is None:
            _encode_floats(weights, scheme, sizes, segments)
        else:
            if known and isinstance(chosen, Learner):
                chosen = prepared(chosen, _sample(weights, sizes), scheme)
            _encode_codes(weights, scheme, chosen, sizes, segments)
    except ConvertError as error:
        if error.where is None and where is not None:
            raise ConvertError(error.problem, where=where, fix=error.fix) from None
        raise
    return segments


def decode_tensor(
    scheme: Scheme,
    shape: tuple[int, ...],
    segments: Mapping[str, Any],
    *,
    where: str | None = None,
    stored: bool = False,
) -> NDArray[np.float32]:
    """The numbers that segments stand for.

    Args:
        scheme: One with a name.
        shape: Of the tensor.
        segments: Bytes-like by role.
        where: The tensor's name, for errors.
        stored: The numbers as they are stored, what multiplies transformed inputs, and not the weights that they stand
            for. They are the same where the scheme has no transform.

    Returns:
        float32 of that shape.

    Raises:
        FormatError: A segment is missing, is one too many, or has the wrong length; an order of columns points outside.
        UnsupportedError: A shape that the scheme cannot hold.

    Source: spec/schemes.md, S3 to S5 and S10.
    """
    sizes, flat = as_segments(scheme, shape, segments, where)
    out = np.empty((sizes.count, sizes.rows, sizes.columns), np.float32)
    try:
        for index, rows, block in decoded_blocks(scheme, shape, sizes, flat, stored=stored):
            out[index, rows] = block
    except FormatError as error:
        raise FormatError(error.problem, where=error.where or where) from None
    return out.reshape(shape)


def decoded_blocks(
    scheme: Scheme, shape: tuple[int, ...], sizes: Geometry, segments: Segments, *, stored: bool = False
) -> Iterator[tuple[int, slice, NDArray[np.float32]]]:
    """Decoded blocks of rows in order: number of the matrix, rows, float32 (rows, columns)."""
    one = decode_stored if stored else decode
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
                yield index, rows, one(unpack_rows(scheme, view, (sizes.rows, sizes.columns), first, tiles))


def row_blocks(sizes: Geometry, weights: int = 0) -> Iterator[slice]:
    """Rows of a matrix in blocks of whole tiles, about so many weights each, or BLOCK_WEIGHTS."""
    step = max(1, (weights or BLOCK_WEIGHTS) // (sizes.padded_columns * TILE_ROWS)) * TILE_ROWS
    for start in range(0, sizes.rows, step):
        yield slice(start, min(start + step, sizes.rows))


def _encode_codes(weights: NDArray[Any], scheme: Scheme, method: Method, sizes: Geometry, segments: Segments) -> None:
    from ggq.quant.methods import block_weights

    views = [view_matrix(scheme, sizes, segments, index) for index in range(sizes.count)]
    for index, rows, block in _finite_blocks(weights, sizes, block_weights(method)):
        pack_rows(method.quantize(block, scheme), views[index], rows.start // TILE_ROWS)


def _sample(weights: NDArray[Any], sizes: Geometry) -> NDArray[np.float32]:
    """Rows of a tensor that a method learns from."""
    from ggq.quant.methods import sample_rows

    rows = weights.reshape(-1, sizes.columns)
    return to_float32(rows[sample_rows(len(rows), sizes.columns)], source_type(weights))


def _encode_floats(weights: NDArray[Any], scheme: Scheme, sizes: Geometry, segments: Segments) -> None:
    tiles = None if weights.ndim == 1 else view_floats(scheme, sizes, segments)
    for index, rows, block in _finite_blocks(weights, sizes):
        stored = from_float32(block, scheme.value)
        if not finite(stored, scheme.value).all():
            row, column = (int(i) for i in np.argwhere(~finite(stored, scheme.value))[0])
            place = _position(weights.shape, index, rows.start + row, column)
            raise ConvertError(
                f"weight {float(block[row, column]):g} at {place} is too large for {scheme.value}",
                fix="keep this tensor in f32",
            )
        if tiles is None:
            segments["values"].view(STORAGE[scheme.value])[:] = stored[0]
        else:
            stored = pad_rows(stored, 0).reshape(-1, TILE_ROWS, sizes.columns)
            first = rows.start // TILE_ROWS
            tiles[index, first : first + len(stored)] = stored.transpose(0, 2, 1)


def _finite_blocks(
    weights: NDArray[Any], sizes: Geometry, size: int = 0
) -> Iterator[tuple[int, slice, NDArray[np.float32]]]:
    """Blocks of rows in order, as `decoded_blocks` gives them; refuses weights that are NaN or infinite."""
    matrices, dtype = weights.reshape(sizes.count, sizes.rows, sizes.columns), source_type(weights)
    places = [(index, rows) for index in range(sizes.count) for rows in row_blocks(sizes, size)]
    for i, (index, rows) in enumerate(places):
        block = to_float32(matrices[index, rows], dtype)
        bad = ~np.isfinite(block)
        if bad.any():
            rest = sum(int((~np.isfinite(to_float32(matrices[n], dtype))).sum()) for n in places[i + 1 :])
            row, column = (int(n) for n in np.argwhere(bad)[0])
            raise ConvertError(
                f"{int(bad.sum()) + rest} of {weights.size} weights are NaN or infinite, "
                f"the first at {_position(weights.shape, index, rows.start + row, column)}",
                fix="the checkpoint is damaged or its training diverged; get another copy",
            )
        yield index, rows, block


def _position(shape: tuple[int, ...], index: int, row: int, column: int) -> list[int]:
    """The index of a weight in a tensor of this shape, from the number of its matrix, its row and its column."""
    matrix = np.unravel_index(index, shape[:-2]) if len(shape) > 2 else ()
    return [*(int(i) for i in matrix), row, column][-len(shape) :]
