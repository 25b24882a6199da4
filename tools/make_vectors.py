"""Write the files of spec/vectors/good and spec/vectors/bad, and the vectors of the schemes.

The same bytes on every machine. `python tools/make_vectors.py` writes them, `--check` compares them with what is there
and exits with status 1 where they differ.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ggq.quant import encode_tensor, parse_scheme  # noqa: E402
from tools import bad_files, make_scheme_vectors  # noqa: E402
from tools.bad_file import full  # noqa: E402
from tools.draft import (  # noqa: E402
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
    pattern,
    two_level,
    uniform,
)

VECTORS = ROOT / "spec" / "vectors"
KINDS = ("float", "uniform", "ternary", "binary", "codebook")
PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
FLOATS = {"f32": (32, 1), "f16": (16, 2), "bf16": (16, 3)}


def minimal() -> bytes:
    """The smallest file: header, an index of counts and two empty name tables, footer."""
    return Draft().build()


def worked() -> bytes:
    """The file of spec/container.md, section 11."""
    draft = Draft()
    draft.entry("general.name", STRING, "worked")
    draft.entry("example.words", ARRAY, (STRING, ["to", "", "b\u00e9"]))
    draft.tensor("norm", (3,), draft.scheme(FLOAT32), [struct.pack("<3f", 1.5, -2, 0.25)])
    draft.attribute("role", STRING, {0: "norm.weight"})
    draft.asset("LICENSE", b"MIT\n")
    return draft.build()


def values() -> bytes:
    """Every type of metadata, with its extremes."""
    draft = Draft()
    draft.entry("bool.false", BOOL, False)
    draft.entry("bool.true", BOOL, True)
    draft.entry("i64.least", I64, -(2**63))
    draft.entry("i64.most", I64, 2**63 - 1)
    draft.entry("u64.small", U64, 7)
    draft.entry("u64.most", U64, 2**64 - 1)
    draft.entry("f64.tenth", F64, 0.1)
    draft.entry("f64.infinite", F64, float("-inf"))
    draft.entry("string.empty", STRING, "")
    draft.entry("string.controls", STRING, "a\0b\x1b[31m\u202e\U0001f600")
    draft.entry("bytes", BYTES, bytes(range(0, 256, 5)))
    draft.entry("array.bool", ARRAY, (BOOL, [True, False, False]))
    draft.entry("array.i64", ARRAY, (I64, [-1, 2, -3]))
    draft.entry("array.u64", ARRAY, (U64, [2**64 - 1, 0]))
    draft.entry("array.f64", ARRAY, (F64, [1e300, -0.0, 5e-324]))
    draft.entry("array.string", ARRAY, (STRING, ["", "\u00e9\u20ac", "plain", "", "\U0001f600", ""]))
    draft.entry("array.bytes", ARRAY, (BYTES, [b"\xff\xfe", b"", b"\0"]))
    draft.entry("array.empty", ARRAY, (STRING, []))
    draft.entry("array.many-empty", ARRAY, (STRING, [""] * 1000))
    draft.entry("K" * 255, BOOL, True)
    return draft.build()


def _weights(shape: tuple[int, ...], seed: int) -> Any:
    numbers = np.frombuffer(pattern(4 * int(np.prod(shape)), seed), "<u4").astype(np.float64)
    return (numbers / 2.0**31 - 1).astype(np.float32).reshape(shape)


def tensors() -> bytes:
    """Tensors of several schemes and ranks, with padding of rows and columns, and attributes of every type."""
    draft, numbers = Draft(), {}
    shapes = [("f32", (5,)), ("f16", (3, 5)), ("bf16", (2, 17, 3)), ("q4-g32", (17, 40)), ("q3z-g64", (2, 3, 70))]
    shapes += [("q8-row", (1, 33)), ("q2-g48", (2, 50)), ("q6z-row", (4, 8)), ("q4-g32", (1, 1, 1, 1, 1, 1, 2, 4))]
    shapes += [("q3m-g32-s6", (5, 300)), ("ternary-g64", (3, 70)), ("binary-g32-s4", (2, 40)), ("c4-g32", (2, 3, 35))]
    for number, (name, shape) in enumerate(shapes):
        scheme = parse_scheme(name)
        if name not in numbers:
            if name in FLOATS:
                body = struct.pack("<BBBBBBHIBBB", *FLOATS[name], 0, 0, 0, 0, 0, 0, 1, 0, 0)
                numbers[name] = draft.scheme(descriptor(0, [b"values"], body))
            else:
                changes = {"scale_form": 2, "subscale_bits": scheme.subscale, "supergroup": 8}
                zero, kind = ("none", "code", "minimum").index(scheme.zero), KINDS.index(scheme.kind)
                changes = {"zero": zero, "kind": kind} | (changes if scheme.subscale else {})
                numbers[name] = draft.scheme(uniform(scheme.bits, PLANES[scheme.bits], scheme.group, **changes))
        parts = encode_tensor(_weights(shape, number), scheme)
        draft.tensor(f"blocks.{number}/{name}", shape, numbers[name], [part.tobytes() for part in parts.values()])
    draft.attribute("role", STRING, {number: f"role {number} \u00e9" for number in range(len(shapes))})
    draft.attribute("keep", BOOL, {2: True, 5: False})
    draft.attribute("error", F64, {0: float("inf"), 3: 0.125, 8: 1e-9})
    draft.attribute("count", I64, {1: -5})
    draft.attribute("count", U64, {0: 2**64 - 1, 8: 5})
    return draft.build()


def edited() -> bytes:
    """A file whose metadata was changed twice; the old indexes are retired ranges."""
    draft = full()
    draft.edit()
    draft.metadata.clear()
    draft.entry("general.name", STRING, "edited once")
    draft.edit()
    draft.entry("general.license", STRING, "MIT")
    return draft.build()


def unknown() -> bytes:
    """Schemes that a reader of version 1.0 lists and does not decode, beside one that it does."""
    draft = Draft()
    halves = uniform(4, [4], 32, kind=4, value=2)
    trits = uniform(2, [2], 32, kind=2, layout=3)
    later = uniform(4, [4], 32) + b"later field"
    kinds = [
        ("later-kind", descriptor(9, [b"trellis"], b"\1\2\3"), [5]),
        ("super-group-16", two_level(4, [4], 32, 6, supergroup=16, zero=2), [256, 32, 32, 32, 32]),
        ("5-bit-sub-scales", two_level(4, [4], 32, 5), [256, 32, 32]),
        ("8-bit-codebook", uniform(8, [8], 32, kind=4), [512, 32, 256]),
        ("f16-codebook", halves, [256, 32, 32]),
        ("ternary-layout", trits, [128, 32]),
        ("ternary-zero-point", uniform(2, [2], 32, kind=2, zero=1), [128, 32, 16]),
        ("binary-bf16-scales", uniform(1, [1], 32, kind=3, scale=3), [64, 32]),
        ("whole-tensor", uniform(8, [8], 0xFFFFFFFF), [512, 2]),
        ("rotation", uniform(4, [4], 32, transform=4), [256, 32]),
        ("f32-scales", uniform(4, [4], 32, scale=1), [256, 64]),
        ("no-scales", uniform(4, [4], 32, scale_form=0), [256, 32]),
        ("later-zero", uniform(4, [4], 32, zero=3), [256, 32]),
        ("other-planes", uniform(3, [1, 2], 32), [192, 32]),
        ("other-layout", uniform(4, [4], 32, layout=2), [256, 32]),
        ("later-body", later, [256, 32]),
        ("known", FLOAT32, [4 * 16 * 32]),
    ]
    for number, (name, raw, lengths) in enumerate(kinds):
        parts = [pattern(length, number) for length in lengths]
        draft.tensor(name, (16, 32), draft.scheme(raw), parts if name != "known" else [bytes(lengths[0])])
    return draft.build()


def newer() -> bytes:
    """A file of a later minor version: optional flags, and a section after those that are known."""
    draft = full()
    draft.header[10] = 7
    draft.header[22] = 3
    draft.extra = b"a section of version 1.7"
    return draft.build()


def assets() -> bytes:
    """Assets: two empty ones, one in a folder, one that is longer than a block."""
    draft = Draft()
    draft.asset("empty", b"")
    draft.asset("config.json", b'{"model_type": "llama"}\n')
    draft.asset("templates/tool.jinja", pattern(129, 1))
    draft.asset("also-empty", b"")
    return draft.build()


GOOD: tuple[Callable[[], bytes], ...] = (minimal, worked, values, tensors, edited, unknown, newer, assets)


def write(out: Path) -> None:
    """Writes all vectors below a folder."""
    for folder in ("good", "bad", "scheme"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for make in GOOD:
        (out / "good" / f"{make.__name__}.ggq").write_bytes(make())
    manifest = []
    for case in bad_files.CASES:
        (out / "bad" / f"{case.name}.ggq").write_bytes(case.build())
        entry = {"file": f"{case.name}.ggq", "rule": case.rule, "stage": case.stage, "message": case.text}
        manifest.append(entry)
    text = "[\n" + ",\n".join(json.dumps(entry) for entry in manifest) + "\n]\n"
    (out / "bad" / "manifest.json").write_text(text, encoding="utf-8")
    make_scheme_vectors.main(out / "scheme")


def check() -> list[str]:
    """Names of vectors that are not what this program writes, or that it does not write."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        write(fresh)
        made = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
        there = {path.relative_to(VECTORS) for path in VECTORS.rglob("*") if path.is_file()}
        foreign = {Path("scheme", "gguf.json")}  # from the gguf package: tools/make_gguf_vectors.py
        wrong = made ^ (there - foreign)
        wrong |= {path for path in made & there if (fresh / path).read_bytes() != (VECTORS / path).read_bytes()}
    return sorted(map(str, wrong))


def main(arguments: list[str]) -> int:
    """Writes or checks; returns the exit status."""
    if arguments == ["--check"]:
        wrong = check()
        for name in wrong:
            print(f"spec/vectors/{name} is not what tools/make_vectors.py writes", file=sys.stderr)
        return 1 if wrong else 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    write(VECTORS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
