#!/usr/bin/env python3
"""Mutated files of strangers against their readers: tokenizers, templates, recipes, statistics, journals, ggq files.

Structure-aware and seeded: JSON values, TOML lines, records and index fields are changed, checksums and digests made
right again. Each kind runs in a child that is stopped when it hangs. Exits with 1 on a crash, a hang, a failure that is
not one of ours, or memory beyond ten times the file and 64 MiB.

    tools/fuzz.py --seconds 3600 --seed 1
    tools/fuzz.py --count 20 --kinds recipe,journal
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

HANG, ROOM, TIMES = 2.0, 64 << 20, 10
"""Seconds of a hang; bytes of memory that an input may take, and how many times its own besides."""

ROOT = Path(__file__).resolve().parents[1]
WEIRD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    1e308,
    float("nan"),
    "",
    "\x00",
    "\ud83d",
    "a" * 5000,
    [],
    {},
]


class Kind(NamedTuple):
    """One kind of input: its good bytes, how they are changed, and what reads them."""

    good: bytes
    change: Callable[[random.Random, bytes], bytes]
    read: Callable[[Path], None]


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(out) + 1), rng.randint(1, 40)
        how = rng.randrange(5)
        if how == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del out[at : at + size]
        elif how == 2:
            out[at:at] = out[at : at + size] * rng.choice([1, 2, 300])
        elif how == 3:
            out[at:at] = rng.choice([b"9" * 5000, b"[" * 2000, b"\xff", b'"', b"\\u0000", b"(a+)+$", b"\n", b"."])
        else:
            del out[at:]
    return bytes(out)


def change_value(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """A JSON value with something changed deep inside."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        how = rng.random()
        if how < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if how < 0.2:
            return {**value, rng.choice(["type", "x", key + "x"]): rng.choice(WEIRD)}
        return {**value, key: change_value(rng, value[key], depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at, how = rng.randrange(len(value)), rng.random()
        if how < 0.1:
            return value[:at] + value[at + 1 :]
        if how < 0.2:
            return value + value[at : at + 1] * rng.choice([1, 2, 12])
        return [*value[:at], change_value(rng, value[at], depth + 1), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.4:
        return rng.choice([value * 20, value[::-1], "(" + value + "+)+$", "(a|a)*b", ".*.*.*=", value + "\u0660"])
    if type(value) is int and rng.random() < 0.6:
        return value + rng.choice([-1, 1, 64, 2**32, -value * 2])
    return rng.choice(WEIRD)


def change_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON document changed, now and then its bytes too."""
    if rng.random() < 0.1:
        return change_bytes(rng, data)
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        value = change_value(rng, value)
    return json.dumps(value).encode()


RULES: dict[str, list[Any]] = {
    "normalizer": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"},
        {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"},
        {"type": "Prepend", "prepend": "x" * 300},
        {"type": "NFKC"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
    "pre_tokenizer": [
        {"type": "FixedLength", "length": 0},
        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        {"type": "Digits", "individual_digits": True},
    ],
    "decoder": [
        {"type": "Replace", "pattern": {"String": "e"}, "content": "eeeeeeeee"},
        {"type": "Strip", "content": "e", "start": 3, "stop": 10**9},
        {"type": "Fuse"},
        {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
    ],
}


def change_tokenizer(rng: random.Random, data: bytes) -> bytes:
    """A tokenizer with other rules, or with the ones that it has changed."""
    value = json.loads(data)
    if rng.random() < 0.5:
        key = rng.choice(list(RULES))
        several = [rng.choice(RULES[key]) for _ in range(rng.choice([1, 2, 8]))]
        plural = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}[key]
        value[key] = {"type": "Sequence", plural: several}
    rest = {name: item for name, item in value.items() if name != "model" or rng.random() < 0.3}
    changed = change_value(rng, rest)
    return json.dumps({**value, **changed} if isinstance(changed, dict) and rng.random() < 0.8 else value).encode()


PIECES = [
    "{{ 'ab'|replace('a', 'b' * 999999) }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages[0]['content'] * 99999 }}",
    "{{ raise_exception('no') }}",
    "{% set x = [] %}{% for m in messages %}{{ m }}{% endfor %}",
    "{{ 2 ** 99999999 }}",
    "{%",
    "{{ messages | tojson(indent=99999) }}",
]


def change_template(rng: random.Random, data: bytes) -> bytes:
    """A template with pieces of hostile ones in it."""
    text = data.decode()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PIECES) + text[at:]
    return text.encode()


def change_journal(rng: random.Random, data: bytes) -> bytes:
    """Records changed, with right checksums."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    text = change_json(rng, lines[at][9:])
    lines[at] = b"%08x %s" % (crc32(text), text)
    if rng.random() < 0.2:
        lines = [*lines[:at], *lines[at : at + 1] * 2, *lines[at + 1 :]]
    out = b"\n".join(lines) + b"\n"
    return change_bytes(rng, out) if rng.random() < 0.1 else out


def change_statistics(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, or with numbers bent."""
    length = int.from_bytes(data[:8], "little")
    head, body = data[8 : 8 + length], bytearray(data[8 + length :])
    if rng.random() < 0.5:
        head = change_json(rng, head)
    for _ in range(rng.randint(0, 5)):
        at = 4 * rng.randrange(len(body) // 4)
        body[at : at + 4] = np.float32(rng.choice([np.nan, np.inf, -1.0, 3e38, 0.0, 1e-40])).tobytes()
    return len(head).to_bytes(8, "little") + head + bytes(body)


def change_ggq(rng: random.Random, data: bytes) -> bytes:
    """A ggq file with its index changed and its digests made right again."""
    from ggq.format.native.frame import encode_footer, find_footer
    from ggq.format.native.layout import HEADER_BYTES

    header = data[:HEADER_BYTES]
    footer = find_footer(lambda at, size: data[at : at + size], len(data), header)
    index = bytearray(data[footer.index_offset : footer.index_offset + footer.index_length])
    for _ in range(rng.randint(1, 3)):
        at, size = rng.randrange(len(index)), rng.choice([1, 2, 4, 8])
        index[at : at + size] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x01", b"\x80"]) * size
    whole = data[: footer.index_offset] + index
    whole += bytes(-len(whole) % 64)
    return whole + encode_footer(header, footer.index_offset, bytes(index))


class Good(NamedTuple):
    """Good inputs: files of a small conversion, and what an interrupted one left."""

    statistics: Path
    small: Path
    journal: bytes
    partial: bytes
    program: Any


def good_inputs(folder: Path) -> Good:
    """Make them in a folder."""
    from ggq.convert.convert import convert
    from ggq.format import Writer, open_reader
    from ggq.models.build import build_program
    from ggq.models.metadata import from_metadata

    demo, out, statistics = ROOT / "ggq" / "demo", folder / "good.ggq", folder / "good.stat"
    convert(demo, out, scheme="q4-g32", method="gptq", calibration=demo / "valid.txt", calibration_tokens=512,
            calibration_context=128, statistics=statistics)  # fmt: skip
    small, journaled = folder / "small.ggq", folder / "journaled.ggq"
    for path in (small, journaled):
        try:
            with Writer(path) as writer, open_reader(out) as reader:
                for name, entry in list(reader.tensors.items())[:3]:
                    parts = [reader.view(part) for part in entry.segments.values()]
                    writer.add_raw_tensor(name, entry.shape, entry.descriptor.raw, parts, entry.attributes)
                if path == journaled:
                    raise KeyboardInterrupt
                writer.finish()
        except KeyboardInterrupt:
            pass
    journal, partial = Path(f"{journaled}.journal").read_bytes(), Path(f"{journaled}.partial").read_bytes()
    with open_reader(out) as reader:
        return Good(statistics, small, journal, partial, build_program(from_metadata(reader.metadata, reader.path)))


def use_tokenizer(path: Path) -> None:
    """Parse it, and turn some texts into tokens and back."""
    from ggq.text.tokenizer import parse
    from ggq.text.trial import library_errors

    found = parse(path.read_bytes(), path)
    for text in ("Once upon a time", "a" * 300 + "!", "\u6f22\u5b57 \n\t"):
        with library_errors(path):
            found.decode(found.encode(text).ids[:50])


def use_template(path: Path) -> None:
    """Render a conversation."""
    from ggq.text.template import ChatTemplate

    ChatTemplate(path.read_text(encoding="utf-8"), context=512).render([{"role": "user", "content": "hi"}])


def use_ggq(path: Path) -> None:
    """Open it, look at its tensors, verify it."""
    from ggq.format import open_reader, verify

    with open_reader(path) as reader:
        for entry in reader.tensors.values():
            assert entry.shape
        verify(reader)


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind, with good inputs made in a folder."""
    from ggq.convert.calibrate.statistics import SavedStatistics
    from ggq.convert.plan.recipe_file import read_recipe
    from ggq.format import Writer, open_reader, verify
    from ggq.quant.possible import impossible

    made = good_inputs(folder)

    def resume(path: Path) -> None:
        place = folder / "resumed.ggq"
        Path(f"{place}.partial").write_bytes(made.partial)
        descriptor = os.open(f"{place}.journal", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(path.read_bytes())
        with Writer(place, resume=True) as writer:
            writer.finish()
        with open_reader(place) as reader:
            assert not verify(reader), "a file under its final name that verify refuses"
        place.unlink()

    def saved(path: Path) -> None:
        for layer in SavedStatistics(path, made.program).layers():
            assert not any(impossible(found) for found in layer.values())

    def recipe_file(path: Path) -> None:
        read_recipe(path)

    recipe = b'scheme = "q4-g32"\nmethod = "mse"\nrules = [\n  { match = "down_proj|q", scheme = "q6-g32" },\n]\n'
    good = b"{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    tokenizer = (ROOT / "ggq" / "demo" / "tokenizer.json").read_bytes()
    return {
        "tokenizer": Kind(tokenizer, change_tokenizer, use_tokenizer),
        "template": Kind(good, change_template, use_template),
        "recipe": Kind(recipe, change_bytes, recipe_file),
        "statistics": Kind(made.statistics.read_bytes(), change_statistics, saved),
        "journal": Kind(made.journal, change_journal, resume),
        "ggq": Kind(made.small.read_bytes(), change_ggq, use_ggq),
    }


def peak() -> int:
    """The most bytes that this process has held; the processes of templates and tokenizers have limits of their own."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def attack(kind: Kind, folder: Path, seed: int, told: Connection) -> None:
    """Read changed inputs one after the other, and tell of each, until this process is stopped."""
    from ggq.errors import GGQError

    rng, path = random.Random(seed), folder / f"input-{seed}"
    path.write_bytes(kind.good)
    kind.read(path)  # the good one passes, and all libraries are there
    while True:
        data = kind.change(rng, kind.good)
        path.write_bytes(data)
        before, start, problem = peak(), time.perf_counter(), ""
        told.send(("begin", data))
        try:
            kind.read(path)
        except GGQError:
            pass
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"[:200]
        more = peak() - before
        if more > ROOM + TIMES * len(data):
            problem = problem or f"{more >> 20} MiB of memory for {len(data)} bytes"
        told.send(("end", problem, time.perf_counter() - start, more))


def fuzz(name: str, kind: Kind, folder: Path, seed: int, count: int, until: float) -> tuple[int, list[str], str]:
    """Run one kind; how many were read, what was found, and a line of figures."""
    done, found, slowest, most = 0, list[str](), 0.0, 0
    context = multiprocessing.get_context("fork")
    while done < count and time.monotonic() < until:
        ours, theirs = context.Pipe()
        child = context.Process(target=attack, args=(kind, folder, seed + done, theirs), daemon=True)
        child.start()
        theirs.close()
        data = b""
        try:
            while done < count and time.monotonic() < until:
                wait = 60 if not data else 5 * HANG
                if not ours.poll(wait):
                    raise TimeoutError("a hang")
                what, *rest = ours.recv()
                if what == "begin":
                    data = rest[0]
                    continue
                done += 1
                problem, seconds, more = rest
                slowest, most = max(slowest, seconds), max(most, more)
                limit = HANG + (2.5 if name in ("template", "tokenizer") else 0)  # the worker's own limit of 2 s
                problem = problem or (f"{seconds:.1f} s" if seconds > limit else "")
                if problem:
                    found.append(keep(name, problem, data))
        except (EOFError, TimeoutError) as error:
            done += 1
            found.append(keep(name, "a crash" if isinstance(error, EOFError) else "a hang", data))
        child.kill()
        child.join()
        ours.close()
    return (
        done,
        found,
        f"{name}: {done} read, slowest {slowest:.2f} s, most memory {most >> 20} MiB, {len(found)} found",
    )


def keep(name: str, problem: str, data: bytes) -> str:
    """Keep an input that was found, and say where."""
    place = Path(tempfile.gettempdir()) / f"ggq-fuzz-{name}-{crc32(data):08x}"
    place.write_bytes(data)
    return f"{name}: {problem} ({place})"


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1e9, help="time for all kinds together")
    parser.add_argument("--count", type=int, default=1 << 60, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="", help="comma-separated; all by default")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ggq-fuzz-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    total, found = 0, list[str]()
    try:
        every = kinds(folder)
        chosen = [name for name in options.kinds.split(",") if name] or list(every)
        start = time.monotonic()
        for number, name in enumerate(chosen, 1):
            until = start + options.seconds * number / len(chosen)
            done, new, line = fuzz(name, every[name], folder, options.seed, options.count, until)
            print(line, flush=True)
            total, found = total + done, found + new
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{total} inputs, {len(found)} found")
    for line in found[:50]:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
