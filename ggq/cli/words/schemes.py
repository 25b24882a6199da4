"""`ggq schemes`: what --scheme may say."""

from __future__ import annotations

from typing import Annotated

import typer

from ggq.cli.layout import paragraph, table
from ggq.cli.output import print_json
from ggq.format.scheme import ROW, Scheme
from ggq.format.scheme_names import FILLED, GROUPS, SCHEMES, parse_scheme

SHAPE = (4096, 4096)
"""The matrix whose bits per weight are told; those of a scheme with a table or long groups depend on it a little."""
WHOLE = {"f32": "whole numbers of 32 bits", "f16": "whole numbers of 16 bits", "bf16": "whole numbers, bfloat16"}
KINDS = {"ternary": "-1, 0 and 1", "binary": "-1 and 1"}
ZEROS = {"none": "", "code": ", a zero-point", "minimum": ", a float minimum"}


def schemes(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the schemes: how numbers may be stored, and bits per weight with all that belongs to them.

    Example:
        ggq schemes
    """
    rows = [(name, bits(parse_scheme(name)), described(parse_scheme(name))) for name in SCHEMES]
    if as_json:
        print_json({"schemes": [{"scheme": n, "bits_per_weight": b, "description": text} for n, b, text in rows]})
        return
    table(
        ["scheme", "bits", "what is stored"], [[name, f"{b:.2f}", text] for name, b, text in rows], (1,), sentences=True
    )
    groups = ", ".join("row" if group == ROW else f"g{group}" for group in GROUPS)
    named = ", ".join(f"{name}-g64 is {head}-g64 --method {method}" for name, (head, method) in FILLED.items())
    paragraph(f"\ngroups: {groups}\n{named}\n+scale and +order are added by the methods that need them")


def bits(scheme: Scheme) -> float:
    """Bits per weight of a matrix of SHAPE."""
    return 8 * scheme.geometry(SHAPE).bytes / (SHAPE[0] * SHAPE[1])


def described(scheme: Scheme) -> str:
    """A scheme in a few words."""
    if scheme.value:
        return WHOLE[scheme.value]
    if scheme.kind == "codebook":
        codes = f"a table of {2**scheme.bits} numbers"
    else:
        codes = KINDS.get(scheme.kind, f"{scheme.bits} bits")
    group = "each row" if scheme.group == ROW else f"{scheme.group} columns"
    scales = f"a scale of {scheme.subscale} bits" if scheme.subscale else "an f16 scale"
    return f"{codes}, {scales} for {group}{ZEROS[scheme.zero]}"
