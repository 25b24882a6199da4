"""`ggq rm`: remove a kept model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggq.cli.library.folder import find_kept
from ggq.cli.output import printable, size


def rm(
    names: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="As `ggq list` prints it, or its source", show_default=False),
    ],
) -> None:
    """Remove kept models.

    Example:
        ggq rm HuggingFaceTB/SmolLM2-135M-Instruct
    """
    paths = [find_kept(name) for name in names]
    for path in paths:
        freed = path.stat().st_size
        path.unlink()
        for left in (Path(f"{path}.partial"), Path(f"{path}.journal")):
            left.unlink(missing_ok=True)
        print(f"{printable(path.stem)} removed, {size(freed)} freed")
