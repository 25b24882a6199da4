"""A thousand texts of every script, white space and control character, the same each time."""

from __future__ import annotations

import sys
import unicodedata

import numpy as np

SPACES = "".join(
    chr(point)
    for point in range(sys.maxunicode)
    if unicodedata.category(chr(point)) in ("Zs", "Zl", "Zp") or 9 <= point <= 13
)
"""White space."""

CONTROLS = "".join(chr(point) for point in [*range(32), *range(127, 160), 0xAD, 0x200B, 0x200D, 0x202E, 0xFEFF, 0xFFFD])
"""Control characters, and what is not seen."""

BLOCKS = [*range(0, 0xD800, 0x80), *range(0xE000, 0x10000, 0x400), *range(0x10000, 0x20000, 0x200), 0x20000, 0xE0000]
"""First characters of runs of a script each."""

WORDS = "the def return hello World naïve café straße ＡＢＣ ﬁne don't we'll 123 3.14159 {}[]() == ->".split()
WORDS += "日本語 привет مرحبا".split()
MARKS = ["<s>", "</s>", "<unk>", "<pad>", "<mask>", "[INST]", "<|endoftext|>", "<bos>", "\u2581", "\u2581\u2581x"]


def texts(count: int = 1000) -> list[str]:
    """So many texts, of up to some forty characters."""
    rng, found = (
        np.random.default_rng(7),
        ["", " ", "  a", "a  ", "\u2581", "a\u2581b", "\n\n", "\t x", "\0", "a\r\n b"],
    )

    def pick(items: str | list[str], most: int) -> str:
        return "".join(items[int(i)] for i in rng.integers(0, len(items), int(rng.integers(1, most))))

    while len(found) < count:
        first = BLOCKS[int(rng.integers(0, len(BLOCKS)))]
        block = "".join(chr(point) for point in range(first, first + 0x80))
        parts = [pick(block, 12), pick(WORDS, 3), pick(" ", 5), pick(SPACES, 4), pick(CONTROLS, 4), pick(MARKS, 3)]
        chosen = [parts[int(i)] for i in rng.integers(0, len(parts), int(rng.integers(1, 7)))]
        found.append((" " if rng.integers(0, 2) else "").join(chosen))
    return found[:count]
