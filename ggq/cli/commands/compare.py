"""`ggq compare`: the error of each tensor of a file against another file or against its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ggq.cli.layout import pairs, table
from ggq.cli.output import print_json, printable, progress
from ggq.convert.plan.described import describe
from ggq.convert.source.checkpoint import CONFIG, FLOATS, Checkpoint
from ggq.errors import ConvertError, GGQError, UnsupportedError
from ggq.evaluate.compare import Comparison, FileTensors, TensorDifference, plot
from ggq.evaluate.compare import compare as compare_weights
from ggq.format import open_reader
from ggq.format.paths import check_not_input
from ggq.models.names import Expression, Tensor
from ggq.quant import Error

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
    first: Annotated[Path, typer.Argument(metavar="A", help="A .ggq file.", show_default=False)],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="Another, or the folder of a checkpoint.", show_default=False)
    ],
    worst: Annotated[
        int | None, typer.Option(metavar="N", help="Only the N tensors of the largest error.", min=1)
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--plot", metavar="OUT.png", help="Draw them by layer (needs matplotlib).", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show how far each tensor of A is from the same tensor of B.

    The error is relative: the root of the mean squared difference over that of B's numbers, and the same in decibels
    (SQNR). The largest is that of any one number. Every tensor is decoded block by block, so memory stays small.
    Scales and orders that a method has folded into neighbours are undone first.

    Example:
        ggq compare model-q4.ggq ./my-model --worst 10
        ggq compare model-q4.ggq model-q8.ggq --plot errors.png --json
    """
    if picture is not None:
        from ggq.evaluate.plot import check_picture

        check_picture(picture)
        check_not_input(picture, first, second)
    with ExitStack() as opened:
        a = open_weights(first, opened)
        b = open_weights(second, opened, generic=isinstance(a, FileTensors) and a.is_bundle)
        with progress("comparing", "weights") as advance:
            found = compare_weights(a, b, advance)
        bits = [weights.bits_per_weight for weights in (a, b)]
    if picture is not None:
        plot(found, f"{first.name} against {second.name}", picture)
    if as_json:
        document = {"a": str(first), "b": str(second), "bits_per_weight": bits[0], "reference_bits_per_weight": bits[1]}
        print_json({**document, **found.document()})
    else:
        _print(found, [_described(path, count) for path, count in zip((first, second), bits)], worst)


def open_weights(path: Path, opened: ExitStack, *, generic: bool = False) -> FileTensors | CheckpointTensors:
    """A .ggq file, the folder of a checkpoint or, with `generic`, any safetensors files."""
    if path.is_dir() or (generic and path.suffix == ".safetensors"):
        return CheckpointTensors(Checkpoint(path, generic=generic))
    return FileTensors(opened.enter_context(open_reader(path)))


def _described(path: Path, bits: float | None) -> str:
    return f"{printable(str(path))}, {'a checkpoint' if bits is None else f'{bits:.3f} bits per weight'}"


def _print(found: Comparison, names: list[str], worst: int | None) -> None:
    tensors = list(found.tensors) if worst is None else found.worst()[:worst]
    rows = [_row(tensor) for tensor in tensors]
    rows.append(["all matrices", "", "", "", *_error(found.matrices)])
    table(["tensor", "shape", "A", "B", "error", "SQNR dB", "largest"], rows, right=(1, 4, 5, 6))
    print()
    pairs([("A", names[0]), ("B", names[1]), *((printable(name), reason) for name, reason in found.skipped.items())])


def _row(tensor: TensorDifference) -> list[str]:
    shape = "x".join(map(str, tensor.shape))
    return [printable(tensor.name), shape, tensor.form, tensor.reference_form, *_error(tensor.error)]


def _error(error: Error) -> list[str]:
    return [f"{error.relative_rmse:.5f}", f"{error.sqnr_db:.1f}", f"{error.max_error:.4g}"]
