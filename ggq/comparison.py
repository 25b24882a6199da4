"""The error of each tensor of a file against another file or against its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.convert.plan.described import describe
from ggq.convert.source.checkpoint import CONFIG, FLOATS, Checkpoint
from ggq.errors import ConvertError, GGQError, UnsupportedError
from ggq.evaluate.compare import Comparison, FileTensors
from ggq.evaluate.compare import compare as compare_weights
from ggq.format import open_reader
from ggq.format.paths import included
from ggq.models.names import Expression, Tensor

BLOCK_WEIGHTS = 1 << 20
"""Weights of a checkpoint that are read at once, about."""


class CheckpointTensors:
    """The tensors of a checkpoint's folder as a file made from it would hold them.

    Args:
        checkpoint: The folder, its headers read.
    """

    bits_per_weight = None

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.expressions = stored_tensors(checkpoint)
        self.shapes = {name: each.shape(checkpoint.shape) for name, each in self.expressions.items()}

    def form(self, name: str) -> str:
        """The type of its sources, and how it is made of them unless it is one of them as it is."""
        expression = self.expressions[name]
        types = [self.checkpoint.tensors[source].dtype for source in expression.names()]
        form = "+".join(dict.fromkeys(FLOATS.get(dtype, dtype) for dtype in types))
        return form if isinstance(expression, Tensor) else f"{form} {expression}"

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """See `ComparedTensors`."""
        expression, shape = self.expressions[name], self.shapes[name]
        for source in expression.names():
            tensor = self.checkpoint.tensors[source]
            if tensor.dtype not in FLOATS or not tensor.shape:
                raise UnsupportedError(f"dtype {tensor.dtype} and shape {list(tensor.shape)} cannot be compared")
        rows, step = prod(shape[:-1]), max(1, BLOCK_WEIGHTS // shape[-1])
        for start in range(0, rows, step):
            yield expression.rows(self.checkpoint, start, min(start + step, rows))


def stored_tensors(checkpoint: Checkpoint) -> dict[str, Expression]:
    """What a file made from a checkpoint would hold, by name.

    What its architecture does not explain, or all of it where there is no such architecture, is itself.
    """
    try:
        specs = describe(checkpoint.config, checkpoint.folder.path / CONFIG).specs
    except GGQError:
        specs = ()
    made = {spec.name: spec.expression for spec in specs if spec.role and _fits(spec.expression, checkpoint)}
    used = {name for expression in made.values() for name in expression.names()}
    return made | {name: Tensor(name) for name in checkpoint.tensors if name not in used}


def _fits(expression: Expression, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has what an expression is made of."""
    if any(name not in checkpoint.tensors for name in expression.names()):
        return False
    try:
        expression.shape(checkpoint.shape)
    except ConvertError:
        return False
    return True


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    progress: Callable[[int, int], Any] | None = None,
) -> Comparison:
    """How far each tensor of a file is from the same tensor of another, as `ggq.compare`.

    Args:
        first: A .ggq file.
        second: Another, or the folder of a checkpoint.
        progress: Called with the weights compared and those in all.

    Raises:
        GGQError: One cannot be read, or they have no tensor in common.
    """
    return compare_files(Path(first), Path(included(second)), progress)[0]


def compare_files(
    first: Path, second: Path, progress: Callable[[int, int], Any] | None = None
) -> tuple[Comparison, list[float | None]]:
    """The same, with the bits per weight of both; None for a checkpoint."""
    with ExitStack() as opened:
        a = open_weights(first, opened)
        b = open_weights(second, opened, generic=isinstance(a, FileTensors) and a.is_bundle)
        found = compare_weights(a, b, progress)
        return found, [weights.bits_per_weight for weights in (a, b)]


def open_weights(path: Path, opened: ExitStack, *, generic: bool = False) -> FileTensors | CheckpointTensors:
    """A .ggq file, the folder of a checkpoint or, with `generic`, any safetensors files."""
    if path.is_dir() or (generic and path.suffix == ".safetensors"):
        return CheckpointTensors(Checkpoint(path, generic=generic))
    return FileTensors(opened.enter_context(open_reader(path)))
