"""Names of schemes: the one parser and the one printer (spec/schemes.md, S2)."""

from __future__ import annotations

import re

from ggq.errors import UnsupportedError, UsageError
from ggq.format.foreign_names import scheme_hint
from ggq.format.scheme import CODEBOOK_BITS, FLOAT_BYTES, ROW, SUBSCALE_BITS, TRANSFORMS, Scheme

BITS = (2, 3, 4, 5, 6, 8)
"""Bits of a uniform code that can be encoded and decoded."""

GROUPS = (32, 64, 128, ROW)
"""Group sizes that are converted to and tested; the parser takes every multiple of GROUP_STEP."""

GROUP_STEP = 16
"""A group is a multiple of this many columns."""

LARGEST_GROUP = 1 << 24
"""Columns of the largest group that a name may ask for; it only keeps a mistyped number from becoming a scheme."""

SCHEMES: tuple[str, ...] = (
    *FLOAT_BYTES,
    *(f"q{bits}{zero}-{f'g{group}' if group else 'row'}" for zero in ("", "z") for bits in BITS for group in GROUPS),
    *(f"q{bits}-g32-s6" for bits in BITS[:-1]),
    *(f"q{bits}m-g32-s6" for bits in BITS[:-2]),
    *("q4-g64-s6", "q3m-g64-s6", "q4m-g32", "ternary-g64", "binary-g64"),
    *("c4-g64", "c4-g32-s6", "c3-g32-s6", "c2-g32-s6"),
)
"""Names of the schemes that are converted to and tested."""

KIND_BITS = {"ternary": 2, "binary": 1}
"""Kinds that are named by themselves, and the bits of their codes."""

FILLED = {"nf4": ("c4", "nf4"), "mxfp4": ("c4", "mxfp4")}
"""Beginnings of names that people know and that say more than a scheme: what a scheme's name has there, the method."""

_ZEROS = {"": "none", "z": "code", "m": "minimum"}
_CODES = re.compile(
    r"(?:q(?P<bits>0|[1-9][0-9]?)(?P<zero>[zm]?)|c(?P<book>0|[1-9][0-9]?)|(?P<kind>ternary|binary))"
    r"-(?:g(?P<group>0|[1-9][0-9]{0,9})|row)(?:-s(?P<subscale>[1-9][0-9]?))?(?P<scale>\+scale)?(?P<order>\+order)?"
)
_FORM = (
    "write f32, f16, bf16 or {q2,q3,q4,q5,q6,q8}[z|m], {c2,c3,c4}, ternary or binary, then -{g32,g64,g128,row}, "
    "then [-s4|-s6|-s8][+scale][+order], such as q4-g32 or q4z-g64 or q4m-g32-s6"
)


def parse_scheme(name: str) -> Scheme:
    """The scheme that a name stands for.

    Args:
        name: Such as "q4-g32", "q4z-g64", "q8-row", "q4m-g32-s6", "c4-g64+scale", "ternary-g64" or "bf16".

    Raises:
        UsageError: The name is no scheme's.

    Source: spec/schemes.md, S2.
    """
    if name in FLOAT_BYTES:
        return Scheme("float", 8 * FLOAT_BYTES[name], value=name)
    match = _CODES.fullmatch(name)
    if match is None:
        raise UsageError(f"unknown scheme {name!r}", fix=scheme_hint(name, (*SCHEMES, "nf4-g64")))
    kind, bits, allowed = _kind(match)
    if bits not in allowed:
        raise UsageError(f"scheme {name!r} has {bits} bits; allowed are {', '.join(map(str, allowed))}", fix=_FORM)
    group = ROW if match["group"] is None else int(match["group"])
    if match["group"] is not None and (group % GROUP_STEP or not 0 < group <= LARGEST_GROUP):
        raise UsageError(
            f"scheme {name!r} has groups of {group} columns; "
            f"allowed are multiples of {GROUP_STEP} up to {LARGEST_GROUP}",
            fix=_FORM,
        )
    subscale = int(match["subscale"] or 0)
    if subscale not in (0, *SUBSCALE_BITS):
        raise UsageError(
            f"scheme {name!r} has sub-scales of {subscale} bits; allowed are {', '.join(map(str, SUBSCALE_BITS))}",
            fix=_FORM,
        )
    transform = frozenset(part for part in TRANSFORMS if match[part])
    return Scheme(kind, bits, "", group, "f16", _ZEROS[match["zero"] or ""], subscale, transform)


def _kind(match: re.Match[str]) -> tuple[str, int, tuple[int, ...]]:
    """Kind, bits and the bits that this kind may have."""
    if match["kind"]:
        bits = KIND_BITS[match["kind"]]
        return match["kind"], bits, (bits,)
    if match["book"]:
        return "codebook", int(match["book"]), CODEBOOK_BITS
    return "uniform", int(match["bits"]), BITS


def parse_filled(name: str) -> tuple[Scheme, str | None]:
    """The scheme that a user names, and the method if the name says that too: "nf4-g64" is "c4-g64" filled by nf4.

    Raises:
        UsageError: The name is no scheme's.
    """
    if (name.lower().startswith(tuple(FILLED)) or name.lower() in SCHEMES) and name != name.lower():
        return parse_filled(name.lower())
    for prefix, (head, method) in FILLED.items():
        if name.startswith(f"{prefix}-"):
            return parse_scheme(head + name.removeprefix(prefix)), method
    return parse_scheme(name), None


def scheme_name(scheme: Scheme) -> str:
    """The name of a scheme; `parse_scheme` gives the scheme back.

    Args:
        scheme: A float scheme or one with f16 scales.

    Raises:
        UnsupportedError: The scheme has no name in this version.

    Source: spec/schemes.md, S2.
    """
    if name := known_name(scheme):
        return name
    raise UnsupportedError(f"this version has no name for the scheme {scheme}")


def known_name(scheme: Scheme) -> str:
    """The same; "" for a scheme without a name."""
    name = scheme.value or _code_name(scheme)
    try:
        return name if parse_scheme(name) == scheme else ""
    except UsageError:
        return ""


def _code_name(scheme: Scheme) -> str:
    letters = {zero: letter for letter, zero in _ZEROS.items()}
    heads = {"uniform": f"q{scheme.bits}{letters.get(scheme.zero, '')}", "codebook": f"c{scheme.bits}"}
    group = "row" if scheme.group == ROW else f"g{scheme.group}"
    subscale = f"-s{scheme.subscale}" if scheme.subscale else ""
    transform = "".join(f"+{part}" for part in TRANSFORMS if part in scheme.transform)
    return f"{heads.get(scheme.kind, scheme.kind)}-{group}{subscale}{transform}"
