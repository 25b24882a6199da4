"""The statistics file: what calibration found, kept as a safetensors file that knows its checkpoint and its text."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ggq.convert.calibrate.calibrator import SAMPLE_TOKENS, LayerStatistics, sample_count
from ggq.convert.source.checkpoint import Checkpoint
from ggq.convert.source.json_input import load_object
from ggq.convert.source.safetensors_header import SafetensorsFile, SourceTensor, read_header
from ggq.errors import ConvertError, FormatError
from ggq.format.digests import hasher
from ggq.format.paths import open_regular, os_error
from ggq.format.unfinished import replacing
from ggq.quant.inputs import InputStatistics
from ggq.quant.possible import impossible
from ggq.tape.cut import sections
from ggq.tape.program import Program

FORMAT = "ggq-statistics-1"
VECTORS = ("absolute_maximum", "mean", "mean_square")
COUNT = "count"
"""How many tokens reached an expert's matrix, a whole number."""
MATRICES = ("gram", "samples")
"""What is kept where a method wants it."""

Wants = Mapping[str, Set[str]]
"""Which of MATRICES a matrix with a role wants."""


@dataclass(frozen=True)
class Origin:
    """What statistics were made from: the same origin, the same statistics.

    Args:
        checkpoint: Digest of the weights' files, hexadecimal.
        text: Digest of the windows of tokens.
        tokens: Tokens of all windows.
        context: Tokens of a window.
    """

    checkpoint: str
    text: str
    tokens: int
    context: int


@dataclass(frozen=True)
class SharedInput:
    """An input of the model that matrices share.

    Args:
        roles: Those matrices; the first names the statistics in the file.
        columns: Its width.
        some: Whether some tokens alone reach it, as those of an expert: then their number is kept, 0 for none.
    """

    roles: tuple[str, ...]
    columns: int
    some: bool = False


def shared_inputs(program: Program, shapes: Mapping[str, tuple[int, ...]]) -> list[list[SharedInput]]:
    """The inputs of all matrices, section by section, in the order in which they are calibrated.

    Args:
        program: The model.
        shapes: Dimensions of its matrices, by role.
    """
    found: list[list[SharedInput]] = []
    for section in sections(program):
        every = [SharedInput(each.weights, each.source.width) for op in section.ops for each in op.products()]
        inner = [each.weights for op in section.ops for each in op.inner_products()]
        found.append([*every, *(SharedInput(roles, shapes[roles[0]][1], some=True) for roles in inner)])
    return found


def checkpoint_digest(checkpoint: Checkpoint) -> str:
    """Digest of everything in the weights' files, which does not depend on where they lie."""
    state, buffer = hasher(sum(file.size for file in checkpoint.files)), memoryview(bytearray(1 << 24))
    for file in sorted(checkpoint.files, key=lambda file: file.path.name):
        try:
            with open_regular(os.fspath(file.path)) as opened:
                while count := opened.readinto(buffer):
                    state.update(buffer[:count])
        except OSError as error:
            raise os_error(error, os.fspath(file.path), "read") from None
    return state.hexdigest()


def save(
    path: Path, origin: Origin, inputs: list[list[SharedInput]], wants: Wants, layers: Iterable[LayerStatistics]
) -> Generator[LayerStatistics, None, None]:
    """Hand statistics on and write them down as they pass; the file gets its name when the last has passed.

    Args:
        path: The file to write; until then it is PATH.partial, which is removed when anything fails.
        origin: What they are made from.
        inputs: Of the model; see `shared_inputs`.
        wants: What is kept of each matrix's inputs besides numbers by column.
        layers: From a `Calibrator`.

    Raises:
        GGQError: The file cannot be written.
    """
    with replacing(path, FORMAT.encode()) as file:
        file.write(_header(origin, [each for section in inputs for each in section], wants))
        left = iter(inputs)
        for found in layers:  # no zip: it would hold on to a layer's grams while the next one's are made
            for each in next(left):
                _write(file, found.get(each.roles[0]), _shapes(each, wants, origin.tokens))
            yield found
            del found


def kept_of(shared: SharedInput, wants: Wants) -> list[str]:
    """What is kept of an input besides numbers by column."""
    return [name for name in MATRICES if any(name in wants.get(role, ()) for role in shared.roles)]


def _shapes(shared: SharedInput, wants: Wants, tokens: int) -> dict[str, list[int]]:
    """What is kept of an input of so many tokens at most, and its dimensions."""
    sizes = {"gram": shared.columns, "samples": sample_count(tokens)}
    shapes = {name: [shared.columns] for name in VECTORS}
    shapes |= {name: [sizes[name], shared.columns] for name in kept_of(shared, wants)}
    return {COUNT: [1], **shapes} if shared.some else shapes


def _write(file: BinaryIO, statistics: InputStatistics | None, shapes: dict[str, list[int]]) -> None:
    """Numbers in these shapes; zeros behind those that are fewer, as the samples of an expert are."""
    for name, shape in shapes.items():
        whole = np.zeros(shape, "<f4")
        if statistics is not None:
            found = np.atleast_1d(np.asarray(getattr(statistics, name), np.float32))
            whole[: len(found)] = found
        file.write(whole.data)


def _header(origin: Origin, inputs: list[SharedInput], wants: Wants) -> bytes:
    """A safetensors header for these tensors, one after the other."""
    notes = {
        "format": FORMAT,
        "checkpoint": origin.checkpoint,
        "text": origin.text,
        "tokens": str(origin.tokens),
        "context": str(origin.context),
    }
    entries: dict[str, object] = {"__metadata__": notes}
    end = 0
    for each in inputs:
        for name, shape in _shapes(each, wants, origin.tokens).items():
            start, end = end, end + 4 * int(np.prod(shape))
            entries[f"{each.roles[0]}.{name}"] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _count(text: str) -> int:
    """A positive whole number of a header's notes; raises ValueError for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) > 0):
        raise ValueError(text[:20])
    return int(text)


class SavedStatistics:
    """Statistics of an earlier calibration; vectors and grams are read when they are asked for.

    Args:
        path: The file.
        inputs: Of the model that they have to fit; see `shared_inputs`.

    Raises:
        ConvertError: The file holds something else, or statistics of a model of another shape.
        FormatError: It is no safetensors file, or breaks a rule of that format.
        GGQError: It cannot be read.
    """

    def __init__(self, path: Path, inputs: list[list[SharedInput]]) -> None:
        self.path, self.inputs = path, inputs
        try:
            self.file: SafetensorsFile = read_header(path, path)
        except OSError as error:
            raise os_error(error, os.fspath(path), "read") from None
        notes = load_object(self.file.header, path, "header").get("__metadata__", {})
        if notes.get("format") != FORMAT:
            raise ConvertError(
                "a safetensors file, but none of calibration statistics", path=path, fix="give another name"
            )
        try:
            sizes = _count(notes["tokens"]), _count(notes["context"])
            self.origin = Origin(notes["checkpoint"], notes["text"], *sizes)
        except (KeyError, ValueError):
            raise FormatError("its note of where the statistics come from is damaged", path=path) from None
        self.tensors = {tensor.name: tensor for tensor in self.file.tensors}
        for each in (each for section in self.inputs for each in section):
            for name, length in ((COUNT, 1), *((name, each.columns) for name in VECTORS)):
                if name != COUNT or each.some:
                    self._check(f"{each.roles[0]}.{name}", (length,))
            for name, rows in (("gram", each.columns), ("samples", sample_count(self.origin.tokens))):
                if f"{each.roles[0]}.{name}" in self.tensors:
                    self._check(f"{each.roles[0]}.{name}", (rows, each.columns))

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        found = self.tensors.get(name)
        if found is None or found.shape != shape or found.dtype != "F32":
            raise ConvertError(
                f"float32 of shape {list(shape)} expected for this model",
                path=self.path,
                where=name,
                fix="calibrate anew: remove the file or give another name",
            )

    def check_origin(self, checkpoint: str, text: str | None) -> None:
        """Refuse statistics of another checkpoint, or (where a text was given) of another text.

        Raises:
            ConvertError: Which of the two differs.
        """
        other = "checkpoint" if self.origin.checkpoint != checkpoint else ""
        if not other and text is not None and text != self.origin.text:
            other = "calibration text, number of tokens or context"
        if other:
            raise ConvertError(
                f"these statistics were made from another {other}",
                path=self.path,
                fix="remove the file to calibrate anew, or give another name",
            )

    def check_wanted(self, wants: Wants) -> None:
        """Refuse statistics without something that a method needs.

        Raises:
            ConvertError: What is missing first.
        """
        for each in (each for section in self.inputs for each in section):
            for name in kept_of(each, wants):
                if f"{each.roles[0]}.{name}" not in self.tensors:
                    what = "the products of input columns" if name == "gram" else "the samples of inputs"
                    raise ConvertError(
                        f"saved without {what} that the method needs",
                        path=self.path,
                        where=each.roles[0],
                        fix="calibrate anew: remove the file or give another name",
                    )

    def layers(self) -> Iterator[LayerStatistics]:
        """The statistics of each layer's matrices, as `Calibrator.layers` gives them."""
        for section in self.inputs:
            found = [(each, self._read(each)) for each in section]
            yield {role: numbers for each, numbers in found if numbers is not None for role in each.roles}

    def _read(self, each: SharedInput) -> InputStatistics | None:
        """The statistics of an input; None where no token reached it."""
        count = self._count(each) if each.some else self.origin.tokens
        if count == 0:
            return None
        largest, mean, square = (self._numbers(self.tensors[f"{each.roles[0]}.{name}"]) for name in VECTORS)
        found = [self.tensors.get(f"{each.roles[0]}.{name}") for name in MATRICES]
        gram, samples = (None if tensor is None else self._numbers(tensor) for tensor in found)
        if each.some and samples is not None:
            samples = samples[: -(-count // -(-self.origin.tokens // SAMPLE_TOKENS))]
        found_here = InputStatistics(count, largest, mean, square, gram, samples)
        problem = impossible(found_here)
        if problem:
            fix = "calibrate anew: remove the file or give another name"
            raise FormatError(f"damaged: {problem}", path=self.path, where=each.roles[0], fix=fix)
        return found_here

    def _count(self, each: SharedInput) -> int:
        """How many tokens reached an input."""
        name = f"{each.roles[0]}.{COUNT}"
        count = float(self._numbers(self.tensors[name])[0])
        if not (0 <= count <= self.origin.tokens and count == int(count)):
            fix = "calibrate anew: remove the file or give another name"
            raise FormatError(f"damaged: {count} tokens of {self.origin.tokens}", path=self.path, where=name, fix=fix)
        return int(count)

    def _numbers(self, tensor: SourceTensor) -> NDArray[np.float32]:
        try:
            with self.path.open("rb") as file:
                file.seek(tensor.offset)
                found = np.fromfile(file, "<f4", tensor.bytes // 4)
        except OSError as error:
            raise os_error(error, os.fspath(self.path), "read") from None
        if found.nbytes != tensor.bytes:
            raise ConvertError("the file changed while it was read", path=self.path, where=tensor.name)
        return found.astype(np.float32, copy=False).reshape(tensor.shape)
