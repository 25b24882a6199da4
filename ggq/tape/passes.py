"""What operations are given when they are computed: values of buffers, weights, positions, caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ggq.tape.buffers import Buffer

if TYPE_CHECKING:
    from ggq.quant.stored import StoredWeight
    from ggq.tape.ops.operation import Product
    from ggq.tape.rotation import Rotation

Array = Any
"""An array of NumPy's or PyTorch's."""


class Values(Protocol):
    """What every pass gives: contents of buffers, weights, and what belongs to the rows."""

    @property
    def xp(self) -> Any:
        """The array namespace: NumPy's, or PyTorch's by array-api-compat."""
        ...

    @property
    def tokens(self) -> Array:
        """Token ids in the shape of the rows."""
        ...

    def ids(self, by: str) -> Array:
        """What rows of a table are taken by, in the shape of the rows: "token", "position" or "type"."""
        ...

    def __getitem__(self, buffer: Buffer) -> Array:
        """The contents of a buffer, (..., width)."""
        ...

    def weight(self, role: str) -> Array:
        """The numbers of a tensor in its shape."""
        ...

    def inner(self, x: Array, y: Array) -> Array:
        """Sums of products over the last axis, which is kept with one column."""
        ...

    def rotation(self, rotation: Rotation) -> tuple[Array, Array]:
        """Cosines and sines of the rows' positions, each (rows, pairs)."""
        ...

    def mask(self, window: int, causal: bool = True) -> Array:
        """0 where a token of a text sees another, -inf where not, (context, context)."""
        ...

    def cached(self, cache: int) -> Sequence[Array]:
        """What a cache keeps."""
        ...


class Forward(Values, Protocol):
    """A pass over whole texts of equal length, or any pass for an operation that looks at one row at a time."""

    def __setitem__(self, buffer: Buffer, value: Array) -> None:
        """Fill a buffer; the array is never changed afterwards."""
        ...

    def observe(self, product: Product, source: Array) -> None:
        """Called before a matrix product with its source."""
        ...

    def useful(self, buffer: Buffer) -> bool:
        """Whether anybody reads what is written there now."""
        ...

    def store(self, cache: int, values: Sequence[Array]) -> None:
        """Keep rows in a cache."""
        ...


class Backward(Values, Protocol):
    """A pass backwards; buffers hold what the operation met."""

    def take(self, buffer: Buffer) -> Array:
        """The gradient of what an operation wrote, which is forgotten."""
        ...

    def slope(self, buffer: Buffer) -> Array:
        """The same, which stays: of what was added to."""
        ...

    def add(self, buffer: Buffer, slope: Array) -> None:
        """Add to the gradient of what an operation read."""
        ...

    def add_cached(self, cache: int, slopes: Sequence[Array]) -> None:
        """Add to the gradients of what a cache holds."""
        ...

    def take_cached(self, cache: int) -> Sequence[Array]:
        """The gradients of what a cache holds, which are forgotten."""
        ...

    def meet(self, role: str, source: Array, slope: Array, rows: Array | None = None, /) -> None:
        """Report a matrix's part in the gradient; see `ggq.tape.backward.Meeting`."""
        ...


class Oracle(Forward, Protocol):
    """A pass in float64 over rows of any sequences, rounded as the kernels round."""

    def stored(self, role: str) -> StoredWeight:
        """A tensor as it is stored."""
        ...

    def rounded(self, weight: StoredWeight, x: Array) -> tuple[Array, Array]:
        """A matrix's inputs, transformed and rounded as it asks for, and its numbers as they meet them."""
        ...

    def sequences(self, cache: int) -> Sequence[tuple[Any, slice]]:
        """The cache of each sequence of the batch, or its state, and its rows."""
        ...

    @property
    def wanted(self) -> Sequence[int]:
        """Rows whose results are wanted."""
        ...

    @property
    def positions(self) -> Array:
        """int64 (rows,): the position of each row in its sequence."""
        ...
