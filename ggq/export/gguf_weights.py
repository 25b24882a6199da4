"""The weights that a GGUF file is made of: those of a .ggq file, or others that say as much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ggq.evaluate.compare import FileTensors
from ggq.export.gguf_types import FLOATS
from ggq.format import Reader
from ggq.format.container import StoredAsset, StoredTensor
from ggq.format.gguf.types import TYPES
from ggq.format.scheme import TILE_ROWS
from ggq.gguf.blocks import SCHEMES
from ggq.gguf.packing import kind_of, packed
from ggq.quant import scheme_name
from ggq.quant.change import read_change
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.stored import segments_of
from ggq.quant.tensors import row_blocks
from ggq.quant.tiles import unpack_rows, view_matrix

NVFP4 = 40
"""The type that has a factor beside it."""


class Weights(Protocol):
    """A model's weights, wherever they lie."""

    @property
    def path(self) -> str:
        """Where they lie, for messages."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Keys and values (spec/metadata.md)."""
        ...

    @property
    def assets(self) -> Mapping[str, StoredAsset]:
        """Files that are kept whole, by name."""
        ...

    @property
    def roles(self) -> Mapping[str, str]:
        """Roles of tensors by name, in order."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Their dimensions."""
        ...

    def own_type(self, name: str, /) -> int | None:
        """The type that stands for exactly a tensor's numbers; None where there is none."""
        ...

    def factor(self, name: str, /) -> float | None:
        """What is beside a tensor of its own type and multiplies its numbers; None where nothing is."""
        ...

    def blocks(self, name: str, /) -> Iterator[NDArray[np.float32]]:
        """A tensor's numbers, float32 (rows, columns), blocks of rows in order."""
        ...

    def kept(self, name: str, kind: int, order: NDArray[np.int64] | None, /) -> Iterator[NDArray[np.uint8]]:
        """The bytes of a tensor under its own type, rows in this order."""
        ...


class FileWeights:
    """The weights of a .ggq file; see `Weights`.

    Args:
        reader: The open file.
    """

    def __init__(self, reader: Reader) -> None:
        self._decoded = FileTensors(reader)
        self._reader = self._decoded.reader
        self.path, self.metadata, self.assets = reader.path, reader.metadata, reader.assets
        self.shapes = self._decoded.shapes

    @cached_property
    def roles(self) -> dict[str, str]:
        """See `Weights`."""
        return {name: str(entry.attributes.get("role", "")) for name, entry in self._reader.tensors.items()}

    def own_type(self, name: str) -> int | None:
        """See `Weights`."""
        entry: StoredTensor = self._reader.tensors[name]
        scheme = entry.scheme
        if scheme is None or not read_change(entry.attributes, entry.shape, entry.name).nothing:
            return None
        factor = self.factor(name)
        if "input_order" in entry.segments or ("input_scale" in entry.segments and factor is None):
            return None
        own = scheme_name(replace(scheme, transform=frozenset()))
        if scheme.kind == "float":
            return next((kind for kind in FLOATS.values() if SCHEMES[kind] == own), None)
        codebook = self._reader.read_segment(name, "codebook").view(np.int8) if "codebook" in entry.segments else None
        kind = kind_of(own, codebook, lambda: self._reader.read_segment(name, "scales").view(np.float16))
        if kind is None or (factor is not None and kind != NVFP4):
            return None
        block, sizes = TYPES[kind].numbers, scheme.geometry(entry.shape)
        if entry.shape[-1] % block or (scheme.subscale and sizes.supers * block != entry.shape[-1]):
            return None  # a super-group that is no block
        return kind

    def factor(self, name: str) -> float | None:
        """The factor of all inputs alike, where there is one."""
        entry = self._reader.tensors[name]
        if "input_scale" not in entry.segments:
            return None
        found = self._reader.read_segment(name, "input_scale").view("<f4")[: entry.shape[-1]]
        return float(found[0]) if (found == found[0]).all() else None

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """See `Weights`."""
        return self._decoded.blocks(name)

    def kept(self, name: str, kind: int, order: NDArray[np.int64] | None) -> Iterator[NDArray[np.uint8]]:
        """See `Weights`."""
        entry = self._reader.tensors[name]
        scheme = entry.scheme
        assert scheme is not None
        sizes = scheme.geometry(entry.shape)
        view = view_matrix(scheme, sizes, segments_of(self._reader, entry), 0)
        for rows in [slice(0, sizes.rows)] if order is not None else row_blocks(sizes):
            first, tiles = rows.start // TILE_ROWS, -(-(rows.stop - rows.start) // TILE_ROWS)
            matrix: QuantizedMatrix = unpack_rows(scheme, view, (sizes.rows, sizes.columns), first, tiles)
            found = packed(kind, matrix)[: rows.stop - rows.start]
            yield found if order is None else found[order]
