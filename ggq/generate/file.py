"""A model file opened to look inside: metadata, assets, tensors as arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ggq.errors import UsageError
from ggq.format import Reader, TensorEntry, open_reader
from ggq.format.native.summary import scheme_label, summarize
from ggq.format.scheme import Scheme
from ggq.generate.inspection import stored_bytes
from ggq.notebook import table
from ggq.quant.stored import decoded, segments_of, undecodable
from ggq.quant.tensors import decoded_blocks
from ggq.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Tensor:
    """One tensor of a file; nothing is read before it is asked for.

    Args:
        reader: The open file.
        entry: The tensor's index entry.
    """

    def __init__(self, reader: Reader, entry: TensorEntry) -> None:
        self._reader, self._entry = reader, entry

    @property
    def name(self) -> str:
        """Its name in the checkpoint."""
        return self._entry.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions, the columns last."""
        return tuple(self._entry.shape)

    @property
    def scheme(self) -> Scheme | None:
        """How its numbers are stored; None when this version has no name for it."""
        return self._entry.scheme

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the converter noted: role, method, error."""
        return self._entry.attributes

    def dequantize(self) -> np.ndarray:
        """Its numbers, float32 in its shape.

        Raises:
            UnsupportedError: This version cannot decode its scheme.
        """
        return decoded(self._reader, self._entry)

    def matmul(self, x: np.ndarray) -> np.ndarray:
        """The product x @ W.T with a matrix W, in float32.

        Args:
            x: (..., columns), any float type.

        Returns:
            float32 (..., rows).

        Raises:
            UsageError: The tensor is no matrix, or x has another number of columns.
        """
        if len(self.shape) != 2:
            raise UsageError(f"matmul needs a matrix, and {self.name} has {len(self.shape)} dimensions")
        x = np.asarray(x, dtype=np.float32)
        if x.ndim == 0 or x.shape[-1] != self.shape[1]:
            raise UsageError(f"{self.name} has {self.shape[1]} columns, and x has shape {x.shape}")
        if self.scheme is None:
            raise undecodable(self._reader, self._entry)
        segments = segments_of(self._reader, self._entry)
        blocks = decoded_blocks(self.scheme, self.shape, self.scheme.geometry(self.shape), segments)
        out = np.empty((*x.shape[:-1], self.shape[0]), dtype=np.float32)
        for _, rows, block in blocks:
            out[..., rows] = x @ block.T
        return out

    def __repr__(self) -> str:
        return f"<Tensor {self.name} {self.shape}>"


class Tensors(Mapping[str, Tensor]):
    """The tensors of a file by name, in the order in which they are stored."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __getitem__(self, name: str) -> Tensor:
        return Tensor(self._reader, self._reader.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.tensors)

    def __len__(self) -> int:
        return len(self._reader.tensors)


class File:
    """An open file: `.metadata`, `.assets`, `.tensors`; a context manager.

    Args:
        reader: The open reader, which it closes.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.metadata = reader.metadata
        self.assets = reader.assets
        self.tensors = Tensors(reader)

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, as the `tokenizers` library has it.

        Raises:
            ModelError: The file has none, or it is broken.
        """
        return load_tokenizer(self.assets, self.metadata, self.reader.path)

    def __repr__(self) -> str:
        summary = summarize(self.reader)
        bits = "" if summary.bits_per_weight is None else f", {summary.bits_per_weight:.2f} bits per weight"
        return f"<File {self.reader.path}: {summary.parameters} numbers in {len(self.tensors)} tensors{bits}>"

    def _repr_html_(self) -> str:
        """The tensors as a table, for notebooks."""
        rows = [
            (entry.name, " x ".join(map(str, entry.shape)), scheme_label(entry), stored_bytes(entry))
            for entry in self.reader.tensors.values()
        ]
        return table(repr(self), ("tensor", "shape", "scheme", "bytes"), rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_file, (os.path.abspath(self.reader.path),)

    def close(self) -> None:
        """Let go of the file; arrays that were handed out stay valid."""
        self.reader.close()

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_file(path: str | os.PathLike[str]) -> File:
    """Open a file to look inside, as `ggq.open`.

    Args:
        path: A .ggq file; its header, footer and index are read and checked, its tensors are not.

    Raises:
        FormatError: It breaks a rule of the format.
        OSError: It cannot be read.
    """
    return File(open_reader(path))
