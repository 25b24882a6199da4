"""Writing GGUF files of version 3: one tensor after the other, under a temporary name until all is there."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import UsageError
from ggq.format.gguf.header import DEFAULT_ALIGNMENT, LONGEST_NAME, NUMBERS, STRING
from ggq.format.gguf.kind import MAGIC
from ggq.format.gguf.types import TYPES
from ggq.format.paths import check_place, os_error
from ggq.format.unfinished import replacing

_ARRAY, _BOOL, _U32, _F32 = 9, 7, 4, 6
_KINDS = {np.dtype(kind): number for number, (name, kind) in NUMBERS.items() if name != "bool"}


@dataclass(frozen=True, eq=False)
class GGUFTensor:
    """A tensor to be written.

    Args:
        name: In the file.
        shape: Its dimensions, the columns last.
        type: Number of its type.
        pieces: Makes its bytes, in order.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    pieces: Callable[[], Iterator[NDArray[np.uint8]]]

    @property
    def size(self) -> int:
        """Its bytes."""
        block = TYPES[self.type]
        return prod(self.shape) // block.numbers * block.bytes


def write_gguf(
    path: str | os.PathLike[str],
    keys: Mapping[str, Any],
    tensors: Sequence[GGUFTensor],
    *,
    force: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> int:
    """Write a file, which appears under its name when it is whole.

    Args:
        path: The file to make.
        keys: Values by key: bool, int (u32), float (f32), str, a NumPy array of numbers or a sequence of strings.
        tensors: What it holds, in order.
        force: Replace an existing file.
        advance: Called with the number of bytes written since the last call.

    Returns:
        Its bytes.

    Raises:
        UsageError: The place is taken, or the name of a tensor is longer than the format allows.
        GGQError: It cannot be written.
    """
    check_place(path, force=force)
    head, done = _head(keys, tensors), 0
    try:
        with replacing(path, MAGIC, force=force) as file:
            done += file.write(head)
            for tensor in tensors:
                start = done
                for piece in tensor.pieces():
                    data = np.ascontiguousarray(piece).view(np.uint8).reshape(-1)
                    done += file.write(data.data)
                    advance(data.nbytes)
                assert done - start == tensor.size, tensor.name
                done += file.write(bytes(-done % DEFAULT_ALIGNMENT))
    except OSError as error:
        raise os_error(error, os.fspath(path), "write") from None
    return done


def _head(keys: Mapping[str, Any], tensors: Sequence[GGUFTensor]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(keys))]
    for key, value in keys.items():
        parts += [_text(key), encoded_value(value)]
    offset = 0
    for tensor in tensors:
        if len(tensor.name.encode()) > LONGEST_NAME:
            raise UsageError(f"a name of more than {LONGEST_NAME} bytes", where=f"tensor {tensor.name[:80]}")
        sizes = tuple(reversed(tensor.shape))
        parts += [_text(tensor.name), struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)]
        parts.append(struct.pack("<IQ", tensor.type, offset))
        offset += -(-tensor.size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
    head = b"".join(parts)
    return head + bytes(-len(head) % DEFAULT_ALIGNMENT)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def encoded_value(value: Any) -> bytes:
    """A value with the number of its type before it.

    Raises:
        UsageError: It is none that the format has.
    """
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int) and 0 <= value < 1 << 32:
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype in _KINDS:
        return struct.pack("<IIQ", _ARRAY, _KINDS[value.dtype], len(value)) + value.tobytes()
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return struct.pack("<IIQ", _ARRAY, STRING, len(value)) + b"".join(map(_text, value))
    raise UsageError(f"{value!r:.80} is no value of a GGUF file")
