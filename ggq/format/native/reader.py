"""Reading a ggq file: its index at once, its data as views of a memory map."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.errors import FormatError, GGQError, UsageError
from ggq.format.digests import digest_of
from ggq.format.native import values
from ggq.format.native.coverage import check_coverage, check_tensors
from ggq.format.native.cursor import refuse
from ggq.format.native.descriptor import Descriptor, require_scheme
from ggq.format.native.frame import check_header, find_footer
from ggq.format.native.index import Index, parse_index
from ggq.format.native.layout import DIGEST_BYTES, FOOTER_BYTES, HEADER_BYTES, MAX_FILE_BYTES, MINOR
from ggq.format.native.values import Scalar, Value
from ggq.format.paths import open_regular, os_error
from ggq.format.scheme import Scheme

_HEAD_BYTES = 512


class Segment(NamedTuple):
    """One run of a tensor's bytes: byte offset in the file, length in bytes, BLAKE3-256 digest."""

    offset: int
    length: int
    digest: bytes


class TensorEntry(NamedTuple):
    """A tensor as the index lists it.

    Args:
        name: Name in the checkpoint that it came from.
        shape: Dimensions, the last one contiguous.
        scheme: How its numbers are stored, or None when this version cannot decode them.
        descriptor: The scheme as the file describes it.
        segments: Where its bytes lie, by role.
        attributes: Small values that belong to it.
    """

    name: str
    shape: tuple[int, ...]
    scheme: Scheme | None
    descriptor: Descriptor
    segments: dict[str, Segment]
    attributes: dict[str, Scalar]

    @property
    def stored_as(self) -> str:
        """What the file calls its scheme."""
        return self.descriptor.name


class Asset:
    """A source file kept whole, such as tokenizer.json."""

    __slots__ = ("_reader", "digest", "name", "offset", "size")

    def __init__(self, reader: Reader, name: str, segment: Segment) -> None:
        self._reader, self.name = reader, name
        self.offset, self.size, self.digest = segment

    @property
    def identity(self) -> bytes:
        """See `ggq.format.container.StoredAsset`."""
        return self.digest

    def read(self) -> bytes:
        """The asset's bytes; raises FormatError when they do not fit their digest."""
        data = self._reader.read_at(self.offset, self.size)
        if digest_of(data) != self.digest:
            error = refuse("C-70", "the bytes do not fit their digest: the file is damaged", f"asset {self.name}")
            raise FormatError(error.problem, path=self._reader.path, where=error.where)
        return data


class Metadata(Mapping[str, Value]):
    """The file's metadata in its order; a value is decoded when it is asked for."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __getitem__(self, key: str) -> Value:
        return values.decode_value(self._index.data, self._index.metadata[key][0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.metadata)

    def __len__(self) -> int:
        return len(self._index.metadata)

    def raw(self, key: str) -> bytes:
        """A value's type and payload as they lie in the file."""
        start, end = self._index.metadata[key]
        return self._index.data[start:end]

    def type(self, key: str) -> str:
        """The name of a value's type: "u64", "string", "array of string" ..."""
        start = self._index.metadata[key][0]
        kind = self._index.data[start]
        name = values.TYPES[kind]
        return f"{name} of {values.TYPES[self._index.data[start + 1]]}" if kind == values.ARRAY else name


class Tensors(Mapping[str, TensorEntry]):
    """The file's tensors in its order; entries are made when the first is asked for."""

    def __init__(self, index: Index, firsts: list[int]) -> None:
        self._index, self._firsts = index, firsts
        self._numbers = {name: number for number, name in enumerate(index.names)}
        self._entries: list[TensorEntry] = []

    def __getitem__(self, name: str) -> TensorEntry:
        number = self._numbers[name]
        if not self._entries:
            self._entries = self._make()
        return self._entries[number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def _make(self) -> list[TensorEntry]:
        """All entries at once, from whole columns: one by one it costs ten times as much."""
        index, firsts, records = self._index, self._firsts, self._index.tensors
        attributes: list[dict[str, Scalar]] = [{} for _ in self._numbers]
        for column in index.columns:
            items = values.decode_elements(index.data, column.start, column.kind, len(column.tensors)).tolist()
            for tensor, item in zip(column.tensors.tolist(), items):
                attributes[tensor][column.key] = item
        segments = to_segments(index.segments)
        entries = []
        rows = zip(self._numbers, records["scheme"].tolist(), records["dimensions"].tolist(), records["shape"].tolist())
        for number, (name, scheme, dimensions, sizes) in enumerate(rows):
            item = index.descriptors[scheme]
            parts = dict(zip(item.roles, segments[firsts[number] : firsts[number + 1]]))
            entry = TensorEntry(name, tuple(sizes[:dimensions]), item.scheme, item, parts, attributes[number])
            entries.append(entry)
        return entries


class Reader:
    """An open ggq file; use `open_reader`.

    Args:
        path: The file.

    Raises:
        FormatError: The file breaks a rule of spec/container.md.
        UnsupportedError: The file needs a newer version of ggq.
        GGQError: The file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()
        self._file = open_regular(self.path)
        try:
            self._load()
        except GGQError as error:
            self._file.close()
            if error.path is not None:
                raise
            raise type(error)(error.problem, path=self.path, where=error.where, fix=error.fix) from None
        except OSError as error:
            self._file.close()
            raise os_error(error, self.path, "read") from None
        except BaseException:
            self._file.close()
            raise

    def _load(self) -> None:
        state = os.fstat(self._file.fileno())
        self.size, self._changed = state.st_size, (state.st_mtime_ns, state.st_ctime_ns)
        if self.size > MAX_FILE_BYTES:
            raise refuse("C-2", f"a file of {self.size} bytes, allowed are {MAX_FILE_BYTES}")
        self.header = self.read_at(0, min(self.size, _HEAD_BYTES))
        self.minor = check_header(self.header, self.size)
        self.header = self.header[:HEADER_BYTES]
        self.footer = find_footer(self.read_at, self.size, self.header)
        data = self.read_at(self.footer.index_offset, self.footer.index_length)
        self.digest = digest_of(data)
        if self.digest != self.footer.digest:
            raise refuse("C-15", "the index does not fit its digest: the file is damaged", "index")
        self.index = parse_index(data, newer=self.minor > MINOR)
        self._firsts = check_tensors(self.index)
        self.layout = check_coverage(self.index, self.footer, self._firsts)
        self.metadata = Metadata(self.index)
        self.tensors = Tensors(self.index, self._firsts)
        pairs = zip(self.index.asset_names, to_segments(self.index.assets))
        self.assets = {name: Asset(self, name, segment) for name, segment in pairs}

    @property
    def trailing(self) -> int:
        """Bytes after the last whole footer: what an interrupted edit left, normally 0."""
        return self.size - self.footer.position - FOOTER_BYTES

    @property
    def firsts(self) -> list[int]:
        """The number of each tensor's first segment in the index, and the number of segments."""
        return self._firsts

    def read_at(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes at `offset`; raises FormatError when the file has become shorter."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills `buffer` from `offset`; FormatError when the file has become shorter, GGQError when its disk fails."""
        if self._file.closed:
            raise UsageError("the file is closed", path=self.path)
        done = 0
        with self._lock:
            try:
                self._file.seek(offset)
                while done < len(buffer):
                    count = self._file.readinto(buffer[done:])
                    if not count:
                        raise _shrunk(self.path, offset + done)
                    done += count
            except OSError as error:
                raise os_error(error, self.path, "read") from None

    def segment(self, name: str, role: str) -> npt.NDArray[np.uint8]:
        """The bytes of one segment.

        Args:
            name: Tensor.
            role: "values", "codes", "scales" ...

        Returns:
            uint8 (length,): a read-only view of the memory map, aligned to 64 bytes, valid while it is referenced.
            Reading it after another process has cut the file short ends this one (SIGBUS) unless the map is watched
            (ggq_kernels.run.guard): only here the length is checked.

        Raises:
            UnsupportedError: The tensor's scheme is one that this version cannot decode.
            FormatError: The file has become shorter since it was opened.
        """
        return self.view(self._segment(name, role))

    def read_segment(self, name: str, role: str) -> npt.NDArray[np.uint8]:
        """A copy of the bytes of one segment, read-only; arguments and refusals as for `segment`."""
        return self.copy(self._segment(name, role))

    def _segment(self, name: str, role: str) -> Segment:
        """Where a segment of a tensor that can be decoded lies."""
        if name not in self.tensors:
            raise UsageError(f"there is no tensor {name!r}", path=self.path)
        entry = self.tensors[name]
        require_scheme(entry.descriptor, name, self.path)
        if role not in entry.segments:
            problem = f"no segment {role!r}, it has {', '.join(entry.segments)}"
            raise UsageError(problem, path=self.path, where=f"tensor {name}")
        return entry.segments[role]

    def copy(self, segment: Segment) -> npt.NDArray[np.uint8]:
        """A copy of the bytes of any segment, read-only."""
        out = np.empty(segment.length, np.uint8)
        self.read_into(segment.offset, memoryview(out.data))
        out.flags.writeable = False
        return out

    def view(self, segment: Segment) -> npt.NDArray[np.uint8]:
        """The bytes of any segment as a read-only view of the map."""
        if self._file.closed:
            raise UsageError("the file is closed", path=self.path)
        if os.fstat(self._file.fileno()).st_size < segment.offset + segment.length:
            raise _shrunk(self.path, segment.offset)
        if self._map is None:
            try:
                self._map = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise GGQError(f"cannot be mapped into memory: {error}", path=self.path) from None
        return np.frombuffer(self._map, np.uint8, segment.length, segment.offset)

    def mapped(self) -> npt.NDArray[np.uint8]:
        """The whole file as a read-only view of the map."""
        return self.view(Segment(0, self.size, b""))

    def check_whole(self) -> None:
        """Raise FormatError when the file has become shorter than its tensors since it was opened, or has been written
        to and has another index: cut short and made longer again, or written over by another."""
        if self._file.closed:
            return
        state = os.fstat(self._file.fileno())
        if state.st_size < self.footer.index_offset:
            raise _shrunk(self.path, self.footer.index_offset)
        if (state.st_mtime_ns, state.st_ctime_ns) != self._changed:
            if digest_of(self.read_at(self.footer.index_offset, self.footer.index_length)) != self.digest:
                problem, fix = "the file has changed since it was opened (C-15)", "open it again"
                raise FormatError(problem, path=self.path, where="index", fix=fix)
            self._changed = state.st_mtime_ns, state.st_ctime_ns  # an edit, which leaves everything in its place

    def close(self) -> None:
        """Closes the file; segments that are still referenced stay valid."""
        self._file.close()
        if self._map is not None:
            try:
                self._map.close()
            except BufferError:  # a segment is still in use; the map goes with the last one
                pass
            self._map = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def to_segments(table: npt.NDArray[Any]) -> list[Segment]:
    """Segments from a table of ranges."""
    digests = table["digest"].tobytes()
    pairs = zip(table["offset"].tolist(), table["length"].tolist())
    return [
        Segment(offset, length, digests[at : at + DIGEST_BYTES])
        for at, (offset, length) in zip(range(0, len(digests), DIGEST_BYTES), pairs)
    ]


def _shrunk(path: str, position: int) -> FormatError:
    return FormatError("the file has become shorter since it was opened (C-2)", path=path, where=f"byte {position}")


def open_reader(path: str | os.PathLike[str]) -> Reader:
    """Opens a ggq file: reads header, footer and index, and checks them whole.

    Args:
        path: The file.

    Raises:
        FormatError: The file breaks a rule of spec/container.md.
        UnsupportedError: The file needs a newer version of ggq.
        GGQError: The file cannot be opened.
    """
    return Reader(path)
