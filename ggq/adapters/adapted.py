"""A model with adapters: two small products beside each changed matrix, in a container that has their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.adapters.lowrank import LowRank, read_changes
from ggq.format.container import Container, Part, StoredAsset, StoredTensor, aligned
from ggq.format.digests import digest_of
from ggq.format.scheme import Scheme
from ggq.quant import encode_tensor, parse_scheme
from ggq.quant.floats import from_float32
from ggq.tape.ops.linear import down_role, multiplied_alone, up_role, with_corrections
from ggq.tape.program import Program


def with_adapters(
    container: Container, program: Program, names: Mapping[str, str], adapters: Sequence[str]
) -> tuple[Container, Program, dict[str, str]]:
    """A model's parts with adapters that are computed beside its matrices.

    Args:
        container: The open file; who closes the container that is returned closes it.
        program: The model's.
        names: Names of its tensors, by role.
        adapters: FOLDER or FOLDER=WEIGHT of each.

    Returns:
        A container, a program and names that have the adapters' tensors too.

    Raises:
        GGQError: See `ggq.adapters.lowrank.read_changes`.
    """
    changes = read_changes(container, names, multiplied_alone(program.ops), adapters)
    extra = dict(_tensors(changes))
    ranks = {role: change.rank for role, change in changes.items()}
    changed = replace(program, ops=tuple(each for op in program.ops for each in with_corrections(op, ranks)))
    return Adapted(container, extra), changed, {**names, **{role: role for role in extra}}


@dataclass(frozen=True, eq=False)
class Extra:
    """A tensor of an adapter; see `ggq.format.container.StoredTensor`."""

    name: str
    shape: tuple[int, ...]
    scheme: Scheme
    data: Mapping[str, NDArray[np.uint8]]

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its role."""
        return {"role": self.name}

    @property
    def segments(self) -> Mapping[str, Part]:
        """The lengths of its parts."""
        return {part: Part(data.nbytes) for part, data in self.data.items()}

    @property
    def stored_as(self) -> str:
        """Its type."""
        return self.scheme.value


def _tensors(changes: Mapping[str, LowRank]) -> Iterator[tuple[str, Extra]]:
    for role, change in changes.items():
        pairs = ((down_role(role), change.down, change.kinds[0]), (up_role(role), change.up, change.kinds[1]))
        for name, numbers, kind in pairs:
            scheme = parse_scheme(kind)
            made = encode_tensor(from_float32(numbers, kind), scheme, where=name)
            yield name, Extra(name, numbers.shape, scheme, {part: _aligned(data) for part, data in made.items()})


def _aligned(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same bytes where the kernels read them."""
    memory = aligned(data.nbytes)
    memory[:] = data
    return memory


class Adapted:
    """An open file with the tensors of adapters beside its own; see `ggq.format.container.Container`.

    Args:
        container: The open file.
        extra: The tensors of adapters, by name.
    """

    def __init__(self, container: Container, extra: Mapping[str, Extra]) -> None:
        self._base, self._extra, self.path = container, extra, container.path
        self.tensors: Mapping[str, StoredTensor] = {**container.tensors, **extra}

    @cached_property
    def digest(self) -> bytes:
        """Of the file's digest and all that the adapters add."""
        parts = [self._base.digest]
        for name, entry in self._extra.items():
            parts += [name.encode(), *(data.tobytes() for data in entry.data.values())]
        return digest_of(b"".join(parts))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The file's."""
        return self._base.metadata

    @property
    def assets(self) -> Mapping[str, StoredAsset]:
        """The file's."""
        return self._base.assets

    def segment(self, name: str, part: str, /) -> NDArray[np.uint8]:
        """See `Container`."""
        return self._extra[name].data[part] if name in self._extra else self._base.segment(name, part)

    def read_segment(self, name: str, part: str, /) -> NDArray[np.uint8]:
        """See `Container`."""
        return self._extra[name].data[part] if name in self._extra else self._base.read_segment(name, part)

    def mapped(self) -> NDArray[np.uint8] | None:
        """The file's map: who cuts it short cuts the base."""
        return self._base.mapped()

    def check_whole(self) -> None:
        """See `ggq.format.Reader`; a file of another kind has nothing to check."""
        getattr(self._base, "check_whole", lambda: None)()

    def close(self) -> None:
        """Close the file."""
        self._base.close()
