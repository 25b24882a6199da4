"""`ggq export`: a checkpoint back from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggq.cli.output import pairs, print_json, printable, progress, size
from ggq.errors import UsageError


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .ggq file.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="A new folder.", show_default=False)],
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="safetensors: a checkpoint that transformers loads.")
    ] = "safetensors",
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="Of what is dequantized: f32 (exact), f16 or bf16 (rounded).")
    ] = "f32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the tensors and the assets of a file as a checkpoint of safetensors files.

    Tensors that the file keeps as floats come back bit for bit, others dequantized; what a method has folded into its
    neighbours is undone. The folder appears under its name when it is whole.

    Example:
        ggq export model.ggq ./model-dequantized
        ggq export model.ggq ./model-dequantized --dtype bf16
    """
    from ggq.export.export import FORMATS
    from ggq.export.export import export as export_file

    if form not in FORMATS:
        raise UsageError(f"--format is {form!r}, allowed are {', '.join(FORMATS)}")
    with progress("exporting") as advance:
        done = export_file(file, out, dtype=dtype, progress=advance)
    if as_json:
        print_json({**vars(done), "path": str(done.path), "files": list(done.files)})
        return
    shown = ", ".join(map(printable, done.files[:4])) + (f" and {len(done.files) - 4} more" if done.files[4:] else "")
    pairs(
        [
            ("folder", printable(str(done.path))),
            ("files", shown),
            ("size", size(done.bytes)),
            ("tensors", f"{done.exact} bit for bit as in the checkpoint, {done.dequantized} dequantized"),
        ]
    )
