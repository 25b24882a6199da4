"""What other programs call their types, and what comes nearest to it here."""

from __future__ import annotations

from ggq.errors import nearest

SCHEMES = {
    "q4_0": "q4-g32",
    "q4_1": "q4m-g32",
    "q5_0": "q5-g32",
    "q5_1": "q5m-g32",
    "q8_0": "q8-g32",
    "iq4_nl": "c4-g32",
    "tq1_0": "ternary-g64",
    "tq2_0": "ternary-g64",
    "int2": "q2-g32",
    "int3": "q3-g32",
    "int4": "q4-g32",
    "int5": "q5-g32",
    "int6": "q6-g32",
    "int8": "q8-g32",
    "2bit": "q2-g32",
    "3bit": "q3-g32",
    "4bit": "q4-g32",
    "5bit": "q5-g32",
    "6bit": "q6-g32",
    "8bit": "q8-g32",
    "w4a16": "q4-g128",
    "w8a8": "q8-row",
    "nf4": "nf4-g64",
    "int1": "binary-g64",
    "1bit": "binary-g64",
    "fp16": "f16",
    "float16": "f16",
    "half": "f16",
    "fp32": "f32",
    "float32": "f32",
    "float": "f32",
    "bfloat16": "bf16",
}
"""Names of types that are one scheme."""

MIXES = {
    "q2_k": 3.16,
    "q2_k_s": 2.97,
    "q3_k_s": 3.64,
    "q3_k_m": 4.0,
    "q3_k_l": 4.3,
    "q4_k_s": 4.67,
    "q4_k_m": 4.89,
    "q5_k_s": 5.57,
    "q5_k_m": 5.7,
    "q6_k": 6.56,
    "iq4_xs": 4.46,
    "q3_k": 4.0,
    "q4_k": 4.89,
    "q5_k": 5.7,
}
"""Bits per weight of types that are a mix of schemes.

Source: llama.cpp, tools/quantize/README.md, for Llama-3.1-8B.
"""

METHODS = ("gptq", "awq", "smoothquant", "hqq")
"""Methods that people write where a scheme is asked for."""


def scheme_hint(name: str, known: tuple[str, ...]) -> str:
    """What to write instead of a name that is no scheme's: what another program means by it, or the nearest.

    Args:
        name: What was written.
        known: Names of schemes.
    """
    plain = name.lower().replace("-bit", "bit").replace("-", "_")
    listed = "`ggq schemes` lists all schemes"
    if plain in SCHEMES:
        return f"write {SCHEMES[plain]}; {listed}"
    if plain in MIXES:
        return f"{name} is a mix: `--target-bpw {MIXES[plain]}` makes one of that size"
    if plain in METHODS:
        return f"{plain} is a method: write `--scheme q4-g64 --method {plain}`"
    begun = next((each for each in known if plain and each.startswith(f"{plain}-")), None)
    near = f"did you mean {begun}?" if begun else nearest(name, known)
    return f"{near or 'write one such as q4-g32, q4m-g32-s6 or bf16.'} {listed}"
