"""`ggq embed`: vectors of texts, and scores of texts for a query."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ggq.cli import generation as cli
from ggq.cli.compiling import announce_compiling
from ggq.cli.generation import ACTIVATIONS, FILE, INTERPRETER, THREADS
from ggq.cli.output import print_json, printable
from ggq.errors import UsageError
from ggq.format.paths import check_not_input
from ggq.generate.loading import load

LARGEST = 1 << 30
"""Bytes of a file of texts."""

TEXTS = Annotated[
    list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts; - reads one a line from standard input.")
]
SOURCE = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Texts from a file, one a line.", show_default=False)
]


def embed(
    file: FILE,
    texts: TEXTS = None,
    source: SOURCE = None,
    query: Annotated[
        str | None,
        typer.Option("--query", metavar="TEXT", help="Score each text for this query instead.", show_default=False),
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="NAME", help="What the texts are for: query, document ...")
    ] = "",
    npy: Annotated[
        Path | None,
        typer.Option("--npy", metavar="OUT.npy", help="Write the numbers as a NumPy array.", show_default=False),
    ] = None,
    threads: THREADS = None,
    activations: ACTIVATIONS = "int8",
    interpreter: INTERPRETER = "numba",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Give vectors of texts, or score texts against a query.

    Each text's vector, or score, goes to standard output as a line of JSON.

    Example:
        ggq embed minilm.ggq "a cat" "a dog"
        ggq embed minilm.ggq --file texts.txt --npy vectors.npy
        ggq embed reranker.ggq --query "what is a cat?" - < texts.txt
    """
    several = read_texts(texts or [], source)
    if npy is not None:
        check_not_input(npy, file, source)
    announce_compiling(interpreter)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with load(file, threads=threads, activations=activations, interpreter=interpreter) as model:
            if query is None:
                found = model.embed(several, prompt=prompt)
            else:
                found = model.rerank(cli.text(query), several)
    for each in told:
        print(f"note: {printable(str(each.message))}", file=sys.stderr)
    if npy is not None:
        with npy.open("wb") as out:
            np.save(out, found)
    elif as_json:
        print_json({"scores" if query is not None else "vectors": found.tolist()})
    else:
        for row in found.tolist():
            print(json.dumps(row))


def read_texts(given: list[str], source: Path | None) -> list[str]:
    """The texts that were asked for.

    Raises:
        UsageError: There is none, or they are not UTF-8.
        OSError: The file cannot be read.
    """
    found = [] if source is None else _lines(source.read_bytes()[:LARGEST], str(source))
    for text in given:
        found += _lines(sys.stdin.buffer.read(), "standard input") if text == "-" else [cli.text(text)]
    if not found:
        raise UsageError("no text was given", fix='ggq embed FILE "a text" or --file texts.txt')
    return found


def _lines(data: bytes, name: str) -> list[str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{name} is not UTF-8 at byte {problem.start}") from None
    return text.removesuffix("\n").split("\n") if text else []
