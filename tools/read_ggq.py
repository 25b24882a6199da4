"""A second reader of ggq files: one file, standard library only, written from spec/container.md alone.

    python tools/read_ggq.py FILE            list the file as JSON
    python tools/read_ggq.py --verify FILE   and read every byte

It exists to keep the specification honest: tests give it every vector that the package reads, and both must agree.
It is slow and reads the whole file into memory. Digests are checked if the `blake3` package is there.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
import sys
import zlib
from typing import Any

try:
    from blake3 import blake3
except ImportError:  # the one thing that the standard library lacks
    blake3 = None  # type: ignore[assignment, misc]

MAGIC = bytes.fromhex("89474751 0D0A1A0A")
FOOTER_MAGIC = bytes.fromhex("89474751 454E440A")
LIMITS = (65536, 4096, 1048576, 4194304, 256, 4096, 65536, 0)
BOOL, I64, U64, F64, STRING, BYTES, ARRAY = 1, 2, 3, 4, 5, 6, 7
FLOAT_NAMES = {1: "f32", 2: "f16", 3: "bf16"}
FLOAT_SIZES = {1: 4, 2: 2, 3: 2}
WIDTHS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
CODE_BITS = {1: (2, 3, 4, 5, 6, 8), 2: (2,), 3: (1,), 4: (2, 3, 4)}


class Refused(Exception):
    """A file breaks the rule `rule`."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{text} ({rule})")
        self.rule = rule


def need(truth: object, rule: str, text: str) -> None:
    """Refuses the file unless `truth` holds."""
    if not truth:
        raise Refused(rule, text)


def up64(n: int) -> int:
    """The next multiple of 64."""
    return (n + 63) // 64 * 64


def check_digest(data: bytes, digest: bytes, rule: str, text: str) -> None:
    """Compares a digest, if there is something to make one with."""
    if blake3 is not None:
        need(blake3(data).digest() == digest, rule, text)


class Stream:
    """Fields of the index, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        need(count <= len(self.data) - self.at, "C-23", f"{count} bytes at {self.at} are past the end")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        """The next field of a struct format."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]


def text_of(data: bytes) -> str:
    """UTF-8, strictly."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("C-33", "not UTF-8") from None


def read_elements(stream: Stream, kind: int, count: int) -> list[Any]:
    """The elements of an array (section 4)."""
    if kind in (STRING, BYTES):
        size = stream.number("I")
        ends = struct.unpack(f"<{count}I", stream.take(4 * count))
        blob = stream.take(size)
        need((ends[-1] if ends else 0) == size, "C-35", "the last end is not the blob's length")
        starts = (0, *ends[:-1])
        need(all(start <= end for start, end in zip(starts, ends)), "C-35", "ends decrease")
        parts = [blob[start:end] for start, end in zip(starts, ends)]
        return [text_of(part) for part in parts] if kind == STRING else parts
    if kind == BOOL:
        flags = stream.take(count)
        need(all(flag <= 1 for flag in flags), "C-32", "a bool is neither 0 nor 1")
        return [flag == 1 for flag in flags]
    form = {I64: "q", U64: "Q", F64: "d"}[kind]
    numbers = list(struct.unpack(f"<{count}{form}", stream.take(8 * count)))
    need(kind != F64 or not any(math.isnan(number) for number in numbers), "C-34", "a NaN")
    return numbers


def read_value(stream: Stream) -> Any:
    """A value with its type."""
    kind = stream.number("B")
    need(1 <= kind <= ARRAY, "C-31", f"value type {kind}")
    if kind == ARRAY:
        kind = stream.number("B")
        need(1 <= kind <= BYTES, "C-31", f"element type {kind}")
        return read_elements(stream, kind, stream.number("I"))
    if kind in (STRING, BYTES):
        data = stream.take(stream.number("I"))
        return text_of(data) if kind == STRING else data
    return read_elements(stream, kind, 1)[0]


def read_key(stream: Stream) -> str:
    """A key of metadata or attributes."""
    size = stream.number("H")
    need(1 <= size <= 255, "C-30", f"a key of {size} bytes")
    key = stream.take(size)
    need(re.fullmatch(rb"[A-Za-z0-9_.-]+", key), "C-30", f"the key {key!r}")
    return key.decode("ascii")


def read_names(stream: Stream, count: int) -> list[str]:
    """The names of tensors or assets."""
    names = read_elements(stream, STRING, count)
    need(len(set(names)) == count, "C-51", "a name comes twice")
    for name in names:
        good = re.fullmatch(r"[!-~]{1,255}", name) and "\\" not in name
        need(good and not {"", ".", ".."} & set(name.split("/")), "C-50", f"the name {name!r}")
    return names


def read_ranges(stream: Stream, count: int) -> list[tuple[int, int, bytes]]:
    """A table of ranges."""
    rows = stream.take(48 * count)
    return [struct.unpack_from("<QQ32s", rows, 48 * number) for number in range(count)]


def read_scheme(raw: bytes) -> dict[str, Any]:
    """A descriptor (section 5); "known" says whether this reader would decode it."""
    stream = Stream(raw)
    kind, roles = stream.number("B"), []
    count = stream.number("B")
    need(1 <= count <= 16, "C-41", f"{count} roles")
    for _ in range(count):
        role = stream.take(stream.number("B"))
        need(re.fullmatch(rb"[a-z0-9_]{1,32}", role), "C-41", f"the role {role!r}")
        roles.append(role.decode("ascii"))
    need(len(set(roles)) == count, "C-41", "a role comes twice")
    scheme: dict[str, Any] = {"kind": kind, "roles": roles, "known": False}
    if kind > 4:
        return scheme
    names = "bits value scale scale_form zero_form subscale_bits supergroup group layout transform planes".split()
    body = dict(zip(names, struct.unpack("<BBBBBBHIBBB", stream.take(15))))
    widths = tuple(stream.take(body["planes"]))
    check_body(kind, body, widths)
    scheme.update(body)
    known = is_known(kind, body, widths)
    scheme["known"] = known and body["layout"] == 1 and stream.at == len(raw)
    need(not scheme["known"] or roles == roles_of(kind, body), "C-44", f"the roles {roles}")
    return scheme


def is_known(kind: int, body: dict[str, int], widths: tuple[int, ...]) -> bool:
    """Rule C-44, but for the roles, the layout and what follows the body."""
    if kind == 0:
        return body["value"] in FLOAT_NAMES
    two_level = body["scale_form"] == 2 and body["subscale_bits"] in (4, 6, 8) and body["supergroup"] == 8
    return (
        body["bits"] in CODE_BITS[kind]
        and WIDTHS[body["bits"]] == widths
        and body["value"] == (4 if kind == 4 else 0)
        and body["scale"] == 2
        and (body["scale_form"] == 1 or two_level)
        and body["zero_form"] <= (2 if kind == 1 else 0)
        and body["group"] != 0xFFFFFFFF
        and body["transform"] <= 3
    )


def roles_of(kind: int, body: dict[str, int]) -> list[str]:
    """The roles of a known scheme, in order."""
    if kind == 0:
        return ["values"]
    two_level, zero = body["scale_form"] == 2, body["zero_form"]
    roles = ["codes", "scales"] + ["subscales"] * two_level + ["zeros"] * (zero == 1)
    roles += ["minimums"] * (zero == 2) + ["subminimums"] * (zero == 2 and two_level) + ["codebook"] * (kind == 4)
    return roles + ["input_scale"] * (body["transform"] & 1) + ["input_order"] * (body["transform"] >> 1 & 1)


def check_body(kind: int, body: dict[str, int], widths: tuple[int, ...]) -> None:
    """Rule C-43."""
    bits, group = body["bits"], body["group"]
    if kind == 0:
        size = FLOAT_SIZES.get(body["value"])
        need(size is None or bits == 8 * size, "C-43", f"{bits} bits for a float")
        others = {name for name, field in body.items() if field} - {"bits", "value", "layout"}
        need(not others, "C-43", f"a float scheme with {others}")
        return
    need(bits in (1, 2, 3, 4, 5, 6, 8), "C-43", f"{bits} bits")
    need(sum(widths) == bits and set(widths) <= {1, 2, 4, 8}, "C-43", f"planes {widths}")
    good = group in (0, 0xFFFFFFFF) or (group % 16 == 0 and group <= 1 << 20)
    need(good, "C-43", f"groups of {group}")
    lower, above = body["subscale_bits"], body["supergroup"]
    fits = {0: lower == above == 0, 1: lower == above == 0, 2: 1 <= lower <= 8 and above > 0}
    need(fits.get(body["scale_form"], True), "C-43", f"sub-scales of {lower} bits in super-groups of {above}")


def lengths_of(scheme: dict[str, Any], shape: tuple[int, ...]) -> list[int]:
    """Bytes of each segment of a known scheme (schemes.md)."""
    columns = shape[-1]
    if scheme["kind"] == 0:
        if len(shape) == 1:
            return [columns * FLOAT_SIZES[scheme["value"]]]
        rows = -(-shape[-2] // 16) * 16
        return [math.prod(shape[:-2]) * rows * columns * FLOAT_SIZES[scheme["value"]]]
    need(len(shape) > 1, "C-52", "a quantized tensor of one dimension")
    need(scheme["group"] <= -(-columns // 32) * 32, "C-52", f"groups of {scheme['group']} in {columns} columns")
    rows = math.prod(shape[:-2]) * (-(-shape[-2] // 16) * 16)
    step = math.lcm(scheme["group"] or 32, 32)
    padded = -(-columns // step) * step
    groups = padded // (scheme["group"] or padded)
    upper, lower = 2 * rows * groups, 0
    if scheme["scale_form"] == 2:
        upper = 2 * rows * -(-groups // 8)
        lower = rows * sum(-(-groups * width // 8) for width in WIDTHS[scheme["subscale_bits"]])
    vector = math.prod(shape[:-2]) * padded * 4
    lengths = {"codes": rows * padded * scheme["bits"] // 8, "scales": upper, "subscales": lower}
    lengths |= {"zeros": rows * groups, "minimums": upper, "subminimums": lower, "codebook": 1 << scheme["bits"]}
    lengths |= {"input_scale": vector, "input_order": vector}
    return [lengths[role] for role in scheme["roles"]]


def read_tensors(stream: Stream, count: int, segments: int, schemes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Section 6 but for the attributes."""
    names = read_names(stream, count)
    records = stream.take(72 * count)
    ranges = read_ranges(stream, segments)
    tensors, used = [], 0
    for number, name in enumerate(names):
        at, dimensions, reserved, *sizes = struct.unpack_from("<IB3s8Q", records, 72 * number)
        need(at < len(schemes), "C-53", f"scheme {at} of {len(schemes)}")
        need(1 <= dimensions <= 8, "C-55", f"{dimensions} dimensions")
        shape = tuple(sizes[:dimensions])
        good = all(shape) and not any(sizes[dimensions:]) and not any(reserved) and math.prod(shape) < 1 << 63
        need(good, "C-55", f"the shape {sizes}")
        roles = schemes[at]["roles"]
        parts = ranges[used : used + len(roles)]
        used += len(roles)
        need(len(parts) == len(roles), "C-54", "too few segments")
        found = [length for _, length, _ in parts]
        if schemes[at]["known"]:
            expected = lengths_of(schemes[at], shape)
            need(found == expected, "C-54", f"tensor {name}: segments of {found} bytes, not {expected}")
        else:
            need(all(found), "C-54", f"tensor {name}: an empty segment")
        entry = {"name": name, "shape": shape, "scheme": schemes[at], "segments": dict(zip(roles, parts))}
        tensors.append({**entry, "attributes": {}})
    need(used == segments, "C-54", "too many segments")
    return tensors


def read_columns(stream: Stream, count: int, tensors: list[dict[str, Any]]) -> None:
    """The attributes, into the tensors."""
    for _ in range(count):
        key, kind, entries = read_key(stream), stream.number("B"), stream.number("I")
        need(1 <= kind <= STRING, "C-36", f"attribute type {kind}")
        numbers = struct.unpack(f"<{entries}I", stream.take(4 * entries))
        need(all(a < b for a, b in zip(numbers, numbers[1:])), "C-36", "tensor numbers do not ascend")
        need(not numbers or numbers[-1] < len(tensors), "C-36", "no such tensor")
        for number, value in zip(numbers, read_elements(stream, kind, entries)):
            need(key not in tensors[number]["attributes"], "C-36", f"the attribute {key} twice")
            tensors[number]["attributes"][key] = value


def read_index(data: bytes, minor: int) -> dict[str, Any]:
    """Sections 3 to 7."""
    stream = Stream(data)
    counts = [stream.number("I") for _ in LIMITS]
    need(all(count <= limit for count, limit in zip(counts, LIMITS)), "C-22", f"counts {counts}")
    metadata: dict[str, Any] = {}
    for _ in range(counts[0]):
        key = read_key(stream)
        need(key not in metadata, "C-30", f"the key {key} twice")
        metadata[key] = read_value(stream)
    schemes = [read_scheme(stream.take(stream.number("H"))) for _ in range(counts[1])]
    tensors = read_tensors(stream, counts[2], counts[3], schemes)
    read_columns(stream, counts[4], tensors)
    names = read_names(stream, counts[5])
    assets = dict(zip(names, read_ranges(stream, counts[5])))
    retired = read_ranges(stream, counts[6])
    need(stream.at == len(data) or minor > 0, "C-24", "bytes after the last section")
    return {"metadata": metadata, "tensors": tensors, "assets": assets, "retired": retired}


def read_header(data: bytes) -> int:
    """Section 1; returns the minor version."""
    need(data.startswith(MAGIC) and len(data) >= 128, "C-1", "not a ggq file")
    major, minor, order, alignment, flags = struct.unpack_from("<HHIII", data, 8)
    need(order == 0x01020304, "C-4", f"byte order {order:x}")
    need(major == 1, "C-3", f"version {major}")
    need(alignment == 64, "C-5", f"alignment {alignment}")
    need(not flags & 0xFFFF, "C-6", f"flags {flags:x}")
    need(not any(data[24:64]), "C-7", "reserved bytes")
    return int(minor)


def find_footer(data: bytes) -> tuple[int, int, int, bytes]:
    """Section 2: place of the footer, place and length of the index, and its digest."""
    found_magic = False
    for at in range(len(data) // 64 * 64 - 64, max(63, len(data) - (1 << 28) - (1 << 12)), -64):
        footer = data[at : at + 64]
        if not footer.startswith(FOOTER_MAGIC):
            continue
        found_magic = found_magic or at + 64 == len(data)
        offset, length, digest, reserved, checksum = struct.unpack_from("<QQ32sII", footer, 8)
        if checksum != zlib.crc32(data[:64] + footer[:60]):
            continue
        need(reserved == 0, "C-13", "reserved field of the footer")
        need(length <= 1 << 28, "C-14", f"an index of {length} bytes")
        need(offset % 64 == 0 and offset >= 64 and up64(offset + length) == at, "C-11", f"index at {offset}, {length}")
        return at, offset, length, digest
    raise Refused("C-12" if found_magic else "C-10", "no whole footer")


def check_ranges(contents: dict[str, Any], index_offset: int) -> list[tuple[int, int, bytes, str]]:
    """Section 8: every byte belongs to one range."""
    named = [(*part, f"tensor {entry['name']}") for entry in contents["tensors"] for part in entry["segments"].values()]
    named += [(*part, f"asset {name}") for name, part in contents["assets"].items()]
    named += [(*part, "retired") for part in contents["retired"]]
    for offset, length, _, owner in named:
        need(64 <= offset and offset + length <= index_offset, "C-61", f"{owner} lies outside")
        need(offset % 64 == 0, "C-60", f"{owner} is not aligned")
    end = 64
    for offset, length, _, owner in sorted(named, key=lambda item: item[:2]):
        need(offset >= end, "C-62", f"{owner} overlaps what is before it")
        need(offset == end, "C-63", f"a hole before {owner}")
        end = up64(offset + length)
    need(end <= index_offset, "C-62", "the index overlaps what is before it")
    need(end == index_offset, "C-63", "a hole before the index")
    return named


def read(path: str, *, verify: bool = False) -> dict[str, Any]:
    """A whole file: "metadata", "tensors", "assets", "retired", "digest", "data".

    Args:
        path: The file.
        verify: Read every byte, not only the frame and the index.
    """
    need(stat.S_ISREG(os.stat(path).st_mode), "C-1", "not a regular file")
    with open(path, "rb") as file:
        data = file.read()
    minor = read_header(data)
    at, offset, length, digest = find_footer(data)
    index = data[offset : offset + length]
    check_digest(index, digest, "C-15", "the index's digest")
    contents = read_index(index, minor)
    ranges = check_ranges(contents, offset)
    if verify:
        for start, size, right, owner in ranges:
            check_digest(data[start : start + size], right, "C-70", f"the digest of {owner}")
            need(not any(data[start + size : up64(start + size)]), "C-64", f"padding after {owner}")
        need(not any(data[offset + length : at]), "C-64", "padding after the index")
        need(at + 64 == len(data), "C-16", "trailing bytes")
    return {**contents, "digest": digest, "data": data}


def main(arguments: list[str]) -> int:
    """Lists a file; returns the exit status."""
    paths = [argument for argument in arguments if argument != "--verify"]
    if len(paths) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        contents = read(paths[0], verify="--verify" in arguments)
    except (Refused, OSError) as error:
        print(f"error: {paths[0]}: {error}", file=sys.stderr)
        return 2
    del contents["data"]
    json.dump(contents, sys.stdout, indent=1, default=lambda item: item.hex())
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
