"""The bytes of one matrix of an exported GGUF file, encoded by several threads, and how far they are from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ggq.convert.pool import in_order
from ggq.errors import ConvertError
from ggq.format.gguf.types import TYPES
from ggq.gguf.blocks import SCHEMES, numbers, rows_of
from ggq.gguf.encode.encoders import ENCODERS, FEEDBACK, encoded
from ggq.gguf.packing import packed
from ggq.quant import ErrorSum, parse_scheme
from ggq.quant.inputs import InputStatistics
from ggq.quant.methods import Method, choose_method, prepared
from ggq.quant.methods.fitted import Fitted

Floats = NDArray[np.float32]

MOST_LOST = 0.75
"""The relative error beyond which a tensor is refused: ternary codes make .5 or less of what any model has."""

PIECE_WEIGHTS = 1 << 20
"""Weights that a thread encodes at once, about."""


def encoded_pieces(
    blocks: Iterable[Floats],
    kind: int,
    importance: Floats | None,
    name: str,
    path: str,
    tell: Callable[[float], None],
    inputs: InputStatistics | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a matrix under a type.

    Args:
        blocks: Its rows, float32 (rows, columns), in order.
        kind: Number of the type.
        importance: What errors count by column, or None.
        name, path: Of the tensor and its file, for messages.
        tell: Called with the relative error (root mean square) behind the last piece.
        inputs: With their gram, where errors are to make up for each other.

    Raises:
        ConvertError: Weights that are NaN or infinite, or of which the type keeps little: they are too small or too
            large for its scales.
    """
    pieces = (piece for block in blocks for piece in _pieces(block, name, path))
    total = ErrorSum()
    method = _method(kind, importance, inputs)
    for data, error in in_order(partial(_encode, kind, method, importance, inputs), pieces):
        total.merge(error)
        yield data
    lost = total.error().relative_rmse
    if not lost <= MOST_LOST:
        problem = f"little is left of its weights as {TYPES[kind].name}: a relative error of {lost:.2g}"
        raise ConvertError(problem, path=path, where=f"tensor {name}", fix="give --type bf16")
    tell(lost)


def _pieces(rows: Floats, name: str, path: str) -> Iterator[Floats]:
    if not np.isfinite(rows).all():
        raise ConvertError("weights that are NaN or infinite", path=path, where=f"tensor {name}")
    count = max(1, PIECE_WEIGHTS // rows.shape[1])
    return (rows[start : start + count] for start in range(0, len(rows), count))


def _method(kind: int, importance: Floats | None, exact: InputStatistics | None) -> Method | None:
    """The method of a type that has no encoder of its own; mean squares of inputs make it search, and exact statistics
    make it round with feedback."""
    if kind in ENCODERS:
        return None
    scheme = parse_scheme(SCHEMES[kind])
    if importance is None or scheme.bits == 8:
        return choose_method(scheme, None)
    if exact is not None and not exact.trouble:
        return prepared(choose_method(scheme, "gptq"), np.zeros((1, len(importance)), np.float32), scheme, exact)
    zeros = np.zeros_like(importance)
    inputs = InputStatistics(1, zeros, zeros, np.asarray(importance, np.float32))
    if inputs.trouble:
        return choose_method(scheme, None)
    method = prepared(choose_method(scheme, "mse"), np.zeros((1, len(importance)), np.float32), scheme, inputs)
    return replace(method, compiled=True) if isinstance(method, Fitted) else method


def _encode(
    kind: int, method: Method | None, importance: Floats | None, inputs: InputStatistics | None, rows: Floats
) -> tuple[NDArray[np.uint8], ErrorSum]:
    """The bytes of rows, and how far those are from them."""
    if method is None:
        exact = inputs if inputs is not None and kind in FEEDBACK and not inputs.trouble else None
        data = encoded(kind, rows, importance, inputs=exact)
    else:
        data = packed(kind, method.quantize(rows, parse_scheme(SCHEMES[kind])))
    error = ErrorSum()
    error.add(rows, numbers(kind, rows_of(kind, data, rows.shape)))
    return data, error
