"""Small ggq files for the tests of the container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.format import Scheme, Writer, paths
from ggq.format.native.values import Scalar

FLOAT = Scheme("float", 32, "f32")
FOUR = Scheme("uniform", 4, "", 32, "f16", "none")
THREE = Scheme("uniform", 3, "", 64, "f16", "code")
TENSORS: tuple[tuple[str, tuple[int, ...], Scheme], ...] = (
    ("embedding", (20, 40), FOUR),
    ("stack", (2, 3, 70), THREE),
    ("norm", (40,), FLOAT),
    ("output", (33, 8), FLOAT),
)


def data_of(scheme: Scheme, shape: tuple[int, ...], seed: int = 0) -> dict[str, npt.NDArray[np.uint8]]:
    """Seeded segments of the right lengths; small bytes, so that floats are finite."""
    numbers = np.random.default_rng(seed)
    lengths = scheme.geometry(shape).lengths
    return {role: numbers.integers(0, 8, length).astype(np.uint8) for role, length in lengths.items()}


def add_tensors(writer: Writer, *, skip: frozenset[str] | set[str] = frozenset()) -> None:
    """Adds all of TENSORS but those to skip, with attributes."""
    for seed, (name, shape, scheme) in enumerate(TENSORS):
        if name not in skip:
            attributes: dict[str, Scalar] = {"role": f"role.{seed}", "error": seed / 8}
            writer.add_tensor(name, shape, scheme, data_of(scheme, shape, seed), attributes=attributes)


def describe(writer: Writer) -> None:
    """Adds metadata and assets."""
    writer.add_metadata("general.name", "small")
    writer.add_metadata("example.words", ["a", "", "\u00e9"])
    writer.add_asset("config.json", b'{"a": 1}\n')
    writer.add_asset("empty", b"")


def write_small(path: Path) -> bytes:
    """Writes a small file and returns its digest."""
    with Writer(path) as writer:
        describe(writer)
        add_tensors(writer)
        return writer.finish()


def small_bytes(folder: Path) -> bytes:
    """The bytes of a small file that nothing interrupted."""
    path = folder / "whole.ggq"
    write_small(path)
    return path.read_bytes()


def left_over(path: Path) -> list[str]:
    """Names of what lies beside a file that was or is to be written, itself included."""
    return sorted(found.name for found in path.parent.iterdir() if found.name.startswith(path.name))


def fail_after(count: int, error: OSError) -> Any:
    """A write_all that fails once `count` bytes have been written, after half of what it was given."""
    written = 0

    def write_all(file: Any, data: Any) -> int:
        nonlocal written
        size = memoryview(data).nbytes
        written += size
        if written > count:
            paths.write_all(file, memoryview(data).cast("B")[: size // 2])
            raise error
        return paths.write_all(file, data)

    return write_all
