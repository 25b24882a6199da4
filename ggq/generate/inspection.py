"""What a file holds, from its index alone, as plain values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ggq.format import Reader, TensorEntry, open_reader
from ggq.format.native.summary import scheme_label, summarize

LONG_LIST, SHOWN = 64, 4
"""Items from which on a list is given by its length and its first items."""


def inspect(path: str | os.PathLike[str], *, tensors: bool = True) -> dict[str, Any]:
    """What a file holds, without reading its tensors, as `ggq.inspect` and `ggq inspect --json` have it.

    Args:
        path: A .ggq file.
        tensors: Whether every tensor is listed.

    Raises:
        FormatError: The file breaks a rule of the format.
    """
    with open_reader(path) as reader:
        return document(reader, tensors)


def document(reader: Reader, tensors: bool) -> dict[str, Any]:
    summary = summarize(reader)
    document: dict[str, Any] = {
        "file": str(reader.path),
        "file_bytes": reader.size,
        "digest": reader.digest,
        "parameters": summary.parameters,
        "tensor_count": len(reader.tensors),
        "bits_per_weight": summary.bits_per_weight,
        "schemes": {name: {"tensors": n, "bytes": b} for name, (n, b) in summary.schemes.items()},
        "assets": {name: asset.size for name, asset in reader.assets.items()},
        "metadata": {key: _short(value) for key, value in reader.metadata.items()},
    }
    if tensors:
        document["tensors"] = [_tensor(tensor) for tensor in reader.tensors.values()]
    return document


def _short(value: Any) -> Any:
    """A list of more than LONG_LIST items as its length and its first items."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) > LONG_LIST:
        return {"items": len(value), "first": list(value[:SHOWN])}
    return value


def _tensor(tensor: TensorEntry) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "scheme": scheme_label(tensor),
        "bytes": stored_bytes(tensor),
        "segments": {part: segment.length for part, segment in tensor.segments.items()},
        "attributes": dict(tensor.attributes),
    }


def stored_bytes(tensor: TensorEntry) -> int:
    """Bytes that a tensor takes in its file."""
    return sum(segment.length for segment in tensor.segments.values())
