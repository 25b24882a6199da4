"""Write the grids of GGUF's IQ types as a module: `make_grids.py OUT`, where the gguf package (MIT) is installed.

Their numbers are data of llama.cpp (MIT): sets of points that its authors have chosen. A grid has few levels, so its
points are kept as numbers of levels, of 2 or 3 bits.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import numpy as np

NAMES = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S")

HEAD = '''"""The grids of the IQ types, made by tools/make_grids.py: data, not to be edited.

Source: the tables of ggml-common.h in llama.cpp, taken from the gguf package; both are under the MIT licence,
Copyright (c) 2023-2024 The ggml authors.
"""

from __future__ import annotations

from typing import NamedTuple


class PackedGrid(NamedTuple):
    """Points of a grid.

    Args:
        levels: What a coordinate can be, ascending.
        width: Coordinates of a point.
        bits: Of the number of a coordinate's level.
        points: Base 85: the levels' numbers one after the other, the first in the lowest bits.
    """

    levels: tuple[int, ...]
    width: int
    bits: int
    points: str


PACKED: dict[str, PackedGrid] = {
'''


def packed(grid: np.ndarray) -> tuple[list[int], int, bytes]:
    """Levels, bits of a level's number, and the packed numbers of a grid (points, width)."""
    levels, numbers = np.unique(grid.astype(np.int64), return_inverse=True)
    bits = int(len(levels) - 1).bit_length()
    split = numbers.reshape(-1, 1) >> np.arange(bits) & 1
    return levels.tolist(), bits, np.packbits(split.astype(np.uint8), bitorder="little").tobytes()


def main(out: Path) -> None:
    """Write the module."""
    from gguf import quants

    text = HEAD
    for name in NAMES:
        kind = getattr(quants, name)
        kind.init_grid()
        grid = kind.grid.reshape(kind.grid_shape)
        levels, bits, data = packed(grid)
        letters = base64.b85encode(data).decode()
        lines = [letters[start : start + 100] for start in range(0, len(letters), 100)]
        text += f'    "{name}": PackedGrid(\n        {tuple(levels)},\n        {grid.shape[1]},\n        {bits},\n'
        text += "".join(f'        "{line}"\n' for line in lines) + "    ),\n"
    out.write_text(text + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
