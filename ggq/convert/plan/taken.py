"""Codes that lie beside a checkpoint's weights because a training chose them: they are taken as they are.

`ggq train` saves a checkpoint of the numbers that its codes stand for, and the codes themselves in a file of its own.
Other codes may stand for the same numbers, and rounding anew may not find any that do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ggq.errors import ConvertError
from ggq.format import open_reader
from ggq.format.scheme import TILE_ROWS, Geometry
from ggq.quant import ErrorSum
from ggq.quant.reference import decode
from ggq.quant.stored import segments_of
from ggq.quant.tensors import row_blocks
from ggq.quant.tiles import Segments, as_segments, unpack_rows, view_matrix

if TYPE_CHECKING:
    from ggq.convert.plan.plan import TensorPlan
    from ggq.convert.plan.recipe import Recipe
    from ggq.convert.source.checkpoint import Checkpoint
    from ggq.models.names import Source

GRIDS = "grids.ggq"
"""The file in a checkpoint's folder."""

METHOD = "trained"
"""What is noted of a tensor whose codes were taken."""

NOTES = ("activations", "activation_step")
"""Attributes that are taken along."""

CLOSE = 2.0**-20
"""Relative difference that expressions which compute may make; those that only move numbers make none."""


@dataclass(frozen=True)
class Taken:
    """Where a tensor's codes are.

    Args:
        path: The file.
        digest: Its digest, 64 hexadecimal digits.
        exact: Whether the weights must be what the codes stand for bit for bit.
        notes: Attributes that go with them.
    """

    path: Path
    digest: str
    exact: bool
    notes: Mapping[str, str | float]


def take_codes(checkpoint: Checkpoint, tensors: Sequence[TensorPlan], recipe: Recipe) -> tuple[TensorPlan, ...]:
    """Tensors whose codes lie beside the checkpoint, marked so.

    A matrix is quantized anew where a method is named, or where its codes are of another scheme, which is noted.

    Args:
        checkpoint: Its headers.
        tensors: What was planned.
        recipe: Which method each tensor gets.
    """
    named = [recipe.method, recipe.embedding_method, *(rule.method for rule in recipe.rules)]
    if GRIDS not in checkpoint.folder or any(named):
        return tuple(tensors)
    path, _ = checkpoint.folder.locate(GRIDS)
    found, other = [], 0
    with open_reader(path) as reader:
        for tensor in tensors:
            entry = reader.tensors.get(tensor.name)
            if entry is not None and (entry.scheme, entry.shape) == (tensor.scheme, tensor.shape):
                notes = {key: value for key, value in entry.attributes.items() if key in NOTES}
                exact = bool(entry.attributes.get("exact", True))
                tensor = replace(tensor, taken=Taken(path, reader.digest.hex(), exact, notes))  # type: ignore[arg-type]
            elif entry is not None:
                other += 1
            found.append(tensor)
    if other:
        checkpoint.notes.append(f"{GRIDS} has codes of another scheme for {other} matrices, which are quantized anew")
    return tuple(found)


def read_codes(tensor: TensorPlan) -> Segments:
    """The segments of a tensor whose codes are taken, checked for their lengths."""
    assert tensor.taken is not None
    with open_reader(tensor.taken.path) as reader:
        if reader.digest.hex() != tensor.taken.digest:
            raise ConvertError("the file changed while it was converted", path=tensor.taken.path)
        entry = reader.tensors[tensor.name]
        segments = segments_of(reader, entry)
    return as_segments(tensor.scheme, tensor.shape, segments, tensor.name)[1]


def place_codes(
    tensor: TensorPlan, source: Source, sizes: Geometry, codes: Segments, into: Segments, matrix: int
) -> ErrorSum:
    """Copy the codes of one matrix of a tensor to where they are wanted, and compare them with its weights.

    Args:
        tensor: Whose codes are taken.
        source: Where the weights are read.
        sizes: Of the tensor.
        codes: From `read_codes`.
        into: Segments of the same lengths.
        matrix: Which one of several.

    Raises:
        ConvertError: The weights are not what the codes stand for.
    """
    assert tensor.taken is not None
    for role, whole in codes.items():
        if role == "codebook":
            into[role][:] = whole
        else:
            length = len(whole) // sizes.count
            into[role][matrix * length : (matrix + 1) * length] = whole[matrix * length : (matrix + 1) * length]
    view, total, first = view_matrix(tensor.scheme, sizes, into, matrix), ErrorSum(), matrix * sizes.rows
    for rows in row_blocks(sizes):
        tiles = -(-(rows.stop - rows.start) // TILE_ROWS)
        part = unpack_rows(tensor.scheme, view, (sizes.rows, sizes.columns), rows.start // TILE_ROWS, tiles)
        weights = tensor.expression.rows(source, first + rows.start, first + rows.stop)
        _compare(tensor, weights, numbers := decode(part))
        total.add(weights, numbers)
    return total


def _compare(tensor: TensorPlan, weights: np.ndarray, numbers: np.ndarray) -> None:
    assert tensor.taken is not None
    if tensor.taken.exact:
        same = np.array_equal(weights, numbers)
    else:
        same = np.allclose(weights, numbers, rtol=CLOSE, atol=CLOSE * float(np.abs(numbers).max(initial=0)))
    if not same:
        raise ConvertError(
            f"the weights are not what the codes in {GRIDS} stand for: they were changed after the training",
            path=tensor.taken.path,
            where=f"tensor {tensor.name}",
            fix="name a --method to quantize them anew",
        )
