"""A GGUF file as a container of our terms: roles and schemes, tensors laid out in tiles when they are asked for."""

from __future__ import annotations

import json
import os
import pkgutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ModelError, UnsupportedError
from ggq.format.container import Part, aligned
from ggq.format.digests import digest_of
from ggq.format.gguf.reader import GGUFReader
from ggq.format.gguf.types import TYPES, type_name
from ggq.format.scheme import Scheme
from ggq.gguf.architecture.places import Place, holds, places, whole_shapes
from ggq.gguf.architecture.places import tensor_name as tensor_name
from ggq.gguf.architecture.table import ARCHITECTURES, names_of
from ggq.gguf.beside import Beside, names_beside, with_factor
from ggq.gguf.blocks import SCHEMES, matrix, numbers, rows_of, unread
from ggq.gguf.config import read_config
from ggq.gguf.kept.matrices import Matrices
from ggq.gguf.layout import LEAST_BYTES, MOVED, Workers, move
from ggq.gguf.tokens.vocabulary import Vocabulary
from ggq.models.build import role_shapes
from ggq.models.metadata import to_metadata
from ggq.models.registry import find_architecture
from ggq.quant import encode_tensor, parse_scheme
from ggq.quant.floats import from_float32
from ggq.quant.matrix import geometry
from ggq.quant.tiles import pack_rows, view_matrix

FACTORS = "rope_freqs.weight"

BLOCK_ROWS = 1 << 11


@dataclass(frozen=True)
class Entry:
    """A tensor; see `ggq.format.container.StoredTensor`."""

    name: str
    shape: tuple[int, ...]
    scheme: Scheme | None
    attributes: Mapping[str, Any]
    segments: Mapping[str, Part]
    stored_as: str


@dataclass(frozen=True)
class Text:
    """A file that is made when it is asked for; see `ggq.format.container.StoredAsset`."""

    make: Callable[[], bytes]
    made_of: Callable[[], bytes] | None = None

    @property
    def identity(self) -> bytes:
        """See `ggq.format.container.StoredAsset`."""
        return self.digest if self.made_of is None else self.made_of()

    @property
    def digest(self) -> bytes:
        """BLAKE3 of its bytes."""
        return digest_of(self.read())

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.read())

    def read(self) -> bytes:
        """Its bytes."""
        return self.make()


class GGUFModel:
    """A model in a GGUF file; see `ggq.format.container.Container`.

    Args:
        path: The file.

    Raises:
        FormatError: It is no GGUF file, or breaks a rule of the format.
        ModelError: Its keys or tensors are no whole model.
        UnsupportedError: Its architecture, a key of that, or a type is not known.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.reader = GGUFReader(path)
        self.path = self.reader.path
        try:
            self._read()
        except BaseException:
            self.reader.close()
            raise

    def _read(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.reader.tensors.items()}
        keys = self.reader.metadata
        self.config = read_config(keys, shapes, self._factors(), self.path)
        family = find_architecture(self.config, self.path)
        self.spec = family.config(self.config, self.path)
        self._permuted = ARCHITECTURES[str(keys["general.architecture"])].permuted
        names = names_of(keys, shapes, self.path)
        self._places = places(role_shapes(self.spec), names)
        self._check(shapes)
        self._beside = Beside(self.reader, self._places)
        named = {tensor_name(role, names): role for role in self._places}
        self.tensors = {name: self._entry(name, role) for name, role in named.items()}
        self._segments: dict[str, dict[str, NDArray[np.uint8]]] = {}
        self._lock = threading.Lock()
        self._matrices = Matrices(self.reader, self.tensors)

    def _factors(self) -> NDArray[np.float32] | None:
        """What frequencies are divided by; None without."""
        tensor = self.reader.tensors.get(FACTORS)
        if tensor is None:
            return None
        kind = self._type(FACTORS)
        return numbers(kind, rows_of(kind, self.reader.raw(FACTORS), tensor.shape)).reshape(-1)

    def _type(self, tensor: str) -> int:
        """The type of a tensor; one that is not read is refused."""
        kind = self.reader.tensors[tensor].type
        if kind not in SCHEMES:
            raise unread(kind, self.path, f"tensor {tensor}")
        return kind

    def _check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        expected = whole_shapes(self._places.values())
        for name, shape in expected.items():
            if name not in shapes:
                raise ModelError("missing: the file holds no whole model", path=self.path, where=f"tensor {name}")
            if not holds(shapes[name], shape):
                problem = f"shape {list(shapes[name])} found, {list(shape)} expected"
                raise ModelError(problem, path=self.path, where=f"tensor {name}")
        extra = [name for name in shapes if name not in {*expected, *names_beside(expected), FACTORS}]
        if extra:
            problem = f"{len(extra)} tensors that the architecture does not have, such as {extra[0]}"
            raise UnsupportedError(problem, path=self.path)

    def _entry(self, name: str, role: str) -> Entry:
        place = self._places[role]
        kind, shape = self._type(place.tensor), place.shape
        attributes: dict[str, Any] = {"role": role, "source_dtype": type_name(kind).lower()}
        scheme = parse_scheme("f32" if len(shape) == 1 else SCHEMES[kind])
        if self._beside.of(place) is not None:
            scheme = with_factor(scheme)
        lengths = geometry(scheme, shape).lengths
        return Entry(name, shape, scheme, attributes, {part: Part(n) for part, n in lengths.items()}, type_name(kind))

    @cached_property
    def digest(self) -> bytes:
        """Of the file's bytes as a whole."""
        return self.reader.digest()

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The keys of spec/metadata.md."""
        keys = self.reader.metadata
        found: dict[str, Any] = {"general.name": str(keys.get("general.name", os.path.basename(self.path)))}
        found |= to_metadata(self.spec, str(self.config["architectures"][0]))
        if (vocabulary := self._vocabulary) is not None:
            if vocabulary.bos is not None:
                found["tokenizer.bos_id"] = vocabulary.bos
            if vocabulary.ends:
                found["tokenizer.eos_ids"] = vocabulary.ends
            found["tokenizer.add_bos"] = vocabulary.add_bos and vocabulary.bos is not None
        return found

    @cached_property
    def assets(self) -> Mapping[str, Text]:
        """config.json, and tokenizer.json with its config where there is a vocabulary."""
        found = {"config.json": Text(lambda: (json.dumps(self.config, indent=2) + "\n").encode())}
        if self._vocabulary is not None:
            found["tokenizer.json"] = Text(lambda: self._tokenizer, self._tokenizer_source)
            found["tokenizer_config.json"] = Text(self._tokenizer_config)
        return found

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        keys = self.reader.metadata
        has = "tokenizer.ggml.model" in keys and "tokenizer.ggml.tokens" in keys
        return Vocabulary(keys, self.path) if has else None

    @cached_property
    def _tokenizer(self) -> bytes:
        assert self._vocabulary is not None
        return self._vocabulary.document().encode()

    def _tokenizer_source(self) -> bytes:
        """A digest of what tokenizer.json is made of, and by: the header, and the source of what turns it over."""
        files = ("vocabulary", "cuts", "merged", "unigram", "wordpiece")
        parts = (*(("ggq.gguf.tokens", f"{file}.py") for file in files), ("ggq.text", "tokenizer_json.py"))
        program = b"".join(pkgutil.get_data(*part) or b"" for part in parts)
        return digest_of(self.reader.header_digest() + program)

    def _tokenizer_config(self) -> bytes:
        vocabulary = self._vocabulary
        assert vocabulary is not None
        found: dict[str, Any] = {}
        for key, token in (("bos_token", vocabulary.bos), ("eos_token", next(iter(vocabulary.ends), None))):
            if token is not None:
                found[key] = vocabulary.tokens[token]
        template = self.reader.metadata.get("tokenizer.chat_template")
        if isinstance(template, str):
            found["chat_template"] = template
        return json.dumps(found, indent=2, ensure_ascii=False).encode()

    def segment(self, name: str, part: str) -> NDArray[np.uint8]:
        """See `ggq.format.container.Container`; the tensor is laid out when the first of its parts is asked for, unless
        the file's were kept."""
        with self._lock:
            if name not in self._segments:
                self._segments[name] = self._kept_or_laid_out(name)
            return self._segments[name][part]

    def _kept_or_laid_out(self, name: str) -> dict[str, NDArray[np.uint8]]:
        entry = self.tensors[name]
        return (
            self._matrices.parts(name, partial(self._laid_out, entry))
            if name in self._matrices
            else self._laid_out(entry)
        )

    def read_segment(self, name: str, part: str) -> NDArray[np.uint8]:
        """A tensor's part, nothing of which stays in memory; see `ggq.format.container.Container`."""
        kept = self._matrices.read(name, part)
        if kept is not None:
            return kept
        return self._segments[name][part] if name in self._segments else self._laid_out(self.tensors[name])[part]

    def keep(self) -> None:
        """Begin to keep what has been laid out, if that is everything, for the processes that come."""
        with self._lock:
            self._matrices.keep()

    def segments(self, name: str) -> dict[str, NDArray[np.uint8]]:
        """All parts of a tensor, nothing of which stays in memory."""
        return self._laid_out(self.tensors[name])

    def numbers(self, name: str) -> NDArray[np.float32]:
        """A tensor's numbers in its shape."""
        entry = self.tensors[name]
        role = entry.attributes["role"]
        place = self._places[role]
        kind = self.reader.tensors[place.tensor].type
        found = numbers(kind, rows_of(kind, self._raw(place), place.shape))
        if (factor := self._beside.of(place)) is not None:
            found = found * factor
        order = self._order(role, found.size if len(entry.shape) == 1 else len(found))
        return (found if order is None else found.reshape(len(order), -1)[order]).reshape(entry.shape)

    def mapped(self) -> NDArray[np.uint8] | None:
        """The map of what was kept, where segments are views of it."""
        return None if self._matrices.kept is None else self._matrices.kept.mapped()

    def check_whole(self) -> None:
        """Raise FormatError when what was kept, and is mapped, has been written to."""
        if self._matrices.kept is not None:
            self._matrices.kept.check_whole()

    def close(self) -> None:
        """Close the file."""
        self._segments.clear()
        self._matrices.close()
        if "_workers" in self.__dict__:
            self._workers.close()
        self.reader.close()

    def stored_bytes(self, name: str) -> int:
        """Bytes of a tensor's numbers in the GGUF file."""
        return self._run(self._places[self.tensors[name].attributes["role"]])[1]

    def _run(self, place: Place) -> tuple[int, int]:
        """First byte of some numbers in their tensor, and how many there are."""
        block = TYPES[self.reader.tensors[place.tensor].type]
        row = place.shape[-1] // block.numbers * block.bytes if len(place.shape) > 1 else block.bytes
        return place.first * row, place.shape[0] * row

    def _raw(self, place: Place) -> NDArray[np.uint8]:
        """The bytes of some numbers."""
        out = np.empty(self._run(place)[1], np.uint8)
        self._read_into(place, 0, out)
        return out

    def _read_into(self, place: Place, start: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with bytes of some numbers."""
        self.reader.read_into(place.tensor, self._run(place)[0] + start, out)

    @cached_property
    def _workers(self) -> Workers:
        return Workers()

    def _laid_out(
        self, entry: Entry, memory: Callable[[str], NDArray[np.uint8]] | None = None
    ) -> dict[str, NDArray[np.uint8]]:
        place = self._places[entry.attributes["role"]]
        scheme, kind = entry.scheme, self.reader.tensors[place.tensor].type
        assert scheme is not None
        if scheme.kind == "float":
            weights: Any = from_float32(self.numbers(entry.name), scheme.value)
            made = encode_tensor(weights, scheme, where=entry.name)
            segments = {part: memory(part) if memory else aligned(data.nbytes) for part, data in made.items()}
            for part, data in made.items():
                segments[part][:] = data
            return segments
        sizes = geometry(scheme, entry.shape)
        segments = {part: memory(part) if memory else aligned(n) for part, n in sizes.lengths.items()}
        order, factor = self._order(entry.attributes["role"], entry.shape[0]), self._beside.of(place)
        stored = scheme if factor is None else parse_scheme(SCHEMES[kind])
        view = view_matrix(stored, sizes, {part: segments[part] for part in stored.roles}, 0)
        if factor is not None:
            segments["input_scale"].view("<f4")[:] = np.where(
                np.arange(sizes.padded_columns) < sizes.columns, factor, 0
            )
        if kind in MOVED and sizes.bytes >= LEAST_BYTES:
            move(kind, entry.shape, order, view, partial(self._read_into, place), self._workers)
            return segments
        blocks = rows_of(kind, self._raw(place), entry.shape)
        for start in range(0, len(blocks), BLOCK_ROWS):
            rows = blocks[start : start + BLOCK_ROWS] if order is None else blocks[order[start : start + BLOCK_ROWS]]
            found_matrix = matrix(kind, rows)
            assert found_matrix is not None
            pack_rows(found_matrix, view, start // 16)
        if factor is not None and "input_scale" in stored.roles:
            segments["input_scale"].view("<f4")[:] *= factor
        return segments

    def _order(self, role: str, rows: int) -> NDArray[np.int64] | None:
        """The file's rows of queries and keys where halves of a head turn together; None where they are in order."""
        if not self._permuted or not role.rpartition(".")[0].endswith((".attention.q", ".attention.k")):
            return None
        heads = int(self.config["num_attention_heads" if ".q." in role else "num_key_value_heads"])
        return pair_order(rows, heads)


def pair_order(rows: int, heads: int) -> NDArray[np.int64]:
    """Which rows of queries or keys a file has that keeps the halves of each head in turns, in our order."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
