"""What tools/fuzz.py does to GGUF files, importance matrices and safetensors files: fields changed, the rest right."""

from __future__ import annotations

import multiprocessing
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Pair = tuple[bytes, int, bytes]
"""A key, the type of its value, and that as bytes."""

DEMO = Path(__file__).resolve().parents[1] / "ggq" / "demo"

SEVERAL = (2, 3, 6, 7, 8, 20, 39, 1, 30, 0)
"""Types whose blocks fit the rows of the demo model."""

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the types of values that have always as many."""

NUMBERS = [0, 1, 2, 3, 7, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]


class Listed(NamedTuple):
    """A tensor as a header lists it."""

    name: bytes
    shape: list[int]
    kind: int
    offset: int


class Parts(NamedTuple):
    """A file taken apart."""

    version: int
    pairs: list[Pair]
    tensors: list[Listed]
    data: bytes


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        (found,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def text(self) -> bytes:
        size = self.take("Q")
        self.at += size
        return self.data[self.at - size : self.at]

    def value(self, kind: int) -> bytes:
        """The bytes of a value."""
        start = self.at
        if kind == 8:
            self.text()
        elif kind == 9:
            inner, count = self.take("I"), self.take("Q")
            for _ in range(count):
                self.value(inner)
        else:
            self.at += SIZES[kind]
        return self.data[start : self.at]


def parts_of(data: bytes) -> Parts:
    """A good file taken apart."""
    cursor = _Cursor(data)
    cursor.at = 4
    version, tensors, pairs = cursor.take("I"), cursor.take("Q"), cursor.take("Q")
    keys = []
    for _ in range(pairs):
        name, kind = cursor.text(), cursor.take("I")
        keys.append((name, kind, cursor.value(kind)))
    listed = []
    for _ in range(tensors):
        name = cursor.text()
        shape = [cursor.take("Q") for _ in range(cursor.take("I"))]
        listed.append(Listed(name, shape, cursor.take("I"), cursor.take("Q")))
    return Parts(version, keys, listed, data[-(-cursor.at // 32) * 32 :])


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def joined(parts: Parts, tensors: int | None = None, pairs: int | None = None) -> bytes:
    """The file; counts are right unless they are given."""
    counts = len(parts.tensors) if tensors is None else tensors, len(parts.pairs) if pairs is None else pairs
    out = b"GGUF" + struct.pack("<IQQ", parts.version & 0xFFFFFFFF, *(count & 2**64 - 1 for count in counts))
    out += b"".join(text(name) + struct.pack("<I", kind) + value for name, kind, value in parts.pairs)
    for name, shape, kind, offset in parts.tensors:
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind & 0xFFFFFFFF, offset & 2**64 - 1)
    return out + bytes(-len(out) % 32) + parts.data


def _change_pair(rng: random.Random, pairs: list[Pair]) -> None:
    at, how = rng.randrange(len(pairs)), rng.randrange(7)
    name, kind, value = pairs[at]
    if how == 0:
        del pairs[at]
    elif how == 1:
        pairs.insert(rng.randrange(len(pairs)), pairs[at])
    elif how == 2:
        pairs[at] = (rng.choice([b"", name[::-1], name + b"x", b"\xff", b"a" * 70000, name[:-1]]), kind, value)
    elif how == 3 and kind in SIZES:
        pairs[at] = (name, kind, struct.pack("<Q", rng.choice(NUMBERS))[: SIZES[kind]])
    elif how == 4:
        pairs[at] = (name, rng.choice([0, 4, 6, 7, 8, 9, 12, 13, 99]), value)
    elif how == 5 and kind == 9:
        pairs[at] = (name, kind, _change_array(rng, value))
    else:
        odd = rng.choice([b"", b"\0", b"\x1b[31m", b"\xed\xa0\x80", b"llama", b"gpt2", b"qwen2", b"x" * 9999])
        pairs[at] = (name, 8, text(odd))


def _change_array(rng: random.Random, value: bytes) -> bytes:
    """Another count or kind, or bytes of what is in it."""
    out = bytearray(value)
    how = rng.randrange(4)
    if how == 0:
        out[4:12] = struct.pack("<Q", rng.choice(NUMBERS))
    elif how == 1:
        out[:4] = struct.pack("<I", rng.choice([0, 7, 8, 9, 12, 77]))
    else:
        for _ in range(rng.randint(1, 8)):
            if len(out) > 12:
                out[rng.randrange(12, len(out))] = rng.choice([0, 1, 127, 128, 255])
    return bytes(out)


def _change_tensor(rng: random.Random, tensors: list[Listed]) -> None:
    at, how = rng.randrange(len(tensors)), rng.randrange(8)
    found = tensors[at]
    if how == 0:
        del tensors[at]
    elif how == 1:
        tensors.insert(at, rng.choice(tensors))
    elif how == 2:
        odd = [b"", b"../x", b"/etc/x", b"\xff", b"a" * 300, found.name + b"\0", rng.choice(tensors).name]
        tensors[at] = found._replace(name=rng.choice(odd))
    elif how == 3:
        tensors[at] = found._replace(kind=rng.choice([*range(45), 255, 2**31, 2**32 - 1]))
    elif how == 4:
        offset = rng.choice([*NUMBERS, found.offset + rng.choice([-32, -1, 1, 32, 64])])
        tensors[at] = found._replace(offset=offset)
    elif how == 5:
        tensors[at] = found._replace(shape=found.shape + rng.choice([[1], [0], [2**32], [1] * 9]))
    else:
        shape = list(found.shape)
        place = rng.randrange(len(shape))
        shape[place] = rng.choice([*NUMBERS, shape[place] + rng.choice([-1, 1, 32]), shape[place] * 2]) & 2**64 - 1
        tensors[at] = found._replace(shape=shape)


def change_gguf(rng: random.Random, data: bytes) -> bytes:
    """A file with keys, tensors, counts or numbers changed; now and then its bytes too."""
    from tools.fuzz_inputs import change_bytes

    parts = parts_of(data)
    pairs, tensors, body = list(parts.pairs), list(parts.tensors), bytearray(parts.data)
    counts: list[int | None] = [None, None]
    for _ in range(rng.randint(1, 3)):
        how = rng.random()
        if how < 0.4:
            _change_pair(rng, pairs)
        elif how < 0.75:
            _change_tensor(rng, tensors)
        elif how < 0.85:
            counts[rng.randrange(2)] = rng.choice(NUMBERS)
        elif how < 0.95:
            at = rng.randrange(len(body))
            body[at : at + 2] = rng.choice([b"\0\x7c", b"\xff\xff", b"\0\0", b"\xff\x7b"])  # infinite, NaN, 0, 65504
        else:
            del body[rng.randrange(len(body)) :]
    version = parts.version if rng.random() < 0.98 else rng.choice([0, 1, 2, 4, 3 << 24])
    out = joined(Parts(version, pairs, tensors, bytes(body)), *counts)
    return change_bytes(rng, out) if rng.random() < 0.1 else out


def good_gguf(folder: Path) -> bytes:
    """A small Llama with a vocabulary, and tensors of many types; made by a process of its own, whose memory is not
    what readers are measured from."""
    child = multiprocessing.get_context("fork").Process(target=_write_good, args=(folder,))
    child.start()
    child.join()
    return (folder / "good.gguf").read_bytes()


def _write_good(folder: Path) -> None:
    from ggq.convert.options import Options
    from ggq.export.gguf_checkpoint import convert_to_gguf
    from ggq.format.gguf.types import TYPES

    convert_to_gguf(DEMO, folder / "f.gguf", type="q4_0", options=Options(force=True))
    parts = parts_of((folder / "f.gguf").read_bytes())
    rng, tensors, data = np.random.default_rng(1), list[Listed](), b""
    for number, (name, shape, kind, offset) in enumerate(parts.tensors):
        block, count = TYPES[kind], int(np.prod(shape))
        raw = parts.data[offset : offset + count // block.numbers * block.bytes]
        if len(shape) > 1 and number:
            kind = SEVERAL[number % len(SEVERAL)]
            block = TYPES[kind]
            low = 115 if kind == 39 else 0  # scales of MXFP4 that an f16 holds
            raw = rng.integers(low, low + 12, count // block.numbers * block.bytes, np.uint8).tobytes()
        tensors.append(Listed(name, shape, kind, len(data)))
        data += raw + bytes(-len(raw) % 32)
    (folder / "good.gguf").write_bytes(joined(Parts(3, parts.pairs, tensors, data)))


def use_gguf(path: Path) -> None:
    """Open it as a model, make its assets, lay out all tensors, and decode them."""
    from ggq.format.gguf.reader import GGUFReader
    from ggq.gguf.container import GGUFModel

    with GGUFReader(path) as reader:
        for key in reader.metadata:
            str(reader.metadata[key])[:100]
    model = GGUFModel(path)
    try:
        assert dict(model.metadata)
        for asset in model.assets.values():
            asset.read()
        for name in model.tensors:
            model.segments(name)
    finally:
        model.close()


def good_imatrix() -> bytes:
    """The older form, of two matrices."""
    out = struct.pack("<i", 2)
    for name in (b"blk.0.attn_q.weight", b"blk.0.ffn_up.weight"):
        out += struct.pack("<i", len(name)) + name + struct.pack("<ii", 3, 8)
        out += np.arange(8, dtype="<f4").tobytes()
    return out + struct.pack("<ii", 2, 4) + b"text"


def change_imatrix(rng: random.Random, data: bytes) -> bytes:
    """Numbers changed, or bytes."""
    from tools.fuzz_inputs import change_bytes

    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out) - 3)
        out[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
    return change_bytes(rng, bytes(out)) if rng.random() < 0.3 else bytes(out)


def use_imatrix(path: Path) -> None:
    from ggq.gguf.imatrix import read_imatrix

    read_imatrix(path)


def change_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, its length or its numbers."""
    from tools.fuzz_inputs import change_json

    length = int.from_bytes(data[:8], "little")
    head, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.9:
        head = change_json(rng, head)
    count = len(head) if rng.random() < 0.9 else rng.choice(NUMBERS)
    if rng.random() < 0.2:
        body = body[: rng.randrange(len(body))]
    return (count & 2**64 - 1).to_bytes(8, "little") + head + body


def use_safetensors(model: Path) -> Callable[[Path], None]:
    """A reader that converts a checkpoint whose weights are the input."""

    def use(path: Path) -> None:
        from ggq.convert.convert import convert

        (model / "model.safetensors").write_bytes(path.read_bytes())
        convert(model, model.with_name("converted.ggq"), scheme="q4-g32", force=True)

    return use
