"""`ggq export MODEL.ggq OUT.gguf`: a file for llama.cpp and its kin, exact where a GGUF type expresses a scheme."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.convert.pool import in_order
from ggq.errors import ConvertError, ModelError, UnsupportedError, UsageError
from ggq.evaluate.compare import FileTensors
from ggq.export.gguf_types import FILE_TYPES, FLOATS, PURE, Q8_0, TYPE_NAMES, fitting, outer_type
from ggq.format import Reader, open_reader
from ggq.format.container import StoredTensor
from ggq.format.gguf.types import TYPES
from ggq.format.gguf.writer import GGUFTensor, write_gguf
from ggq.format.paths import check_not_input
from ggq.format.scheme import TILE_ROWS
from ggq.gguf.blocks import SCHEMES, numbers, rows_of
from ggq.gguf.config import ARCHITECTURES
from ggq.gguf.container import FACTORS, pair_order, tensor_name
from ggq.gguf.encode.encoders import ENCODERS, encoded
from ggq.gguf.keys import model_keys
from ggq.gguf.packing import PACKERS, packed
from ggq.gguf.vocabulary_keys import special_keys, vocabulary_keys
from ggq.models.metadata import from_metadata
from ggq.models.parts import ModelSpec
from ggq.quant import ErrorSum, parse_scheme, scheme_name
from ggq.quant.change import read_change
from ggq.quant.floats import finite, from_float32
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.methods import choose_method
from ggq.quant.stored import segments_of
from ggq.quant.tensors import row_blocks
from ggq.quant.tiles import unpack_rows, view_matrix

OUTER = ("token_embd.weight", "output.weight")
"""Matrices that have more bits where the others have few."""

MOST_LOST = 0.75
"""The relative error beyond which a tensor is refused: ternary codes make .4 or less of what any model has."""

PIECE_WEIGHTS = 1 << 20
"""Weights that a thread encodes at once, about."""

Blocks = Callable[[], Iterator[NDArray[np.uint8]]]


@dataclass(frozen=True)
class ExportedGGUF:
    """What was written.

    Args:
        path: The file.
        bytes: Of it.
        types: How many tensors have each type.
        exact: Matrices whose numbers are those of the file.
        encoded: Matrices that were rounded anew.
        worst: The largest relative error (root mean square) that made.
    """

    path: Path
    bytes: int
    types: dict[str, int]
    exact: int
    encoded: int
    worst: float


def export_gguf(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    type: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedGGUF:
    """Write a model as a GGUF file.

    Args:
        file: A .ggq file.
        out: The file to write.
        type: Of matrices, one of TYPE_NAMES; the embedding and the output have q6_k or q8_0 where it has fewer bits.
            None keeps each matrix in the type that expresses its scheme, and encodes others as q8_0.
        force: Replace an existing file.
        progress: Called now and then with the bytes written and those in all.

    Raises:
        FormatError: The file breaks a rule of the format.
        ModelError: It holds no model.
        UnsupportedError: An architecture, a tokenizer or a scheme that a GGUF file cannot have.
        UsageError: An option is none, the place is taken, or a number is too large for f16.
        ConvertError: Weights are too small or too large for the scales of a type.
    """
    if type is not None and type not in TYPE_NAMES:
        raise UsageError(f"type must be one of {', '.join(TYPE_NAMES)}, not {type!r}")
    check_not_input(out, file)
    with open_reader(file) as reader:
        made = _Model(reader, type)
        total, done = sum(tensor.size for tensor in made.tensors), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        size = write_gguf(out, made.keys, made.tensors, force=force, advance=advance)
        names = [TYPES[tensor.type].name for tensor in made.tensors]
        types = {name: names.count(name) for name in dict.fromkeys(names)}
        worst = max(made.errors.values(), default=0.0)
        return ExportedGGUF(Path(out), size, types, made.exact, made.encoded, worst)


class _Model:
    """What a file is to hold.

    Args:
        reader: The open file.
        type: Of matrices; None for as they are.
    """

    def __init__(self, reader: Reader, type: str | None) -> None:
        if "model.kind" not in reader.metadata:
            raise ModelError("it holds tensors without a model", path=reader.path)
        spec, model = from_metadata(reader.metadata, reader.path), str(reader.metadata["model.architecture"])
        if not isinstance(spec, ModelSpec):
            raise UnsupportedError(f"{model} is not written as a GGUF file", path=reader.path)
        self.reader, self.type, self.spec = reader, type, spec
        self.decoded, self.exact, self.encoded = FileTensors(reader), 0, 0
        self.errors: dict[str, float] = {}
        keys, factors = model_keys(spec, model, reader.path)
        self.permuted = ARCHITECTURES[keys["general.architecture"]].permuted
        general = {"general.name": str(reader.metadata.get("general.name", model)), "general.quantization_version": 2}
        if type is not None:
            general["general.file_type"] = FILE_TYPES[type]
        self.keys = {**keys, **general, **self._vocabulary()}
        self.tensors = [self._tensor(entry) for entry in reader.tensors.values()]
        if factors is not None:
            self.tensors.append(GGUFTensor(FACTORS, factors.shape, 0, lambda: iter([factors.view(np.uint8)])))

    def _vocabulary(self) -> dict[str, Any]:
        assets = self.reader.assets
        if "tokenizer.json" not in assets:
            return {"tokenizer.ggml.model": "none"}
        found = vocabulary_keys(assets["tokenizer.json"].read(), self.spec.embedding.vocabulary_size, self.reader.path)
        config = _object(assets, "tokenizer_config.json")
        if "chat_template.jinja" in assets:
            config["chat_template"] = assets["chat_template.jinja"].read().decode()
        return {**found, **special_keys(self.reader.metadata, config)}

    def _tensor(self, entry: StoredTensor) -> GGUFTensor:
        role = str(entry.attributes["role"])
        name, shape = tensor_name(role), self.decoded.shapes[entry.name]
        if len(shape) == 1:
            return GGUFTensor(name, shape, 0, partial(self._numbers, entry, "f32", self._order(role)))
        own, order = self._own_type(entry), self._order(role)
        kind = self._choose(name, shape, own)
        self.exact += kind == own
        self.encoded += kind != own
        if kind in FLOATS.values():
            word = next(word for word, number in FLOATS.items() if number == kind)
            return GGUFTensor(name, shape, kind, partial(self._numbers, entry, word, order))
        make = self._kept if kind == own else self._anew
        return GGUFTensor(name, shape, kind, partial(make, entry, kind, order))

    def _own_type(self, entry: StoredTensor) -> int | None:
        """The type that stands for exactly a tensor's numbers."""
        scheme = entry.scheme
        if scheme is None or not read_change(entry.attributes, entry.shape, entry.name).nothing:
            return None
        if {"input_scale", "input_order"} & set(entry.segments):
            return None
        name = scheme_name(scheme)
        kind = next((kind for kind, each in SCHEMES.items() if each == name), None)
        if kind is None or (kind not in PACKERS and kind not in FLOATS.values()):
            return None
        block, sizes = TYPES[kind].numbers, scheme.geometry(entry.shape)
        if entry.shape[-1] % block or (scheme.subscale and sizes.supers * block != entry.shape[-1]):
            return None  # a super-group that is no block
        return kind

    def _choose(self, name: str, shape: tuple[int, ...], own: int | None) -> int:
        """The type of a matrix; one that a row holds no whole blocks of gives way to another."""
        wanted = Q8_0 if own is None else own
        if self.type is not None:
            wanted = PURE[self.type]
            wanted = outer_type(wanted) if name in OUTER else wanted
        return fitting(wanted, shape[-1])

    def _order(self, role: str) -> NDArray[np.int64] | None:
        """The rows of queries and keys where a file has the halves of a head in turns."""
        if not self.permuted or not role.rpartition(".")[0].endswith((".attention.q", ".attention.k")):
            return None
        attention: Any = self.spec.layers[int(role.split(".")[1])].mixer
        heads = attention.heads if ".q." in role else attention.kv_heads
        return np.argsort(pair_order(heads * attention.head_dim, heads))

    def _ordered(self, entry: StoredTensor, order: NDArray[np.int64] | None) -> Iterator[NDArray[np.float32]]:
        blocks = self.decoded.blocks(entry.name)
        if order is None:
            return blocks
        return iter([np.concatenate(list(blocks)).reshape(len(order), -1)[order]])  # also of a bias, which is one row

    def _numbers(self, entry: StoredTensor, word: str, order: NDArray[np.int64] | None) -> Iterator[NDArray[np.uint8]]:
        for block in self._ordered(entry, order):
            stored = np.ascontiguousarray(from_float32(block, word))
            if not finite(stored, word).all():
                problem = f"a number is too large for {word}"
                raise UsageError(problem, where=f"tensor {entry.name}", fix="give --type bf16 or f32")
            yield stored.view(np.uint8)

    def _kept(self, entry: StoredTensor, kind: int, order: NDArray[np.int64] | None) -> Iterator[NDArray[np.uint8]]:
        scheme = entry.scheme
        assert scheme is not None
        sizes = scheme.geometry(entry.shape)
        view = view_matrix(scheme, sizes, segments_of(self.reader, entry), 0)
        for rows in [slice(0, sizes.rows)] if order is not None else row_blocks(sizes):
            first, tiles = rows.start // TILE_ROWS, -(-(rows.stop - rows.start) // TILE_ROWS)
            matrix: QuantizedMatrix = unpack_rows(scheme, view, (sizes.rows, sizes.columns), first, tiles)
            found = packed(kind, matrix)[: rows.stop - rows.start]
            yield found if order is None else found[order]

    def _anew(self, entry: StoredTensor, kind: int, order: NDArray[np.int64] | None) -> Iterator[NDArray[np.uint8]]:
        pieces = (piece for block in self._ordered(entry, order) for piece in _pieces(block))
        total = ErrorSum()
        for data, error in in_order(partial(_encode, kind), pieces):
            total.merge(error)
            yield data
        lost = total.error().relative_rmse
        if not lost <= MOST_LOST:
            problem = f"little is left of its weights as {TYPES[kind].name}: a relative error of {lost:.2g}"
            raise ConvertError(problem, path=self.reader.path, where=f"tensor {entry.name}", fix="give --type bf16")
        self.errors[entry.name] = lost


def _pieces(rows: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    count = max(1, PIECE_WEIGHTS // rows.shape[1])
    return (rows[start : start + count] for start in range(0, len(rows), count))


def _encode(kind: int, rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], ErrorSum]:
    """The bytes of rows, and how far those are from them."""
    if kind in ENCODERS:
        data = encoded(kind, rows)
    else:
        scheme = parse_scheme(SCHEMES[kind])
        data = packed(kind, choose_method(scheme, None).quantize(rows, scheme))
    error = ErrorSum()
    error.add(rows, numbers(kind, rows_of(kind, data, rows.shape)))
    return data, error


def _object(assets: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An asset that is a JSON object; empty where there is none."""
    try:
        found = json.loads(assets[name].read()) if name in assets else {}
    except (ValueError, RecursionError):
        found = {}
    return found if isinstance(found, dict) else {}
