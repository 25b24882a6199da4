"""A program backwards, in float32 with BLAS: the gradient of a scalar of its results at every matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.cut import Section
from ggq.tape.rotation import Rotation
from ggq.tape.windows import Buffers, WindowRun

Meeting = Callable[..., None]
"""Called with a tensor's role and, for a matrix product, its source (tokens, columns) and the gradient of its result
(tokens, rows); for an embedding, the token ids (tokens,) and the gradient of the rows taken (tokens, columns).
For a matrix that some tokens alone meet, these are theirs, and their numbers (tokens,) come last."""


class BackwardRun:
    """Carries gradients back through sections of a program, on windows of equal length; see `ggq.tape.passes.Backward`.

    Args:
        run: How the section's operations are carried out forwards; they are done again here, so that between the
            sections only what `Section.kept` names need be remembered.
        meet: Called with every matrix's part in the gradient.
    """

    xp = np

    def __init__(self, run: WindowRun, meet: Meeting) -> None:
        self.run, self.meet = run, meet
        self.weight, self.inner, self.mask, self.ids = run.weight, run.inner, run.mask, run.ids
        self.slopes: Buffers = {}
        self._cached_slopes: dict[int, Sequence[np.ndarray]] = {}

    def back(self, section: Section, tokens: np.ndarray, before: Buffers, slopes: Buffers) -> Buffers:
        """Carry gradients from behind a section to before it.

        Args:
            section: Of a program.
            tokens: (windows, context), ids.
            before: The buffers as the section met them.
            slopes: Gradients of the buffers that the section kept.

        Returns:
            The gradients of the buffers that it met.
        """
        run = self.run
        run.begin(tokens, dict(before))
        states = [run.state]
        for op in section.ops[:-1]:
            run.state = dict(run.state)  # no operation changes an array, it puts another in its place
            run.step(op)
            states.append(run.state)
        self.slopes, self._cached_slopes = dict(slopes), {}
        for op, state in zip(reversed(section.ops), reversed(states), strict=True):
            run.state = state
            op.backward(self)
        return self.slopes

    @property
    def tokens(self) -> np.ndarray:
        """See `Forward`."""
        return self.run.tokens

    def __getitem__(self, buffer: Buffer) -> np.ndarray:
        return self.run.state[buffer]

    def rotation(self, rotation: Rotation) -> tuple[np.ndarray, np.ndarray]:
        """See `Forward`."""
        return self.run.rotation(rotation)

    def cached(self, cache: int) -> Sequence[np.ndarray]:
        """See `Forward`."""
        return self.run.caches[cache]

    def take(self, buffer: Buffer) -> np.ndarray:
        """See `Backward`."""
        return self.slopes.pop(buffer)

    def slope(self, buffer: Buffer) -> np.ndarray:
        """See `Backward`."""
        return self.slopes[buffer]

    def add(self, buffer: Buffer, slope: np.ndarray) -> None:
        """See `Backward`."""
        self.slopes[buffer] = self.slopes[buffer] + slope if buffer in self.slopes else slope

    def add_cached(self, cache: int, slopes: Sequence[np.ndarray]) -> None:
        """See `Backward`."""
        known = self._cached_slopes.get(cache)
        self._cached_slopes[cache] = slopes if known is None else [a + b for a, b in zip(known, slopes, strict=True)]

    def take_cached(self, cache: int) -> Sequence[np.ndarray]:
        """See `Backward`."""
        return self._cached_slopes.pop(cache)
