"""Stacks of experts: tensors of three dimensions, whose matrices whoever runs a model meets one by one (M-17)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.errors import FormatError
from ggq.format.container import Part, StoredAsset, StoredPart, StoredTensor
from ggq.format.native.reader import Reader, Segment, TensorEntry
from ggq.format.scheme import Scheme

SHARED = "codebook"
"""The part of a tensor that its matrices have in common; of all others each has its own piece (spec/schemes.md, S5)."""

_STACK = re.compile(r"(.+\.experts)\.((?:gate|up|down)\.weight)")
_MATRIX = re.compile(r"(.+\.experts)\.([0-9]+)\.((?:gate|up|down)\.weight)")
_NAME = re.compile(r"(.*experts)\.([0-9]+)\.(.+)")


def place_in_stack(role: str) -> tuple[str, int] | None:
    """The role of the stack that the matrix of an expert belongs to, and its place there; None for other tensors."""
    found = _MATRIX.fullmatch(role)
    return None if found is None else (f"{found[1]}.{found[3]}", int(found[2]))


def name_of_stack(name: str, role: str) -> str:
    """The name of a stack, from the name of one of its matrices: without the number of the expert; or its role."""
    found = _NAME.fullmatch(name)
    return role if found is None else f"{found[1]}.{found[3]}"


def is_stack(entry: StoredTensor) -> bool:
    """Whether a tensor holds the matrices of experts."""
    role = entry.attributes.get("role")
    return len(entry.shape) == 3 and isinstance(role, str) and _STACK.fullmatch(role) is not None


@dataclass(frozen=True, eq=False)
class StackedMatrix:
    """One matrix of a stack, as a tensor.

    Args:
        entry: The stack.
        index: Its place there.
    """

    entry: TensorEntry
    index: int

    @cached_property
    def name(self) -> str:
        """The stack's name with the number of the expert."""
        before, dot, behind = self.entry.name.rpartition("experts.")
        return f"{before}{dot}{self.index}.{behind}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return tuple(self.entry.shape[1:])

    @property
    def scheme(self) -> Scheme | None:
        """See `StoredTensor`."""
        return self.entry.scheme

    @property
    def stored_as(self) -> str:
        """See `StoredTensor`."""
        return self.entry.stored_as

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """The stack's, with the role of the matrix."""
        before, kind, behind = str(self.entry.attributes["role"]).rsplit(".", 2)
        return {**self.entry.attributes, "role": f"{before}.{self.index}.{kind}.{behind}"}

    @cached_property
    def segments(self) -> Mapping[str, StoredPart]:
        """Its pieces of the stack's parts, by name."""
        return {part: Part(piece(self, part).stop - piece(self, part).start) for part in self.entry.segments}


def piece(matrix: StackedMatrix, part: str) -> slice:
    """Where a matrix lies in a part of its stack: its bytes, counted from the beginning of the part."""
    length = matrix.entry.segments[part].length
    each = length if part == SHARED else length // matrix.entry.shape[0]
    start = 0 if part == SHARED else matrix.index * each
    return slice(start, start + each)


class Unstacked:
    """A `Container` of a file whose stacks of experts are listed matrix by matrix; all else is as it was.

    Args:
        reader: The open file, which `close` closes.

    Raises:
        FormatError: A matrix of a stack has the name of another tensor.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.path, self.metadata = reader.path, reader.metadata
        self.tensors: dict[str, StoredTensor] = {}
        self._views: dict[tuple[str, str], npt.NDArray[np.uint8]] = {}
        for entry in reader.tensors.values():
            matrices = [StackedMatrix(entry, i) for i in range(entry.shape[0])] if is_stack(entry) else [entry]
            for each in matrices:
                if each.name in self.tensors or (each is not entry and each.name in reader.tensors):
                    problem = f"a matrix of the stack {entry.name} has the name of another tensor (M-17)"
                    raise FormatError(problem, path=self.path, where=f"tensor {each.name}")
                self.tensors[each.name] = each

    @property
    def digest(self) -> bytes:
        """See `Container`."""
        return self.reader.digest

    @property
    def assets(self) -> Mapping[str, StoredAsset]:
        """See `Container`."""
        return self.reader.assets

    def segment(self, name: str, part: str, /) -> npt.NDArray[np.uint8]:
        """See `Container`; a view, which begins at a multiple of 16 bytes where it is a piece of a stack's part."""
        matrix = self.tensors[name]
        if not isinstance(matrix, StackedMatrix):
            return self.reader.segment(name, part)
        key = matrix.entry.name, part
        if key not in self._views:
            self._views[key] = self.reader.segment(*key)
        return self._views[key][piece(matrix, part)]

    def read_segment(self, name: str, part: str, /) -> npt.NDArray[np.uint8]:
        """See `Container`."""
        matrix = self.tensors[name]
        if not isinstance(matrix, StackedMatrix):
            return self.reader.read_segment(name, part)
        whole, mine = matrix.entry.segments[part], piece(matrix, part)
        return self.reader.copy(Segment(whole.offset + mine.start, mine.stop - mine.start, b""))

    def mapped(self) -> npt.NDArray[np.uint8]:
        """See `Container`."""
        return self.reader.mapped()

    def check_whole(self) -> None:
        """See `Reader`."""
        self.reader.check_whole()

    def close(self) -> None:
        """See `Container`."""
        self._views.clear()
        self.reader.close()


def unstacked(reader: Reader) -> Reader | Unstacked:
    """An open file with the matrices of its stacks one by one; the file itself where it has no stack."""
    return Unstacked(reader) if any(map(is_stack, reader.tensors.values())) else reader
