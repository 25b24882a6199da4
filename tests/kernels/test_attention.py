"""Attention over a paged cache against float64, within a bound that follows its float32 operations one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ggq.engine.kv.policy import SLACK
from ggq.engine.kv.pool import PagePool
from ggq.engine.kv.sequence import PagedSequence
from ggq.tape.buffers import Buffer
from ggq.tape.caches import KeyValueSpec
from ggq.tape.ops import Attention
from ggq.tape.ops.attention import softmax
from ggq.tape.reference import KeyValueCache
from ggq_kernels.attend.operands import PAGE
from ggq_kernels.run import calls
from ggq_kernels.vector.isa import FLOAT_ROWS
from tests.kit.kernel_support import UNIT, Floats, address, count, gamma, output, run
from tests.kit.row_oracle import meaning

pytestmark = pytest.mark.kernels

CACHE = {"f16": np.float16, "f32": np.float32}
EXP2 = 3e-7
"""Largest relative error of the kernels' exp2 (test_gate.py)."""


class Layers:
    """A cache of some layers, with what was stored in the layer at hand as float64.

    Pages that no window of a run reaches lie at address 0 while it is computed.
    """

    def __init__(
        self,
        kind: str,
        heads: int,
        kv_heads: int,
        dim: int,
        layers: int = 1,
        window: int = 0,
        softcap: float = 0.0,
        sinks: np.ndarray | None = None,
        causal: bool = True,
    ) -> None:
        self.window, self.softcap, self.sinks, self.causal = window, softcap, sinks, causal
        self.kind, self.heads, self.kv_heads, self.dim, self.layers = kind, heads, kv_heads, dim, layers
        self.pool = PagePool([layers * calls.layer_bytes(kind, kv_heads, dim)], 1 << 30)
        self.sequences: list[PagedSequence] = []
        self.keys: list[np.ndarray] = []
        self.values: list[np.ndarray] = []
        self.scale = 1 / math.sqrt(dim)

    def open(self) -> int:
        self.sequences.append(PagedSequence(self.pool, [self.window], PAGE))
        self.keys.append(np.zeros((0, self.kv_heads, self.dim)))
        self.values.append(np.zeros((0, self.kv_heads, self.dim)))
        return len(self.sequences) - 1

    def append(
        self, batch: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]], layer: int = 0, threads: int = 1
    ) -> list[np.ndarray]:
        """Store keys and values of (sequence, queries, keys, values), each float32 (tokens, heads * dim); attend."""
        q, k, v = (np.concatenate([run[i] for run in batch]) for i in (1, 2, 3))
        n, first, jobs = len(q), 0, 0
        runs: list[tuple[int, int, int, int, int]] = []
        tables: list[int] = []
        positions: list[int] = []
        kept: list[np.ndarray] = []
        for sequence, queries, keys, values in batch:
            paged, tokens = self.sequences[sequence], len(queries)
            paged.reserve(tokens)
            kept.append(paged.tables[0].copy())
            if self.window:
                kept[-1][: max(0, paged.length + 1 - self.window) // PAGE] = 0
            runs.append((first, tokens, paged.length, address(kept[-1]), jobs))
            tables += [paged.addresses[0]] * tokens
            jobs += calls.attention_jobs(tokens, self.heads, self.kv_heads)
            positions += range(paged.length, paged.length + tokens)
            first += tokens
            for store, new in ((self.keys, keys), (self.values, values)):
                rounded = new.astype(CACHE[self.kind]).astype(np.float64).reshape(tokens, self.kv_heads, self.dim)
                store[sequence] = np.concatenate([store[sequence], rounded])
        query, key, value, out = Floats(q), Floats(k), Floats(v), output(n, q.shape[1])
        sizes = calls.Heads(self.heads, self.kv_heads, self.dim, layer * self.pool.page_bytes[0] // self.layers)
        words = np.array(runs, np.int64)
        scale, rows_count, run_count = np.array([self.scale * math.log2(math.e)]), count(n), count(len(runs))
        of_token = np.array(positions, np.int64), np.array(tables, np.int64)
        store_row = calls.store_kv_row(
            self.kind, address(rows_count), key.rows, value.rows, sizes, address(of_token[0]), address(of_token[1])
        )
        rows = calls.attention_row(
            *(self.kind, address(run_count), address(words), query.rows, out.rows, sizes, address(scale)),
            *(self.window, self.softcap, 0 if self.sinks is None else address(self.sinks), self.causal),
        )
        run(store_row, rows, threads=threads)
        for sequence, queries, *_ in batch:
            self.sequences[sequence].append(len(queries))
        assert (out.whole[n:] == out.whole[-1, -1]).all(), "written beyond the batch"
        return np.split(out.values.copy(), np.cumsum([len(b[1]) for b in batch])[:-1])

    def check(self, sequence: int, queries: np.ndarray, got: np.ndarray) -> None:
        """The outputs of the last tokens of a sequence are within the bound of what the operation means."""
        n, share = len(queries), self.heads // self.kv_heads
        q, expected = queries.astype(np.float64).reshape(n, self.heads, self.dim), self.meaning(sequence, queries)
        start = len(self.keys[sequence]) - n
        for head in range(self.heads):
            k, v = self.keys[sequence][:, head // share], self.values[sequence][:, head // share]
            ages = start + np.arange(n)[:, None] - np.arange(len(k))[None]
            unseen = ((ages < 0) & self.causal) | (np.abs(ages) >= (self.window or len(k)))
            scores = q[:, head] @ k.T * self.scale
            scores = np.where(
                unseen, -np.inf, self.softcap * np.tanh(scores / self.softcap) if self.softcap else scores
            )
            weights = softmax(scores, None if self.sinks is None else float(self.sinks[head]))
            allowed = self.bound(q[:, head], k, v, weights, unseen)
            if self.sinks is not None:  # a score whose error is in all weights
                allowed += abs(self.sinks[head]) * gamma(6) * (weights @ np.abs(v))
            error = np.abs(got.reshape(n, self.heads, self.dim)[:, head] - expected[:, head])
            assert (error <= allowed).all(), (error / allowed).max()

    def meaning(self, sequence: int, queries: np.ndarray) -> np.ndarray:
        """float64 (tokens, heads, dim): what the operation's oracle gives for the last tokens of a sequence."""
        query, out = (Buffer(name, self.heads * self.dim) for name in ("query", "out"))
        sinks, n = None if self.sinks is None else "sinks", len(queries)
        sizes = self.heads, self.kv_heads, self.dim, self.scale
        op = Attention(0, query, out, *sizes, self.window, self.softcap, sinks, self.causal)
        cache = KeyValueCache(KeyValueSpec(self.kv_heads, self.dim, self.window), np.float64)
        cache.keys, cache.values = self.keys[sequence], self.values[sequence]
        positions = np.arange(cache.length - n, cache.length)
        return meaning(op, out, {query: queries}, {"sinks": self.sinks}, positions, cache).reshape(n, self.heads, -1)

    def bound(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, weights: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        """How far float32 may be off.

        A score in units of log2 is off by gamma(dim + 3) of its terms: query times scale (both rounded), products,
        sums. The peak is subtracted, one rounding of a difference of at most twice the largest score; its own error
        cancels. A weight is off by ln 2 times that, by EXP2, and by one such factor and its product for each page
        that moved the peak. Sums of weights and of weighted values add a rounding for each position, a product and a
        quotient follow. Numerator and denominator both have it. A weight is never below 2**-126, however small it
        should be. A soft cap makes no score's error larger and adds tanh's 5e-7 and five roundings of its result.
        """
        terms = np.abs(q) @ np.abs(k).T * self.scale * math.log2(math.e)
        terms = np.where(unseen, 0, terms).max(axis=1)
        scores = terms * gamma(self.dim + 3) + 2 * terms * UNIT
        if self.softcap:
            scores += np.minimum(terms, self.softcap * math.log2(math.e)) * (5e-7 + gamma(5))
        pages = -(-len(k) // PAGE)
        weight = np.log(2) * scores * 1.01 + EXP2 + pages * (np.log(2) * 4 * terms * UNIT + EXP2 + UNIT)
        relative = 2 * weight + 2 * gamma(len(k) + pages + 3)
        return np.asarray(relative[:, None] * (weights @ np.abs(v)) + len(k) * 2.0**-125 * np.abs(v).max())


def numbers(rng: np.random.Generator, layers: Layers, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values of some tokens."""
    q = rng.standard_normal((tokens, layers.heads * layers.dim)) * 2
    k, v = (rng.standard_normal((tokens, layers.kv_heads * layers.dim)) for _ in range(2))
    return q.astype(np.float32), k.astype(np.float32), v.astype(np.float32)


@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize("dim", [8, 16, 24, 64, 80])
@pytest.mark.parametrize("share", [1, 2, 3, 4, 7, 8])
def test_sequences_of_different_lengths_in_one_batch(kind: str, dim: int, share: int) -> None:
    rng, layers = np.random.default_rng(100 * dim + share), Layers(kind, 2 * share, 2, dim)
    lengths = [5, 1, FLOAT_ROWS + 1]
    for tokens in (lengths, [1, 1, 1], [3, 20, 2]):
        batch = [(i, *numbers(rng, layers, n)) for i, n in enumerate(tokens)]
        while len(layers.sequences) < len(batch):
            layers.open()
        for (sequence, queries, *_), got in zip(batch, layers.append(batch)):
            layers.check(sequence, queries, got)


@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize("length", [PAGE - 1, PAGE, PAGE + 1, 300])
def test_lengths_around_the_edges_of_pages(kind: str, length: int) -> None:
    """One pass over all tokens, and one more token after it."""
    rng, layers = np.random.default_rng(length), Layers(kind, 4, 2, 16)
    sequence = layers.open()
    for tokens in (length, 1):
        q, k, v = numbers(rng, layers, tokens)
        layers.check(sequence, q, layers.append([(sequence, q, k, v)])[0])


def test_a_context_in_pieces_is_the_context_at_once() -> None:
    """Each query goes over the same pages in the same order, whatever tile it lies in: bit for bit the same."""
    rng, layers = np.random.default_rng(12), Layers("f16", 6, 2, 24)
    q, k, v = numbers(rng, layers, 300)
    whole = layers.append([(layers.open(), q, k, v)])[0]
    pieces, start, sequence = [], 0, layers.open()
    for n in (1, 126, 1, 1, 100, 71):
        part = slice(start, start + n)
        pieces += layers.append([(sequence, q[part], k[part], v[part])], threads=2)
        start += n
    layers.check(sequence, q, np.concatenate(pieces))
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("kind", ["f16", "f32"])
def test_pages_of_a_closed_sequence_are_used_again(kind: str) -> None:
    """What the last owner left behind the new one's tokens does not show: large numbers at every position."""
    rng, layers = np.random.default_rng(13), Layers(kind, 2, 1, 24)
    old = layers.open()
    q, k, v = numbers(rng, layers, 2 * PAGE)
    layers.append([(old, q, k * 1000, v + 60000)])
    pages = set(layers.sequences[old].tables[0, :2])
    layers.sequences[old].close()
    new = layers.open()
    for n in (3, 1, PAGE + 1):
        q, k, v = numbers(rng, layers, n)
        layers.check(new, q, layers.append([(new, q, k, v)])[0])
    assert set(layers.sequences[new].tables[0, :2]) == pages


def test_layers_of_a_page_are_apart() -> None:
    rng, layers = np.random.default_rng(14), Layers("f16", 2, 2, 8, layers=3)
    sequence = layers.open()
    per_layer = [numbers(rng, layers, 20) for _ in range(3)]
    for layer, (q, k, v) in enumerate(per_layer):
        layers.sequences[sequence].length = 0
        layers.append([(sequence, q, k, v)], layer)
    for layer, (q, k, v) in enumerate(per_layer):  # the last token again: what it sees must be its own layer
        layers.sequences[sequence].length = 19
        layers.keys[sequence], layers.values[sequence] = (
            a[:19].astype(np.float16).astype(np.float64).reshape(19, 2, 8) for a in (k, v)
        )
        got = layers.append([(sequence, q[19:], k[19:], v[19:])], layer)[0]
        layers.check(sequence, q[19:], got)


@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize("window", [1, 7, 100, PAGE, PAGE + 1, 300])
@pytest.mark.parametrize("share, dim", [(1, 80), (3, 96), (8, 100), (7, 24)])
def test_windows(kind: str, window: int, share: int, dim: int) -> None:
    """Sequences of different lengths, past every window and its pages' edges; the pages before it are not touched."""
    rng, layers = np.random.default_rng(window), Layers(kind, 2 * share, 2, dim, window=window)
    for _ in range(3):
        layers.open()
    for threads, tokens in enumerate(([5, 1, 2 * PAGE + 3], [1, 1, 1], [PAGE + 9, 20, 2 * PAGE], [1, 1, 1]), 1):
        batch = [(i, *numbers(rng, layers, n)) for i, n in enumerate(tokens)]
        for (sequence, queries, *_), got in zip(batch, layers.append(batch, threads=1 + threads % 2)):
            layers.check(sequence, queries, got)
    longest = len(layers.keys[2])
    assert (layers.sequences[2].tables[0, : (longest + 1 - window - SLACK) // PAGE] == 0).all()


@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("softcap, with_sinks", [(5.0, False), (0.0, True), (5.0, True)])
def test_soft_caps_and_sinks(kind: str, window: int, softcap: float, with_sinks: bool) -> None:
    rng, dim = np.random.default_rng(18), 40
    sinks = np.array([3, -3, 0, 50, -50, 1], np.float32) if with_sinks else None
    layers = Layers(kind, 6, 2, dim, window=window, softcap=softcap, sinks=sinks)
    sequences = [layers.open() for _ in range(2)]
    for tokens in ([150, 7], [1, 1], [20, PAGE]):
        batch = [(i, *numbers(rng, layers, n)) for i, n in zip(sequences, tokens)]
        for (sequence, queries, *_), got in zip(batch, layers.append(batch, threads=2)):
            layers.check(sequence, queries, got)
    q, k, v = numbers(rng, layers, 5)  # and each of the three is seen
    results = []
    for changed in ({}, {"window": 99}, {"softcap": 6.0}, {"sinks": np.full(6, 2, np.float32)}):
        other = Layers(kind, 6, 2, dim, **{"window": window, "softcap": softcap, "sinks": sinks, **changed})
        sequence = other.open()
        other.append([(sequence, *numbers(np.random.default_rng(1), layers, 200))])
        results.append(other.append([(sequence, q, k, v)])[0])
    assert all(not np.array_equal(results[0], changed) for changed in results[1:])


def test_a_context_in_pieces_is_the_context_at_once_within_a_window() -> None:
    rng, sinks = np.random.default_rng(19), np.array([1, -1, 0, 2, 4, 3], np.float32)
    layers = Layers("f16", 6, 2, 24, window=60, softcap=20.0, sinks=sinks)
    q, k, v = numbers(rng, layers, 300)
    whole = layers.append([(layers.open(), q, k, v)])[0]
    pieces, start, sequence = [], 0, layers.open()
    for n in (1, 126, 1, 1, 100, 71):
        part = slice(start, start + n)
        pieces += layers.append([(sequence, q[part], k[part], v[part])], threads=2)
        start += n
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_scores_far_apart_and_all_alike() -> None:
    """One key that outweighs all others by far more than float32 can show, and keys that are all the same."""
    layers = Layers("f32", 1, 1, 16)
    q = np.full((200, 16), 30, np.float32)
    k, v = np.zeros((200, 16), np.float32), np.random.default_rng(15).standard_normal((200, 16)).astype(np.float32)
    for peak in (0, 77, 150):  # the peak moves with the first, in the middle of the first and on the second page
        k[:] = -30
        k[peak] = 30
        sequence = layers.open()
        got = layers.append([(sequence, q, k, v)])[0]
        np.testing.assert_allclose(
            got[peak:], np.tile(v[peak], (200 - peak, 1)), rtol=2 * gamma(205), atol=200 * 2**-120
        )
    k[:] = 1
    sequence = layers.open()
    layers.check(sequence, q, layers.append([(sequence, q, k, v)])[0])


def test_two_threads_give_the_same_bits() -> None:
    rng = np.random.default_rng(16)
    layers = Layers("f16", 8, 2, 64)
    batch = [numbers(rng, layers, n) for n in (70, 1, 30)]
    results = []
    for threads in (1, 2, 64):
        sequences = [layers.open() for _ in batch]
        results.append(np.concatenate(layers.append([(s, *b) for s, b in zip(sequences, batch)], threads=threads)))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize("window", [0, 1, 7, 100, PAGE + 1])
@pytest.mark.parametrize("share, dim", [(1, 32), (3, 20)])
def test_whole_texts(kind: str, window: int, share: int, dim: int) -> None:
    """Tokens see those behind them, to the end of their text or as far as before them; nothing of the others' texts."""
    rng, layers = np.random.default_rng(window), Layers(kind, 2 * share, 2, dim, window=window, causal=False)
    batch = [(layers.open(), *numbers(rng, layers, n)) for n in (1, 5, PAGE, 2 * PAGE + 3, PAGE - 1, 300)]
    together = layers.append(batch, threads=2)
    for (sequence, queries, *_), got in zip(batch, together):
        layers.check(sequence, queries, got)
    np.testing.assert_array_equal(layers.append([(layers.open(), *batch[3][1:])])[0], together[3])
