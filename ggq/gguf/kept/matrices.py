"""The memory that the matrices of a GGUF file are laid out in: this process's own, or the map of a kept file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.format.container import ALIGNMENT, StoredTensor
from ggq.format.gguf.reader import GGUFReader
from ggq.format.scheme import round_up
from ggq.gguf.kept import folder
from ggq.gguf.kept.keeper import Keeper, key_of
from ggq.gguf.kept.laid_out import LaidOut, find
from ggq.gguf.kept.pages import new_memory


class Matrices:
    """Places of the parts of all matrices in one run of memory.

    Args:
        reader: The open file.
        tensors: Its tensors by name.
    """

    def __init__(self, reader: GGUFReader, tensors: Mapping[str, StoredTensor]) -> None:
        self._reader = reader
        self._places: dict[str, dict[str, tuple[int, int]]] = {}
        self._size = 0
        for name, entry in tensors.items():
            if len(entry.shape) > 1:
                parts = self._places[name] = {}
                for part, stored in entry.segments.items():
                    parts[part] = self._size, stored.length
                    self._size += round_up(stored.length, ALIGNMENT)
        self._memory: NDArray[np.uint8] | None = None
        self._filled: set[str] = set()
        self._keeper: Keeper | None = None

    def __contains__(self, name: object) -> bool:
        return name in self._places

    @cached_property
    def kept(self) -> LaidOut | None:
        """The matrices as an earlier process has kept them; None where none has."""
        return None if self._key is None else find(self._key, self._size)

    @cached_property
    def _key(self) -> bytes | None:
        """What they are kept under; None where they are not."""
        return key_of(self._reader, self._places) if self._size >= folder.LEAST_BYTES and folder.limit() else None

    def parts(self, name: str, lay_out: Callable[[Callable[[str], NDArray[np.uint8]]], Any]) -> dict[str, Any]:
        """The parts of a matrix, uint8, where they are kept or after `lay_out` has filled the memory that it asks for
        by the name of a part."""
        places = self._places[name]
        if self.kept is not None:
            return {part: self.kept.part(*place) for part, place in places.items()}
        memory = self._own()
        found = {part: memory[start : start + length] for part, (start, length) in places.items()}
        lay_out(found.__getitem__)
        self._filled.add(name)
        return found

    def read(self, name: str, part: str) -> NDArray[np.uint8] | None:
        """A copy of a part that is kept, read-only; None where it is not."""
        return None if name not in self or self.kept is None else self.kept.read(*self._places[name][part])

    def _own(self) -> NDArray[np.uint8]:
        """This process's memory."""
        if self._memory is None:
            self._memory = new_memory(self._size)
        return self._memory

    def keep(self) -> None:
        """Begin to keep what has been laid out, if that is everything, for the processes that come."""
        if self._memory is None or self._key is None or self._keeper or len(self._filled) < len(self._places):
            return
        key = self._key
        self._keeper = Keeper(key, self._size, [self._memory], lambda: key_of(self._reader, self._places) == key)

    def close(self) -> None:
        """Let go of the memory; parts that are still referenced stay valid."""
        self._memory = None
        if (kept := self.__dict__.get("kept")) is not None:
            kept.close()
