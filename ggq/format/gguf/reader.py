"""Reading GGUF files: the header at once, tensors when they are asked for; a split model is read as one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import FormatError, UnsupportedError, UsageError
from ggq.format.digests import hasher
from ggq.format.gguf.header import Header, Listed, More
from ggq.format.paths import open_regular, os_error

_SPLIT = re.compile(r"(?P<start>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
MOST_FILES = 1024

HEADER_BYTES = (1 << 20, 1 << 24, 1 << 27, 1 << 30)
"""Bytes of a file that are read to find its header in; one with a vocabulary of 256,000 tokens has about 10 million."""
CHUNK = 1 << 24


class GGUFMetadata(Mapping[str, Any]):
    """The key-value pairs of a file in its order; a value is decoded when it is asked for."""

    def __init__(self, header: Header) -> None:
        self._header = header

    def __getitem__(self, key: str) -> Any:
        return self._header.value(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._header.values)

    def __len__(self) -> int:
        return len(self._header.values)

    def __contains__(self, key: object) -> bool:
        return key in self._header.values


class _File:
    """One file of a model. It is read and not mapped: it may be cut short meanwhile."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open_regular(path, "not a GGUF file: {}")
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            if not self.size:
                raise FormatError("an empty file", path=path)
            self.header = self._header()
        except BaseException:
            self._file.close()
            raise

    def _header(self) -> Header:
        for count in (*HEADER_BYTES, None):
            if count is None:
                raise FormatError(f"a header of more than {HEADER_BYTES[-1]} bytes", path=self.path)
            try:
                return Header(memoryview(self._read(0, min(count, self.size)).data), self.path, self.size)
            except More:
                pass
        raise AssertionError

    def read_tensor(self, tensor: Listed, start: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with bytes of a tensor."""
        self._fill(self.header.data_start + tensor.offset + start, out)

    def state(self) -> tuple[int, ...]:
        """Device, number, size, times of the last write and of the last change: others once anybody has written."""
        status = os.fstat(self._file.fileno())
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """All bytes, in order."""
        for start in range(0, self.size, CHUNK):
            yield self._read(start, min(CHUNK, self.size - start))

    def close(self) -> None:
        """Nothing is read after that."""
        self._file.close()

    def _read(self, offset: int, count: int) -> NDArray[np.uint8]:
        """A copy of a run of bytes, read-only."""
        out = np.empty(count, np.uint8)
        self._fill(offset, out)
        out.flags.writeable = False
        return out

    def _fill(self, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with a run of bytes; several threads may do so at once."""
        if self._file.closed:
            raise UsageError("the file is closed", path=self.path)
        done = 0
        try:
            while done < len(out):
                found = os.preadv(self._file.fileno(), [out[done:].data], offset + done)
                if not found:
                    now = os.fstat(self._file.fileno()).st_size
                    raise FormatError(f"{now} bytes found, {self.size} when it was opened", path=self.path)
                done += found
        except OSError as error:
            raise os_error(error, self.path, "read") from None


class GGUFReader:
    """An open GGUF file, all files of a split one; a context manager.

    Args:
        path: The file; the first one of a split model.

    Raises:
        FormatError: It is no GGUF file, breaks a rule of the format, or a file of a split model is missing.
        UnsupportedError: A version that is not read.
        GGQError: It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._files = [_File(self.path)]
        first = self._files[0].header
        self.version = first.version
        self.metadata = GGUFMetadata(first)
        self.tensors: dict[str, Listed] = {}
        self._places: dict[str, _File] = {}
        try:
            self._open_others()
            self._list_tensors()
        except BaseException:
            self.close()
            raise

    def _list_tensors(self) -> None:
        for file in self._files:
            for name, tensor in file.header.tensors.items():
                if name in self.tensors:
                    raise FormatError("is in two files of the split", path=file.path, where=f"tensor {name}")
                self.tensors[name], self._places[name] = tensor, file

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self._files)

    def digest(self) -> bytes:
        """BLAKE3 of the bytes of all files, one after the other."""
        state = hasher(self.size)
        for file in self._files:
            for piece in file.pieces():
                state.update(piece.data)
        return state.digest()

    def header_digest(self) -> bytes:
        """BLAKE3 of the header of the first file: of its metadata and its list of tensors."""
        return self._files[0].header.digest()

    def state(self) -> list[tuple[int, ...]]:
        """Of each file its device, number, size, and the times of the last write and of the last change, in ns: others
        once anybody has written to it."""
        return [file.state() for file in self._files]

    def kind(self, key: str) -> str:
        """The name of a metadata value's type."""
        return self._files[0].header.kind(key)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, read-only.

        Raises:
            UnsupportedError: Of a type that this version does not know.
            FormatError: The file has become shorter.
        """
        out = np.empty(self._known(name).bytes or 0, np.uint8)
        self.read_into(name, 0, out)
        out.flags.writeable = False
        return out

    def read_into(self, name: str, start: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with the bytes of a tensor from `start` on; several threads may do so at once.

        Raises:
            UnsupportedError: Of a type that this version does not know.
            FormatError: The file has become shorter.
        """
        self._places[name].read_tensor(self._known(name), start, out)

    def _known(self, name: str) -> Listed:
        """A tensor whose type has a size."""
        tensor = self.tensors[name]
        if tensor.bytes is None:
            problem = f"{tensor.type_name} is not known to this version"
            raise UnsupportedError(problem, path=self.path, where=f"tensor {name}")
        return tensor

    def close(self) -> None:
        """Close it; nothing is read after that."""
        for file in self._files:
            file.close()
        self._files.clear()
        self._places.clear()

    def __enter__(self) -> GGUFReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_others(self) -> None:
        """The other files of a split model."""
        count = self.metadata.get("split.count", 1)
        if count in (0, 1):
            return
        folder, name = os.path.split(self.path)
        match = _SPLIT.fullmatch(name)
        if not isinstance(count, int) or count > MOST_FILES or match is None or int(match["count"]) != count:
            problem = f"one of {count} files, whose names end in -00001-of-{count:05}.gguf and so on"
            raise FormatError(problem, path=self.path, where="key split.count")
        if self.metadata.get("split.no", 0) != 0 or int(match["number"]) != 1:
            first = os.path.join(folder, f"{match['start']}-00001-of-{count:05}.gguf")
            raise FormatError("not the first file of a split model", path=self.path, fix=f"give {first}")
        for number in range(2, count + 1):
            path = os.path.join(folder, f"{match['start']}-{number:05}-of-{count:05}.gguf")
            file = _File(path)
            keys = file.header.values
            said = [file.header.value(key) if key in keys else None for key in ("split.no", "split.count")]
            if said != [number - 1, count]:
                raise FormatError(f"file {said[0]} of {said[1]} found, {number - 1} of {count} expected", path=path)
            self._files.append(file)
        total = self.metadata.get("split.tensors.count")
        found = sum(len(file.header.tensors) for file in self._files)
        if total is not None and total != found:
            raise FormatError(f"{found} tensors found, {total} announced", path=self.path, where="split.tensors.count")
