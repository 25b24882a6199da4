"""`ggq list`: the models that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ggq.cli.layout import paragraph, remark, table
from ggq.cli.library.folder import entries, models_folder
from ggq.cli.output import print_json, printable, size
from ggq.errors import GGQError
from ggq.format import open_reader


def list(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the models that `ggq pull` and `ggq run` have converted and kept.

    Example:
        ggq list
    """
    found = [described(path) for path in entries()]
    if as_json:
        print_json({"folder": str(models_folder()), "models": found})
        return
    if not found:
        remark(f"no models are kept in {printable(str(models_folder()))}; `ggq pull` converts one")
        return
    rows = [[printable(each["model"]), each["architecture"], size(each["file_bytes"])] for each in found]
    table(["model", "architecture", "size"], rows, right=(2,))
    paragraph(f"\nin {printable(str(models_folder()))}")


def described(path: Path) -> dict[str, Any]:
    """A kept model; one that cannot be read is listed too, so that it can be removed."""
    try:
        with open_reader(path) as reader:
            names = reader.metadata.get("model.architecture", "")
    except GGQError:
        names = "(cannot be read)"
    return {
        "model": path.stem,
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "architecture": printable(str(names)),
    }
