"""Short convolutions: runs of several sequences, their states, gates and activations."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.tape.buffers import Buffer
from ggq.tape.caches import StateSpec
from ggq.tape.ops import ShortConv
from ggq.tape.reference import StateCache
from ggq_kernels.run import calls
from tests.kit.kernel_support import UNIT, UNTOUCHED, Floats, address, count, gamma, output, run
from tests.kit.row_oracle import meaning

pytestmark = pytest.mark.kernels


class Conv:
    """A convolution with random weights, computed by the kernel run by run.

    Args:
        width, reach: Sizes.
        gates: Whether there are gates.
        activation: "none" or "silu".
    """

    def __init__(self, width: int, reach: int, gates: bool = True, activation: str = "none") -> None:
        rng = np.random.default_rng(width + reach)
        self.width, self.reach, self.activation, self.gates = width, reach, activation, gates
        self.taps, self.bias = rng.standard_normal(reach * width), rng.standard_normal(width)
        self.taps, self.bias = self.taps.astype(np.float32), self.bias.astype(np.float32)
        names = ("source", "before", "after")
        self.buffers = [Buffer(name, width) for name in names]
        self.wide = -(-width // 16) * 16

    def op(self, out: Buffer) -> ShortConv:
        source, *gates = self.buffers
        pair = gates if self.gates else [None, None]
        return ShortConv(0, source, out, "taps", self.reach, *pair, "bias", self.activation)

    def expected(self, values: list[np.ndarray]) -> np.ndarray:
        out = Buffer("out", self.width)
        given = dict(zip(self.buffers, values))
        cache = StateCache(StateSpec((self.reach - 1, self.width)))
        return meaning(self.op(out), out, given, {"taps": self.taps, "bias": self.bias}, cache=cache)

    def state(self) -> np.ndarray:
        return np.full(max(1, (self.reach - 1) * self.wide) + 16, np.nan, np.float32)

    def compute(
        self, runs: list[tuple[list[np.ndarray], np.ndarray | None, np.ndarray]], threads: int = 2
    ) -> np.ndarray:
        """The results of runs, each of values, a state or None, and where the state goes."""
        offset = 16 * 4  # another state lies before it
        whole = [np.concatenate([values[i] for values, *_ in runs]) for i in range(3)]
        buffers, out, tokens = [Floats(each) for each in whole], output(len(whole[0]), self.width), count(len(whole[0]))
        words, first = np.zeros((len(runs), 4), np.int64), 0
        for i, (values, before, after) in enumerate(runs):
            words[i] = first, len(values[0]), 0 if before is None else address(before), address(after)
            first += len(values[0])
        taps, bias = np.pad(self.taps, (0, 128)), np.pad(self.bias, (0, 128))
        gates = [each.rows for each in buffers[1:]] if self.gates else [None, None]
        number = count(len(runs))
        where = calls.StateRuns(address(number), address(words), offset)
        at = address(tokens), where, buffers[0].rows, out.rows, address(taps), self.reach
        run(calls.conv_row(*at, *gates, address(bias), self.activation), threads=threads)
        assert (out.whole[: len(whole[0]), self.width : self.wide] == 0).all()
        assert (out.whole[: len(whole[0]), self.wide :] == UNTOUCHED).all()
        return out.values.copy()

    def allowed(self, values: list[np.ndarray]) -> float:
        """Products of gates, `reach` fused sums and the bias, the gate behind; SiLU has a slope of at most 1.1."""
        source, before, after = (float(np.abs(each).max()) for each in values)
        size = self.reach * float(np.abs(self.taps).max()) * source * (before if self.gates else 1) + 4
        return 1.1 * gamma(self.reach + 4) * size * (after if self.gates else 1) + 8 * UNIT * size


def values(rng: np.random.Generator, tokens: int, width: int) -> list[np.ndarray]:
    return [rng.standard_normal((tokens, width)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("activation, gates", [("none", True), ("silu", False)])
@pytest.mark.parametrize("width, reach", [(7, 3), (16, 4), (300, 4), (40, 1), (24, 2)])
def test_a_convolution_is_the_operations(width: int, reach: int, activation: str, gates: bool) -> None:
    conv = Conv(width, reach, gates, activation)
    given = values(np.random.default_rng(1), 9, width)
    found = conv.compute([(given, None, conv.state())])
    assert np.abs(found - conv.expected(given)).max() <= conv.allowed(given)


@pytest.mark.parametrize("width, reach", [(7, 3), (140, 4), (24, 2)])
def test_runs_beside_each_other_and_one_after_the_other_give_the_same_bits(width: int, reach: int) -> None:
    """In place or into another state, whatever is computed beside it."""
    conv, rng = Conv(width, reach), np.random.default_rng(2)
    one, other = values(rng, 11, width), values(rng, 6, width)
    whole = [conv.compute([(each, None, conv.state())]) for each in (one, other)]
    states = [conv.state(), conv.state()]
    part = [each[:2] for each in one], [each[:5] for each in other]
    first = conv.compute([(part[0], None, states[0]), (part[1], None, states[1])])
    third, fourth = conv.state(), [each[5:] for each in other]
    more = conv.compute([([each[2:3] for each in one], states[0], states[0]), (fourth, states[1], third)], threads=1)
    last = conv.compute([([each[3:] for each in one], states[0], third)])
    np.testing.assert_array_equal(np.concatenate([first[:2], more[:1], last]), whole[0])
    np.testing.assert_array_equal(np.concatenate([first[2:], more[1:]]), whole[1])


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_for_as_long_as_it_is_seen(place: int, poison: float) -> None:
    conv = Conv(20, 3, True, "silu")
    given = values(np.random.default_rng(3), 8, 20)
    clean = conv.compute([(given, None, conv.state())])
    given[place][2, 17] = poison
    found = conv.compute([(given, None, conv.state())])
    seen = [2] if place == 2 else [2, 3, 4]
    assert not np.isfinite(found[seen, 17]).any()
    found[seen, 17] = clean[seen, 17]
    np.testing.assert_array_equal(found, clean)


def test_padding_between_taps_is_no_input() -> None:
    """16 channels are read where fewer are left: what lies behind them meets zeros."""
    conv = Conv(7, 3)
    given = values(np.random.default_rng(4), 3, 7)
    state = conv.state()
    conv.compute([(given, None, state)])
    kept = state[16 : 16 + 2 * conv.wide].reshape(2, conv.wide)
    assert (kept[:, 7:] == 0).all()
    np.testing.assert_array_equal(kept[:, :7], (given[0] * given[1])[1:])
