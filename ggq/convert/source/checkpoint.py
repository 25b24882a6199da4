"""A Hugging Face checkpoint: its config, its tensors by name, and their numbers by blocks of rows."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.convert.source.folder import Folder
from ggq.convert.source.json_input import load_object
from ggq.convert.source.packed.find import find_packed
from ggq.convert.source.packed.packed import Packed
from ggq.convert.source.safetensors_header import SafetensorsFile, SourceTensor
from ggq.convert.source.shards import read_all_files, read_files
from ggq.errors import ConvertError
from ggq.format.paths import os_error
from ggq.models.expression import matrices
from ggq.quant.floats import STORAGE, widen

CONFIG = "config.json"
LARGEST_CONFIG = 4 << 20

FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
"""Types of tensors that can be converted, by their safetensors names."""

NOWHERE = Path("zeros")
"""The file of tensors that are zeros and lie in none."""


class Checkpoint:
    """A checkpoint's headers, read and checked; weights are read when they are asked for and never kept.

    `notes` says in words what is odd about it and does not keep it from being converted.

    Args:
        path: The folder; with `generic` also one safetensors file.
        follow_links: Whether its files may be links to somewhere else.
        generic: Take all safetensors files that there are, whatever their names, with or without a config.json.

    Raises:
        ConvertError: Files are missing or contradict each other.
        FormatError: A file breaks a rule of its format.
        GGQError: A file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, follow_links: bool = False, generic: bool = False) -> None:
        path = Path(path)
        self.one = path.name if generic and path.is_file() else None
        self.folder = Folder(path if self.one is None else path.parent, follow_links=follow_links)
        if generic:
            self.config: dict[str, Any] = {}
            files, odd = read_all_files(self.folder, self.one), list[str]()
        else:
            self.config = load_config(self.folder)
            files, odd = read_files(self.folder)
        self.files: list[SafetensorsFile] = files
        self.notes: list[str] = odd
        self._tensors = {tensor.name: tensor for file in self.files for tensor in file.tensors}
        self.tensors: Mapping[str, SourceTensor] = MappingProxyType(self._tensors)
        self._files = {file.path: file for file in self.files}
        self._local = threading.local()
        self.packed: dict[str, Packed] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """The dimensions of a tensor; see `ggq.models.names.Source`."""
        return self.tensors[name].shape

    def rows(self, name: str, start: int, stop: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Rows of a tensor as float32; see `ggq.models.names.Source`, and `read_rows` for what is read and raised."""
        tensor = self.tensors[name]
        if out is None:
            out = np.empty((stop - start, matrices(tensor.shape)[2]), np.float32)
        if name in self.packed:
            self.packed[name].rows(self._read_at, start, out)
            return out
        kind = FLOATS[tensor.dtype]
        if kind == "f32" and out.flags.c_contiguous:
            self._read(tensor, start, out.view(np.uint8).reshape(-1))
        else:
            widen(self.read_rows(tensor, start, stop, reuse=True), kind, out)
        return out

    def rename(self, names: Mapping[str, str]) -> None:
        """Call tensors otherwise: old names to new ones, no two of them equal."""
        renamed = {names.get(name, name): tensor for name, tensor in self._tensors.items()}
        self.packed = {names.get(name, name): packed for name, packed in self.packed.items()}
        self._tensors.clear()
        self._tensors.update((name, replace(tensor, name=name)) for name, tensor in renamed.items())

    def leave_out(self, name: str) -> None:
        """Forget a tensor."""
        del self._tensors[name]

    def add_file(self, file: SafetensorsFile) -> None:
        """Have the tensors of one more file."""
        self.files.append(file)
        self._files[file.path] = file
        self._tensors.update((tensor.name, tensor) for tensor in file.tensors)

    def unpack(self) -> None:
        """Have packed matrices in place of their parts; raises as `find_packed` does."""
        for packed in find_packed(self._tensors, self.config, self._read_at, self.folder.path / CONFIG):
            for part in packed.parts:
                self._tensors.pop(part.name, None)
            self.packed[packed.name], self._tensors[packed.name] = packed, packed.tensor()

    def add_zeros(self, name: str, shape: tuple[int, ...]) -> None:
        """Have a tensor of zeros that is in no file."""
        self._tensors[name] = SourceTensor(name, "F32", shape, NOWHERE, 0, 0)

    def read_rows(self, tensor: SourceTensor, start: int, stop: int, *, reuse: bool = False) -> NDArray[Any]:
        """Rows of a tensor, every dimension but the last counted as rows.

        Args:
            tensor: One of FLOATS, of at least one dimension.
            start: First row.
            stop: Behind the last row.
            reuse: Read into memory that the next such call of the same thread overwrites. The system zeroes new memory
                page by page, which takes longer than reading into it.

        Returns:
            float32, float16 or uint16 (the bits of bf16) of shape (stop - start, columns). Safe to call from many
            threads: each call opens the file anew, which costs microseconds, and sees whether it is still the same.

        Raises:
            ConvertError: The file has changed since its header was read.
        """
        dtype = STORAGE[FLOATS[tensor.dtype]]
        columns = matrices(tensor.shape)[2]
        size = (stop - start) * columns * dtype.itemsize
        memory = self._memory(size) if reuse else np.empty(size, np.uint8)
        self._read(tensor, start, memory)
        return memory.view(dtype).reshape(-1, columns)

    def read_bytes(self, tensor: SourceTensor) -> bytes:
        """A tensor of any type as it is stored; raises as `read_rows` does."""
        memory = np.empty(tensor.bytes, np.uint8)
        self._read_at(tensor, 0, memory)
        return memory.tobytes()

    def _read(self, tensor: SourceTensor, start: int, memory: NDArray[np.uint8]) -> None:
        """Rows from `start` on, as they are stored, into memory of their length."""
        self._read_at(tensor, start * matrices(tensor.shape)[2] * STORAGE[FLOATS[tensor.dtype]].itemsize, memory)

    def _read_at(self, tensor: SourceTensor, offset: int, memory: NDArray[np.uint8]) -> None:
        """Bytes of a tensor from `offset` on into memory of their length."""
        if tensor.file is NOWHERE:
            memory[:] = 0
            return
        file = self._files[tensor.file]
        try:
            with open(tensor.file, "rb", buffering=0) as raw:
                state = os.fstat(raw.fileno())
                if (state.st_size, state.st_mtime_ns) != (file.size, file.modified):
                    raise _changed(tensor)
                raw.seek(tensor.offset + offset)
                left = memoryview(memory.data)
                while left:
                    count = raw.readinto(left)
                    if not count:
                        raise _changed(tensor)
                    left = left[count:]
        except OSError as error:
            raise os_error(error, os.fspath(tensor.file), "read") from None

    def _memory(self, size: int) -> NDArray[np.uint8]:
        """Memory of this thread, uint8 (size,)."""
        memory: NDArray[np.uint8] | None = getattr(self._local, "memory", None)
        if memory is None or len(memory) < size:
            memory = self._local.memory = np.empty(size, np.uint8)
        return memory[:size]


def load_config(folder: Folder) -> dict[str, Any]:
    """The checkpoint's config.json."""
    path: Path = folder.path / CONFIG
    if CONFIG not in folder:
        raise ConvertError(
            "missing: not a Hugging Face checkpoint",
            path=path,
            fix="give the folder that holds config.json and the weights",
        )
    return load_object(folder.read(CONFIG, LARGEST_CONFIG), path, infinite=True)


def _changed(tensor: SourceTensor) -> ConvertError:
    return ConvertError(
        "the file changed while it was converted",
        path=tensor.file,
        where=f"tensor {tensor.name}",
        fix="run it again when nothing writes to the checkpoint",
    )
