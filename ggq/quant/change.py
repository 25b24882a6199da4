"""Changes: what folded transforms have done to a tensor's rows and columns, and how it is undone."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import FormatError

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

ATTRIBUTES = {
    "row_order": ("folded_row_order", "<u4"),
    "row_scale": ("folded_row_scale", "<f4"),
    "column_order": ("folded_column_order", "<u4"),
    "column_scale": ("folded_column_scale", "<f4"),
}
"""Where a file keeps each part of a change with its tensor, and its type (spec/metadata.md, M-12)."""


@dataclass(frozen=True, eq=False)
class Change:
    """New[i, j] = old[row_order[i], column_order[j]] * row_scale[i] * column_scale[j]; None leaves things as they are.

    A tensor of one dimension is a row: a norm has its columns changed, a bias those that are its matrix's rows.
    """

    row_order: Places | None = None
    row_scale: Floats | None = None
    column_order: Places | None = None
    column_scale: Floats | None = None

    @property
    def nothing(self) -> bool:
        """Whether everything is left as it is."""
        return all(each is None for each in vars(self).values())

    @property
    def sides(self) -> str:
        """What is changed, in words: "rows", "columns" or "rows and columns"; "" for nothing."""
        rows = self.row_order is not None or self.row_scale is not None
        columns = self.column_order is not None or self.column_scale is not None
        return " and ".join(name for name, changed in (("rows", rows), ("columns", columns)) if changed)

    def with_rows(self, scale: Floats | None = None, order: Places | None = None) -> Change:
        """This change, then one of the rows: in an order, or scaled."""
        old_scale, old_order = _then(self.row_scale, self.row_order, scale, order)
        return Change(old_order, old_scale, self.column_order, self.column_scale)

    def with_columns(self, scale: Floats | None = None, order: Places | None = None) -> Change:
        """This change, then one of the columns."""
        old_scale, old_order = _then(self.column_scale, self.column_order, scale, order)
        return Change(self.row_order, self.row_scale, old_order, old_scale)

    def apply(self, old: Floats, rows: Places) -> Floats:
        """New rows.

        Args:
            old: float32 (some rows, columns), the old rows that these are made from, in the new order.
            rows: int64 (some rows,), the numbers of the new rows.
        """
        new = old if self.column_order is None else old[:, self.column_order]
        if self.row_scale is not None:
            new = new * self.row_scale[rows, None]
        return new if self.column_scale is None else new * self.column_scale

    def undo(self, blocks: Iterator[Floats], rows: int) -> Iterator[Floats]:
        """The old rows of a tensor.

        Args:
            blocks: float32 (some rows, columns) each, its new rows in order.
            rows: How many there are in all; where they have another order, all are in memory at once.
        """
        start, whole = 0, None
        for block in blocks:
            stop = start + len(block)
            if self.column_scale is not None:
                block = block / self.column_scale
            if self.row_scale is not None:
                block = block / self.row_scale[start:stop, None]
            if self.column_order is not None:
                block, ordered = np.empty_like(block), block
                block[:, self.column_order] = ordered
            if self.row_order is None:
                yield block
            else:
                whole = np.empty((rows, block.shape[1]), np.float32) if whole is None else whole
                whole[self.row_order[start:stop]] = block
            start = stop
        if whole is not None:
            yield whole

    def attributes(self) -> dict[str, str]:
        """What a file keeps of it with the tensor (M-12)."""
        if self.nothing:
            return {}
        parts = {name: (key, dtype, getattr(self, name)) for name, (key, dtype) in ATTRIBUTES.items()}
        kept = {key: _text(part.astype(dtype)) for key, dtype, part in parts.values() if part is not None}
        return {"folded": self.sides, **kept}


def read_change(attributes: Mapping[str, Any], shape: tuple[int, ...], where: str) -> Change:
    """The change that a tensor's attributes tell of.

    Args:
        attributes: Of the tensor.
        shape: Of the tensor.
        where: What to call it in errors.

    Raises:
        FormatError: Numbers of another count than the tensor's rows or columns, an order that is none, a scale that
            nothing can be divided by (M-12).
    """
    columns = shape[-1] if shape else 1
    counts = {"row": int(np.prod(shape[:-1], dtype=np.int64)), "column": columns}
    parts: dict[str, NDArray[Any]] = {}
    for name, (key, dtype) in ATTRIBUTES.items():
        if key not in attributes:
            continue
        data, count = _bytes(attributes[key]), counts[name.split("_")[0]]
        if len(data) != 4 * count:
            raise FormatError(f"{key}: {count} numbers of 4 bytes in base64 expected (M-12)", where=where)
        numbers = np.frombuffer(data, dtype)
        if dtype == "<u4":
            if not np.array_equal(np.sort(numbers), np.arange(count)):
                raise FormatError(f"{key}: each of 0 to {count - 1} once expected (M-12)", where=where)
            parts[name] = numbers.astype(np.int64)
        else:
            if not (np.isfinite(numbers) & (numbers > 0)).all():
                raise FormatError(f"{key}: positive numbers expected (M-12)", where=where)
            parts[name] = numbers.astype(np.float32)
    return Change(**parts)


def _text(numbers: NDArray[Any]) -> str:
    """Base64: attributes may be text, and no bytes."""
    return b64encode(numbers.tobytes()).decode("ascii")


def _bytes(text: object) -> bytes:
    """What base64 stands for; nothing for what is none."""
    try:
        return b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return b""


def _then(
    scale: Floats | None, order: Places | None, more: Floats | None, new_order: Places | None
) -> tuple[Floats | None, Places | None]:
    if new_order is not None:
        scale = None if scale is None else scale[new_order]
        order = new_order if order is None else order[new_order]
    if more is not None:
        scale = more if scale is None else scale * more
    return scale, order
