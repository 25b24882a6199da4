"""Types of the matrices of an exported GGUF file: what `--type` names, and what gives way to what."""

from __future__ import annotations

from ggq.format.gguf.types import TYPES

FLOATS = {"f32": 0, "f16": 1, "bf16": 30}

QUANTIZED = {
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "q2_k": 10,
    "q3_k": 11,
    "q4_k": 12,
    "q5_k": 13,
    "q6_k": 14,
    "iq4_nl": 20,
    "iq4_xs": 23,
    "tq1_0": 34,
    "tq2_0": 35,
    "mxfp4": 39,
}

PURE = {**FLOATS, **QUANTIZED}
"""Numbers of types by what `--type` calls them."""

TYPE_NAMES = tuple(PURE)
"""What `--type` can be."""

F16, Q8_0, Q6_K = FLOATS["f16"], QUANTIZED["q8_0"], QUANTIZED["q6_k"]

FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10}
FILE_TYPES |= {"q3_k": 11, "q4_k": 14, "q5_k": 16, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30, "tq1_0": 36, "tq2_0": 37}
FILE_TYPES["mxfp4"] = 38
"""Numbers of "general.file_type"."""

FALLBACKS = {10: 20, 11: 20, 12: 6, 13: 7, 14: Q8_0, 23: 20, 34: 2, 35: 2}
"""Types whose blocks of 32 stand in for blocks of 256 where a row holds no whole ones, as llama.cpp chooses them."""


def bits(kind: int) -> float:
    """Bits of a number of a type."""
    return 8 * TYPES[kind].bytes / TYPES[kind].numbers


def outer_type(kind: int) -> int:
    """The type of the embedding and the output beside matrices of a type: some lines of them are hit by every token."""
    if kind in FLOATS.values() or bits(kind) >= bits(Q6_K):
        return kind
    return Q6_K if TYPES[kind].numbers == 256 or kind in (20, 39) else Q8_0


def fitting(kind: int, columns: int) -> int:
    """A type, or what stands in for it where a row holds no whole blocks: one of blocks of 32, or sixteen bits."""
    for each in (kind, FALLBACKS.get(kind, Q8_0), Q8_0):
        if columns % TYPES[each].numbers == 0:
            return each
    return F16
