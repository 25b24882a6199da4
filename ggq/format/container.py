"""The protocol that an open file of any kind answers to, so that what runs a model need not know which kind it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ggq.format.scheme import Scheme

ALIGNMENT = 64
"""Bytes of a cache line, and of a vector of the kernels: where segments begin."""


class StoredAsset(Protocol):
    """A file that is kept whole inside the container, such as tokenizer.json."""

    @property
    def digest(self) -> bytes:
        """BLAKE3 of its bytes."""
        ...

    @property
    def identity(self) -> bytes:
        """32 bytes that no other asset has, known without its bytes: of what it is made of, where it is made."""
        ...

    def read(self) -> bytes:
        """Its bytes."""
        ...


class StoredPart(Protocol):
    """One run of a tensor's bytes."""

    @property
    def length(self) -> int:
        """Bytes."""
        ...


@dataclass(frozen=True)
class Part:
    """A `StoredPart` of a container that is no file of ours."""

    length: int


class StoredTensor(Protocol):
    """A tensor as a container lists it."""

    @property
    def name(self) -> str:
        """Its name in the checkpoint."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions, the columns last."""
        ...

    @property
    def scheme(self) -> Scheme | None:
        """How its numbers are stored; None where this version cannot decode them."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its role and whatever else was noted (spec/metadata.md)."""
        ...

    @property
    def segments(self) -> Mapping[str, StoredPart]:
        """Its parts by name: "codes", "scales" ..."""
        ...

    @property
    def stored_as(self) -> str:
        """What the file calls its scheme, also where this version has no name for it."""
        ...


class Container(Protocol):
    """An open file that holds a model: metadata, assets and tensors, in the terms of spec/metadata.md."""

    @property
    def path(self) -> str:
        """The file, for messages."""
        ...

    @property
    def digest(self) -> bytes:
        """32 bytes that name what the file holds."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Keys and values."""
        ...

    @property
    def assets(self) -> Mapping[str, StoredAsset]:
        """Files that are kept whole, by name."""
        ...

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Tensors by name, in the order in which they are stored."""
        ...

    def segment(self, name: str, part: str, /) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor's part, aligned to 64 bytes and valid while they are referenced.

        Raises:
            UnsupportedError: This version cannot decode the tensor.
            FormatError: The file has become shorter since it was opened.
        """
        ...

    def read_segment(self, name: str, part: str, /) -> npt.NDArray[np.uint8]:
        """A copy of the bytes of a tensor's part, read-only: for whoever is no kernel, as a map of a file that becomes
        shorter while it is read ends the process.

        Raises:
            UnsupportedError: This version cannot decode the tensor.
            FormatError: The file has become shorter since it was opened.
        """
        ...

    def mapped(self) -> npt.NDArray[np.uint8] | None:
        """The whole file as one map of memory that the segments are views of; None where there is no such map."""
        ...

    def close(self) -> None:
        """Close the file; segments that are still referenced stay valid."""
        ...


def aligned(length: int) -> npt.NDArray[np.uint8]:
    """So many bytes at a multiple of ALIGNMENT; what they hold is of no meaning."""
    memory = np.empty(length + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + length]
