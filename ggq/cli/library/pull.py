"""`ggq pull`: convert a checkpoint into the folder of kept models."""

from __future__ import annotations

from typing import Annotated

import typer

from ggq.cli.layout import pairs
from ggq.cli.library.folder import pull_model
from ggq.cli.output import print_json, printable, size


def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="ORG/NAME[@REVISION] on the hub, a checkpoint's folder, or demo:", show_default=False
        ),
    ],
    preset: Annotated[
        str | None, typer.Option(metavar="PRESET", help="small, balanced (the default) or high.", show_default=False)
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(metavar="SCHEME", help="One scheme instead of a mix.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Convert it again if it is kept already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Convert a checkpoint into the folder of kept models, where `ggq run` and `ggq chat` find it by its name.

    The folder is GGQ_MODELS, or lies in the user's cache folder. What is kept already is not converted again.

    Example:
        ggq pull HuggingFaceTB/SmolLM2-135M-Instruct
        ggq chat HuggingFaceTB/SmolLM2-135M-Instruct
    """
    out = pull_model(source, {"preset": preset, "scheme": scheme}, force=force)
    if as_json:
        print_json({"model": out.stem, "file": str(out), "file_bytes": out.stat().st_size})
    else:
        pairs([("model", printable(out.stem)), ("file", printable(str(out))), ("size", size(out.stat().st_size))])
