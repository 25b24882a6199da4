"""What was trained as a checkpoint: the numbers that its codes stand for, and the codes beside them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ggq.convert.convert import run
from ggq.convert.options import RunOptions
from ggq.convert.plan.plan import Plan, make_plan
from ggq.convert.plan.recipe import Recipe
from ggq.convert.plan.taken import GRIDS
from ggq.convert.source.checkpoint import CONFIG, FLOATS
from ggq.convert.source.hub import Source
from ggq.convert.write.report import Report
from ggq.errors import ConvertError
from ggq.export.export import SHARD_BYTES, connected, write_folder
from ggq.export.restore import restored
from ggq.export.safetensors_output import Output, file_names, float_output
from ggq.format import Writer
from ggq.format.scheme import TILE_ROWS, Scheme
from ggq.quant.matrix import QuantizedMatrix, geometry
from ggq.quant.tensors import decode_tensor, row_blocks
from ggq.quant.tiles import Segments, empty_segments, pack_rows, view_matrix
from ggq.train.exact import exact


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a training made of one tensor.

    Args:
        numbers: float32, in the tensor's shape: what the model computed with in the end.
        matrix: The codes that stand for them, every dimension but the last counted as rows; None for floats.
        moved: Whether they may differ from the checkpoint's.
        notes: Attributes for the file, such as a static range of inputs.
    """

    numbers: np.ndarray
    matrix: QuantizedMatrix | None = None
    moved: bool = True
    notes: Mapping[str, str | float] | None = None


def segments_from(scheme: Scheme, shape: tuple[int, ...], matrix: QuantizedMatrix) -> Segments:
    """The segments of a tensor whose matrices lie below each other in one.

    Args:
        scheme: Of the tensor.
        shape: Of the tensor.
        matrix: (matrices * rows, columns).
    """
    sizes = geometry(scheme, shape)
    segments = empty_segments(sizes)
    for index in range(sizes.count):
        view = view_matrix(scheme, sizes, segments, index)
        for rows in row_blocks(sizes):
            part = slice(index * sizes.rows + rows.start, index * sizes.rows + rows.stop)
            pack_rows(_rows(matrix, part, sizes.columns), view, rows.start // TILE_ROWS)
    return segments


def _rows(matrix: QuantizedMatrix, part: slice, columns: int) -> QuantizedMatrix:
    """Some rows of a matrix."""
    by_row: dict[str, Any] = {
        name: None if (found := getattr(matrix, name)) is None else found[part]
        for name in ("codes", "scales", "zeros", "subscales", "minimums", "subminimums")
    }
    return replace(matrix, shape=(part.stop - part.start, columns), **by_row)


def write_grids(place: Path, tensors: Mapping[str, tuple[tuple[int, ...], Outcome]], inexact: frozenset[str]) -> None:
    """Write the codes of tensors into a file; refuse codes that do not stand for their numbers.

    Args:
        place: The file.
        tensors: Shapes and outcomes, by name.
        inexact: Names of tensors whose numbers a checkpoint cannot hold exactly.

    Raises:
        ConvertError: Codes that stand for other numbers than the model computed with.
    """
    with Writer(place, force=True) as writer:
        for name, (shape, outcome) in tensors.items():
            if outcome.matrix is None:
                continue
            scheme = outcome.matrix.scheme
            segments = segments_from(scheme, shape, outcome.matrix)
            if not np.array_equal(decode_tensor(scheme, shape, segments), outcome.numbers):
                raise ConvertError("the codes do not stand for the numbers that were trained", where=f"tensor {name}")
            notes = {**(outcome.notes or {}), "exact": name not in inexact}
            writer.add_tensor(name, shape, scheme, segments, notes)
        writer.finish()


def save_checkpoint(plan: Plan, outcomes: Mapping[str, Outcome], out: Path) -> None:
    """Write the folder of a checkpoint that transformers loads and `ggq convert` turns into the same codes.

    Args:
        plan: Of the conversion that was trained.
        outcomes: By role.
        out: A folder that does not exist yet, or is empty. It appears when it is whole.

    Raises:
        UnsupportedError: Tensors that a checkpoint cannot be made of, such as sums with adapters.
        ConvertError: The disk has too little room.
    """
    outputs = list(_outputs(plan, outcomes))
    assets = {**plan.assets, CONFIG: _config(plan.assets[CONFIG])}
    tensors = {tensor.name: (tensor.shape, outcomes[tensor.role]) for tensor in plan.tensors}
    inexact = frozenset(tensor.name for tensor in plan.tensors if not exact(tensor.expression))
    write_folder(
        out, file_names(outputs, SHARD_BYTES), assets, more=lambda made: write_grids(made / GRIDS, tensors, inexact)
    )


def _outputs(plan: Plan, outcomes: Mapping[str, Outcome]) -> Iterator[Output]:
    """The tensors of the checkpoint: those that nothing was done to as they were, the others in f32."""
    expressions = plan.expressions
    groups: dict[str, list[str]] = {}
    for role, expression in expressions.items():
        groups.setdefault(expression.names()[0], []).append(role)
    for roles in connected(groups, expressions):
        if any(outcomes[role].moved for role in roles):
            pieces = [(expressions[role], outcomes[role].numbers) for role in roles]
            for name, numbers in restored(pieces).items():
                shape = plan.checkpoint.shape(name)
                yield float_output(name, "f32", shape, partial(_whole, numbers.reshape(shape)))
            continue
        for name in dict.fromkeys(name for role in roles for name in expressions[role].names()):
            tensor = plan.checkpoint.tensors[name]
            yield float_output(name, FLOATS[tensor.dtype], tensor.shape, partial(_as_it_was, plan, name))


def _as_it_was(plan: Plan, name: str) -> Iterator[memoryview]:
    yield memoryview(plan.checkpoint.read_bytes(plan.checkpoint.tensors[name]))


def _whole(numbers: np.ndarray) -> Iterator[memoryview]:
    yield np.ascontiguousarray(numbers, np.float32).reshape(-1).view(np.uint8).data


def _config(data: bytes) -> bytes:
    """config.json, which says that weights are float32 and no longer how they were quantized."""
    config = json.loads(data)
    config.pop("quantization_config", None)
    config.update({key: "float32" for key in ("dtype", "torch_dtype") if key in config})
    return (json.dumps(config, indent=2) + "\n").encode()


def write_file(
    plan: Plan,
    outcomes: Mapping[str, Outcome],
    out: Path,
    recipe: Recipe,
    options: RunOptions,
    out_checkpoint: Path | None = None,
) -> Report:
    """Write the ggq file, as the conversion of the checkpoint that `save_checkpoint` writes.

    Args:
        plan: Of the conversion that was trained.
        outcomes: By role.
        out: The file.
        recipe: Which scheme each tensor gets; it names no methods.
        options: Of the conversion.
        out_checkpoint: Where the checkpoint is kept; None for a folder that is removed.
    """
    if out_checkpoint is not None:
        save_checkpoint(plan, outcomes, out_checkpoint)
        name = os.path.realpath(out_checkpoint).rpartition(os.sep)[2]
        return _converted(Source(out_checkpoint, name, name), recipe, out, options)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=Path(os.path.realpath(out)).parent) as folder:
        place = Path(folder) / "checkpoint"
        save_checkpoint(plan, outcomes, place)
        return _converted(replace(plan.source, folder=place), recipe, out, options)


def _converted(source: Source, recipe: Recipe, out: Path, options: RunOptions) -> Report:
    made = make_plan(source, recipe)
    untaken = [tensor.name for tensor in made.tensors if tensor.scheme.kind != "float" and tensor.taken is None]
    if untaken:
        raise ConvertError("the codes that were trained are not found again", where=f"tensor {untaken[0]}")
    return run(made, out, options)
