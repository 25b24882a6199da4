"""`ggq repack`: write a file anew without what edits left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggq.cli.layout import paragraph
from ggq.cli.output import printable, progress, size
from ggq.format import repack as repack_file


def repack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .ggq file.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write a file anew without what edits left behind; every digest is checked on the way.

    Example:
        ggq repack model.ggq smaller.ggq
    """
    with progress("repacking") as advance:
        digest = repack_file(file, out, force=force, progress=advance)
    paragraph(f"{printable(str(out))}: {size(out.stat().st_size)}, {size(file.stat().st_size)} before")
    paragraph(f"digest {digest.hex()}")
