"""Which tensors of a checkpoint become which tensors of the result; everything else is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggq.convert.source.checkpoint import FLOATS, Checkpoint
from ggq.errors import ConvertError, UnsupportedError, one_of
from ggq.models.family import TensorSpec
from ggq.models.fields import shown
from ggq.models.names import Tensor, Use, matrices

NAMES_SHOWN = 5
"""Tensor names that a refusal lists."""


class Match(NamedTuple):
    """The tensors to convert, and the names of those of the checkpoint that are known to mean nothing."""

    specs: tuple[TensorSpec, ...]
    ignored: tuple[str, ...]


def match_tensors(specs: Iterable[TensorSpec], checkpoint: Checkpoint) -> Match:
    """Find the source tensors of each tensor of a model.

    Raises:
        ConvertError: Tensors are missing, unknown, of another shape than config.json says, used twice or only in part.
        UnsupportedError: A tensor's type cannot be converted.
    """
    specs, found, path = list(specs), checkpoint.tensors, checkpoint.folder.path
    here = [spec for spec in specs if spec.required or any(name in found for name in spec.expression.names())]
    known = {name for spec in specs for name in spec.expression.names()}
    missing = list(dict.fromkeys(name for spec in here for name in spec.expression.names() if name not in found))
    if missing:
        raise ConvertError(
            f"{len(missing)} of {len(known)} tensors missing: {_some(missing)}",
            path=path,
            fix="the checkpoint is incomplete, or config.json belongs to another model",
        )
    extra = [name for name in found if name not in known]
    if extra:
        raise ConvertError(
            f"{len(extra)} tensors that the architecture does not have: {_some(extra)}",
            path=path,
            fix="config.json may leave out a part of the model, such as biases, that this version cannot guess",
        )
    for spec in here:
        _check_shape(spec, checkpoint)
        _check_types(spec, checkpoint)
    _check_uses(here, checkpoint)
    stored = tuple(spec for spec in here if spec.role)
    used = {name for spec in stored for name in spec.expression.names()}
    return Match(stored, tuple(name for name in found if name not in used))


def _check_shape(spec: TensorSpec, checkpoint: Checkpoint) -> None:
    first = checkpoint.tensors[spec.expression.names()[0]]
    try:
        shape = spec.expression.shape(checkpoint.shape)
    except ConvertError as error:
        raise ConvertError(error.problem, path=first.file, where=error.where) from None
    if shape != spec.shape:
        of = "" if isinstance(spec.expression, Tensor) else f" of {spec.expression}"
        raise ConvertError(
            f"shape {list(shape)}{of} found, config.json asks for {list(spec.shape)}",
            path=first.file,
            where=f"tensor {first.name}",
        )


def _check_types(spec: TensorSpec, checkpoint: Checkpoint) -> None:
    for name in spec.expression.names() if spec.role else ():
        tensor = checkpoint.tensors[name]
        if tensor.dtype not in FLOATS and name not in checkpoint.packed:
            raise UnsupportedError(
                f"dtype must be {one_of(FLOATS)}, not {tensor.dtype}",
                path=tensor.file,
                where=f"tensor {name}",
                fix="save the model as bfloat16 with transformers first",
            )


def _check_uses(specs: Sequence[TensorSpec], checkpoint: Checkpoint) -> None:
    """Refuse numbers of the checkpoint that two tensors are made of, or none."""
    users: dict[str, list[TensorSpec]] = {}
    for spec in specs:
        for name in spec.expression.names():
            users.setdefault(name, []).append(spec)
    for name, mine in users.items():
        if len(mine) == 1 and isinstance(mine[0].expression, Tensor):
            continue
        uses = [
            (spec.name, use)
            for spec in dict.fromkeys(mine)
            for use in spec.expression.uses(checkpoint.shape)
            if use.name == name
        ]
        _check_parts(name, uses, checkpoint)


def _check_parts(name: str, uses: list[tuple[str, Use]], checkpoint: Checkpoint) -> None:
    """Refuse a source tensor whose uses overlap or leave something out."""
    tensor, where = checkpoint.tensors[name], f"tensor {shown(name)}"
    for (one, first), (other, second) in combinations(uses, 2):
        if first.matrix != second.matrix and None not in (first.matrix, second.matrix):
            continue
        if (first.rows & second.rows).any() and (first.columns & second.columns).any():
            who = f"both {one} and {other}" if one != other else f"{one} twice"
            raise ConvertError(f"some of its numbers would become part of {who}", path=tensor.file, where=where)
    count, rows, columns = matrices(tensor.shape)
    sizes = (int(use.rows.sum()) * int(use.columns.sum()) * (count if use.matrix is None else 1) for _, use in uses)
    if sum(sizes) == count * rows * columns:
        return
    used_rows = np.any([use.rows for _, use in uses], axis=0)
    used_columns = np.any([use.columns for _, use in uses], axis=0)
    used_matrices = np.any([(use.matrix is None) | (np.arange(count) == use.matrix) for _, use in uses], axis=0)
    left = _left_out("matrix", "matrices", used_matrices) or _left_out("row", "rows", used_rows)
    left = left or _left_out("column", "columns", used_columns) or "some numbers are"
    raise ConvertError(
        f"shape {list(tensor.shape)} found, of which {left} used by no tensor of the model",
        path=tensor.file,
        where=where,
        fix="config.json may belong to another model",
    )


def _left_out(one: str, several: str, used: NDArray[np.bool_]) -> str:
    """The first run of matrices, rows or columns that is not used, in words."""
    left = np.flatnonzero(~used)
    if not len(left):
        return ""
    first = int(left[0])
    last = first + int(np.argmax(np.append(np.diff(left) != 1, True)))
    return f"{one} {first} is" if first == last else f"{several} {first} to {last} are"


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(shown(name) for name in names[:NAMES_SHOWN]) + rest
