"""Attention over cached keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.ops.operation import Cache, CacheUpdate, Operation, Read, Weight, Write
from ggq.tape.passes import Array, Backward, Forward, Oracle, Values

if TYPE_CHECKING:
    from ggq.tape.folding import Origin, Origins


@dataclass(frozen=True, eq=False)
class StoreKV(Operation):
    """Append key and value rows of this batch to a cache, in the cache's own float type."""

    name: ClassVar[str] = "store"
    cache: CacheUpdate
    key: Read
    value: Read

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run.store(self.cache, (run[self.key], run[self.value]))

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        for buffer, slope in zip((self.key, self.value), run.take_cached(self.cache), strict=True):
            run.add(buffer, slope)

    def oracle(self, run: Oracle) -> None:
        """Each sequence's rows behind those that it has, rounded to the cache's type."""
        for cache, rows in run.sequences(self.cache):
            cache.append(run[self.key][rows], run[self.value][rows])

    def origins(self, known: Origins) -> dict[Buffer | int, Origin | None]:
        """A cache stands for its values: keys meet nothing but queries."""
        return {self.cache: known.of(self.value)}


@dataclass(frozen=True, eq=False)
class Attention(Operation):
    """Softmax attention of each row over its own sequence's cache.

    Args:
        cache: Of keys and values; `heads / kv_heads` consecutive query heads share a key-value head.
        query, out: heads * head_dim wide.
        heads, kv_heads, head_dim: Sizes.
        scale: Scores are multiplied with it.
        window: How many positions a token sees, its own included; 0 for all.
        causal: Whether a token sees none behind its own. Else it sees all of its text, or as many behind as before it
            where there is a window.
        softcap: Scaled scores x become softcap * tanh(x / softcap); 0 for none.
        sinks: float (heads,): a score of each head that takes part in the softmax and has no value; None for none.
    """

    name: ClassVar[str] = "attention"
    cache: Cache
    query: Read
    out: Write
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: Weight | None = None
    causal: bool = True

    def whole_texts(self) -> bool:
        """See `Operation`."""
        return not self.causal

    def forward(self, run: Forward) -> None:
        """Text by text, so that the scores of one text's heads are in memory at a time; or by the array namespace's own
        function, where that has one for what no soft cap and no sink changes."""
        query, (keys, values), xp = run[self.query], run.cached(self.cache), run.xp
        plain = None if self.softcap or self.sinks is not None else getattr(xp, "attention", None)
        if plain is not None:
            mask = None if self.causal and not self.window else run.mask(self.window, self.causal)
            run[self.out] = plain(query, keys, values, self.head_dim, self.scale, mask)
            return
        out = []
        for text in range(query.shape[0]):
            q, k, v = self._heads(query[text]), self._heads(keys[text]), self._heads(values[text])
            attended = self._chances(run, self._scores(run, q, k)) @ v
            out.append(xp.permute_dims(attended, (2, 0, 1, 3)).reshape(query.shape[1], -1))
        run[self.out] = xp.stack(out)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        query, (keys, values), slope = run[self.query], run.cached(self.cache), run.take(self.out)
        found: tuple[list[Array], list[Array], list[Array]] = ([], [], [])
        for text in range(query.shape[0]):
            q, k, v, d = (self._heads(x[text]) for x in (query, keys, values, slope))
            scores = self._scores(run, q, k)
            chances = self._chances(run, scores)
            back = d @ _turned(v)
            back = (back - (back * chances).sum(axis=-1, keepdims=True)) * chances
            if self.softcap:
                back = back * (1 - (scores / self.softcap) ** 2)
            back = back * self.scale
            slopes = back @ k, _turned(back) @ q, _turned(chances) @ d
            for place, each in zip(found, slopes, strict=True):
                each = each if place is found[0] else each.sum(axis=1, keepdims=True)
                place.append(run.xp.permute_dims(each, (2, 0, 1, 3)).reshape(query.shape[1], -1))
        run.add(self.query, run.xp.stack(found[0]))
        run.add_cached(self.cache, [run.xp.stack(each) for each in found[1:]])

    def oracle(self, run: Oracle) -> None:
        """Head by head over what each sequence's cache holds."""
        out, shared = np.zeros_like(run[self.query]), self.heads // self.kv_heads
        sinks = None if self.sinks is None else np.asarray(run.weight(self.sinks), np.float64)
        for cache, rows in run.sequences(self.cache):
            query = run[self.query][rows].reshape(-1, self.heads, self.head_dim)
            ages = run.positions[rows][:, None] - np.arange(cache.length)[None, :]
            unseen = ages < 0 if self.causal else np.zeros(ages.shape, np.bool_)
            unseen |= np.abs(ages) >= self.window if self.window else False
            for head in range(self.heads):
                scores = query[:, head] @ cache.keys[:, head // shared].T * self.scale
                scores = self.softcap * np.tanh(scores / self.softcap) if self.softcap else scores
                scores[unseen] = -np.inf
                columns = slice(head * self.head_dim, (head + 1) * self.head_dim)
                chances = softmax(scores, None if sinks is None else sinks[head])
                out[rows, columns] = chances @ cache.values[:, head // shared]
        run[self.out] = out

    def origins(self, known: Origins) -> dict[Buffer | int, Origin | None]:
        """Rows of what makes the values, once for each query head that shares them."""
        from ggq.tape.folding import Origin

        value = known.of(self.cache)
        if value is None or value.norms:
            return {self.out: None}
        head = np.arange(self.heads)[:, None] // (self.heads // self.kv_heads)
        source = (head * self.head_dim + np.arange(self.head_dim)).reshape(-1)
        return {self.out: Origin((), value.producers, value.biases, source, self.head_dim)}

    def _heads(self, x: Array) -> Array:
        """(context, heads * head_dim) as (kv_heads, heads that share it, context, head_dim)."""
        return x.reshape(x.shape[0], self.kv_heads, -1, self.head_dim).swapaxes(0, 1).swapaxes(1, 2)

    def _scores(self, run: Values, query: Array, key: Array) -> Array:
        scores = query @ _turned(key) * self.scale
        return self.softcap * run.xp.tanh(scores / self.softcap) if self.softcap else scores

    def _chances(self, run: Values, scores: Array) -> Array:
        """Softmax of scores (kv_heads, shared, context, context) over what a token sees."""
        xp = run.xp
        scores = scores + run.mask(self.window, self.causal)
        most = xp.max(scores, axis=-1, keepdims=True)
        if self.sinks is not None:
            sinks = run.weight(self.sinks).reshape(self.kv_heads, -1, 1, 1)
            most = xp.maximum(most, sinks)
        scores = xp.exp(scores - most)
        total = xp.sum(scores, axis=-1, keepdims=True)
        if self.sinks is not None:
            total = total + xp.exp(sinks - most)
        return scores / total


def softmax(scores: np.ndarray, sink: float | None = None) -> np.ndarray:
    """Softmax over the last axis; a sink is one more score, whose chance is left out of the result."""
    most = scores.max(axis=-1, keepdims=True)
    most = most if sink is None else np.maximum(most, sink)
    chances = np.exp(scores - most)
    total = chances.sum(axis=-1, keepdims=True)
    return np.asarray(chances / (total if sink is None else total + np.exp(sink - most)))


def _turned(x: Array) -> Array:
    return x.swapaxes(-1, -2)
