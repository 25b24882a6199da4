"""Flip single bits of a copy of a .ggq file, one at a time, and see whether each is found and its tensor named.

    python tools/flip_bits.py FILE [--count 1000] [--seed 0]

Exits with 1 when a flipped bit went unnoticed or lay in a tensor that was not named.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from ggq.errors import GGQError
from ggq.format import open_reader, verify

Ranges = list[tuple[int, int, str]]


def main() -> int:
    """Run the trials and say how they went."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance, missed, named, start = random.Random(args.seed), 0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.file.resolve().parent) as folder:
        copy = Path(folder) / args.file.name
        shutil.copyfile(args.file, copy)
        tensors = tensor_ranges(copy)
        for _ in range(args.count):
            place, bit = chance.randrange(copy.stat().st_size), chance.randrange(8)
            flip(copy, place, bit)
            owner = next((name for first, end, name in tensors if first <= place < end), None)
            found = report(copy)
            flip(copy, place, bit)
            if found is None or (owner is not None and owner not in found):
                print(f"bit {bit} of byte {place} ({owner or 'outside tensors'}): {found}", file=sys.stderr)
                missed += 1
            named += owner is not None
    seconds = time.perf_counter() - start
    print(f"{args.count} bits flipped, {named} of them in tensors, {missed} missed or unnamed, {seconds:.0f} s")
    return 1 if missed else 0


def tensor_ranges(path: Path) -> Ranges:
    """First byte, the one behind the last, and the tensor's name, of every segment."""
    with open_reader(path) as reader:
        return [
            (segment.offset, segment.offset + segment.length, tensor.name)
            for tensor in reader.tensors.values()
            for segment in tensor.segments.values()
        ]


def flip(path: Path, place: int, bit: int) -> None:
    """Change one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(place)
        value = file.read(1)[0]
        file.seek(place)
        file.write(bytes([value ^ (1 << bit)]))


def report(path: Path) -> str | None:
    """What opening and verifying say of a file; None when they find nothing."""
    try:
        with open_reader(path) as reader:
            problems = verify(reader)
    except GGQError as error:
        return str(error)
    return "; ".join(f"{problem.tensor} {problem.where} {problem.text}" for problem in problems) or None


if __name__ == "__main__":
    sys.exit(main())
