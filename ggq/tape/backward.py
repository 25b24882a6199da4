"""The tape backwards, in float32 with BLAS: the gradient of a scalar of the logits at every matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ggq.tape.program import Attention, Buffer, Embed, Gate, Linear, Norm, Op, Rope, Select, StoreKV
from ggq.tape.windows import Buffers, Segment, WindowRun

Meeting = Callable[[str, np.ndarray, np.ndarray], None]
"""Called with a tensor's role and, for a matrix product, its source (tokens, columns) and the gradient of its result
(tokens, rows); for an embedding, the token ids (tokens,) and the gradient of the rows taken (tokens, columns)."""


Cache = dict[int, Sequence[np.ndarray]]
"""Keys and values by layer, or their gradients."""


class BackwardRun:
    """Carries gradients back through segments of a tape, on windows of equal length.

    Args:
        run: How the segment's operations are carried out forwards; they are done again here, so that between the
            segments only what `Segment.kept` names need be remembered.
        meet: Told of every matrix's part in the gradient.
    """

    def __init__(self, run: WindowRun, meet: Meeting) -> None:
        self.run, self.meet = run, meet

    def back(self, segment: Segment, tokens: np.ndarray, before: Buffers, gradients: Buffers) -> Buffers:
        """Carry gradients from behind a segment to before it.

        Args:
            segment: Of the run's tape.
            tokens: (windows, context), ids.
            before: The buffers as the segment met them.
            gradients: Of the buffers that the segment kept.

        Returns:
            The gradients of the buffers that it met.
        """
        states: list[Buffers] = [dict(before)]
        cache: Cache = {}
        for op in segment.ops[:-1]:
            states.append(dict(states[-1]))
            self.run.step(op, tokens, states[-1], cache)
        found: Buffers = dict(gradients)
        stored: Cache = {}
        for op, state in zip(reversed(segment.ops), reversed(states), strict=True):
            self._back(op, tokens, state, found, cache, stored)
        return found

    def _back(self, op: Op, tokens: np.ndarray, state: Buffers, found: Buffers, cache: Cache, stored: Cache) -> None:
        """Replace the gradient of what an operation wrote by gradients of what it read."""
        if isinstance(op, Embed):
            self.meet(op.table, tokens.reshape(-1), _flat(found.pop(op.out)))
        elif isinstance(op, Norm):
            slope = found.pop(op.out) * self.run.weights(op.weight)
            _add(found, op.source, norm_back(state[op.source], slope, op.epsilon))
        elif isinstance(op, Linear):
            self._linear(op, state, found)
        elif isinstance(op, Rope):
            found[op.buffer] = self.run.rotated(found[op.buffer], op.heads, back=True)
        elif isinstance(op, StoreKV):
            for buffer, slope in zip((op.key, op.value), stored.pop(op.layer), strict=True):
                _add(found, buffer, slope)
        elif isinstance(op, Attention):
            query, *stored[op.layer] = self._attention(op, state[op.query], cache[op.layer], found.pop(op.out))
            _add(found, op.query, query)
        elif isinstance(op, Gate):
            gate, up = gate_back(state[op.gate], state[op.up], found.pop(op.out))
            _add(found, op.gate, gate)
            _add(found, op.up, up)
        elif isinstance(op, Select):
            _add(found, op.source, found.pop(op.out))

    def _linear(self, op: Linear, state: Buffers, found: Buffers) -> None:
        source = _flat(state[op.source])
        total = np.zeros_like(source)
        for role, out in zip(op.weights, op.outs, strict=True):
            slope = found[out] if op.add else found.pop(out)
            self.meet(role, source, _flat(slope))
            total += _flat(slope) @ self.run.weights(role)
        _add(found, op.source, total.reshape(state[op.source].shape))

    def _attention(
        self, op: Attention, query: np.ndarray, cached: Sequence[np.ndarray], slope: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradients of query, key and value, window by window."""
        tape, run = self.run.tape, self.run
        shared, scale = tape.heads // tape.kv_heads, np.float32(op.scale)
        results = np.empty_like(query), np.empty_like(cached[0]), np.empty_like(cached[1])
        for window in range(len(query)):
            q, d = (
                x[window].reshape(-1, tape.kv_heads, shared, tape.head_dim).transpose(1, 2, 0, 3)
                for x in (query, slope)
            )
            k, v = (x[window].reshape(-1, tape.kv_heads, 1, tape.head_dim).transpose(1, 2, 0, 3) for x in cached)
            chance = run.attention(q, k, op.scale)
            back = d @ v.transpose(0, 1, 3, 2)
            back -= (back * chance).sum(axis=-1, keepdims=True)
            back *= chance
            back *= scale
            for out, found in zip(
                results,
                (
                    back @ k,
                    (back.transpose(0, 1, 3, 2) @ q).sum(axis=1, keepdims=True),
                    (chance.transpose(0, 1, 3, 2) @ d).sum(axis=1, keepdims=True),
                ),
                strict=True,
            ):
                out[window] = found.transpose(2, 0, 1, 3).reshape(out[window].shape)
        return results


def norm_back(x: np.ndarray, slope: np.ndarray, epsilon: float) -> np.ndarray:
    """The gradient of x where that of x / sqrt(mean(x**2) + epsilon) is `slope`."""
    inverse = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(epsilon))
    along = np.mean(x * slope, axis=-1, keepdims=True)
    result: np.ndarray = inverse * (slope - x * (along * inverse * inverse))
    return result


def gate_back(gate: np.ndarray, up: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of gate and up where that of silu(gate) * up is `slope`."""
    share = 1 / (1 + np.exp(-np.maximum(gate, np.float32(-80))))
    return slope * up * share * (1 + gate * (1 - share)), slope * gate * share


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


def _add(found: Buffers, buffer: Buffer, slope: np.ndarray) -> None:
    found[buffer] = found[buffer] + slope if buffer in found else slope
