"""Changing a finished file: metadata by an appended index, and repacking without what is dead."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import Any

from ggq.errors import FormatError, UsageError
from ggq.format.digests import digest_of
from ggq.format.names import check_key
from ggq.format.native import values
from ggq.format.native.frame import encode_footer
from ggq.format.native.index import TensorParts, encode_index
from ggq.format.native.layout import padding
from ggq.format.native.reader import Reader, Segment, open_reader, to_segments
from ggq.format.native.values import Value
from ggq.format.native.writer import Writer
from ggq.format.paths import check_place, lock, os_error, write_all


def edit_metadata(path: str | os.PathLike[str], changes: Mapping[str, Value | None]) -> bytes:
    """Sets, adds or (None) removes metadata, by appending a new index and footer; the tensors are not touched.

    A crash at any moment leaves the old state or the new one.

    Args:
        path: The file.
        changes: New values by key.

    Returns:
        The file's new digest, 32 bytes.

    Raises:
        FormatError: The file is damaged, or a key or value that the format does not allow.
        UsageError: A key to be removed is not there.
        GGQError: The file cannot be written.
    """
    path = os.fspath(path)
    open_reader(path).close()  # a file that is no ggq file is refused before it is opened for writing
    try:
        with io.FileIO(path, "r+b") as file:
            lock(file, path)
            with open_reader(path) as reader:
                return _append_index(file, reader, _change(reader, changes))
    except OSError as error:
        raise os_error(error, path, "write") from None


def _change(reader: Reader, changes: Mapping[str, Value | None]) -> dict[str, bytes]:
    """All metadata encoded, after the changes."""
    metadata = {key: reader.metadata.raw(key) for key in reader.metadata}
    for key, value in changes.items():
        check_key(key)
        if value is not None:
            metadata[key] = values.encode_value(value, f"metadata {key}")
        elif key not in metadata:
            raise UsageError(f"there is no metadata {key!r} to remove", path=reader.path)
        else:
            del metadata[key]
    return metadata


def _append_index(file: io.FileIO, reader: Reader, metadata: dict[str, bytes]) -> bytes:
    old = reader.footer.index_offset
    dead = Segment(old, reader.size - old, digest_of(reader.read_at(old, reader.size - old)))
    descriptors = [item.raw for item in reader.index.descriptors]
    assets = dict(zip(reader.index.asset_names, to_segments(reader.index.assets)))
    retired = [*to_segments(reader.index.retired), dead]
    index = encode_index(metadata, descriptors, _parts(reader), assets, retired)
    start = reader.size + padding(reader.size)
    end = start + len(index)
    try:
        file.seek(reader.size)
        write_all(file, bytes(start - reader.size) + index + bytes(padding(end)))
        os.fsync(file.fileno())  # the footer vouches for the index, so the index is on the disk before it
        write_all(file, encode_footer(reader.header, start, index))
        os.fsync(file.fileno())
    except BaseException:
        file.truncate(reader.size)
        raise
    return digest_of(index)


def _parts(reader: Reader) -> list[TensorParts]:
    schemes = reader.index.tensors["scheme"].tolist()
    return [
        TensorParts(entry.name, entry.shape, scheme, list(entry.segments.values()), entry.attributes)
        for entry, scheme in zip(reader.tensors.values(), schemes)
    ]


def repack(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> bytes:
    """Copies a file without the old indexes that edits have left, and checks every digest on the way.

    Args:
        path: The file.
        out: The file to make, another one.
        force: Replace `out` if it exists.
        progress: Called with the bytes done and the bytes of the file.

    Returns:
        The new file's digest, 32 bytes.

    Raises:
        FormatError: A tensor or asset does not fit its digest.
        UsageError: `out` is the file itself, exists, or is no place for a file.
    """
    with open_reader(path) as reader:
        if os.path.exists(out) and os.path.samefile(path, out):
            problem = "the output is the input itself"
            raise UsageError(problem, path=os.fspath(out), fix="choose another name, then rename it")
        check_place(out, force=force)
        with Writer(out, force=force, keep=False) as writer:
            for key in reader.metadata:
                writer.add_raw_metadata(key, reader.metadata.raw(key))
            for name, entry in reader.tensors.items():
                buffers = [_checked(reader, name, role, part) for role, part in entry.segments.items()]
                writer.add_raw_tensor(name, entry.shape, entry.descriptor.raw, buffers, entry.attributes)
                if progress is not None:
                    progress(max(part.offset + part.length for part in entry.segments.values()), reader.size)
            for name, asset in reader.assets.items():
                writer.add_asset(name, asset.read())
            return writer.finish()


def _checked(reader: Reader, name: str, role: str, segment: Segment) -> Any:
    data = reader.copy(segment)
    if digest_of(data) != segment.digest:
        problem = "the bytes do not fit their digest: the file is damaged (C-70)"
        raise FormatError(problem, path=reader.path, where=f"tensor {name}, {role}")
    return data
