"""QuantizedMatrix: the codes, scales and zero-points of one matrix, before they are laid out in tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggq.errors import UnsupportedError
from ggq.format.scheme import Geometry, Scheme
from ggq.format.scheme_names import scheme_name


@dataclass(frozen=True, eq=False)
class QuantizedMatrix:
    """A matrix under a uniform scheme: weight[r, c] is about scale[r, g] * (code[r, c] - zero[r, g]), g = c // group.

    Args:
        scheme: A uniform scheme with f16 scales.
        shape: Rows and columns, without padding.
        codes: uint8 (rows, padded columns); padding columns hold the zero-point.
        scales: float16 (rows, groups).
        zeros: uint8 (rows, groups), or None when the scheme is symmetric (every zero-point is 2**(bits - 1)).
    """

    scheme: Scheme
    shape: tuple[int, int]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zeros: NDArray[np.uint8] | None


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
    """The code that stands for zero under a symmetric scheme."""
    return int(2 ** (scheme.bits - 1))


def largest_code(scheme: Scheme) -> int:
    """The largest code of a uniform scheme."""
    return int(2**scheme.bits - 1)
