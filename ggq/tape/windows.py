"""A program over many whole windows of text at once, in float32 with BLAS: how calibration runs a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.cut import Section, cache_of
from ggq.tape.ops.operation import Operation, Product
from ggq.tape.rotation import Rotation

Buffers = dict[Buffer, np.ndarray]
"""float32 (windows, context, width) by buffer; every row counts as wanted."""

ReadWeight = Callable[[str], np.ndarray]
"""The float32 numbers of the tensor with a role."""

Observer = Callable[[Product, np.ndarray], None]
"""Called with each matrix product and its source, float32 (tokens, columns), before it is computed."""


class WindowRun:
    """Carries out operations of a program on windows of equal length; see `ggq.tape.passes.Forward`.

    Args:
        context: Tokens of a window.
        weight: Where tensors come from; asked once for each operation that reads one.
        observe: Called for each matrix product; None for nobody.
    """

    xp = np

    def __init__(self, context: int, weight: ReadWeight, observe: Observer | None = None) -> None:
        self.context, self._weight, self._observer = context, weight, observe
        self.state: Buffers = {}
        self.tokens = np.zeros((0, context), np.int32)
        self.caches: dict[int, Sequence[np.ndarray]] = {}
        self._useful: frozenset[Buffer] | None = None
        self._tables: dict[Rotation, tuple[np.ndarray, np.ndarray]] = {}
        self._masks: dict[tuple[int, bool], np.ndarray] = {}

    def run(self, section: Section, tokens: np.ndarray, buffers: Mapping[Buffer, np.ndarray]) -> Buffers:
        """Carry out a section.

        Args:
            section: Of a program.
            tokens: (windows, context), ids.
            buffers: What earlier sections kept for it; not changed.

        Returns:
            The buffers that later sections read. A product that nobody reads is observed and not computed.
        """
        self.begin(tokens, dict(buffers))
        for buffer in [each for each in self.state if cache_of(each)]:
            cache, which = cache_of(buffer) or (0, 0)
            held = list(self.caches.get(cache, (self.state[buffer],) * 2))
            held[which] = self.state[buffer]
            self.caches[cache] = held
        with np.errstate(over="ignore", invalid="ignore"):  # whoever looks at the numbers finds what is infinite
            for op, useful in section.uses():
                self._useful = useful
                op.forward(self)
        self._useful = None
        return {buffer: self._kept(buffer) for buffer in section.kept}

    def _kept(self, buffer: Buffer) -> np.ndarray:
        """What a buffer holds that later sections read."""
        found = cache_of(buffer)
        return self.state[buffer] if found is None else self.caches[found[0]][found[1]]

    def begin(self, tokens: np.ndarray, state: Buffers) -> None:
        """Set the tokens (windows, context) and the buffers of what is carried out next."""
        self.tokens, self.state, self.caches = tokens, state, {}

    def step(self, op: Operation) -> None:
        """Carry out one operation; all that it writes counts as read afterwards."""
        op.forward(self)

    def __getitem__(self, buffer: Buffer) -> np.ndarray:
        return self.state[buffer]

    def __setitem__(self, buffer: Buffer, value: np.ndarray) -> None:
        self.state[buffer] = value

    def weight(self, role: str) -> np.ndarray:
        """See `Forward`."""
        return self._weight(role)

    def inner(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """See `Forward`."""
        return np.einsum("...c,...c->...", x, y)[..., None]

    def observe(self, product: Product, source: np.ndarray) -> None:
        """See `Forward`."""
        if self._observer is not None:
            self._observer(product, source)

    def useful(self, buffer: Buffer) -> bool:
        """See `Forward`."""
        return self._useful is None or buffer in self._useful

    def rotation(self, rotation: Rotation) -> tuple[np.ndarray, np.ndarray]:
        """See `Forward`."""
        if rotation not in self._tables:
            cosine, sine = rotation.of_text(self.context)
            self._tables[rotation] = cosine.astype(np.float32), sine.astype(np.float32)
        return self._tables[rotation]

    def ids(self, by: str) -> np.ndarray:
        """See `Forward`; every text is of type 0."""
        if by == "token":
            return self.tokens
        row = np.arange(self.context) if by == "position" else np.zeros(self.context, np.int64)
        return np.broadcast_to(row, self.tokens.shape)

    def mask(self, window: int, causal: bool = True) -> np.ndarray:
        """See `Forward`."""
        if (window, causal) not in self._masks:
            ages = np.arange(self.context)[:, None] - np.arange(self.context)
            seen = ages >= 0 if causal else np.ones_like(ages, np.bool_)
            seen &= np.abs(ages) < window if window else True
            self._masks[window, causal] = np.where(seen, np.float32(0), np.float32(-np.inf))
        return self._masks[window, causal]

    def store(self, cache: int, values: Sequence[np.ndarray]) -> None:
        """See `Forward`."""
        self.caches[cache] = values

    def cached(self, cache: int) -> Sequence[np.ndarray]:
        """See `Forward`."""
        return self.caches[cache]
