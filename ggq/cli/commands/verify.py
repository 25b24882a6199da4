"""`ggq verify`: read every byte against its digest, and the numbers against the rules of their scheme."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ggq.cli.layout import paragraph
from ggq.cli.output import print_json, printable, progress, size
from ggq.errors import FormatError
from ggq.format import Problem, Reader, open_reader
from ggq.generate.verification import check

DAMAGED = 1


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .ggq file.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Check every byte of a file and name what is damaged.

    Exit status: 0 all is well, 1 damaged, 2 the file cannot be read at all.

    Example:
        ggq verify model.ggq
        ggq verify model.ggq --json
    """
    try:
        with open_reader(file) as reader:
            with progress("verifying") as advance:
                problems = check(reader, advance)
            _print(reader, problems, as_json)
    except FormatError as error:
        if as_json:
            problem = {"tensor": None, "where": error.where, "problem": error.problem}
            print_json({"file": str(file), "ok": False, "problems": [problem]})
        raise
    return DAMAGED if problems else 0


def _print(reader: Reader, problems: Sequence[Problem], as_json: bool) -> None:
    if as_json:
        found = [{"tensor": p.tensor, "where": p.where, "problem": p.text} for p in problems]
        document = {"file": reader.path, "ok": not problems, "file_bytes": reader.size, "digest": reader.digest}
        print_json({**document, "tensor_count": len(reader.tensors), "problems": found})
        return
    for problem in problems:
        paragraph(f"damaged: {printable(problem.where)}: {printable(problem.text)}")
    if not problems:
        whole = f"all {size(reader.size)} in {len(reader.tensors)} tensors are as they were written"
        paragraph(f"{printable(reader.path)}: {whole}\ndigest {reader.digest.hex()}")
