"""Figures of a whole file: how many numbers it holds, in which schemes, in how many bits."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from ggq.errors import UnsupportedError
from ggq.format.container import Container, StoredTensor
from ggq.format.scheme_names import scheme_name


class Summary(NamedTuple):
    """Totals of a file.

    Args:
        parameters: Numbers of all tensors.
        matrix_weights: Numbers of the tensors with two dimensions or more.
        matrix_bytes: Bytes of those, codes, scales and zero-points together.
        schemes: By scheme, in order of bytes: how many tensors and how many bytes.
    """

    parameters: int
    matrix_weights: int
    matrix_bytes: int
    schemes: dict[str, tuple[int, int]]

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits per number of the matrices; None when there are none."""
        return 8 * self.matrix_bytes / self.matrix_weights if self.matrix_weights else None


def summarize(reader: Container) -> Summary:
    """Add up a file's tensors."""
    parameters = weights = stored = 0
    schemes: dict[str, tuple[int, int]] = {}
    for tensor in reader.tensors.values():
        numbers, size = prod(tensor.shape), sum(segment.length for segment in tensor.segments.values())
        count, total = schemes.get(scheme_label(tensor), (0, 0))
        schemes[scheme_label(tensor)] = count + 1, total + size
        parameters += numbers
        if len(tensor.shape) > 1:
            weights, stored = weights + numbers, stored + size
    ordered = dict(sorted(schemes.items(), key=lambda item: -item[1][1]))
    return Summary(parameters, weights, stored, ordered)


def scheme_label(tensor: StoredTensor) -> str:
    """The name of a tensor's scheme, or what can be said of one that this version does not know."""
    if tensor.scheme is None:
        return f"unknown ({tensor.stored_as})"
    try:
        return scheme_name(tensor.scheme)
    except UnsupportedError:
        return f"unnamed ({tensor.scheme.bits} bits)"
