"""Writing a ggq file in one pass, under a temporary name until it is whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from ggq.errors import GGQError, UsageError
from ggq.format import paths
from ggq.format.digests import digest_of
from ggq.format.names import check_key, check_name
from ggq.format.native import journal, values
from ggq.format.native.cursor import refuse
from ggq.format.native.descriptor import check_dimensions, check_shape, encode_descriptor, roles_of
from ggq.format.native.frame import encode_footer, encode_header
from ggq.format.native.index import TensorParts, attribute_kind, encode_index
from ggq.format.native.layout import MAGIC, padding
from ggq.format.native.restore import restore
from ggq.format.native.values import Scalar, Value
from ggq.format.paths import kind_of, os_error, sync_folder, take_name, write_all
from ggq.format.scheme import Scheme
from ggq.format.unfinished import open_unfinished

Buffer = Any
"""A NumPy array or another bytes-like object, contiguous."""


def is_partial(head: bytes) -> bool:
    """Whether a file that begins so is a ggq file, perhaps torn in its first bytes."""
    return head[: len(MAGIC)] == MAGIC[: len(head)]


class _Begun(NamedTuple):
    """A tensor of which the first bytes are written: its name, where they begin, the digest so far."""

    name: str
    offset: int
    hasher: blake3


class Writer:
    """Writes a ggq file; a context manager that keeps the unfinished file, if asked, when an exception ends it.

    The file is written as PATH.partial with the journal PATH.journal beside it, and takes its name in `finish`. It is
    not safe to share between threads.

    Args:
        path: The file to make.
        force: Replace an existing file.
        keep: Keep what is unfinished, for a later `resume`, once there is a whole tensor in it; else it is removed.
        resume: Go on from the unfinished file, if there is one; else it is begun anew.
        fingerprint: Digest of inputs and options; an unfinished file is only continued with the one it was begun with.

    Raises:
        UsageError: The file exists and `force` is not given, or the path is no place for a file.
        ConvertError: There is an unfinished file of another fingerprint.
        GGQError: The folder cannot be written to, or another process writes the same file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        keep: bool = True,
        resume: bool = False,
        fingerprint: bytes = b"",
    ) -> None:
        self.path = os.fspath(path)
        self._force, self._keep, self._resume = force, keep, resume
        if "\0" in self.path:
            raise UsageError("cannot write: the name holds a null byte", path=repr(self.path))
        self._target = os.path.realpath(self.path)  # a symlink stays one: its target is replaced
        self.partial, self.journal = self._target + ".partial", self._target + ".journal"
        self._metadata: dict[str, bytes] = {}
        self._assets: dict[str, bytes] = {}
        self._tensors: list[TensorParts] = []
        self._names: set[str] = set()
        self._descriptors: dict[bytes, int] = {}
        self._end = 0
        self._begun: _Begun | None = None
        self._open = False
        self._check_target()
        saved = journal.read_journal(self.journal, fingerprint) if resume else None
        try:
            self._file = open_unfinished(self.partial, is_partial, force=force)
            try:
                saved = self._begin(saved)
                self._journal = journal.Journal(self.journal, fingerprint, self._file, saved, force=force)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise self._failed(error) from None
        self._open = True

    def _check_target(self) -> None:
        try:
            kind = kind_of(os.stat(self._target).st_mode)
        except FileNotFoundError:
            return
        except OSError as error:
            raise os_error(error, self.path, "write") from None
        if kind is not None:
            raise UsageError(f"cannot write: it is {kind}", path=self.path, fix="give the name of a file")
        if not self._force:
            raise UsageError("the file exists already", path=self.path, fix="choose another name or give --force")

    def _begin(self, saved: journal.Saved | None) -> journal.Saved | None:
        """Restores what the journal knows and the file bears out, or writes a header; returns what was restored."""
        header = encode_header()
        self._file.seek(0)
        if saved is not None and self._file.read(len(header)) == header:
            tensors, self._end = restore(self._file, saved.records, len(header), self.partial)
            for name, shape, raw, segments, attributes in tensors:
                scheme = self._descriptors.setdefault(raw, len(self._descriptors))
                self._tensors.append(TensorParts(name, shape, scheme, segments, attributes))
                self._names.add(name)
            self._file.truncate(self._end)
            self._file.seek(self._end)
            return saved
        self._file.truncate(0)
        self._file.seek(0)
        self._end = write_all(self._file, header)
        return None

    @property
    def finished(self) -> set[str]:
        """Names of the tensors that are in the file already."""
        return set(self._names)

    def restored(self) -> dict[str, tuple[tuple[int, ...], bytes, Mapping[str, Scalar]]]:
        """Shape, descriptor and attributes of the tensors that are in the file already, by name."""
        raw = list(self._descriptors)
        return {each.name: (each.shape, raw[each.scheme], each.attributes) for each in self._tensors}

    def add_metadata(self, key: str, value: Value | npt.NDArray[Any]) -> None:
        """Adds a metadata value; raises FormatError for a key that is there already or a value that has no place."""
        check_key(key)
        self.add_raw_metadata(key, values.encode_value(value, f"metadata {key}"))

    def add_raw_metadata(self, key: str, encoded: bytes) -> None:
        """Adds a metadata value that is encoded already."""
        self._require_open()
        if key in self._metadata:
            raise refuse("C-30", "the key comes twice", f"metadata {key}")
        self._metadata[key] = encoded

    def add_asset(self, name: str, data: bytes) -> None:
        """Adds a source file whole; assets follow the tensors in the file.

        Args:
            name: File name, with "/" between folders.
            data: Its bytes, kept in memory until `finish`.
        """
        self._require_open()
        check_name(name, "asset")
        if name in self._assets:
            raise refuse("C-51", "the name comes twice", f"asset {name!r}")
        self._assets[name] = bytes(data)

    def begin_tensor(self, name: str, data: Buffer) -> None:
        """Writes bytes of the first segment of a tensor before the rest of it is known.

        Args:
            name: Of the tensor that `add_tensor` shall be called for next, with these bytes too.
            data: What follows the bytes of the calls before it for this tensor.

        Raises:
            FormatError: A name that the format does not allow.
            UsageError: Another tensor has been begun.
            GGQError: The disk is full, or another failure of the operating system.
        """
        self._check_next(name)
        try:
            if self._begun is None:
                self._end += write_all(self._file, bytes(padding(self._end)))
                self._begun = _Begun(name, self._end, blake3())
            self._begun.hasher.update(data)
            size = write_all(self._file, data)
            self._end += size
            self._journal.wrote(size)
        except OSError as error:
            raise self._failed(error) from None

    def add_tensor(
        self,
        name: str,
        shape: Sequence[int],
        scheme: Scheme,
        segments: Mapping[str, Buffer],
        attributes: Mapping[str, Scalar] | None = None,
    ) -> None:
        """Writes a tensor; tensors lie in the file in the order of these calls.

        Args:
            name: Name in the checkpoint.
            shape: Dimensions, each at least 1.
            scheme: How its numbers are stored.
            segments: For each role of the scheme, uint8 (length,) or another contiguous bytes-like object.
            attributes: Small values to keep with it: bool, int, float or string.

        Raises:
            FormatError: A name, shape, role, length or attribute that the format does not allow.
            GGQError: The disk is full, or another failure of the operating system.
        """
        where, shape = f"tensor {name}", tuple(int(size) for size in shape)
        check_dimensions(shape, where)
        raw = encode_descriptor(scheme)
        check_shape(scheme, shape, where)
        if set(segments) != set(roles_of(scheme)):
            problem = f"segment roles {', '.join(segments)}, needed are {', '.join(roles_of(scheme))}"
            raise refuse("C-44", problem, where)
        buffers = [(role, memoryview(segments[role]).cast("B")) for role in roles_of(scheme)]
        lengths = scheme.geometry(shape).lengths
        for role, buffer in buffers:
            if len(buffer) != lengths[role]:
                problem = f"{len(buffer)} bytes of {role}, the shape {shape} needs {lengths[role]}"
                raise refuse("C-54", problem, where)
        self.add_raw_tensor(name, shape, raw, [buffer for _, buffer in buffers], attributes or {})

    def add_raw_tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        descriptor: bytes,
        buffers: Sequence[Buffer],
        attributes: Mapping[str, Scalar],
    ) -> None:
        """Writes a tensor whose scheme is given as its descriptor and whose buffers are in the order of its roles."""
        self._check_next(name)
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in attributes.items()}
        for key, value in plain.items():
            values.encode_elements([value], attribute_kind(key, value, name), f"tensor {name}, attribute {key}")
        try:
            start = self._end
            segments = [self._append(buffer) for buffer in buffers]
            scheme = self._descriptors.setdefault(descriptor, len(self._descriptors))
            self._tensors.append(TensorParts(name, shape, scheme, segments, plain))
            self._names.add(name)
            record = {
                "name": name,
                "shape": shape,
                "scheme": descriptor.hex(),
                "segments": [(offset, length, digest.hex()) for offset, length, digest in segments],
                "attributes": plain,
            }
            self._journal.add(record)
            self._journal.wrote(self._end - start)
        except OSError as error:
            raise self._failed(error) from None

    def _check_next(self, name: str) -> None:
        """Refuses a tensor that cannot come next."""
        self._require_open()
        check_name(name, "tensor")
        if name in self._names:
            raise refuse("C-51", "the name comes twice", f"tensor {name!r}")
        if self._begun is not None and self._begun.name != name:
            raise UsageError(f"tensor {self._begun.name} has been begun and must come next, not {name}", path=self.path)

    def _append(self, buffer: Buffer) -> tuple[int, int, bytes]:
        """Writes a range at the next aligned place, or what is left of a range that was begun, and returns it."""
        if self._begun is not None:
            begun, whole = self._begun, memoryview(buffer).cast("B")
            if self._end - begun.offset > len(whole):
                problem = f"{self._end - begun.offset} bytes of a segment of {len(whole)} have been written"
                raise UsageError(problem, path=self.path, where=f"tensor {begun.name}")
            self._begun, rest = None, whole[self._end - begun.offset :]
            begun.hasher.update(rest)
            self._end += write_all(self._file, rest)
            return begun.offset, self._end - begun.offset, begun.hasher.digest()
        self._end += write_all(self._file, bytes(padding(self._end)))
        offset = self._end
        self._end += write_all(self._file, buffer)
        return offset, self._end - offset, digest_of(buffer)

    def finish(self) -> bytes:
        """Writes assets, index and footer, makes all of it last, and gives the file its name.

        Returns:
            The file's digest, 32 bytes.
        """
        self._require_open()
        if self._begun is not None:
            raise UsageError(f"tensor {self._begun.name} has been begun and not ended", path=self.path)
        try:
            assets = {name: self._append(data) for name, data in self._assets.items()}
            index = encode_index(self._metadata, list(self._descriptors), self._tensors, assets)
            offset, length, digest = self._append(index)
            footer = encode_footer(encode_header(), offset, index)
            write_all(self._file, bytes(padding(self._end)) + footer)
            os.fsync(self._file.fileno())
            self._journal.wait()  # the system tells of a write error once, perhaps to the sync before
            self._check_target()
            self._journal.finish(digest)
            take_name(self._file, self.partial, self._target)
            sync_folder(self._target)
            self._open = False
            self._file.close()
            self._journal.close()
            os.unlink(self.journal)
        except OSError as error:
            raise self._failed(error) from None
        return digest

    def abort(self) -> None:
        """Stops, and keeps the unfinished file and its journal as far as `keep` says."""
        if not self._open:
            return
        self._open = False
        try:
            self._journal.flush()
        except (OSError, ValueError):  # what was journaled before stays good; `finish` may have closed the journal
            pass
        self._journal.close()
        if paths.NAMES_KEPT:
            self._file.close()
        if not (self._names and self._keep):
            for path in (self.partial, self.journal):
                try:
                    os.unlink(path)
                except OSError:
                    pass
        self._file.close()

    def _failed(self, error: OSError) -> GGQError:
        resumable = self._keep and (self._resume or bool(self._names))
        return os_error(error, self.partial, "write", resume=resumable)

    def _require_open(self) -> None:
        if not self._open:
            raise UsageError("the writer is finished already", path=self.path)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
