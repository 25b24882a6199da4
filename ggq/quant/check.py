"""Whether the numbers inside segments obey the rules of their scheme (digests tell whether they were changed)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import FormatError
from ggq.format.scheme import COLUMN_STEP, ENTRY_LIMITS, TILE_ROWS, UNIT_BYTES, Geometry, Scheme
from ggq.quant.floats import STORAGE, finite
from ggq.quant.matrix import largest_code, padding_code
from ggq.quant.tensors import BLOCK_WEIGHTS
from ggq.quant.tiles import MatrixView, Segments, as_segments, unpack_codes, view_floats, view_matrix


def check_segments(
    scheme: Scheme, shape: tuple[int, ...], segments: Mapping[str, Any], *, where: str | None = None
) -> None:
    """Refuse segments that break a rule: lengths, finite numbers, codes and zero-points in range, orders, padding.

    Args:
        scheme: Of the tensor, one with a name.
        shape: Of the tensor.
        segments: Bytes-like by role.
        where: The tensor's name, for errors.

    Raises:
        FormatError: The first rule that is broken, with matrix, row and column or group.
        UnsupportedError: A shape that the scheme cannot hold.

    Source: spec/schemes.md, S3 to S5 and S10.
    """
    sizes, flat = as_segments(scheme, shape, segments, where)
    problems = _float_problems(scheme, shape, sizes, flat) if scheme.kind == "float" else _problems(scheme, sizes, flat)
    for problem in problems:
        raise FormatError(problem, where=where, fix="the file was damaged or written wrongly; convert the model again")


def _float_problems(scheme: Scheme, shape: tuple[int, ...], sizes: Geometry, segments: Segments) -> Iterator[str]:
    if len(shape) == 1:
        good = finite(segments["values"].view(STORAGE[scheme.value]), scheme.value)
        if not good.all():
            yield f"value {int(np.argmin(good))} is NaN or infinite; values must be finite (S3.2)"
        return
    floats = view_floats(scheme, sizes, segments)
    step = max(1, BLOCK_WEIGHTS // (sizes.columns * TILE_ROWS))
    for index in range(sizes.count):
        for first in range(0, floats.shape[1], step):
            good = finite(floats[index, first : first + step], scheme.value)
            if not good.all():
                tile, column, row = np.argwhere(~good)[0].tolist()
                place = _place(sizes, index, (first + tile) * TILE_ROWS + row)
                yield f"value of {place}, column {column} is NaN or infinite; values must be finite (S3.2)"
        padding = floats[index, -1, :, _last_rows(sizes) :]
        if (padding != 0).any():
            yield f"padding below row {sizes.rows - 1} is not zero (S3.4)"


def _problems(scheme: Scheme, sizes: Geometry, segments: Segments) -> Iterator[str]:
    for index in range(sizes.count):
        view = view_matrix(scheme, sizes, segments, index)
        above = "super-group" if scheme.subscale else "group"
        for what, numbers in (("scale", view.scales), ("minimum", view.minimums)):
            if numbers is not None and not np.isfinite(numbers).all():
                tile, group, row = np.argwhere(~np.isfinite(numbers))[0].tolist()
                place, number = _place(sizes, index, tile * TILE_ROWS + row), numbers[tile, group, row]
                yield f"{what} of {place}, {above} {group} is {number}; {what}s must be finite (S4.2)"
        if view.zeros is not None and (view.zeros > largest_code(scheme)).any():
            tile, group, row = np.argwhere(view.zeros > largest_code(scheme))[0].tolist()
            place, zero = _place(sizes, index, tile * TILE_ROWS + row), view.zeros[tile, group, row]
            yield f"zero-point of {place}, group {group} is {zero}; allowed are 0 to {largest_code(scheme)} (S4.3)"
        yield from _vector_problems(sizes, view, index)
        yield from _padding_problems(scheme, sizes, view, index)
        if scheme.kind == "ternary":
            yield from _ternary_problems(scheme, sizes, view, index)


def _vector_problems(sizes: Geometry, view: MatrixView, index: int) -> Iterator[str]:
    """What is wrong with a codebook, input scales and a column order."""
    least, most = ENTRY_LIMITS
    if view.codebook is not None and ((view.codebook < least) | (view.codebook > most)).any():
        code = int(np.argmax((view.codebook < least) | (view.codebook > most)))
        yield f"codebook entry {code} is {view.codebook[code]}; allowed are {least} to {most} (S4.7)"
    of = f" of matrix {index}" if sizes.count > 1 else ""
    if view.input_scale is not None:
        good = np.isfinite(view.input_scale)
        if not good.all():
            column = int(np.argmin(good))
            yield f"input scale {column}{of} is {view.input_scale[column]}; input scales must be finite (S10.2)"
        if (view.input_scale[sizes.columns :] != 0).any():
            yield f"an input scale{of} beyond column {sizes.columns - 1} is not zero (S10.2)"
    if view.input_order is not None:
        found, times = np.unique(view.input_order[: sizes.columns], return_counts=True)
        if found[-1] >= sizes.columns:
            yield f"an input order{of} is column {found[-1]}; allowed are 0 to {sizes.columns - 1} (S10.3)"
        if (times > 1).any():
            yield f"the input order{of} has column {found[np.argmax(times > 1)]} twice (S10.3)"
        if (view.input_order[sizes.columns :] != np.arange(sizes.columns, sizes.padded_columns)).any():
            yield f"the input order{of} moves padding columns; they stay where they are (S10.3)"


def _ternary_problems(scheme: Scheme, sizes: Geometry, view: MatrixView, index: int) -> Iterator[str]:
    step = max(1, BLOCK_WEIGHTS // (sizes.padded_columns * TILE_ROWS))
    for first in range(0, len(view.scales), step):
        wrong = _codes(scheme, view, slice(first, first + step), 0) > largest_code(scheme)
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            place = _place(sizes, index, first * TILE_ROWS + row)
            yield f"code of {place}, column {column} is 3; allowed are 0 to 2 (S4.6)"


def _padding_problems(scheme: Scheme, sizes: Geometry, view: MatrixView, index: int) -> Iterator[str]:
    lower = (*view.subscales, *view.subminimums)
    uppers = (view.scales,) if view.minimums is None else (view.scales, view.minimums)
    if any((each[-1, :, _last_rows(sizes) :] != 0).any() for each in (*uppers, *lower)):
        yield f"a scale below row {sizes.rows - 1} is not zero; rows of padding have scale 0 (S5.2)"
    for planes in (view.subscales, view.subminimums):
        for width, plane in zip(scheme.subscale_planes, planes):
            used = (sizes.groups * width - 1) % 8 + 1  # bits of the last block that belong to groups
            if (plane[:, -1] >> np.uint8(used - 1) >> np.uint8(1)).any():
                yield f"a sub-scale beyond group {sizes.groups - 1} is not zero (S5.7)"
    has_zero = scheme.kind in ("uniform", "ternary") and scheme.zero != "minimum"
    what = "the zero-point" if has_zero else str(padding_code(scheme))
    zeros = None if view.zeros is None else view.zeros.transpose(0, 2, 1)
    last = slice(len(view.scales) - 1, len(view.scales))
    below = _codes(scheme, view, last, 0) != _expected(scheme, sizes, zeros, last, 0)
    if below[_last_rows(sizes) :].any():
        yield f"a code below row {sizes.rows - 1} is not {what} (S5.2)"
    start = sizes.columns // COLUMN_STEP * COLUMN_STEP
    if start == sizes.padded_columns:
        return
    step = max(1, BLOCK_WEIGHTS // ((sizes.padded_columns - start) * TILE_ROWS))
    for first in range(0, len(view.scales), step):
        part = slice(first, min(first + step, len(view.scales)))
        wrong = _codes(scheme, view, part, start) != _expected(scheme, sizes, zeros, part, start)
        wrong[:, : sizes.columns - start] = False
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            place = _place(sizes, index, first * TILE_ROWS + row)
            yield f"code of {place}, padding column {start + column} is not {what} (S5.2)"


def _codes(scheme: Scheme, view: MatrixView, tiles: slice, start: int) -> NDArray[np.uint8]:
    """Codes of some tiles from column `start` on, which is a multiple of COLUMN_STEP."""
    units = [start * width * TILE_ROWS // 8 // UNIT_BYTES for width in scheme.planes]
    planes = tuple(plane[tiles, unit:] for plane, unit in zip(view.planes, units, strict=True))
    return unpack_codes(planes, scheme.planes)


def _expected(
    scheme: Scheme, sizes: Geometry, zeros: NDArray[np.uint8] | None, tiles: slice, start: int
) -> NDArray[np.uint8]:
    """The zero-points of some tiles, one per column from `start` on (or one for all)."""
    if zeros is None:
        return np.full((1, 1), padding_code(scheme), np.uint8)
    groups = np.arange(start, sizes.padded_columns) // sizes.group
    return zeros[tiles].reshape(-1, sizes.groups)[:, groups]


def _last_rows(sizes: Geometry) -> int:
    """Rows of the last tile that are not padding."""
    return sizes.rows - (sizes.padded_rows - TILE_ROWS)


def _place(sizes: Geometry, index: int, row: int) -> str:
    return f"matrix {index}, row {row}" if sizes.count > 1 else f"row {row}"
