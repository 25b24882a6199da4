"""Write what the gguf package makes of blocks of each type: `make_gguf_golden.py OUT.json`, where it is installed.

Blocks are the bytes of a stretched hash of the type's name, so that no file holds them; enough of them that every
point of a grid occurs. Numbers are kept as a digest.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

BLOCKS = 1024


def stretch(name: str, count: int, size: int) -> np.ndarray:
    """Blocks of a type, uint8 (count, size): all bytes 0, 127, 128 and 255, then what SHAKE-256 makes of its name."""
    made = np.frombuffer(hashlib.shake_256(name.encode()).digest(count * size), np.uint8).reshape(count, size).copy()
    made[:4] = np.array([0, 127, 128, 255], np.uint8)[:, None]
    return made


def digest_of_numbers(numbers: np.ndarray) -> str:
    """SHA-256 of float32 numbers, of which all that are none (NaN) are alike."""
    found = np.where(np.isnan(numbers), np.float32(np.nan), numbers).astype("<f4")
    return hashlib.sha256(found.tobytes()).hexdigest()


def main(out: Path) -> None:
    """Write the digests."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    found = {}
    for kind in GGMLQuantizationType:
        blocks = stretch(kind.name, BLOCKS, GGML_QUANT_SIZES[kind][1])
        try:
            with np.errstate(all="ignore"):
                numbers = quants.dequantize(blocks, kind)
        except NotImplementedError:
            continue
        found[kind.name] = {"blocks": BLOCKS, "digest": digest_of_numbers(np.asarray(numbers, np.float32))}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
