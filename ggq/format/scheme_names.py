"""Names of schemes: the one parser and the one printer (spec/schemes.md, S2)."""

from __future__ import annotations

import re

from ggq.errors import UnsupportedError, UsageError
from ggq.format.scheme import FLOAT_BYTES, ROW, Scheme

BITS = (2, 3, 4, 5, 6, 8)
"""Bits of a code that can be encoded and decoded."""

GROUPS = (32, 64, 128, ROW)
"""Group sizes that are converted to and tested; the parser takes every multiple of GROUP_STEP."""

GROUP_STEP = 16
"""A group is a multiple of this many columns."""

LARGEST_GROUP = 1 << 24
"""Columns of the largest group that a name may ask for; it only keeps a mistyped number from becoming a scheme."""

SCHEMES: tuple[str, ...] = (
    *FLOAT_BYTES,
    *(f"q{bits}{zero}-{f'g{group}' if group else 'row'}" for zero in ("", "z") for bits in BITS for group in GROUPS),
)
"""Names of the schemes that are converted to and tested."""

_UNIFORM = re.compile(r"q(0|[1-9][0-9]?)(z?)-(?:g(0|[1-9][0-9]{0,9})|row)")
_FORM = "write f32, f16, bf16 or q{2,3,4,5,6,8}[z]-{g32,g64,g128,row}, such as q4-g32 or q4z-g64"


def parse_scheme(name: str) -> Scheme:
    """The scheme that a name stands for.

    Args:
        name: Such as "q4-g32", "q4z-g64", "q8-row" or "bf16".

    Raises:
        UsageError: The name is no scheme's.

    Source: spec/schemes.md, S2.
    """
    if name in FLOAT_BYTES:
        return Scheme("float", 8 * FLOAT_BYTES[name], value=name)
    match = _UNIFORM.fullmatch(name)
    if match is None:
        raise UsageError(f"unknown scheme {name!r}", fix=_FORM)
    bits, group = int(match[1]), ROW if match[3] is None else int(match[3])
    if bits not in BITS:
        raise UsageError(f"scheme {name!r} has {bits} bits; allowed are {', '.join(map(str, BITS))}", fix=_FORM)
    if match[3] is not None and (group % GROUP_STEP or not 0 < group <= LARGEST_GROUP):
        raise UsageError(
            f"scheme {name!r} has groups of {group} columns; "
            f"allowed are multiples of {GROUP_STEP} up to {LARGEST_GROUP}",
            fix=_FORM,
        )
    return Scheme("uniform", bits, group=group, scale="f16", zero="code" if match[2] else "none")


def scheme_name(scheme: Scheme) -> str:
    """The name of a scheme; `parse_scheme` gives the scheme back.

    Args:
        scheme: A float scheme or a uniform one with f16 scales.

    Raises:
        UnsupportedError: The scheme has no name in this version.

    Source: spec/schemes.md, S2.
    """
    group = "row" if scheme.group == ROW else f"g{scheme.group}"
    name = scheme.value or f"q{scheme.bits}{'z' if scheme.zero == 'code' else ''}-{group}"
    try:
        if parse_scheme(name) == scheme:
            return name
    except UsageError:
        pass
    raise UnsupportedError(f"this version has no name for the scheme {scheme}")
