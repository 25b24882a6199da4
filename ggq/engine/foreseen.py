"""A file that is not written yet, as far as it decides about kernels: schemes and shapes, and zeros for all numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ggq.format.container import Part, StoredAsset, StoredPart, StoredTensor
from ggq.format.scheme import Scheme


@dataclass(frozen=True)
class Tensor:
    """A tensor, named as its role."""

    name: str
    shape: tuple[int, ...]
    scheme: Scheme
    stored_as: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def segments(self) -> Mapping[str, StoredPart]:
        """Its parts by name."""
        return {part: Part(length) for part, length in self.scheme.geometry(self.shape).lengths.items()}


class Foreseen:
    """A container for `kernels_for` alone: nothing can be computed with it.

    Args:
        tensors: Scheme and shape of each tensor, by role.
    """

    def __init__(self, tensors: Mapping[str, tuple[Scheme, tuple[int, ...]]]) -> None:
        self.path, self.digest = "", b""
        self.metadata: Mapping[str, Any] = {}
        self.assets: Mapping[str, StoredAsset] = {}
        self.tensors: Mapping[str, StoredTensor] = {
            role: Tensor(role, shape, scheme) for role, (scheme, shape) in tensors.items()
        }
        self._nothing = np.zeros(64, np.uint8)

    def segment(self, name: str, part: str, /) -> np.ndarray:
        """Some memory: matrices are not read."""
        return self._nothing

    def read_segment(self, name: str, part: str, /) -> np.ndarray:
        """Zeros, of vectors and codebooks."""
        return np.zeros(self.tensors[name].segments[part].length, np.uint8)

    def mapped(self) -> None:
        """There is no file."""

    def close(self) -> None:
        """There is nothing to close."""
