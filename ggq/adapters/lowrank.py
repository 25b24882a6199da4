"""Adapters of a folder brought to the roles of an open file: low-rank changes of matrices as they are stored there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.convert.source import lora
from ggq.convert.source.checkpoint import FLOATS, Checkpoint
from ggq.convert.source.folder import Folder
from ggq.errors import ConvertError, ModelError, UnsupportedError
from ggq.format.container import Container, StoredTensor
from ggq.models.expression import Expression, Shape
from ggq.models.names import Picked, Tensor, Times, Transposed
from ggq.models.registry import stored_expressions
from ggq.quant.change import read_change
from ggq.quant.floats import from_float32, to_float32

Floats = NDArray[np.float32]

CONFIG = "config.json"
MERGE = "convert the checkpoint with --lora instead"


@dataclass(frozen=True, eq=False)
class LowRank:
    """What is added to a matrix: up @ down.

    Args:
        down: float32 (rank, columns), times the adapter's scale and weight.
        up: float32 (rows, rank).
        kinds: The float types that hold the numbers of `down` and of `up` exactly.
    """

    down: Floats
    up: Floats
    kinds: tuple[str, str]

    @property
    def rank(self) -> int:
        """Columns of `up`."""
        return self.up.shape[1]

    def beside(self, other: LowRank) -> LowRank:
        """Both changes as one."""
        kinds = [mine if mine == theirs else "f32" for mine, theirs in zip(self.kinds, other.kinds, strict=True)]
        down, up = np.concatenate([self.down, other.down]), np.concatenate([self.up, other.up], axis=1)
        return LowRank(down, np.ascontiguousarray(up), (kinds[0], kinds[1]))


def folder_of(text: str) -> Path:
    """The folder of FOLDER or FOLDER=WEIGHT; raises UsageError as `read_changes` does."""
    return lora.split_weight(text)[0]


def read_changes(
    container: Container, names: Mapping[str, str], products: Iterable[str], adapters: Sequence[str]
) -> dict[str, LowRank]:
    """The changes of several adapters, added up, by the role of the matrix.

    Args:
        container: The open file.
        names: Names of its tensors, by role.
        products: Roles of the matrices that rows of numbers are multiplied with and nothing else is done with.
        adapters: FOLDER or FOLDER=WEIGHT of each.

    Raises:
        ConvertError: A folder is no adapter, or one of another model.
        ModelError: The file's config.json is of another model than its tensors.
        UnsupportedError: An adapter of another kind, or one that changes what cannot be changed beside the matrix.
        UsageError: A weight is no number.
    """
    expressions = _expressions(container, names)
    known: dict[str, list[str]] = {}
    for role, expression in expressions.items():
        for name in expression.names():
            known.setdefault(name, []).append(role)
    found: dict[str, LowRank] = {}
    able = frozenset(products)
    for text in adapters:
        path, weight = lora.split_weight(text)
        adapter = _Adapter(Folder(path), weight)
        for name, change in adapter.changes.items():
            where = lora.module_of(name)
            if name not in known:
                problem = "the model has no such matrix"
                raise ConvertError(problem, path=adapter.path, where=where, fix="is it of another model?")
            down, up = adapter.numbers(change, where)
            for role in known[name]:
                if role not in able:
                    problem = "it changes a matrix whose rows are looked up, or one of several experts"
                    raise UnsupportedError(problem, path=adapter.path, where=where, fix=MERGE)
                entry = container.tensors[names[role]]
                rows = _rows_of(expressions[role], name, up, change.transposed, adapter.path)
                if (len(rows), down.shape[1]) != entry.shape:
                    raise lora.misfit((len(rows), down.shape[1]), entry.shape, adapter.path, where)
                made = _stored(entry, container.path, down, rows, adapter.kinds(change))
                found[role] = found[role].beside(made) if role in found else made
    return found


class _Adapter:
    """An adapter whose numbers are read when they are asked for.

    Args:
        folder: Of it.
        weight: Of its changes.
    """

    def __init__(self, folder: Folder, weight: float) -> None:
        self.path = folder.path / lora.WEIGHTS
        file, self.changes = lora.read_adapter(folder, weight)
        self._tensors = {tensor.name: tensor for tensor in file.tensors}
        self._source = Checkpoint(file.path, generic=True)

    def numbers(self, change: lora.Change, where: str) -> tuple[Floats, Floats]:
        """(rank, columns), scaled, and (rows, rank) of a change."""
        lora.check_matrices(self._tensors[change.down], self._tensors[change.up], self.path, where)
        down, up = (self._source.rows(name, 0, self._tensors[name].shape[0]) for name in (change.down, change.up))
        down = down * np.float32(change.scale)
        if not (np.isfinite(down).all() and np.isfinite(up).all()):
            raise ConvertError("numbers that are not finite", path=self.path, where=where)
        return down, up

    def kinds(self, change: lora.Change) -> tuple[str, str]:
        """The types of both tensors."""
        return FLOATS[self._tensors[change.down].dtype], FLOATS[self._tensors[change.up].dtype]


class _One:
    """A source of one matrix; see `ggq.models.names.Source`."""

    def __init__(self, numbers: Floats) -> None:
        self.numbers = numbers

    def shape(self, name: str) -> Shape:
        return self.numbers.shape

    def rows(self, name: str, start: int, stop: int, out: Floats | None = None) -> Floats:
        if out is None:
            return self.numbers[start:stop]
        out[...] = self.numbers[start:stop]
        return out


def _expressions(container: Container, names: Mapping[str, str]) -> dict[str, Expression]:
    where = f"{container.path}: {CONFIG}"
    if CONFIG not in container.assets:
        raise UnsupportedError(f"there is no {CONFIG} in it, without which no adapter fits", path=container.path)
    try:
        config: Any = json.loads(container.assets[CONFIG].read())
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelError("an object expected", path=where)
    return stored_expressions(config, names, where)


def _rows_of(expression: Expression, name: str, up: Floats, transposed: bool, path: Path) -> Floats:
    """The rows of a change that a stored matrix has: what picks or scales rows of a matrix does so to its left factor.

    Args:
        expression: What the stored matrix is made of.
        name: The matrix that is changed.
        up: (rows, rank) of the change.
        transposed: Whether the adapter's matrix holds inputs as rows.
        path: The adapter, for messages.
    """
    turned, inner = False, expression
    while isinstance(inner, Picked | Times | Transposed):
        turned, inner = turned or isinstance(inner, Transposed), inner.expression
    if not isinstance(inner, Tensor) or turned != transposed:
        problem = f"the file has it in another form: {expression}"
        raise UnsupportedError(problem, path=path, where=lora.module_of(name), fix=MERGE)
    source = _One(np.ascontiguousarray(up.T) if turned else up)
    return expression.rows(source, 0, expression.shape(source.shape)[0])


def _stored(entry: StoredTensor, path: str, down: Floats, up: Floats, kinds: tuple[str, str]) -> LowRank:
    """A change as it is to be added to a matrix whose rows and columns may have been ordered and scaled (M-12)."""
    change = read_change(entry.attributes, entry.shape, f"{path}: tensor {entry.name}")
    if change.column_order is not None:
        down = down[:, change.column_order]
    if change.column_scale is not None:
        down = down * change.column_scale
    if change.row_order is not None:
        up = up[change.row_order]
    if change.row_scale is not None:
        up = up * change.row_scale[:, None]
    first, second = (_holding(numbers, kind) for numbers, kind in zip((down, up), kinds, strict=True))
    return LowRank(np.ascontiguousarray(down), np.ascontiguousarray(up), (first, second))


def _holding(numbers: Floats, kind: str) -> str:
    """A type, if it holds numbers exactly, else f32."""
    if kind == "f32" or not np.array_equal(to_float32(from_float32(numbers, kind), kind), numbers):
        return "f32"
    return kind
