"""Write spec/vectors/scheme: for every scheme, weights, the segments they encode to and the numbers those decode to.

The same bytes on every machine: `python tools/make_scheme_vectors.py [FOLDER]`.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ggq.format.scheme import Scheme
from ggq.quant import SCHEMES, choose_method, decode_tensor, default_method, encode_tensor, pack, parse_scheme
from ggq.quant.transform import to_stored, with_transform

OUT = Path(__file__).resolve().parents[1] / "spec" / "vectors" / "scheme"

SHAPES = {"g32": (17, 40), "g64": (5, 72), "g128": (5, 130), "row": (2, 8, 33), "float": (2, 17, 5)}
"""Shapes of the weights by group; each needs padding of rows and of columns, and two are stacked matrices."""

OTHER_SHAPES = {"q4m-g16-s8": (2, 3, 139), "q3z-g32-s4": (3, 300), "c4-row-s6": (2, 2, 33)}
"""Shapes of schemes that are to have more than one super-group, or two matrices."""

MORE_SCHEMES = (
    "q5m-row",
    "q4m-g16-s8",
    "q3z-g32-s4",
    "ternary-row",
    "ternary-g32-s6",
    "binary-g32-s4",
    "c2-g64",
    "c4-row-s6",
    "q4-g32+scale",
    "q3m-g32-s6+order",
    "c3-g64+scale+order",
)
"""Schemes that have a vector besides those that are converted to: each part of the format that these leave out."""


class Numbers:
    """Numbers that do not depend on NumPy's version: a 64-bit linear congruential generator (Knuth's MMIX)."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def uniform(self) -> float:
        """A multiple of 2**-24 in [0, 1)."""
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 40) / 2**24

    def bell(self) -> float:
        """Roughly normal, with a deviation of 0.02."""
        return (sum(self.uniform() for _ in range(12)) - 6) / 50


def row_of_weights(kind: int, columns: int, numbers: Numbers) -> list[float]:
    """A row of weights; each kind is hard in a way of its own."""
    row = [numbers.bell() for _ in range(columns)]
    if kind == 0:  # plain, then a group of zeros and a lone weight
        return row[: columns // 2] + [0.0] * (columns - columns // 2 - 1) + row[-1:]
    if kind == 1:  # no negative weight, and one far out
        return [1.5 if i == columns // 3 else abs(w) for i, w in enumerate(row)]
    if kind == 2:  # no positive weight, scales far from 1
        return [-1000 * abs(w) for w in row]
    if kind == 3:  # subnormal scales
        return [w * 2.0**-17 for w in row]
    if kind == 4:  # many halfway cases under a scale that is no power of two; both signs reach the largest magnitude
        return [(i * 5 % 33 - 16) / 4 * (177 / 128) for i in range(columns)]
    return row


def weights(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 weights of this shape."""
    numbers, count = Numbers(seed), int(np.prod(shape[:-1]))
    rows = [row_of_weights(i, shape[-1], numbers) for i in range(count)]
    return np.array(rows, np.float64).astype(np.float32).reshape(shape)


def hex_rows(tensor: np.ndarray) -> list[str]:
    """Each row of a tensor as the hex of its binary32 numbers."""
    return [row.astype("<f4").tobytes().hex() for row in tensor.reshape(-1, tensor.shape[-1])]


def record(scheme: Scheme) -> dict[str, object]:
    """The fields of a scheme; those of sub-scales and transforms only where they say something."""
    fields = {**asdict(scheme), "transform": sorted(scheme.transform)}
    return {name: value for name, value in fields.items() if value or name not in ("subscale", "transform")}


def shape_of(name: str) -> tuple[int, ...]:
    """The shape of a scheme's weights."""
    two_level = (3, 300) if "-s" in name else None  # ten groups of 32: two super-groups
    group = re.split("[-+]", name)[1] if "-" in name else "float"
    return OTHER_SHAPES.get(name) or (two_level if two_level and group == "g32" else SHAPES[group])


def transformed(tensor: np.ndarray, scheme: Scheme, seed: int = 1) -> dict[str, np.ndarray]:
    """The segments of a matrix under a scheme with a transform: its input scales and column order are random."""
    numbers, columns = Numbers(seed), tensor.shape[1]
    keys = [numbers.uniform() for _ in range(columns)]
    order = np.argsort(keys).astype(np.uint32) if "order" in scheme.transform else None
    factors = np.array([2.0 ** (2 * numbers.uniform() - 1) for _ in range(columns)]).astype(np.float16)
    scale = factors.astype(np.float32) if "scale" in scheme.transform else None
    plain = replace(scheme, transform=frozenset())
    method = choose_method(plain)
    return pack(with_transform(method.quantize(to_stored(tensor, scale, order), plain), scale, order))


def vector(name: str, seed: int) -> dict[str, object]:
    """The vector of one scheme, as it is written."""
    scheme = parse_scheme(name)
    tensor = weights(shape_of(name), seed)
    segments = transformed(tensor, scheme, seed) if scheme.transform else encode_tensor(tensor, scheme)
    return {
        "scheme": name,
        "record": record(scheme),
        "method": default_method(replace(scheme, transform=frozenset())),
        "shape": list(tensor.shape),
        "weights": hex_rows(tensor),
        "segments": {role: raw.tobytes().hex() for role, raw in segments.items()},
        "decoded": hex_rows(decode_tensor(scheme, tensor.shape, segments)),
    }


def main(out: Path = OUT) -> None:
    """Write every vector into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate((*SCHEMES, *MORE_SCHEMES)):
        (out / f"{name}.json").write_text(json.dumps(vector(name, seed), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
