"""`ggq methods`: what --method may say."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ggq.cli.layout import paragraph, table
from ggq.cli.output import print_json
from ggq.quant.methods import METHODS, TRANSFORMS


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the methods: how codes and scales may be chosen. A method never changes the format.

    Example:
        ggq methods
    """
    rows = [
        (name, "text" if hasattr(method, "uses") else "", described(method))
        for name, method in {**METHODS, **TRANSFORMS}.items()
    ]
    if as_json:
        found = [{"method": name, "calibrated": bool(needs), "description": text} for name, needs, text in rows]
        print_json({"methods": found})
        return
    table(["method", "uses", "what it does"], rows, sentences=True)
    paragraph("\ntext: they use a calibration text\nchains such as order+awq+gptq transform the inputs, then round")


def described(method: object) -> str:
    """The first sentence of a method's module, without its name."""
    words = sys.modules[type(method).__module__].__doc__ or ""
    return " ".join(words.split("\n\n")[0].split()).partition(": ")[2].rstrip(".")
