"""Numbers that a file has beside a matrix and that its products are multiplied with, as those of NVFP4 are.

`blk.0.ffn_up.scale` belongs to `blk.0.ffn_up.weight`: one float32, of a stack one for each expert. What is called
`input_scale` in its place says how inputs were rounded to four bits on other hardware; no product here, nor on
llama.cpp's processors, has a use for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ModelError, UnsupportedError
from ggq.format.gguf.reader import GGUFReader
from ggq.format.gguf.types import type_name
from ggq.format.scheme import Scheme
from ggq.gguf.architecture.places import Place
from ggq.gguf.blocks import MATRICES

F32 = 0
WEIGHT, SCALE, INPUT_SCALE = ".weight", ".scale", ".input_scale"


def names_beside(tensors: Iterable[str]) -> dict[str, str]:
    """Which tensor each number beside one of these, or what is called so, belongs to."""
    stems = [name.removesuffix(WEIGHT) for name in tensors if name.endswith(WEIGHT)]
    return {stem + end: stem + WEIGHT for stem in stems for end in (SCALE, INPUT_SCALE)}


class Beside:
    """The numbers beside the matrices of a file.

    Args:
        reader: The open file.
        places: Where the numbers of its roles are.

    Raises:
        ModelError: One of another shape or type than expected, or that is not finite.
        UnsupportedError: One beside a tensor that is not quantized.
    """

    def __init__(self, reader: GGUFReader, places: Mapping[str, Place]) -> None:
        counts: dict[str, int] = {}
        for place in places.values():
            counts[place.tensor] = max(counts.get(place.tensor, 0), place.first // place.shape[0] + 1)
        self._scales: dict[str, NDArray[np.float32]] = {}
        for name, tensor in names_beside(counts).items():
            if name in reader.tensors:
                found = _read(reader, name, tensor, counts[tensor] if "_exps." in tensor else 1)
                if name.endswith(SCALE):
                    self._scales[tensor] = found

    def of(self, place: Place) -> np.float32 | None:
        """What products with the numbers of a place are multiplied with; None where that is nothing."""
        scales = self._scales.get(place.tensor)
        if scales is None or len(place.shape) == 1:
            return None
        return np.float32(scales[place.first // place.shape[0] if len(scales) > 1 else 0])


def _read(reader: GGUFReader, name: str, tensor: str, count: int) -> NDArray[np.float32]:
    found, kind, path = reader.tensors[name], reader.tensors[tensor].type, reader.path
    if kind not in MATRICES:
        problem = f"a scale beside a tensor of type {type_name(kind)} is not supported"
        raise UnsupportedError(problem, path=path, where=f"tensor {name}")
    if found.type != F32 or found.shape != (count,):
        told = f"{type_name(found.type)} of shape {list(found.shape)}"
        raise ModelError(f"{told} found, F32 of shape {[count]} expected", path=path, where=f"tensor {name}")
    values = reader.raw(name).view("<f4")
    if not np.isfinite(values).all():
        raise ModelError("scales that are NaN or infinite", path=path, where=f"tensor {name}")
    return values


def with_factor(scheme: Scheme) -> Scheme:
    """A scheme whose inputs are multiplied first."""
    return replace(scheme, transform=scheme.transform | {"scale"})
