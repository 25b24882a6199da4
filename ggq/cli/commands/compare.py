"""`ggq compare`: the error of each tensor of a file against another file or against its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggq.cli.layout import pairs, table
from ggq.cli.output import print_json, printable, progress
from ggq.comparison import compare_files
from ggq.evaluate.compare import Comparison, TensorDifference, plot
from ggq.format.paths import check_not_input, included
from ggq.quant import Error


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
    second = Path(included(second))
    with progress("comparing", "weights") as advance:
        found, bits = compare_files(first, second, advance)
    if picture is not None:
        plot(found, f"{first.name} against {second.name}", picture)
    if as_json:
        document = {"a": str(first), "b": str(second), "bits_per_weight": bits[0], "reference_bits_per_weight": bits[1]}
        print_json({**document, **found.document()})
    else:
        _print(found, [_described(path, count) for path, count in zip((first, second), bits)], worst)


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
