"""Where a transform of a matrix's inputs can be folded: into what produces them, as a program tells."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.ops.operation import Product
from ggq.tape.program import Program


@dataclass(frozen=True, eq=False)
class Origin:
    """What the columns of a buffer come from.

    Args:
        norms: Roles of a norm's weight, and of its bias, that can take a scale of the columns; empty for no norm.
        producers: Roles of the matrices whose rows make the columns: an order goes to all of them, a scale to the first
            alone (the others go through an activation first). Empty where there are none.
        biases: Of the producers, as far as they have some.
        source: int64 (columns,): the producers' row behind each column.
        block: Rows that may change places, each such run among themselves; 0 where none may.
    """

    norms: tuple[str, ...]
    producers: tuple[str, ...]
    biases: tuple[str | None, ...]
    source: np.ndarray
    block: int

    @property
    def roles(self) -> tuple[str, ...]:
        """Every tensor that a fold would change."""
        return (*self.norms, *self.producers, *(bias for bias in self.biases if bias is not None))


@dataclass(frozen=True, eq=False)
class Site:
    """Inputs that matrices share.

    Args:
        consumers: Roles of those matrices.
        columns: Width of the inputs.
        origin: What they come from, as far as something can be folded there.
    """

    consumers: tuple[str, ...]
    columns: int
    origin: Origin

    @property
    def norms(self) -> tuple[str, ...]:
        """See `Origin`."""
        return self.origin.norms

    @property
    def producers(self) -> tuple[str, ...]:
        """See `Origin`."""
        return self.origin.producers

    @property
    def biases(self) -> tuple[str | None, ...]:
        """See `Origin`."""
        return self.origin.biases

    @property
    def source(self) -> np.ndarray:
        """See `Origin`."""
        return self.origin.source

    @property
    def block(self) -> int:
        """See `Origin`."""
        return self.origin.block

    @property
    def takes_scale(self) -> bool:
        """Whether a scale can be folded."""
        return bool(self.norms or self.producers)

    @property
    def takes_order(self) -> bool:
        """Whether an order can be folded."""
        return bool(self.producers) and self.block > 1


class Origins:
    """What buffers and caches come from, at one place of a program.

    Args:
        program: The program; where something is read more than once, nothing can be folded into what makes it.
    """

    def __init__(self, program: Program) -> None:
        self._program, self.place = program, 0
        self._known: dict[Buffer | int, Origin | None] = {}
        self._users = Counter(role for op in program.ops for role in op.weights_read())
        self._cache_readers = Counter(cache for op in program.ops for cache in op.caches_read())
        self._read: dict[Buffer, list[int]] = {}
        self._written: dict[Buffer, list[int]] = {}
        for place, op in enumerate(program.ops):
            for places, buffers in ((self._read, op.reads()), (self._written, op.writes())):
                for buffer in dict.fromkeys(buffers):
                    places.setdefault(buffer, []).append(place)

    def of(self, what: Buffer | int) -> Origin | None:
        """The origin of what the operation at this place reads, a buffer or a cache; None where nothing can be folded:
        another operation reads it too, or a tensor that would change has other uses."""
        origin = self._known.get(what)
        if origin is None or any(self._users[role] != 1 for role in origin.roles):
            return None
        readers = self._cache_readers[what] if isinstance(what, int) else self._readers(what)
        return origin if readers == 1 else None

    def update(self, found: dict[Buffer | int, Origin | None]) -> None:
        """Remember what an operation wrote."""
        self._known.update(found)

    def alone(self, product: Product) -> bool:
        """Whether the matrices of a product are used by nothing else."""
        return all(self._users[role] == 1 for role in product.weights)

    def _readers(self, buffer: Buffer) -> int:
        """Operations that read what is in a buffer at this place, from where it was written until it is again."""
        written, read = self._written.get(buffer, []), self._read.get(buffer, [])
        behind = bisect_left(written, self.place)  # a write at this very place comes after what is read here
        first = written[behind - 1] if behind else -1
        last = written[behind] if behind < len(written) else len(self._program.ops)
        kept = last == len(self._program.ops) and buffer in self._program.outputs.values()
        return bisect_right(read, last) - bisect_right(read, first) + kept


def sites(program: Program) -> list[Site]:
    """The inputs of all matrices, in the order of the program.

    Columns of a matrix that is also read by another operation (an embedding that is the output too), and inputs that
    another operation reads too, are left as they are: nothing can be folded there.
    """
    known = Origins(program)
    found: list[Site] = []
    for place, op in enumerate(program.ops):
        known.place = place
        for product in op.products():
            origin = known.of(product.source) if known.alone(product) else None
            width = product.source.width
            found.append(Site(product.weights, width, origin or Origin((), (), (), np.arange(width), 0)))
        known.update(op.origins(known))
    return found
