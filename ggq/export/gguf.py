"""`ggq export MODEL.ggq OUT.gguf`: a file for llama.cpp and its kin, exact where a GGUF type expresses a scheme."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ModelError, UnsupportedError, UsageError
from ggq.export.gguf_encode import encoded_pieces
from ggq.export.gguf_mixes import MIXES
from ggq.export.gguf_types import FILE_TYPES, FLOATS, PURE, Q8_0, TYPE_NAMES, fitting, outer_type
from ggq.export.gguf_weights import FileWeights, Weights
from ggq.format import open_reader
from ggq.format.gguf.types import TYPES
from ggq.format.gguf.writer import GGUFTensor, write_gguf
from ggq.format.paths import check_not_input
from ggq.gguf.architecture.places import Place, places, tensor_name
from ggq.gguf.beside import SCALE, WEIGHT
from ggq.gguf.config import ARCHITECTURES
from ggq.gguf.container import FACTORS, pair_order
from ggq.gguf.imatrix import Imatrix, read_imatrix
from ggq.gguf.keys import model_keys, names_written
from ggq.gguf.tokens.keys import special_keys, vocabulary_keys
from ggq.models.build import role_shapes
from ggq.models.metadata import from_metadata
from ggq.models.parts import ModelSpec
from ggq.quant.floats import finite, from_float32
from ggq.quant.inputs import InputStatistics

OUTER = ("token_embd.weight", "output.weight")
"""Matrices that have more bits where the others have few."""
WHOLE = ("position_embd.weight", ".ffn_gate_inp.weight", ".ffn_gate_inp_shexp.weight")
"""Small matrices that stay in float32: positions, and those that choose experts."""


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


def check_type(type: str | None, mix: str | None = None) -> str | None:
    """The one of both that is given: a type, or a mix.

    Raises:
        UsageError: It is none, or both are given.
    """
    if type is not None and mix is not None:
        raise UsageError("--type and --mix do not go together")
    if mix is not None and mix not in MIXES:
        raise UsageError(f"mix must be one of {', '.join(MIXES)}, not {mix!r}")
    if type is not None and type not in TYPE_NAMES and type not in MIXES:
        raise UsageError(f"type must be one of {', '.join((*TYPE_NAMES, *MIXES))}, not {type!r}")
    return type if mix is None else mix


def export_gguf(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    type: str | None = None,
    mix: str | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedGGUF:
    """Write a model as a GGUF file.

    Args:
        file: A .ggq file.
        out: The file to write.
        type: Of matrices, one of TYPE_NAMES; the embedding and the output have q6_k or q8_0 where it has fewer bits.
            None keeps each matrix in the type that expresses its scheme, and encodes others as q8_0.
        mix: One of MIXES instead of a type.
        imatrix: An importance matrix of llama.cpp's, by which errors of matrices that are encoded anew count.
        force: Replace an existing file.
        progress: Called now and then with the bytes written and those in all.

    Raises:
        FormatError: The file breaks a rule of the format.
        ModelError: It holds no model.
        UnsupportedError: An architecture, a tokenizer or a scheme that a GGUF file cannot have.
        UsageError: An option is none, the place is taken, or a number is too large for f16.
        ConvertError: Weights are too small or too large for the scales of a type.
    """
    wanted = check_type(type, mix)
    check_not_input(out, file, imatrix)
    known = None if imatrix is None else read_imatrix(imatrix)
    with open_reader(file) as reader:
        if "model.kind" not in reader.metadata:
            raise ModelError("it holds tensors without a model", path=reader.path)
        return write_weights(FileWeights(reader), out, wanted, known, force=force, progress=progress)


def write_weights(
    weights: Weights,
    out: str | os.PathLike[str],
    wanted: str | None,
    imatrix: Imatrix | None = None,
    *,
    inputs: Callable[[str], InputStatistics | None] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedGGUF:
    """Write weights as a GGUF file.

    Args:
        weights: What it is made of.
        wanted: A type or a mix, from `check_type`; None for each matrix's own type.
        imatrix: By which errors count, or None.
        inputs: The statistics of a role's inputs, with their gram, asked for layer by layer in order; None for a role
            whose errors do not make up for each other.
        out, force, progress: As for `export_gguf`.
    """
    made = _Model(weights, wanted, imatrix, inputs)
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
    """What a file is to hold; arguments as for `write_weights`."""

    def __init__(
        self,
        weights: Weights,
        wanted: str | None,
        imatrix: Imatrix | None,
        inputs: Callable[[str], InputStatistics | None] | None,
    ) -> None:
        path, metadata = weights.path, weights.metadata
        spec, model = from_metadata(metadata, path), str(metadata["model.architecture"])
        if not isinstance(spec, ModelSpec):
            raise UnsupportedError(f"{model} is not written as a GGUF file", path=path)
        self.weights, self.wanted, self.imatrix, self.spec = weights, wanted, imatrix, spec
        self.inputs = inputs or (lambda _: None)
        self.exact = self.encoded = 0
        self.errors: dict[str, float] = {}
        keys, factors = model_keys(spec, model, path)
        self.permuted = ARCHITECTURES[keys["general.architecture"]].permuted
        general = {"general.name": str(metadata.get("general.name", model)), "general.quantization_version": 2}
        if wanted is not None:
            general["general.file_type"] = MIXES[wanted].file_type if wanted in MIXES else FILE_TYPES[wanted]
        self.keys = {**keys, **general, **self._vocabulary()}
        self.owns = {role: name for name, role in weights.roles.items()}
        lie = places(role_shapes(spec), names_written(spec, keys["general.architecture"]))
        roles = sorted(self.owns, key=_layer) if inputs else self.owns
        wholes: dict[str, list[str]] = {}
        for role in roles:
            wholes.setdefault(lie[role].tensor, []).append(role)
        self.tensors = [
            each
            for name, parts in wholes.items()
            for each in self._tensor(name, [(r, lie[r]) for r in sorted(parts, key=lambda role: lie[role].first)])
        ]
        if factors is not None:
            self.tensors.append(GGUFTensor(FACTORS, factors.shape, 0, lambda: iter([factors.view(np.uint8)])))

    def _vocabulary(self) -> dict[str, Any]:
        assets, path = self.weights.assets, self.weights.path
        if "tokenizer.json" not in assets:
            return {"tokenizer.ggml.model": "none"}
        found = vocabulary_keys(assets["tokenizer.json"].read(), self.spec.embedding.vocabulary_size, path)
        config = _object(assets, "tokenizer_config.json")
        if "chat_template.jinja" in assets:
            config["chat_template"] = assets["chat_template.jinja"].read().decode()
        return {**found, **special_keys(self.weights.metadata, config)}

    def _tensor(self, name: str, parts: list[tuple[str, Place]]) -> Iterator[GGUFTensor]:
        """A tensor of the numbers of one role; of several below each other, or one matrix of a stack each. What is
        beside it comes next."""
        first, last = parts[0][1], parts[-1][1]
        shape: tuple[int, ...] = (last.first + last.shape[0], *last.shape[1:])
        if "_exps." in name:
            shape = (len(parts), *first.shape)
        owns = [self.owns[role] for role, _ in parts]
        if len(first.shape) == 1 or name.endswith(WHOLE):
            shape = shape[1:] if name.endswith("_shexp.weight") and shape[0] == 1 else shape
            pieces = [partial(self._numbers, own, "f32", self._order(role)) for own, (role, _) in zip(owns, parts)]
            yield GGUFTensor(name, shape, 0, partial(_in_turn, pieces))
            return
        kinds, factors = {self.weights.own_type(own) for own in owns}, [self.weights.factor(own) for own in owns]
        if "_exps." not in name and len(set(factors)) == 1:
            factors = factors[:1]
        own_kind = kinds.pop() if len(kinds) == 1 and ("_exps." in name or len(factors) == 1) else None
        kind = self._choose(name.replace("_exps.", "."), shape, own_kind)
        self.exact += kind == own_kind
        self.encoded += kind != own_kind
        made = [self._piece(name, role, kind, kind == own_kind) for role, _ in parts]
        yield GGUFTensor(name, shape, kind, partial(_in_turn, made))
        if kind == own_kind and any(factor is not None for factor in factors):
            beside = np.array([1.0 if factor is None else factor for factor in factors], "<f4")
            name = name.removesuffix(WEIGHT) + SCALE
            yield GGUFTensor(name, beside.shape, 0, lambda: iter([beside.view(np.uint8)]))

    def _piece(self, name: str, role: str, kind: int, exact: bool) -> Callable[[], Iterator[NDArray[np.uint8]]]:
        """What gives the bytes of a role's matrix in a type."""
        own, order = self.owns[role], self._order(role)
        if kind in FLOATS.values():
            word = next(word for word, number in FLOATS.items() if number == kind)
            return partial(self._numbers, own, word, order)
        if exact:
            return partial(self.weights.kept, own, kind, order)
        counts, columns = None, self.weights.shapes[own][-1]
        if self.imatrix is not None:
            counts = self.imatrix.of(tensor_name(role), columns)
            counts = self.imatrix.of(name, columns) if counts is None else counts
        return partial(self._anew, tensor_name(role), role, kind, order, counts)

    def _choose(self, name: str, shape: tuple[int, ...], own: int | None) -> int:
        """The type of a matrix; one that a row holds no whole blocks of gives way to another."""
        wanted = Q8_0 if own is None else own
        if self.wanted in MIXES:
            wanted = MIXES[self.wanted].kind(name, len(self.spec.layers))
        elif self.wanted is not None:
            wanted = PURE[self.wanted]
            wanted = outer_type(wanted) if name in OUTER else wanted
        return fitting(wanted, shape[-1])

    def _order(self, role: str) -> NDArray[np.int64] | None:
        """The rows of queries and keys where a file has the halves of a head in turns."""
        if not self.permuted or not role.rpartition(".")[0].endswith((".attention.q", ".attention.k")):
            return None
        attention: Any = self.spec.layers[int(role.split(".")[1])].mixer
        heads = attention.heads if ".q." in role else attention.kv_heads
        return np.argsort(pair_order(heads * attention.head_dim, heads))

    def _ordered(self, name: str, order: NDArray[np.int64] | None) -> Iterator[NDArray[np.float32]]:
        blocks = self.weights.blocks(name)
        if order is None:
            return blocks
        return iter([np.concatenate(list(blocks)).reshape(len(order), -1)[order]])  # also of a bias, which is one row

    def _numbers(self, name: str, word: str, order: NDArray[np.int64] | None) -> Iterator[NDArray[np.uint8]]:
        for block in self._ordered(name, order):
            stored = np.ascontiguousarray(from_float32(block, word))
            if not finite(stored, word).all():
                problem = f"a number is too large for {word}"
                raise UsageError(problem, where=f"tensor {name}", fix="give --type bf16 or f32")
            yield stored.view(np.uint8)

    def _anew(
        self, name: str, role: str, kind: int, order: NDArray[np.int64] | None, counts: NDArray[np.float32] | None
    ) -> Iterator[NDArray[np.uint8]]:
        tell, inputs = partial(self.errors.__setitem__, name), self.inputs(role)
        return encoded_pieces(
            self._ordered(self.owns[role], order), kind, counts, name, self.weights.path, tell, inputs
        )


def _in_turn(pieces: Sequence[Callable[[], Iterator[NDArray[np.uint8]]]]) -> Iterator[NDArray[np.uint8]]:
    """The bytes of pieces, one after the other."""
    for piece in pieces:
        yield from piece()


def _layer(role: str) -> tuple[int, int]:
    """By which tensors are in the order of the layers: what comes before them first."""
    parts = role.split(".")
    if parts[0] == "layers":
        return 1, int(parts[1])
    return (0, 0) if role.startswith("embedding") else (2, 0)


def _object(assets: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An asset that is a JSON object; empty where there is none."""
    try:
        found = json.loads(assets[name].read()) if name in assets else {}
    except (ValueError, RecursionError):
        found = {}
    return found if isinstance(found, dict) else {}
