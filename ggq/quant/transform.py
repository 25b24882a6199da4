"""Transforms: weights stored for inputs that are reordered and scaled before they are multiplied.

With a column order and input scales, x @ weights.T == transformed(x) @ stored.T, where stored column j is weight column
order[j] divided by scale[j] and transformed input j is input order[j] times scale[j]. A method chooses order and scale,
quantizes what `to_stored` gives it with a scheme of no transform, and adds them with `with_transform`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ggq.errors import FormatError
from ggq.quant.matrix import QuantizedMatrix, geometry


def to_stored(
    weights: NDArray[np.float32],
    scale: NDArray[np.float32] | None = None,
    order: NDArray[np.uint32] | None = None,
) -> NDArray[np.float32]:
    """The weights to be stored for transformed inputs.

    Args:
        weights: float32 (rows, columns).
        scale: float32 (columns,), in the stored order, none 0; None for ones.
        order: (columns,), a permutation: which column of the weights is stored at each place; None for as they are.
    """
    stored = weights if order is None else weights[:, order]
    return stored if scale is None else stored / scale


def undo_transform(
    stored: NDArray[np.float32], scale: NDArray[np.float32] | None = None, order: NDArray[np.uint32] | None = None
) -> NDArray[np.float32]:
    """The weights that stored numbers stand for: stored column j times scale[j] is weight column order[j] (S10.1).

    Args:
        stored: float32 (rows, columns).
        scale: (columns or more,), as stored or without its padding; None for ones.
        order: (columns or more,), as stored or without its padding; None for as they are.

    Raises:
        FormatError: An order that points outside the columns.
    """
    columns = stored.shape[1]
    if scale is not None:
        stored = stored * scale[:columns]
    if order is None:
        return stored
    weights = np.zeros_like(stored)
    weights[:, checked_order(order, columns)] = stored
    return weights


def checked_order(order: NDArray[np.uint32], columns: int) -> NDArray[np.uint32]:
    """The order of a matrix's columns without that of its padding, refused where it points outside the columns.

    Raises:
        FormatError: The first place that does.
    """
    outside = order[:columns] >= columns
    if outside.any():
        j = int(np.argmax(outside))
        raise FormatError(f"input order {j} is column {int(order[j])}; allowed are 0 to {columns - 1} (S10.3)")
    return order[:columns]


def transform_inputs(
    x: NDArray[np.floating], scale: NDArray[np.float32] | None = None, order: NDArray[np.uint32] | None = None
) -> NDArray[np.floating]:
    """Inputs (..., columns) as they meet a stored matrix: gathered by the order, then times the scale.

    Args:
        x: (..., columns), any float type.
        scale: (columns or more,), as stored or without its padding; None for ones.
        order: (columns or more,), as stored or without its padding; None for as they are.
    """
    columns = x.shape[-1]
    gathered = x if order is None else x[..., order[:columns]]
    return gathered if scale is None else gathered * scale[:columns]


def with_transform(
    matrix: QuantizedMatrix, scale: NDArray[np.float32] | None = None, order: NDArray[np.uint32] | None = None
) -> QuantizedMatrix:
    """A matrix of quantized stored weights with the transform that they were stored for; its scheme says so.

    Args:
        matrix: Of a scheme without transform, quantized from what `to_stored` returned.
        scale, order: As given to `to_stored`; their padding is added here.
    """
    sizes, columns = geometry(matrix.scheme, matrix.shape), matrix.shape[1]
    input_scale = input_order = None
    if scale is not None:
        input_scale = np.zeros(sizes.padded_columns, np.float32)
        input_scale[:columns] = scale
    if order is not None:
        input_order = np.arange(sizes.padded_columns, dtype=np.uint32)
        input_order[:columns] = order
    parts = [name for name, part in (("scale", scale), ("order", order)) if part is not None]
    scheme = replace(matrix.scheme, transform=frozenset(parts))
    return replace(matrix, scheme=scheme, input_scale=input_scale, input_order=input_order)
