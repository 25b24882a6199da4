"""Writing safetensors files piece by piece, so that memory stays small; the library's own writer holds all of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

DTYPES = {"f32": ("F32", 4), "f16": ("F16", 2), "bf16": ("BF16", 2)}
"""Names and bytes of the float types."""

INDEX = "model.safetensors.index.json"

Pieces = Callable[[], Iterator[memoryview]]
"""Makes a tensor's bytes, in order."""


@dataclass(frozen=True, eq=False)
class Output:
    """A tensor to be written.

    Args:
        name: In the file.
        dtype: As the safetensors format calls it.
        shape: Its dimensions.
        size: Its bytes.
        pieces: Makes them, in order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    pieces: Pieces


def float_output(name: str, kind: str, shape: tuple[int, ...], pieces: Pieces) -> Output:
    """A tensor of a float type: "f32", "f16" or "bf16"."""
    dtype, size = DTYPES[kind]
    return Output(name, dtype, shape, prod(shape) * size, pieces)


def file_names(tensors: Sequence[Output], largest: int) -> list[tuple[str, list[Output]]]:
    """Which file each tensor goes into: one, or several of up to `largest` bytes that are numbered."""
    files: list[list[Output]] = [[]]
    room = largest
    for tensor in tensors:
        if files[-1] and tensor.size > room:
            files.append([])
            room = largest
        files[-1].append(tensor)
        room -= tensor.size
    if len(files) == 1:
        return [("model.safetensors", files[0])]
    return [(f"model-{i:05}-of-{len(files):05}.safetensors", file) for i, file in enumerate(files, 1)]


def index_text(files: Sequence[tuple[str, Sequence[Output]]]) -> str:
    """What tells transformers which file a tensor is in."""
    total = sum(tensor.size for _, tensors in files for tensor in tensors)
    places = {tensor.name: name for name, tensors in files for tensor in tensors}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}, indent=2) + "\n"


def write_file(path: Path, tensors: Iterable[Output], advance: Callable[[int], None] = lambda count: None) -> None:
    """Write one file.

    Args:
        path: A new file.
        tensors: What it holds.
        advance: Called with the number of bytes written since the last call.

    Raises:
        OSError: It cannot be written.
    """
    ordered = list(tensors)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        offsets = [end, end + tensor.size]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        end += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            written = 0
            for piece in tensor.pieces():
                file.write(piece)
                written += len(piece)
                advance(len(piece))
            assert written == tensor.size, tensor.name
        file.flush()
