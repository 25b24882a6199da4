"""Scheme descriptors: a scheme described in the file in full, so that a reader lists even what it cannot decode."""

from __future__ import annotations

from math import prod
from struct import calcsize, pack, unpack_from
from struct import error as StructError
from typing import NamedTuple

from ggq.errors import FormatError, UnsupportedError
from ggq.format.native.cursor import Cursor, refuse
from ggq.format.native.layout import MAX_DIMENSIONS, MAX_ELEMENTS, MAX_GROUP, MAX_ROLE_BYTES, MAX_ROLES
from ggq.format.scheme import (
    CODEBOOK_BITS,
    COLUMN_STEP,
    FLOAT_BYTES,
    PLANES,
    ROW,
    SUBSCALE_BITS,
    SUPER_GROUP,
    TRANSFORMS,
    Scheme,
    round_up,
)

KINDS = ("float", "uniform", "ternary", "binary", "codebook")
FLOATS = ("", "f32", "f16", "bf16")
TABLE_ENTRIES = 4
"""The value type of a codebook: signed bytes."""
SCALE_FORMS = ("none", "plain", "two-level")
ZERO_FORMS = ("none", "code", "minimum")
WHOLE_TENSOR = 0xFFFFFFFF
TILES = 1
CODE_BITS: dict[str, tuple[int, ...]] = {
    "uniform": tuple(bits for bits in PLANES if bits > 1),
    "ternary": (2,),
    "binary": (1,),
    "codebook": CODEBOOK_BITS,
}
"""Bits of the codes of each kind that this version decodes."""
KNOWN_TRANSFORMS = (1 << len(TRANSFORMS)) - 1
FLOAT_BITS = {name: 8 * size for name, size in FLOAT_BYTES.items()}

BODY = "<BBBBBBHIBBB"
BODY_FIELDS = (
    "bits",
    "value",
    "scale",
    "scale_form",
    "zero_form",
    "subscale_bits",
    "supergroup",
    "group",
    "layout",
    "transform",
    "planes",
)
_ROLE_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


class Descriptor(NamedTuple):
    """A scheme as the file describes it.

    Args:
        kind: Number of the code kind; 0 to 4 are named by KINDS.
        roles: Roles of the tensor's segments, in order.
        fields: The body's numbers by name, and the planes; empty when the kind is unknown.
        raw: The descriptor's bytes without the length in front.
        scheme: What it means, or None when this version cannot decode it.
    """

    kind: int
    roles: tuple[str, ...]
    fields: dict[str, int | tuple[int, ...]]
    raw: bytes
    scheme: Scheme | None

    @property
    def name(self) -> str:
        """The kind in words."""
        return KINDS[self.kind] if self.kind < len(KINDS) else f"kind {self.kind}"


def roles_of(scheme: Scheme) -> tuple[str, ...]:
    """The roles of a tensor's segments under `scheme`, in the order they are stored."""
    return scheme.roles


def encode_descriptor(scheme: Scheme) -> bytes:
    """A scheme's descriptor, without the length in front.

    Raises:
        FormatError: The scheme's fields contradict each other or the format's limits.
    """
    try:
        planes = scheme.planes
        form = "none" if scheme.kind == "float" else "two-level" if scheme.subscale else "plain"
        fields = (
            scheme.bits,
            TABLE_ENTRIES if scheme.kind == "codebook" else FLOATS.index(scheme.value),
            FLOATS.index(scheme.scale),
            SCALE_FORMS.index(form),
            ZERO_FORMS.index(scheme.zero or "none"),
            scheme.subscale,
            SUPER_GROUP if scheme.subscale else 0,
            scheme.group,
            TILES,
            sum(1 << TRANSFORMS.index(part) for part in scheme.transform),
            len(planes),
        )
        head = bytes([KINDS.index(scheme.kind)])
        body = pack(BODY, *fields) + bytes(planes)
    except (ValueError, KeyError, StructError) as error:
        raise refuse("C-42", f"{scheme} cannot be described in a file: {error}") from None
    raw = head + pack_roles(roles_of(scheme)) + body
    if decode_descriptor(raw, "scheme").scheme != scheme:
        raise refuse("C-42", f"{scheme} contradicts itself")
    return raw


def pack_roles(roles: tuple[str, ...]) -> bytes:
    """Roles as a count and strings with a length byte each."""
    return bytes([len(roles)]) + b"".join(bytes([len(role)]) + role.encode("ascii") for role in roles)


def decode_descriptor(raw: bytes, where: str) -> Descriptor:
    """Reads a descriptor and checks what this version knows of it.

    Args:
        raw: The descriptor without the length in front.
        where: What to call it in an error.

    Raises:
        FormatError: A known kind whose numbers are impossible, or roles that cannot be read.
    """
    cursor = Cursor(raw)
    try:
        kind = cursor.u8("the kind")
        roles = _read_roles(cursor, where)
        if kind >= len(KINDS):
            return Descriptor(kind, roles, {}, raw, None)
        values = unpack_from(BODY, raw, cursor.take(calcsize(BODY), "the body"))
        fields: dict[str, int | tuple[int, ...]] = dict(zip(BODY_FIELDS, values))
        planes = tuple(cursor.bytes(values[-1], "the planes"))
    except FormatError as error:
        raise FormatError(error.problem, where=where) from None
    fields["planes"] = planes
    _check_body(kind, dict(zip(BODY_FIELDS, values)), planes, where)
    scheme = None if cursor.remaining else _to_scheme(kind, dict(zip(BODY_FIELDS, values)), planes)
    if scheme is not None and roles != roles_of(scheme):
        raise refuse("C-44", f"segment roles {', '.join(roles)}, needed are {', '.join(roles_of(scheme))}", where)
    return Descriptor(kind, roles, fields, raw, scheme)


def _read_roles(cursor: Cursor, where: str) -> tuple[str, ...]:
    count = cursor.u8("the number of roles")
    if not 1 <= count <= MAX_ROLES:
        raise refuse("C-41", f"{count} segment roles, allowed are 1 to {MAX_ROLES}", where)
    roles = []
    for _ in range(count):
        size = cursor.u8("the length of a role")
        role = cursor.bytes(size, "a role").decode("latin-1")
        if not 1 <= size <= MAX_ROLE_BYTES or not _ROLE_LETTERS.issuperset(role):
            raise refuse("C-41", f"the segment role {role!r}, allowed are 1 to {MAX_ROLE_BYTES} of a-z 0-9 _", where)
        roles.append(role)
    if len(set(roles)) != count:
        raise refuse("C-41", "a segment role comes twice", where)
    return tuple(roles)


def _check_body(kind: int, body: dict[str, int], planes: tuple[int, ...], where: str) -> None:
    """Refuses numbers that no version can mean."""
    bits, group = body["bits"], body["group"]
    if KINDS[kind] == "float":
        value = body["value"]
        if 1 <= value < len(FLOATS) and bits != FLOAT_BITS[FLOATS[value]]:
            raise refuse("C-43", f"{bits} bits of {FLOATS[value]}, which has {FLOAT_BITS[FLOATS[value]]}", where)
        others = [name for name in BODY_FIELDS[2:] if name != "layout" and body[name]]
        if others:
            raise refuse("C-43", f"a float scheme with {', '.join(others)}", where)
        return
    if bits not in PLANES:
        raise refuse("C-43", f"{bits} bits, allowed are {', '.join(map(str, PLANES))}", where)
    if sum(planes) != bits or any(width not in (1, 2, 4, 8) for width in planes):
        raise refuse("C-43", f"planes {planes} for {bits} bits", where)
    if group not in (ROW, WHOLE_TENSOR) and (group % 16 or group > MAX_GROUP):
        raise refuse("C-43", f"groups of {group} columns, allowed are multiples of 16 up to {MAX_GROUP}", where)
    form, lower, above = body["scale_form"], body["subscale_bits"], body["supergroup"]
    if form == SCALE_FORMS.index("two-level"):
        if not 1 <= lower <= 8 or not above:
            raise refuse("C-43", f"sub-scales of {lower} bits in super-groups of {above} groups", where)
    elif form < len(SCALE_FORMS) and (lower or above):
        raise refuse("C-43", f"sub-scales of {lower} bits and a super-group of {above}, but no two levels", where)


def _to_scheme(kind: int, body: dict[str, int], planes: tuple[int, ...]) -> Scheme | None:
    """The scheme, or None when a field asks for what this version does not have."""
    name, value = KINDS[kind], body["value"]
    if body["layout"] != TILES or body["transform"] > KNOWN_TRANSFORMS or body["scale"] >= len(FLOATS):
        return None
    if name == "float":
        return Scheme("float", body["bits"], value=FLOATS[value]) if 0 < value < len(FLOATS) else None
    zeros = ZERO_FORMS if name == "uniform" else ZERO_FORMS[:1]
    plain = body["scale_form"] == SCALE_FORMS.index("plain")
    two_level = body["scale_form"] == SCALE_FORMS.index("two-level")
    known = (
        body["bits"] in CODE_BITS[name]
        and planes == PLANES[body["bits"]]
        and value == (TABLE_ENTRIES if name == "codebook" else 0)
        and FLOATS[body["scale"]] == "f16"
        and body["zero_form"] < len(zeros)
        and (plain or (two_level and body["subscale_bits"] in SUBSCALE_BITS and body["supergroup"] == SUPER_GROUP))
        and body["group"] != WHOLE_TENSOR
    )
    if not known:
        return None
    transform = frozenset(part for bit, part in enumerate(TRANSFORMS) if body["transform"] >> bit & 1)
    zero, subscale = zeros[body["zero_form"]], body["subscale_bits"]
    return Scheme(name, body["bits"], "", body["group"], "f16", zero, subscale, transform)


def check_dimensions(shape: tuple[int, ...], where: str) -> None:
    """Refuses a shape that no scheme can store."""
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise refuse("C-55", f"{len(shape)} dimensions, allowed are 1 to {MAX_DIMENSIONS}", where)
    if min(shape) < 1 or prod(shape) > MAX_ELEMENTS:
        raise refuse("C-55", f"the shape {shape}, allowed are dimensions from 1 and 2**63 - 1 elements", where)


def check_shape(scheme: Scheme, shape: tuple[int, ...], where: str) -> None:
    """Refuses a shape that `scheme` cannot store."""
    if scheme.kind == "float":
        return
    if len(shape) < 2:
        raise refuse("C-52", "a tensor of one dimension can only be stored as floats", where)
    if scheme.group > round_up(shape[-1], COLUMN_STEP):
        raise refuse("C-52", f"groups of {scheme.group} are larger than a row of {shape[-1]} columns", where)


def require_scheme(descriptor: Descriptor, name: str, path: str) -> Scheme:
    """The tensor's scheme; raises UnsupportedError when this version cannot decode it."""
    if descriptor.scheme is None:
        raise UnsupportedError(
            f"stored with a scheme of kind {descriptor.name!r} that this version of ggq cannot decode",
            path=path,
            where=f"tensor {name}",
            fix="use a newer version of ggq",
        )
    return descriptor.scheme
