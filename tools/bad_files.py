"""All bad files of spec/vectors/bad, and those among them that break one rule of spec/container.md each."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from tools.bad_file import BOOK, BOTH, ORDERED, SCALED, SUBSCALED, Bad, Bend, bare, coded, floats_only, full
from tools.bad_numbers import NUMBERS
from tools.draft import (
    ARRAY,
    BOOL,
    BYTES,
    F64,
    FLOAT32,
    I64,
    STRING,
    U64,
    Draft,
    descriptor,
    elements,
    record,
    two_level,
    uniform,
    value,
)


def _set(table: str, number: int, item: Any) -> Bend:
    """Replaces an element of one of a draft's lists."""
    return lambda draft: getattr(draft, table).__setitem__(number, item)


def _header(offset: int, data: bytes) -> Bend:
    return lambda draft: draft.header.__setitem__(slice(offset, offset + len(data)), data)


def _footer(**fields: Any) -> Bend:
    return lambda draft: draft.footer.update(fields)


def _count(number: int, count: int) -> Bend:
    return lambda draft: draft.counts.__setitem__(number, count)


def _raw(index: bytes) -> Bend:
    return lambda draft: setattr(draft, "raw_index", index)


def _payload(payload: bytes) -> Bend:
    """A second metadata entry with this value."""
    return lambda draft: draft.raw_entry("bad.value", payload)


def _key(key: bytes) -> Bend:
    return lambda draft: draft.raw_entry(key, b"\x01\x01")


def _scheme(raw: bytes) -> Bend:
    return lambda draft: draft.scheme(raw)


def _scheme_0(raw: bytes) -> Bend:
    return _set("schemes", 0, struct.pack("<H", len(raw)) + raw)


def _column(key: bytes, kind: int, numbers: list[int], payload: bytes) -> Bend:
    head = struct.pack("<H", len(key)) + key + struct.pack(f"<BI{len(numbers)}I", kind, len(numbers), *numbers)
    return lambda draft: draft.columns.append(head + payload)


def _shift(number: int, *, offset: int = 0, length: int = 0) -> Bend:
    """Changes a segment's range."""

    def bend(draft: Draft) -> None:
        draft.segments[number][0] = (draft.segments[number][0] + offset) % 2**64
        draft.segments[number][1] = (draft.segments[number][1] + length) % 2**64

    return bend


def _alias(draft: Draft) -> None:
    """Two tensors with the same bytes."""
    draft.names.append("c.bias")
    draft.records.append(draft.records[1])
    draft.segments.append(draft.segments[2])


def _overlap(draft: Draft) -> None:
    """An asset whose last bytes are the first of the next one."""
    draft.asset("NOTICE", bytes(64))
    draft.asset_ranges[0][1] = 65


def _hole_first() -> Draft:
    """64 bytes between the header and the first tensor."""
    draft = Draft()
    draft.data += bytes(64)
    draft.tensor("b.bias", (3,), draft.scheme(FLOAT32), [bytes(12)])
    return draft


def _hole_last(draft: Draft) -> None:
    """A whole block between the last range and the index."""
    draft.data += bytes(124)


def _flip(position: int) -> Callable[[bytes], bytes]:
    """Flips the lowest bit of a byte, which is counted from the end if negative."""

    def cut(raw: bytes) -> bytes:
        data = bytearray(raw)
        data[position] ^= 1
        return bytes(data)

    return cut


def _prefix(head: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: head + raw[len(head) :]


def _digest_zero(draft: Draft) -> None:
    draft.asset_ranges[0][2] = bytes(32)


def _retired(draft: Draft) -> None:
    draft.edit()
    draft.retired[0][2] = bytes(32)


def _utf8(data: bytes) -> Bend:
    return _payload(value(STRING, data))


def _strings(ends: list[int], blob: bytes, size: int | None = None) -> Bend:
    """An array of strings with these ends."""
    length = len(blob) if size is None else size
    return _payload(struct.pack(f"<BBII{len(ends)}I", ARRAY, STRING, len(ends), length, *ends) + blob)


UNKNOWN = descriptor(9, [b"codes"], b"")
WIDE = descriptor(0, [b"values"], struct.pack("<BBBBBBHIBBB", 16, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0))
GROUPED = descriptor(0, [b"values"], struct.pack("<BBBBBBHIBBB", 32, 1, 0, 0, 0, 0, 0, 32, 1, 0, 0))
TRANSFORMED = descriptor(0, [b"values"], struct.pack("<BBBBBBHIBBB", 32, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0))

FRAME = [
    Bad("empty", "C-1", "is empty", bare, cut=lambda raw: b""),
    Bad("short", "C-1", "header and footer alone have 128", bare, cut=lambda raw: raw[:100]),
    Bad("gguf", "C-1", "a GGUF file", bare, cut=_prefix(b"GGUF\3\0\0\0")),
    Bad("safetensors", "C-1", "a safetensors file", bare, cut=_prefix(struct.pack("<Q", 52) + b'{"a":{}}')),
    Bad("zip", "C-1", "a zip archive", bare, cut=_prefix(b"PK\3\4\x14\0\0\0")),
    Bad("pickle", "C-1", "a Python pickle", bare, cut=_prefix(b"\x80\2}q\0X\6\0")),
    Bad("html", "C-1", "an HTML page", bare, cut=_prefix(b"\n<!DOCTYPE html><html>")),
    Bad("lfs-pointer", "C-1", "a git-lfs pointer", bare, cut=_prefix(b"version https://git-lfs.github.com/spec/v1\n")),
    Bad("prefixed", "C-1", "behind or changed by other bytes", bare, cut=lambda raw: b"\n" + raw),
    Bad("text-transfer", "C-1", "behind or changed by other bytes", bare, cut=lambda raw: raw.replace(b"\r\n", b"\n")),
    Bad("version-0", "C-3", "version 0", bare, _header(8, b"\0\0")),
    Bad("version-2", "C-3", "version 2.0", bare, _header(8, b"\2\0")),
    Bad("big-endian", "C-4", "0x04030201", bare, _header(8, bytes.fromhex("0001 0000 01020304 00000040"))),
    *(
        Bad(f"alignment-{size}", "C-5", f"alignment of {size},", bare, _header(16, struct.pack("<I", size)))
        for size in (0, 1, 3, 32, 128, 1 << 31)
    ),
    Bad("flag-0", "C-6", "flags 0x00000001", bare, _header(20, b"\1")),
    Bad("flag-15", "C-6", "flags 0x00008000", bare, _header(20, b"\0\x80")),
    Bad("header-reserved", "C-7", "reserved bytes of the header", bare, _header(63, b"\1")),
    Bad("no-footer", "C-10", "cut short", full, cut=lambda raw: raw[:-64]),
    Bad("cut-in-data", "C-10", "cut short", full, cut=lambda raw: raw[:200]),
    Bad("cut-in-footer", "C-10", "cut short", full, cut=lambda raw: raw[:-1]),
    Bad("footer-magic", "C-10", "cut short", bare, _footer(magic=b"GGQ-END\n")),
    Bad("footer-unaligned", "C-11", "the footer lies at", bare, _footer(length=129)),
    Bad("index-unaligned", "C-11", "not aligned between", full, _footer(offset=65)),
    Bad("index-in-header", "C-11", "not aligned between", full, _footer(offset=0)),
    Bad("index-past-end", "C-11", "not aligned between", full, _footer(offset=1 << 40)),
    Bad("index-wraps", "C-11", "not aligned between", full, _footer(offset=2**64 - 64, length=128)),
    Bad("checksum", "C-12", "checksum of header and footer", full, _footer(checksum=1)),
    Bad("header-flipped", "C-12", "checksum of header and footer", full, cut=_flip(10)),
    Bad("footer-reserved", "C-13", "reserved field of the footer", full, _footer(reserved=1)),
    *(
        Bad(f"index-length-{name}", "C-14", f"index of {length} bytes", full, _footer(length=length))
        for name, length in (("limit-1", (1 << 28) + 1), ("2-32", 1 << 32), ("2-63", 1 << 63), ("2-64", 2**64 - 1))
    ),
    Bad("index-digest", "C-15", "does not fit its digest", full, _footer(digest=bytes(32))),
    Bad("trailing-byte", "C-16", "1 bytes after the last", full, cut=lambda raw: raw + b"x", stage="verify"),
    Bad("trailing-block", "C-16", "64 bytes after", full, cut=lambda raw: raw + bytes(64), stage="verify"),
]

INDEX = [
    *(
        Bad(f"count-{name}", "C-22", f"{limit + 1} entries of {name}", bare, _count(number, limit + 1))
        for number, (name, limit) in enumerate(
            {"metadata": 65536, "schemes": 4096, "tensors": 1 << 20, "segments": 1 << 22, "columns": 256}.items()
        )
    ),
    Bad("count-assets", "C-22", "4294967295 entries of assets", bare, _count(5, 2**32 - 1)),
    Bad("count-retired", "C-22", "65537 entries of retired", bare, _count(6, 65537)),
    Bad("count-reserved", "C-22", "reserved count", bare, _count(7, 1)),
    Bad("metadata-past-end", "C-23", "the length of a key", bare, _raw(struct.pack("<8I", 65536, *[0] * 7))),
    Bad("schemes-past-end", "C-23", "remain", bare, _count(1, 4096)),
    Bad("tensors-past-end", "C-23", "remain", bare, _count(2, 1 << 20)),
    Bad("segments-past-end", "C-23", "remain", bare, _count(3, 1 << 22)),
    Bad("assets-past-end", "C-23", "remain", bare, _count(5, 4096)),
    Bad("retired-past-end", "C-23", "remain", bare, _count(6, 65536)),
    Bad("index-empty", "C-23", "table of counts", bare, _raw(b"")),
    Bad("index-31-bytes", "C-23", "table of counts", bare, _raw(bytes(31))),
    Bad("index-trailing", "C-24", "1 bytes after the last section", bare, lambda draft: setattr(draft, "extra", b"\0")),
]

METADATA = [
    Bad("key-empty", "C-30", "a key of 0 bytes", bare, _key(b"")),
    Bad("key-256", "C-30", "a key of 256 bytes", bare, _key(b"k" * 256)),
    Bad("key-space", "C-30", "other characters", bare, _key(b"a b")),
    Bad("key-escape", "C-30", "other characters", bare, _key(b"a\x1b[31m")),
    Bad("key-utf8", "C-30", "other characters", bare, _key("k\u00e9".encode())),
    Bad("key-newline", "C-30", "other characters", bare, _key(b"key\n")),
    Bad("key-duplicate", "C-30", "comes twice", bare, _key(b"general.name")),
    Bad("type-0", "C-31", "value type 0", bare, _payload(b"\0\0")),
    Bad("type-8", "C-31", "value type 8", bare, _payload(b"\x08\0")),
    Bad("type-255", "C-31", "value type 255", bare, _payload(b"\xff\0")),
    Bad("element-type-0", "C-31", "element type 0", bare, _payload(b"\x07\0\0\0\0\0")),
    Bad("array-of-arrays", "C-31", "element type 7", bare, _payload(b"\x07\x07" + bytes(4))),
    Bad("bool-7", "C-32", "a bool of 7", bare, _payload(b"\x01\x07")),
    Bad("bool-in-array", "C-32", "a bool of 2", bare, _payload(b"\x07\x01\3\0\0\0\0\2\1")),
    Bad("string-2-32", "C-23", "4294967295 bytes", bare, _payload(b"\x05" + b"\xff" * 4 + b"abc")),
    Bad("string-one-more", "C-23", "remain", bare, _payload(struct.pack("<BI", STRING, 14) + b"abc")),
    Bad("array-u64-2-32", "C-23", "34359738360 bytes", bare, _payload(b"\x07\x03" + b"\xff" * 4)),
    Bad("array-bool-2-32", "C-23", "4294967295 bytes", bare, _payload(b"\x07\x01" + b"\xff" * 4)),
    Bad("array-string-2-32", "C-23", "17179869180 bytes", bare, _payload(b"\x07\x05" + b"\xff" * 8)),
    Bad("array-blob-2-32", "C-23", "4294967295 bytes", bare, _strings([1], b"a", 2**32 - 1)),
    Bad("utf8-ff", "C-33", "not UTF-8 at its byte 1", bare, _utf8(b"a\xff")),
    Bad("utf8-overlong", "C-33", "not UTF-8", bare, _utf8(b"\xc0\x80")),
    Bad("utf8-surrogate", "C-33", "not UTF-8", bare, _utf8(b"\xed\xa0\x80")),
    Bad("utf8-cut", "C-33", "not UTF-8", bare, _utf8("\u20ac".encode()[:2])),
    Bad("utf8-array", "C-33", "not UTF-8", bare, _strings([1, 2], b"a\xe9")),
    Bad("utf8-array-split", "C-33", "in the middle of", bare, _strings([1, 2], "\u00e9".encode())),
    Bad("nan", "C-34", "NaN", bare, _payload(value(F64, float("nan")))),
    Bad("nan-in-array", "C-34", "NaN", bare, _payload(value(ARRAY, (F64, [1.5, float("nan")])))),
    Bad("ends-decrease", "C-35", "decrease", bare, _strings([2, 1, 3], b"abc")),
    Bad("ends-short", "C-35", "ends at 2, the blob has 3", bare, _strings([1, 2], b"abc")),
    Bad("ends-past-blob", "C-35", "ends at 4, the blob has 3", bare, _strings([1, 4], b"abc")),
    Bad("ends-none", "C-35", "ends at 0, the blob has 3", bare, _strings([], b"abc")),
]

SCHEMES = [
    Bad("scheme-past-end", "C-23", "remain", bare, lambda draft: draft.schemes.append(b"\xff\xff")),
    Bad("scheme-empty", "C-23", "the kind", bare, _scheme(b"")),
    Bad("scheme-cut", "C-23", "the body", bare, _scheme(uniform(4, [4], 32)[:-3])),
    Bad("scheme-planes-cut", "C-23", "the planes", bare, _scheme(uniform(3, [2, 1], 32)[:-1])),
    Bad("roles-0", "C-41", "0 segment roles", bare, _scheme(descriptor(9, [], b""))),
    Bad("roles-17", "C-41", "17 segment roles", bare, _scheme(descriptor(9, [b"r%d" % n for n in range(17)], b""))),
    Bad("role-empty", "C-41", "the segment role ''", bare, _scheme(descriptor(9, [b""], b""))),
    Bad("role-33", "C-41", "the segment role", bare, _scheme(descriptor(9, [b"r" * 33], b""))),
    Bad("role-upper", "C-41", "the segment role 'Codes'", bare, _scheme(descriptor(9, [b"Codes"], b""))),
    Bad("role-twice", "C-41", "comes twice", bare, _scheme(descriptor(9, [b"codes", b"codes"], b""))),
    *(Bad(f"bits-{n}", "C-43", f"{n} bits, allowed", bare, _scheme(uniform(n, [n or 4], 32))) for n in (0, 7, 9, 255)),
    Bad("bits-of-float", "C-43", "16 bits of f32", bare, _scheme(WIDE)),
    Bad("group-of-float", "C-43", "a float scheme with group", bare, _scheme(GROUPED)),
    Bad("planes-sum", "C-43", "planes (4,) for 5 bits", bare, _scheme(uniform(5, [4], 32))),
    Bad("plane-3", "C-43", "planes (3,) for 3 bits", bare, _scheme(uniform(3, [3], 32))),
    *(
        Bad(f"group-{n}", "C-43", f"groups of {n} columns", bare, _scheme(uniform(4, [4], n)))
        for n in (1, 8, 24, (1 << 20) + 16, 1 << 31)
    ),
    Bad(
        "roles-of-uniform",
        "C-44",
        "needed are codes, scales",
        bare,
        _scheme(uniform(4, [4], 32).replace(b"scales", b"zcales")),
    ),
    *(
        Bad(f"{name}-roles", "C-44", f"needed are {needed}", bare, _scheme(raw.replace(*swap)))
        for name, raw, swap, needed in (
            ("two-level", two_level(4, [4], 32, 6), (b"subscales", b"subscaled"), "codes, scales, subscales"),
            ("minimum", uniform(4, [4], 32, zero=2), (b"minimums", b"minimumz"), "codes, scales, minimums"),
            ("codebook", uniform(4, [4], 32, kind=4), (b"codebook", b"codebooq"), "codes, scales, codebook"),
            ("order", uniform(4, [4], 32, transform=2), (b"input_order", b"input_scale"), "codes, scales, input_order"),
        )
    ),
    *(
        Bad(f"sub-scales-{n}", "C-43", f"sub-scales of {n} bits in super-groups of 8", bare, _scheme(raw))
        for n, raw in ((n, two_level(4, [4], 32, n)) for n in (0, 9, 255))
    ),
    Bad("super-group-0", "C-43", "super-groups of 0 groups", bare, _scheme(two_level(4, [4], 32, 6, supergroup=0))),
    Bad("super-group-alone", "C-43", "but no two levels", bare, _scheme(uniform(4, [4], 32, supergroup=8))),
    Bad("sub-scales-alone", "C-43", "but no two levels", bare, _scheme(uniform(4, [4], 32, subscale_bits=6))),
    Bad("transform-of-float", "C-43", "a float scheme with transform", bare, _scheme(TRANSFORMED)),
    Bad("roles-of-float", "C-44", "needed are values", bare, _scheme(FLOAT32.replace(b"values", b"valued"))),
]

TENSORS = [
    Bad("name-empty", "C-50", "a name of 0 bytes", lambda: floats_only("")),
    Bad("name-256", "C-50", "a name of 256 bytes", lambda: floats_only("n" * 256)),
    Bad("name-space", "C-50", "printable ASCII", lambda: floats_only("a b")),
    Bad("name-nul", "C-50", "printable ASCII", lambda: floats_only("a\0b")),
    Bad("name-escape", "C-50", "printable ASCII", lambda: floats_only("a\x1b[2Jb")),
    Bad("name-bidi", "C-50", "printable ASCII", lambda: floats_only("a\u202eb")),
    Bad("name-newline", "C-50", "printable ASCII", lambda: floats_only("ab\n")),
    Bad("name-backslash", "C-50", "backslash", lambda: floats_only("a\\b")),
    Bad("name-absolute", "C-50", "absolute", lambda: floats_only("/etc/passwd")),
    Bad("name-up", "C-50", "leaves its folder", lambda: floats_only("../../weights")),
    Bad("name-up-inside", "C-50", "leaves its folder", lambda: floats_only("a/../b")),
    Bad("name-slash-end", "C-50", "leaves its folder", lambda: floats_only("a/")),
    Bad("name-not-utf8", "C-33", "not UTF-8", lambda: floats_only(b"a\xff")),
    Bad("name-twice", "C-51", "comes twice", full, _set("names", 1, "a.weight")),
    Bad("asset-up", "C-50", "leaves its folder", full, _set("assets", 0, "../LICENSE")),
    Bad("asset-empty-name", "C-50", "a name of 0 bytes", full, _set("assets", 0, "")),
    Bad("asset-twice", "C-51", "comes twice", full, lambda draft: draft.asset("LICENSE", b"other")),
    Bad("vector-quantized", "C-52", "one dimension", full, _set("records", 0, record(0, (512,)))),
    Bad("group-over-row", "C-52", "larger than a row", full, _scheme_0(uniform(4, [4], 64))),
    Bad("scheme-2-of-2", "C-53", "scheme 2, the file describes 2", full, _set("records", 1, record(2, (3,)))),
    Bad("scheme-2-32", "C-53", "scheme 4294967295", full, _set("records", 1, record(2**32 - 1, (3,)))),
    Bad("bytes-one-more", "C-54", "257 bytes of codes", full, _shift(0, length=1)),
    Bad("bytes-one-less", "C-54", "255 bytes of codes", full, _shift(0, length=-1)),
    Bad("bytes-none", "C-54", "0 bytes of values", full, _shift(2, length=-12)),
    Bad("sub-scales-one-less", "C-54", "47 bytes of subscales", lambda: coded(SUBSCALED, [256, 32, 47])),
    Bad("sub-minimums-one-more", "C-54", "33 bytes of subminimums", lambda: coded(BOTH, [256, 32, 32, 32, 33])),
    Bad("codebook-one-more", "C-54", "5 bytes of codebook", lambda: coded(BOOK, [128, 32, 5])),
    Bad("codebook-one-less", "C-54", "3 bytes of codebook", lambda: coded(BOOK, [128, 32, 3])),
    Bad("input-scale-one-less", "C-54", "127 bytes of input_scale", lambda: coded(SCALED, [256, 32, 127])),
    Bad("input-order-empty", "C-54", "0 bytes of input_order", lambda: coded(ORDERED, [256, 32, 0])),
    Bad("segment-missing", "C-54", "2 segments", full, lambda draft: draft.segments.pop()),
    Bad("segment-extra", "C-54", "4 segments", full, lambda draft: draft.segments.append(draft.put(b"more"))),
    Bad(
        "unknown-empty",
        "C-54",
        "0 bytes of codes",
        bare,
        lambda draft: draft.tensor("a", (3,), draft.scheme(UNKNOWN), [b""]),
    ),
    Bad("dimensions-0", "C-55", "0 dimensions", lambda: floats_only(shape=(), length=4)),
    Bad("dimensions-9", "C-55", "9 dimensions", full, _set("records", 1, record(1, (3,), dimensions=9))),
    Bad("dimension-0", "C-55", "the shape (3, 0)", lambda: floats_only(shape=(3, 0), length=4)),
    Bad("dimension-unused", "C-55", "reserved fields", full, _set("records", 1, record(1, (3, 1), dimensions=1))),
    Bad("record-reserved", "C-55", "reserved fields", full, _set("records", 1, record(1, (3,), reserved=b"\0\0\1"))),
    Bad("shape-wraps-to-0", "C-55", "2**63 - 1 elements", lambda: floats_only(shape=(2**32, 2**32), length=4)),
    Bad("shape-wraps-to-4", "C-55", "2**63 - 1 elements", lambda: floats_only(shape=(2**62 + 1, 4), length=16)),
    Bad("shape-2-64", "C-55", "2**63 - 1 elements", lambda: floats_only(shape=(2**64 - 1,), length=4)),
    Bad("shape-2-60", "C-54", "12 bytes of values", lambda: floats_only(shape=(1 << 60,))),
]

ATTRIBUTES = [
    Bad("attribute-key", "C-30", "other characters", full, _column(b"a key", I64, [0], bytes(8))),
    Bad("attribute-bytes", "C-36", "attribute type 6", full, _column(b"x", BYTES, [0], elements(BYTES, [b"a"]))),
    Bad("attribute-type-0", "C-36", "attribute type 0", full, _column(b"x", 0, [], b"")),
    Bad("attribute-past-end", "C-36", "name no tensor", full, _column(b"x", I64, [0, 2], bytes(16))),
    Bad("attribute-descends", "C-36", "do not ascend", full, _column(b"x", U64, [1, 0], bytes(16))),
    Bad("attribute-repeats", "C-36", "do not ascend", full, _column(b"x", U64, [1, 1], bytes(16))),
    Bad("attribute-twice", "C-36", "twice", full, _column(b"role", I64, [1], bytes(8))),
    Bad("attribute-nan", "C-34", "NaN", full, _column(b"x", F64, [0], struct.pack("<d", float("nan")))),
    Bad("attribute-bool-2", "C-32", "a bool of 2", full, _column(b"x", BOOL, [0], b"\2")),
    Bad(
        "attribute-2-32",
        "C-23",
        "17179869180 bytes",
        full,
        lambda draft: draft.columns.append(b"\1\0x" + struct.pack("<BI", BOOL, 2**32 - 1)),
    ),
]

DATA = [
    Bad("offset-unaligned", "C-60", "not aligned to 64", full, _shift(2, offset=-1)),
    Bad("offset-in-header", "C-61", "do not lie between", full, _shift(0, offset=-64)),
    Bad("offset-past-index", "C-61", "do not lie between", full, _shift(2, offset=1 << 20)),
    Bad("offset-2-64", "C-61", "do not lie between", full, _shift(0, offset=-128)),
    Bad("asset-wraps", "C-61", "do not lie between", full, _set("asset_ranges", 0, [448, 2**64 - 448, bytes(32)])),
    Bad("asset-into-index", "C-61", "do not lie between", full, lambda draft: draft.asset_ranges[0].__setitem__(1, 80)),
    Bad("overlap", "C-62", "overlaps", full, _overlap),
    Bad("alias", "C-62", "overlaps", full, _alias),
    Bad("swallowed", "C-62", "overlaps", full, _set("asset_ranges", 0, [64, 448, bytes(32)])),
    Bad("hole-at-start", "C-63", "64 bytes after the end of the header", _hole_first),
    Bad("hole-at-end", "C-63", "64 bytes after the end of asset LICENSE", full, _hole_last),
    Bad("padding", "C-64", "padding is not zero", full, cut=_flip(352), stage="verify"),
    Bad("padding-last", "C-64", "padding is not zero", full, cut=_flip(511), stage="verify"),
    Bad("padding-of-index", "C-64", "padding is not zero", bare, cut=_flip(-65), stage="verify"),
    Bad("codes-flipped", "C-70", "do not fit their digest", full, cut=_flip(64 + 17), stage="verify"),
    Bad("scales-flipped", "C-70", "do not fit their digest", full, cut=_flip(320 + 31), stage="verify"),
    Bad("asset-flipped", "C-70", "do not fit their digest", full, cut=_flip(450), stage="verify"),
    Bad(
        "digest-zero",
        "C-70",
        "do not fit their digest",
        full,
        _set("asset_ranges", 0, [448, 4, bytes(32)]),
        stage="verify",
    ),
    Bad("retired-digest", "C-70", "do not fit their digest", full, _retired, stage="verify"),
]

CASES = [*FRAME, *INDEX, *METADATA, *SCHEMES, *TENSORS, *ATTRIBUTES, *DATA, *NUMBERS]
