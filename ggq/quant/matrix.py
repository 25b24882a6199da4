"""QuantizedMatrix: codes, scales and what else a scheme stores of one matrix, before they are laid out in tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggq.errors import UnsupportedError
from ggq.format.scheme import Geometry, Scheme
from ggq.format.scheme_names import scheme_name


@dataclass(frozen=True, eq=False)
class QuantizedMatrix:
    """A matrix under a scheme of codes; `ggq.quant.reference` says which numbers it stands for.

    Args:
        scheme: A scheme of codes, with f16 scales.
        shape: Rows and columns, without padding.
        codes: uint8 (rows, padded columns); padding columns hold `padding_code`, or their group's zero-point.
        scales: float16 (rows, groups); with two levels (rows, super-groups).
        zeros: uint8 (rows, groups) where the scheme has zero-points, else None.
        subscales: uint8 (rows, groups) where scales have two levels.
        minimums: float16, shaped as the scales, where the scheme has minimums.
        subminimums: uint8 (rows, groups) where it has minimums of two levels.
        codebook: int8 (2**bits,) where codes are places in a table.
        input_scale: float32 (padded columns) where inputs are multiplied first; 0 in padding columns.
        input_order: uint32 (padded columns) where columns are in another order: stored column j is column
            input_order[j] of the weights; padding columns stay where they are.
    """

    scheme: Scheme
    shape: tuple[int, int]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zeros: NDArray[np.uint8] | None = None
    subscales: NDArray[np.uint8] | None = None
    minimums: NDArray[np.float16] | None = None
    subminimums: NDArray[np.uint8] | None = None
    codebook: NDArray[np.int8] | None = None
    input_scale: NDArray[np.float32] | None = None
    input_order: NDArray[np.uint32] | None = None


def geometry(scheme: Scheme, shape: tuple[int, ...]) -> Geometry:
    """`Scheme.geometry` behind a check that the scheme can hold such a tensor.

    Raises:
        UnsupportedError: A scheme without a name, no dimensions, a dimension below 1, or a quantized tensor of one.
    """
    name = scheme_name(scheme)
    if not shape or min(shape) < 1:
        raise UnsupportedError(f"{name} cannot hold a tensor of shape {shape}; every dimension must be at least 1")
    if scheme.kind != "float" and len(shape) == 1:
        raise UnsupportedError(
            f"{name} cannot hold a tensor of shape {shape}; tensors of one dimension are f32, f16 or bf16"
        )
    return scheme.geometry(shape)


def middle(scheme: Scheme) -> int:
    """The code that stands for zero under a symmetric uniform scheme."""
    return int(2 ** (scheme.bits - 1))


def padding_code(scheme: Scheme) -> int:
    """The code of padding rows, and of padding columns where a group has no zero-point of its own.

    It stands for zero where one code always does; elsewhere it is 0.
    """
    if scheme.kind == "ternary":
        return 1
    return middle(scheme) if scheme.kind == "uniform" and scheme.zero == "none" else 0


def largest_code(scheme: Scheme) -> int:
    """The largest code of a scheme."""
    return scheme.codes - 1


def subscale_offset(scheme: Scheme) -> int:
    """What is taken off a sub-scale: half its range where codes are symmetric, so that steps may be negative."""
    return 1 << (scheme.subscale - 1) if scheme.subscale and scheme.zero == "none" else 0
