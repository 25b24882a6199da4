"""Which matrices of a checkpoint are packed, by what config.json says of them, and what keeps every number of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ggq.convert.source.packed import floats, integers
from ggq.convert.source.packed.packed import Bits2, Mxfp4, Packed, check_types, mxfp4, ternary
from ggq.convert.source.packed.parts import ReadBytes
from ggq.convert.source.safetensors_header import SourceTensor
from ggq.errors import ConvertError, UnsupportedError

Tensors = Mapping[str, SourceTensor]
Find = Callable[[Tensors, Mapping[str, Any], ReadBytes], Iterator[Packed]]

READERS: dict[str, tuple[Find, ...]] = {
    "mxfp4": (lambda tensors, said, read: mxfp4(tensors),),
    "bitnet": (ternary,),
    "gptq": (integers.gptq,),
    "awq": (integers.awq,),
    "compressed-tensors": (integers.compressed, floats.float4, floats.float8),
    "bitsandbytes": (integers.bytes8, floats.table4),
    "fp8": (floats.float8,),
    "fbgemm_fp8": (floats.float8,),
    "modelopt": (floats.float4, floats.float8),
}
"""What reads the matrices of each "quant_method"."""

EXACT = {Mxfp4.dtype: ("mxfp4-g32", "mxfp4"), Bits2.dtype: ("ternary-g64", "ternary-max")}
_INTEGERS = re.compile(r"INT([234568])(Z?)-(?:G([0-9]+)|(ROW))")

REASONS = {
    "ORDERED": "its columns are in the order of their importance (desc_act)",
    "BNB4": "its tables and magnitudes are float32, and a file's are int8 and f16",
    "MLX": "what it adds to each group is rounded apart from the step",
}
"""Why no scheme keeps the numbers of a type, by a part of its name."""


def exact_form(label: str) -> tuple[str, str] | None:
    """Names of the scheme and the method that keep every number of a type of packed matrices; None where none does."""
    match = _INTEGERS.fullmatch(label)
    if match is None:
        return EXACT.get(label)
    bits, zero, group, _ = match.groups()
    if group is not None and int(group) % 16:
        return None
    return f"q{bits}{zero.lower()}-{'row' if group is None else f'g{group}'}", "multiples"


def why_not(label: str) -> str | None:
    """Why the numbers of a type cannot be kept where nothing is asked for; None for those that are read as floats."""
    if exact_form(label) is not None:
        return None
    reason = next((reason for part, reason in REASONS.items() if part in label), None)
    return "its groups are no multiple of 16 columns" if reason is None and label.startswith("INT") else reason


def find_packed(tensors: Tensors, config: Mapping[str, Any], read: ReadBytes, path: Any = None) -> list[Packed]:
    """The packed matrices of a checkpoint.

    Args:
        tensors: Its tensors by name.
        config: Its config.json.
        read: Reads bytes of one.
        path: Of config.json, for messages.

    Raises:
        ConvertError: Parts that do not fit each other.
        UnsupportedError: A form that is not read, or weights that are packed only when they are loaded.
    """
    said, mlx = config.get("quantization_config"), config.get("quantization")
    form = said.get("quant_method") if isinstance(said, dict) else None
    found: list[Packed] = []
    try:
        if isinstance(said, dict):
            for reader in READERS.get(str(form), ()):
                found += reader(tensors, said, read)
        if isinstance(mlx, dict) and not found:
            found += floats.affine(tensors, mlx, read)
        for packed in found:
            check_types(packed)
    except UnsupportedError as problem:
        raise UnsupportedError(problem.problem, path=path, where="quantization_config", fix=problem.fix) from None
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as problem:
        raise ConvertError(f"not what {form or 'MLX'} writes: {str(problem)[:100]}", path=path) from None
    if form == "bitnet" and not found:
        problem_text = "its weights are made ternary when they are loaded, not in the file"
        fix = "convert a checkpoint whose weights are packed already"
        raise UnsupportedError(problem_text, path=path, where="quantization_config", fix=fix)
    taken = {part.name for packed in found for part in packed.parts}
    return [*found, *floats.wide(tensors, taken)]
