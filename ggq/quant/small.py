"""Weights so small that f16 numbers cannot say how small: below 2^-14 their spacing is 2^-24, whatever their size."""

from __future__ import annotations

import os
import re
from math import sqrt

from ggq.errors import ConvertError
from ggq.format.scheme import Scheme
from ggq.format.scheme_names import scheme_name
from ggq.quant.error import ErrorSum

SPACING = 2.0**-24
"""Of f16 numbers below 2^-14."""

CREST = 3.0
"""How many times the root mean square the largest weight of a group is, about."""

LEAST, SHARE = 0.01, 0.5
"""What the rounding of scales may add: this much of a weight, or this share of what the codes' own rounding makes."""


def scale_error(scheme: Scheme, sums: ErrorSum, count: int) -> float:
    """The relative error of a tensor's weights that comes from rounding its scales to f16, about.

    Args:
        scheme: Of the tensor.
        sums: Of its weights.
        count: How many there are.
    """
    if scheme.kind == "float" or sums.signal == 0:
        return 0.0
    level = {"ternary": 1, "binary": 1, "codebook": 64}.get(scheme.kind, scheme.codes // 2)
    scale = CREST * sqrt(sums.signal / count) / level
    if scheme.subscale:
        scale /= 2 ** (scheme.subscale - (scheme.zero == "none"))
    return min(1.0, SPACING / sqrt(12) / scale)


def too_small(scheme: Scheme, sums: ErrorSum, count: int) -> bool:
    """Whether a tensor's weights lose more by the rounding of their scales than by that of their codes; in f16 itself,
    whether they lose what only numbers below 2^-14 can lose there."""
    if scheme.kind == "float":
        return scheme.value == "f16" and sums.error().relative_rmse > LEAST
    own = 1.28 * 2.0**-scheme.bits
    return scale_error(scheme, sums, count) > max(LEAST, SHARE * own)


def refuse_small(
    scheme: Scheme, sums: ErrorSum, count: int, name: str, path: str | os.PathLike[str], options: str = ""
) -> None:
    """Refuse weights that are too small for the f16 scales of a scheme, or for f16.

    Args:
        scheme: Of the tensor.
        sums: Of its weights.
        count: How many there are.
        name: Of the tensor.
        path: Of its file.
        options: Those that the one to keep it as floats needs beside it.

    Raises:
        ConvertError: They are.
    """
    if too_small(scheme, sums, count):
        size = sqrt(sums.signal / count)
        kept = "f16" if scheme.kind == "float" else f"the f16 scales of {scheme_name(scheme)}"
        raise ConvertError(
            f"weights of {size:.2g} (root mean square) are too small for {kept}",
            path=path,
            where=f"tensor {name}",
            fix=f"keep them as floats: {options}--keep '{re.escape(name)}=bf16'",
        )
