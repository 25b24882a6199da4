"""Linear attention with a state that decays, over many tokens at a time as matrix products.

Token by token, for one head: state = e**decay * state; with `correcting`, value = value - key @ state (the delta
rule); state += rate * key^T value; result = query @ state. Over a chunk of n tokens the same is a few products of
(n, n) and of (n, key_dim) with (key_dim, value_dim), and one triangular system where values depend on those before.

Source: Yang et al., Gated Delta Networks (2024), and Dao and Gu, Transformers are SSMs (2024); derived anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ggq.tape.passes import Array

TOKENS = 64
"""Tokens of a chunk."""


class Steps(NamedTuple):
    """Consecutive tokens of any number of heads.

    Args:
        query, key: (..., n, key_dim).
        value: (..., n, value_dim).
        rate: (..., n): how much of a value is written.
        decay: (..., n), at most 0: the logarithm of what is left of the state.
    """

    query: Array
    key: Array
    value: Array
    rate: Array
    decay: Array

    def chunks(self) -> Iterator[Steps]:
        """The same, TOKENS at a time."""
        for start in range(0, self.rate.shape[-1], TOKENS):
            part = slice(start, start + TOKENS)
            wide = (each[..., part, :] for each in self[:3])
            yield Steps(*wide, *(each[..., part] for each in self[3:]))


class Chunk:
    """One chunk behind a state (..., key_dim, value_dim).

    Attributes:
        out: (..., n, value_dim).
        after: The state behind it.
    """

    def __init__(self, xp: Any, steps: Steps, state: Array, correcting: bool) -> None:
        query, key, value, rate, decay = self.steps = steps
        self.xp, self.state, self.correcting = xp, state, correcting
        self.lower = xp.tril(xp.ones((rate.shape[-1],) * 2, dtype=rate.dtype))
        self.strictly = self.lower - xp.eye(rate.shape[-1], dtype=rate.dtype)
        since = decay @ turned(self.lower)  # the start of the chunk
        apart = xp.where(self.lower > 0, since[..., :, None] - since[..., None, :], -float("inf"))
        self.spread, self.left = xp.exp(apart), xp.exp(since)[..., None]
        self.behind = xp.exp(since[..., -1:] - since)[..., None]
        self.alike = (key @ turned(key)) * self.spread * self.strictly
        self.wished = value - self.left * (key @ state) if correcting else value
        self.written = rate[..., None] * self.wished
        if correcting:
            self.system = rate[..., None] * self.alike + (self.lower - self.strictly)
            self.written = xp.linalg.solve(self.system, self.written)
        self.met = (query @ turned(key)) * self.spread
        self.out = self.left * (query @ state) + self.met @ self.written
        self.after = self.left[..., -1:, :] * state + turned(key * self.behind) @ self.written

    def slopes(self, out: Array, after: Array) -> tuple[Steps, Array]:
        """Gradients of the steps and of the state, from those of what was computed."""
        query, key, _, rate, _ = self.steps
        state, left, behind, written = self.state, self.left, self.behind, self.written
        to_written = turned(self.met) @ out + (key * behind) @ after
        to_state = left[..., -1:, :] * after + turned(query) @ (left * out)
        to_met, pushed = (out @ turned(written)) * self.lower, written @ turned(after)
        to_query = (to_met * self.spread) @ key + (left * out) @ turned(state)
        to_key = turned(to_met * self.spread) @ query + behind * pushed
        to_spread = to_met * (query @ turned(key))
        to_left = (out * (query @ state)).sum(axis=-1)
        if self.correcting:
            to_wished = self.xp.linalg.solve(turned(self.system), to_written)
            to_system = -(to_wished @ turned(written)) * self.strictly
            to_rate = (to_system * self.alike).sum(axis=-1) + (to_wished * self.wished).sum(axis=-1)
            to_alike, to_value = to_system * rate[..., None], to_wished * rate[..., None]
            pairs = to_alike * self.spread
            to_key = to_key + pairs @ key + turned(pairs) @ key - (left * to_value) @ turned(state)
            to_spread = to_spread + to_alike * (key @ turned(key))
            to_state = to_state - turned(key) @ (left * to_value)
            to_left = to_left - (to_value * (key @ state)).sum(axis=-1)
        else:
            to_rate, to_value = (to_written * self.wished).sum(axis=-1), to_written * rate[..., None]
        to_decay = self._decays(to_spread, to_left, (key * pushed).sum(axis=-1), (after * state).sum(axis=(-2, -1)))
        return Steps(to_query, to_key, to_value, to_rate, to_decay), to_state

    def _decays(self, to_spread: Array, to_left: Array, to_behind: Array, to_last: Array) -> Array:
        """The gradient of the decays, each of which all exponents from its token on have."""
        pairs, back = to_spread * self.spread, to_behind * self.behind[..., 0]
        since = pairs.sum(axis=-1) - pairs.sum(axis=-2) + to_left * self.left[..., 0] - back
        whole = back.sum(axis=-1) + to_last * self.left[..., -1, 0]
        return since @ self.lower + whole[..., None]


def computed(xp: Any, steps: Steps, correcting: bool) -> list[Chunk]:
    """All chunks of whole texts, the first of which begins with zeros."""
    shape = (*steps.rate.shape[:-1], steps.key.shape[-1], steps.value.shape[-1])
    state, found = xp.zeros(shape, dtype=steps.rate.dtype), []
    for part in steps.chunks():
        found.append(Chunk(xp, part, state, correcting))
        state = found[-1].after
    return found


def slopes(xp: Any, chunks: list[Chunk], out: Array) -> Steps:
    """Gradients of all steps, from those of all results (..., context, value_dim)."""
    after, found = xp.zeros_like(chunks[-1].after), []
    for number in range(len(chunks) - 1, -1, -1):
        start = number * TOKENS
        one, after = chunks[number].slopes(out[..., start : start + TOKENS, :], after)
        found.append(one)
    joined = zip(*reversed(found))
    return Steps(*(xp.concat(parts, axis=-2 if place < 3 else -1) for place, parts in enumerate(joined)))


def turned(x: Array) -> Array:
    """Rows and columns exchanged."""
    return x.swapaxes(-1, -2)


def by_head(xp: Any, x: Array, heads: int) -> Array:
    """(texts, context, heads * size) as (texts, heads, context, size)."""
    return xp.permute_dims(x.reshape(*x.shape[:2], heads, -1), (0, 2, 1, 3))


def by_row(xp: Any, x: Array) -> Array:
    """The other way round."""
    return xp.permute_dims(x, (0, 2, 1, 3)).reshape(x.shape[0], x.shape[2], -1)


def repeated(xp: Any, x: Array, times: int) -> Array:
    """Each head as many times: (texts, heads * times, context, size)."""
    return xp.repeat(x, times, axis=1) if times > 1 else x


def shared(x: Array, times: int) -> Array:
    """The sums of what belongs to one head, after `repeated`."""
    return x.reshape(x.shape[0], -1, times, *x.shape[2:]).sum(axis=2)


def softplus(xp: Any, x: Array) -> Array:
    """log(1 + e**x)"""
    return xp.clip(x, 0, None) + xp.log1p(xp.exp(-abs(x)))
