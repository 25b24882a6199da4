"""`ggq export`: a checkpoint back from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggq.cli.layout import pairs
from ggq.cli.output import print_json, printable, progress, size
from ggq.errors import UsageError

if TYPE_CHECKING:
    from ggq.export.gguf import ExportedGGUF


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .ggq file.", show_default=False)],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A new folder, or a file whose name ends in .gguf.", show_default=False),
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="safetensors: a checkpoint that transformers loads; gguf: a file that llama.cpp loads. "
            "Told by OUT's name where it is not given.",
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="Of what is dequantized: f32 (exact), f16 or bf16 (rounded).")
    ] = "f32",
    type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Of matrices in a GGUF file: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, "
            "q6_k, iq4_nl, iq4_xs, tq1_0, tq2_0 or mxfp4; without it each is kept in the type that expresses its "
            "scheme, and others become q8_0.",
        ),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A mix of types by llama.cpp's name: q2_k_m, q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s or "
            "q5_k_m.",
        ),
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An importance matrix of llama.cpp's for a GGUF file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing GGUF file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the tensors and the assets of a file as a checkpoint of safetensors files, or as a GGUF file.

    Tensors that the file keeps as floats come back bit for bit, others dequantized; what a method has folded into its
    neighbours is undone. The folder appears under its name when it is whole.

    Example:
        ggq export model.ggq ./model-dequantized
        ggq export model.ggq ./model-dequantized --dtype bf16
        ggq export model.ggq model.gguf --type q8_0
        ggq export model.ggq model.gguf --mix q4_k_m --imatrix imatrix.gguf
    """
    from ggq.export.export import FORMATS
    from ggq.export.export import export as export_file

    form = ("gguf" if out.suffix == ".gguf" else "safetensors") if form is None else form
    if form == "gguf":
        _export_gguf(file, out, type, mix, imatrix, force, as_json)
        return
    if any(each is not None for each in (type, mix, imatrix)) or force:
        raise UsageError("--type, --mix, --imatrix and --force are for GGUF files; a checkpoint has --dtype")
    if form not in FORMATS:
        raise UsageError(f"--format is {form!r}, allowed are {', '.join((*FORMATS, 'gguf'))}")
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


def _export_gguf(
    file: Path, out: Path, type: str | None, mix: str | None, imatrix: Path | None, force: bool, as_json: bool
) -> None:
    from ggq.export.gguf import export_gguf

    with progress("exporting") as advance:
        done = export_gguf(file, out, type=type, mix=mix, imatrix=imatrix, force=force, progress=advance)
    show_gguf(done, as_json)


def show_gguf(done: ExportedGGUF, as_json: bool) -> None:
    """Print what was written."""
    if as_json:
        print_json({**vars(done), "path": str(done.path)})
        return
    worst = f", with a relative error of up to {done.worst:.2g}" if done.worst else ""
    pairs(
        [
            ("file", printable(str(done.path))),
            ("size", size(done.bytes)),
            ("types", ", ".join(f"{count} {name}" for name, count in done.types.items())),
            ("matrices", f"{done.exact} number for number as before, {done.encoded} encoded anew{worst}"),
        ]
    )
