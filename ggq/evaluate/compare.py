"""How far the tensors of one model are from another's, block by block so that memory stays small."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ModelError, UnsupportedError, UsageError
from ggq.format import Reader
from ggq.format.container import StoredTensor
from ggq.format.native.summary import scheme_label, summarize
from ggq.format.stacks import unstacked
from ggq.quant import Error, ErrorSum
from ggq.quant.change import read_change
from ggq.quant.stored import segments_of, undecodable
from ggq.quant.tensors import decoded_blocks


class ComparedTensors(Protocol):
    """The tensors of a model, wherever they lie."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Their dimensions by name, in order."""
        ...

    def form(self, name: str) -> str:
        """How one is stored: a scheme or a type."""
        ...

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """One's numbers as float32 (rows, columns), blocks of rows in order, every dimension but the last as rows.

        Raises:
            UnsupportedError: This version cannot read it.
        """
        ...


class FileTensors:
    """The tensors of a .ggq file.

    Args:
        reader: The open file.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = unstacked(reader)
        self.shapes = {name: source_shape(entry) for name, entry in self.reader.tensors.items()}

    @property
    def is_bundle(self) -> bool:
        """Whether it holds tensors without a model."""
        return "model.kind" not in self.reader.metadata

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits per number of the matrices; None when there are none."""
        return summarize(self.reader).bits_per_weight

    def form(self, name: str) -> str:
        """See `ComparedTensors`."""
        return scheme_label(self.reader.tensors[name])

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """See `ComparedTensors`; what was folded into a tensor is undone, so that it compares with the checkpoint's."""
        entry = self.reader.tensors[name]
        if entry.scheme is None:
            raise undecodable(self.reader, entry)
        change = read_change(entry.attributes, entry.shape, f"{self.reader.path}: tensor {name}")
        segments, sizes = segments_of(self.reader, entry), entry.scheme.geometry(entry.shape)
        blocks = (block for _, _, block in decoded_blocks(entry.scheme, entry.shape, sizes, segments))
        undone = blocks if change.nothing else change.undo(blocks, sizes.count * sizes.rows)
        yield from (block.reshape(-1, self.shapes[name][-1]) for block in undone)


def source_shape(entry: StoredTensor) -> tuple[int, ...]:
    """A tensor's dimensions in the checkpoint, which a tensor that is stored as one matrix names (M-16).

    Raises:
        ModelError: They are none, or of another number of weights.
    """
    text = entry.attributes.get("source_shape")
    if text is None:
        return entry.shape
    words = text.split("x") if isinstance(text, str) else []
    shape = tuple(int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 19)
    if len(shape) != len(words) or not 2 < len(shape) <= 8 or prod(shape) != prod(entry.shape) or 0 in shape:
        raise ModelError(f"source_shape {text!r:.80} is not that of its {prod(entry.shape)} weights", where=entry.name)
    return shape


@dataclass(frozen=True)
class TensorDifference:
    """One tensor of both models.

    Args:
        name, shape: What and how large.
        form, reference_form: How it is stored in either.
        error: Of the first model, relative to the second.
    """

    name: str
    shape: tuple[int, ...]
    form: str
    reference_form: str
    error: Error


@dataclass(frozen=True)
class Comparison:
    """Two models.

    Args:
        tensors: In the first one's order.
        matrices: The error of all tensors of two dimensions or more together.
        skipped: Names of the others, and why they were not compared.
    """

    tensors: tuple[TensorDifference, ...]
    matrices: Error
    skipped: dict[str, str]

    def worst(self) -> list[TensorDifference]:
        """The tensors by relative error, the largest first."""
        return sorted(self.tensors, key=lambda tensor: -tensor.error.relative_rmse)

    def document(self) -> dict[str, Any]:
        """The comparison for `--json`."""
        listed = [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "form": tensor.form,
                "reference_form": tensor.reference_form,
                **tensor.error._asdict(),
            }
            for tensor in self.tensors
        ]
        return {**self.matrices._asdict(), "tensors": listed, "skipped": self.skipped}


def compare(
    weights: ComparedTensors, reference: ComparedTensors, progress: Callable[[int, int], Any] | None = None
) -> Comparison:
    """The error of every tensor that two models have in common.

    Args:
        weights: What is looked at.
        reference: What it should be.
        progress: Called with the numbers compared and those in all.

    Raises:
        UsageError: They have no tensor in common.
    """
    common, skipped = match(weights.shapes, reference.shapes)
    total, done = sum(prod(shape) for shape in common.values()), 0
    found, matrices = list[TensorDifference](), ErrorSum()
    for name, shape in common.items():
        part = ErrorSum()
        try:
            with np.errstate(all="ignore"):  # what is stored may be NaN or infinite; then the error is
                for block, exact in paired(weights.blocks(name), reference.blocks(name)):
                    part.add(exact, block)
                    done += block.size
                    if progress is not None:
                        progress(done, total)
        except UnsupportedError as error:
            skipped[name] = error.problem
            total -= prod(shape)
            continue
        if len(shape) > 1:
            matrices.merge(part)
        found.append(TensorDifference(name, shape, weights.form(name), reference.form(name), part.error()))
    if not found:
        raise UsageError(
            "the two have no tensor of the same name and shape", fix="compare a file with one of the same model"
        )
    return Comparison(tuple(found), matrices.error(), skipped)


def match(
    here: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The tensors of the same name and shape in both, and why the others are none."""
    common: dict[str, tuple[int, ...]] = {}
    skipped: dict[str, str] = {}
    for name, shape in here.items():
        if name not in there:
            skipped[name] = "only in the first"
        elif there[name] != shape:
            skipped[name] = f"shape {dimensions(shape)} in the first, {dimensions(there[name])} in the second"
        elif prod(shape):
            common[name] = shape
    skipped.update({name: "only in the second" for name in there if name not in here})
    return common, skipped


def paired(
    first: Iterator[NDArray[np.float32]], second: Iterator[NDArray[np.float32]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The same rows of two tensors, whatever blocks either comes in."""
    one = other = np.empty((0, 0), np.float32)
    while True:
        if not len(one):
            one = next(first, one)
        if not len(other):
            other = next(second, other)
        rows = min(len(one), len(other))
        if not rows:
            return
        yield one[:rows], other[:rows]
        one, other = one[rows:], other[rows:]


def dimensions(shape: tuple[int, ...]) -> str:
    """A shape for people."""
    return " x ".join(map(str, shape))


def plot(comparison: Comparison, title: str, path: str | os.PathLike[str]) -> None:
    """Draw the relative error of each matrix by layer, one line for each kind, and write the picture.

    Raises:
        UnsupportedError: matplotlib is not installed.
        GGQError: The file cannot be written.
    """
    from ggq.evaluate.plot import require_matplotlib, save_picture

    pyplot = require_matplotlib()
    figure, axis = pyplot.subplots(figsize=(9, 5))
    for number, (kind, points) in enumerate(by_kind(comparison).items()):
        color = f"C{number % 10}"
        if points[0][0] is None:
            axis.axhline(points[0][1], linestyle="--", color=color, label=kind)
        else:
            axis.plot(*zip(*points), "o-", color=color, label=kind)
    axis.set(title=title, xlabel="layer", ylabel="relative error (root mean square)", ylim=(0, None))
    axis.grid(True, alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    save_picture(figure, path)
    pyplot.close(figure)


def by_kind(comparison: Comparison) -> dict[str, list[tuple[int | None, float]]]:
    """Layer and relative error of the matrices by what their name is without the layer; None outside of layers."""
    kinds: dict[str, list[tuple[int | None, float]]] = {}
    for tensor in comparison.tensors:
        if len(tensor.shape) < 2 or not np.isfinite(tensor.error.relative_rmse):
            continue
        parts = tensor.name.split(".")
        layer = next((int(part) for part in parts if part.isdecimal()), None)
        names = [part for part in parts if not part.isdecimal() and part not in ("model", "layers", "weight")]
        kinds.setdefault(".".join(names), []).append((layer, tensor.error.relative_rmse))
    return kinds
