"""Write spec/vectors/scheme/gguf.json: blocks of GGUF's types as the gguf package encodes and decodes them.

Needs `pip install gguf`; this project's code takes no part, so the numbers come from outside. Run it only to add cases.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

OUT = Path(__file__).resolve().parents[1] / "spec" / "vectors" / "scheme" / "gguf.json"
ROWS, COLUMNS, SUPER_BLOCK = 2, 256, 256
Types = gguf.GGMLQuantizationType


def hex_rows(array: np.ndarray) -> list[str]:
    """Each row of a matrix as hex."""
    return [np.ascontiguousarray(row).tobytes().hex() for row in array]


def encoded(kind: str, weights: np.ndarray, note: str) -> dict[str, object]:
    """Weights that gguf encoded, and what it decodes its blocks to."""
    blocks = quantize(weights, Types[kind])
    decoded = dequantize(blocks, Types[kind]).astype("<f4")
    return {
        "type": kind,
        "note": note,
        "shape": list(weights.shape),
        "weights": hex_rows(weights.astype("<f4")),
        "blocks": hex_rows(blocks),
        "decoded": hex_rows(decoded),
    }


def decoded_only(kind: str, blocks: np.ndarray, note: str) -> dict[str, object]:
    """Blocks made here of random codes, which gguf decoded."""
    decoded = dequantize(blocks, Types[kind]).astype("<f4")
    return {
        "type": kind,
        "note": note,
        "shape": list(decoded.shape),
        "blocks": hex_rows(blocks),
        "decoded": hex_rows(decoded),
    }


def grid(bits: int, rng: np.random.Generator) -> np.ndarray:
    """Weights step * (code - zero) that fill their range, so that a float minimum is a whole zero-point."""
    codes = rng.integers(0, 2**bits, (ROWS, COLUMNS // 32, 32))
    codes[..., 3], codes[..., 17] = 0, 2**bits - 1
    zeros = rng.integers(0, 2**bits, (ROWS, COLUMNS // 32, 1))
    steps = rng.integers(33, 64, zeros.shape) * 2.0 ** -rng.integers(8, 14, zeros.shape)
    return (steps * (codes - zeros)).astype(np.float32).reshape(ROWS, COLUMNS)


def halfway(bits: int, rng: np.random.Generator) -> np.ndarray:
    """Weights midway between two codes, up to the rounding of the scale to f16 (which decides the nearer one)."""
    codes = rng.integers(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 2, (ROWS, COLUMNS // 32, 32)) + 0.5
    codes[..., 5] = -(2 ** (bits - 1))
    steps = rng.uniform(0.01, 0.02, (ROWS, COLUMNS // 32, 1))
    return (steps * codes).astype(np.float32).reshape(ROWS, COLUMNS)


def super_blocks(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A super-block a row of random codes; sub-scales are 1, minimums of Q2_K whole zero-points, the scale random."""

    def random(n: int) -> np.ndarray:
        return rng.integers(0, 256, (ROWS, n), np.uint8)

    d = (rng.integers(1024, 2048, (ROWS, 1)) * 2.0**-18).astype("<f2").view(np.uint8)
    if kind == "Q2_K":  # scales and minimums (16 bytes), codes (64), d, dmin
        zero = np.repeat(rng.integers(0, 4, (ROWS, SUPER_BLOCK // 32), np.uint8), 2, axis=1)
        return np.hstack([1 | zero << 4, random(64), d, d])
    if kind == "Q3_K":  # high bits (32), low bits (64), sixteen 6-bit scales less 32 (12), d
        ones = np.array([[0x11] * 8 + [0xAA] * 4] * ROWS, np.uint8)
        return np.hstack([random(32), random(64), ones, d])
    return np.hstack([random(128), random(64), np.ones((ROWS, 16), np.uint8), d])


def whole_blocks(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A row of 512 numbers in blocks of random bytes, but for scales and minimums, which are moderate f16 numbers."""
    _, size = gguf.GGML_QUANT_SIZES[Types[kind]]
    blocks = rng.integers(0, 256, (512 // gguf.GGML_QUANT_SIZES[Types[kind]][0], size), np.uint8)
    halves = (rng.integers(1024, 2048, (len(blocks), 2)) * 2.0**-18 * rng.choice([-1, 1], (len(blocks), 2))).astype(
        "<f2"
    )
    if kind == "MXFP4":
        blocks[:, 0] = rng.integers(113, 128, len(blocks))
    elif kind == "TQ2_0":
        blocks[:, :64] = rng.choice(np.array([0x00, 0x15, 0x29, 0x92, 0xA8, 0x64], np.uint8), (len(blocks), 64))
    for place, half in zip(HALVES[kind], halves.T):
        blocks[:, place : place + 2] = half[:, None].view(np.uint8)
    return blocks.reshape(1, -1)


HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ2_0": (64,), "MXFP4": ()}
"""Where the f16 numbers of a block lie."""


def main() -> None:
    """Write the file."""
    rng = np.random.default_rng(20261101)
    normal = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) * np.float32(0.02)
    cases = [encoded(kind, normal, "normal weights") for kind in ("Q4_0", "Q5_0", "Q8_0", "F16", "BF16")]
    cases += [encoded("Q4_1", grid(4, rng), "weights on a grid"), encoded("Q5_1", grid(5, rng), "weights on a grid")]
    cases += [encoded("Q4_0", halfway(4, rng), "halfway weights"), encoded("Q5_0", halfway(5, rng), "halfway weights")]
    cases += [decoded_only(kind, super_blocks(kind, rng), "sub-scales 1") for kind in ("Q2_K", "Q3_K", "Q6_K")]
    cases += [decoded_only(kind, whole_blocks(kind, rng), "random blocks") for kind in HALVES]
    made = {"made_with": {name: importlib.metadata.version(name) for name in ("gguf", "numpy")}, "cases": cases}
    OUT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
