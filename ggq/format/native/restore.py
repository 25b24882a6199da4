"""What a journal says of an unfinished file, believed only as far as the file itself bears it out."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ggq.errors import ConvertError, GGQError
from ggq.format.digests import hasher
from ggq.format.names import check_name
from ggq.format.native import values
from ggq.format.native.descriptor import Descriptor, check_dimensions, check_shape, decode_descriptor, encode_descriptor
from ggq.format.native.index import attribute_kind
from ggq.format.native.layout import padding
from ggq.format.native.values import Scalar

FIX = "run it without --resume to begin again"
_KEYS = "name", "shape", "scheme", "segments", "attributes"
_CHUNK = 1 << 22


class Restored(NamedTuple):
    """A tensor that is whole in the unfinished file: its descriptor's bytes, segments as (offset, length, digest)."""

    name: str
    shape: tuple[int, ...]
    scheme: bytes
    segments: list[tuple[int, int, bytes]]
    attributes: dict[str, Scalar]


def restore(file: io.FileIO, records: list[dict[str, Any]], start: int, path: str) -> tuple[list[Restored], int]:
    """Check what a journal says, and every byte of it that lies in the file against its digest.

    Args:
        file: The unfinished file.
        records: What the journal says of each tensor.
        start: Where the first tensor must begin, or its padding.
        path: The file, for the messages.

    Returns:
        The tensors, and where the last one ends.

    Raises:
        ConvertError: A record that no writer writes, or bytes that are missing or do not fit their digest.
    """
    size = os.fstat(file.fileno()).st_size
    found: list[Restored] = []
    names: set[str] = set()
    for number, record in enumerate(records, 1):
        try:
            tensor = _tensor(record, start)
        except GGQError as error:
            problem = f"the journal's record of tensor {number} is none: {error.problem}"
            raise ConvertError(problem, path=path, fix=FIX) from None
        if tensor.name in names:
            raise ConvertError("the journal names a tensor twice", path=path, where=f"tensor {tensor.name}", fix=FIX)
        for offset, length, digest in tensor.segments:
            start = offset + length
            if start > size:
                raise ConvertError("the journal names bytes that the unfinished file lacks", path=path, fix=FIX)
            if _digest(file, offset, length) != digest:
                problem = "the unfinished file does not hold the bytes that its journal tells of"
                raise ConvertError(problem, path=path, where=f"tensor {tensor.name}", fix=FIX)
        found.append(tensor)
        names.add(tensor.name)
    return found, start


def _tensor(record: Mapping[str, Any], end: int) -> Restored:
    """A record checked by itself; raises GGQError of what is wrong with it."""
    _need(set(record) == set(_KEYS), "its keys")
    name, shape, scheme, segments, attributes = (record[key] for key in _KEYS)
    _need(isinstance(name, str), "its name")
    check_name(name, "tensor")
    where = f"tensor {name}"
    _need(isinstance(shape, list) and all(type(size) is int for size in shape), "its shape")
    check_dimensions(tuple(shape), where)
    _need(isinstance(scheme, str) and re.fullmatch("([0-9a-f]{2})+", scheme) is not None, "its scheme")
    raw = bytes.fromhex(scheme)
    descriptor = decode_descriptor(raw, where)
    known = descriptor.scheme
    _need(known is not None and encode_descriptor(known) == raw, "its scheme")
    _need(isinstance(attributes, dict), "its attributes")
    for key, value in attributes.items():
        values.encode_elements([value], attribute_kind(key, value, name), f"{where}, attribute {key}")
    return Restored(name, tuple(shape), raw, _segments(segments, descriptor, tuple(shape), end), attributes)


def _segments(segments: Any, descriptor: Descriptor, shape: tuple[int, ...], end: int) -> list[tuple[int, int, bytes]]:
    """Segments that follow each other without a gap but padding, as long as their scheme wants them."""
    _need(isinstance(segments, list) and len(segments) == len(descriptor.roles), "its segments")
    assert descriptor.scheme is not None  # `_tensor` has looked
    check_shape(descriptor.scheme, shape, "tensor")
    lengths = descriptor.scheme.geometry(shape).lengths
    found = []
    for role, part in zip(descriptor.roles, segments):
        _need(isinstance(part, list) and [type(item) for item in part] == [int, int, str], f"its segment {role}")
        offset, length, digest = part
        _need(re.fullmatch("[0-9a-f]{64}", digest) is not None, f"the digest of {role}")
        _need(offset == end + padding(end) and length > 0, f"the place of {role}")
        _need(lengths[role] == length, f"the length of {role}")
        found.append((offset, length, bytes.fromhex(digest)))
        end = offset + length
    return found


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise GGQError(f"{what} cannot be")


def _digest(file: io.FileIO, offset: int, length: int) -> bytes:
    """The digest of a range of a file; of less where the file became shorter, which no digest fits."""
    state = hasher(length)
    file.seek(offset)
    while length and (data := file.read(min(length, _CHUNK))):
        state.update(data)
        length -= len(data)
    return state.digest()
