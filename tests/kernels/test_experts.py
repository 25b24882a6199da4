"""Choosing experts, gathering the rows of each and adding their results, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.tape.ops import Route
from ggq.tape.program import Buffer
from ggq_kernels.row.operands import PIECE
from ggq_kernels.run import calls
from tests.kit.kernel_support import Floats, address, count, run
from tests.kit.row_oracle import meaning

pytestmark = pytest.mark.kernels


def shares(
    logits: np.ndarray, chosen: int, renormalised: bool, scale: float = 1.0, gate: np.ndarray | None = None
) -> np.ndarray:
    experts = logits.shape[1]
    columns = -(-(experts + 1) // 16) * 16
    source, tokens = Floats(logits, columns), count(len(logits))
    out = Floats(np.zeros((len(logits), experts + (gate is not None)), np.float32), columns)
    beside = None if gate is None else Floats(gate, 16)
    rows = beside.rows if beside else None
    run(calls.route_row(address(tokens), source.rows, rows, out.rows, chosen, renormalised, scale), threads=2)
    return out.values[: len(logits), : experts + (gate is not None)].copy()


@pytest.mark.parametrize("renormalised", [False, True])
@pytest.mark.parametrize(("experts", "chosen"), [(1, 1), (5, 2), (16, 4), (33, 33), (128, 8)])
def test_shares_are_those_of_float64(experts: int, chosen: int, renormalised: bool) -> None:
    """Sums of exponentials, each within 2e-7 of itself, and three roundings."""
    random = np.random.default_rng(experts)
    logits = (random.standard_normal((9, experts)) * 4).astype(np.float32)
    gate = (random.standard_normal((9, 1)) * 4).astype(np.float32)
    a, b, c = Buffer("logits", experts), Buffer("gate", 1), Buffer("out", experts + 1)
    want = meaning(Route(a, b, c, chosen, renormalised, 0.7), c, {a: logits, b: gate}, {})
    found = shares(logits, chosen, renormalised, 0.7, gate)
    np.testing.assert_allclose(found, want, rtol=3e-6, atol=1e-12)
    assert ((found != 0).sum(axis=1) == chosen + 1).all()


def test_of_equal_logits_the_first_are_chosen() -> None:
    logits = np.float32([[1, 3, 2, 3, 2, 2], [0, 0, 0, 0, 0, 0]])
    found = shares(logits, 3, renormalised=True)
    assert [np.flatnonzero(row).tolist() for row in found] == [[1, 2, 3], [0, 1, 2]]
    np.testing.assert_allclose(found[1, :3], 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 4, 7])
def test_a_row_with_a_number_that_is_none_is_noticed(odd: float, place: int) -> None:
    logits = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    logits[1, place] = odd
    found = shares(logits, 2, renormalised=True)
    assert np.isnan(found[1]).any() and np.isfinite(found[[0, 2]]).all()
    assert np.isnan(shares(np.full((1, 8), np.nan, np.float32), 2, renormalised=False)).any()


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_gathered_for_each_expert_and_results_added(threads: int) -> None:
    """An expert that no row goes through costs nothing and changes nothing."""
    random, rows, experts, width = np.random.default_rng(2), 13, 5, PIECE + 40
    given = random.random((rows, experts)).astype(np.float32) * (random.random((rows, experts)) < 0.4)
    given[:, 3] = 0
    columns = -(-width // 16) * 16
    part, tokens = Floats(given, 16), count(rows)
    total = Floats(np.full((rows, width), 7, np.float32), columns)
    lists, counts = np.full((experts, rows), -1, np.int64), np.full(experts, -1, np.int64)
    where = int(lists.ctypes.data), 8 * rows
    run(calls.assign_row(address(tokens), part.rows, total.rows, *where, address(counts)), threads=threads)
    assert counts.tolist() == (given != 0).sum(axis=0).tolist() and counts[3] == 0
    assert (total.values[:rows, :width] == 0).all()
    want = np.zeros((rows, width))
    for expert in range(experts):
        mine = np.flatnonzero(given[:, expert])
        assert lists[expert, : len(mine)].tolist() == mine.tolist()
        made = random.standard_normal((rows, width)).astype(np.float32)
        want[mine] += made[: len(mine)] * given[mine, expert][:, None].astype(np.float64)
        source, at = Floats(made, columns), address(counts) + 8 * expert
        run(
            calls.share_row(at, source.rows, part.rows, expert, where[0] + expert * 8 * rows, total.rows),
            threads=threads,
        )
    np.testing.assert_allclose(total.values[:rows, :width], want, rtol=1e-5, atol=1e-6)


def scored(op: Route, logits: np.ndarray, weights: dict[str, np.ndarray], gate: np.ndarray | None = None) -> np.ndarray:
    """What the kernel makes of an operation."""
    width, columns = op.out.width, -(-op.out.width // 16) * 16
    source, tokens = Floats(logits, columns), count(len(logits))
    out, beside = Floats(np.zeros((len(logits), width), np.float32), columns), None
    if gate is not None:
        beside = Floats(gate, 16)
    kept = {role: np.pad(each, (0, columns - len(each))).astype(np.float32) for role, each in weights.items()}
    correction, factors = (0 if role is None else address(kept[role]) for role in (op.correction, op.factors))
    row = calls.scored_row(
        address(tokens),
        source.rows,
        beside.rows if beside else None,
        out.rows,
        chosen=op.chosen,
        renormalised=op.renormalised,
        scale=op.scale,
        sigmoid=op.score == "sigmoid",
        correction=correction,
        groups=(op.groups, op.chosen_groups, op.best),
        least=op.least,
        factors=factors,
    )
    run(row, threads=2)
    return out.values[: len(logits), :width].copy()


@pytest.mark.parametrize("renormalised", [False, True])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("experts", "chosen", "groups", "more"),
    [
        (5, 2, (1, 1, 1), {}),
        (5, 2, (1, 1, 1), {"correction": "correction", "least": 0.1}),
        (12, 3, (4, 2, 2), {"correction": "correction"}),
        (12, 4, (3, 2, 1), {"factors": "factors"}),
        (256, 8, (8, 4, 2), {"correction": "correction", "factors": "factors"}),
    ],
)
def test_scores_choose_as_in_float64(
    experts: int, chosen: int, groups: tuple[int, int, int], more: dict[str, object], score: str, renormalised: bool
) -> None:
    """Scores, each within 3e-7 of itself, a sum and three roundings."""
    random = np.random.default_rng(experts + chosen)
    logits = (random.standard_normal((9, experts)) * 2).astype(np.float32)
    weights = {name: random.standard_normal(experts).astype(np.float32) for name in ("correction", "factors")}
    gate = random.standard_normal((9, 1)).astype(np.float32)
    a, b, c = Buffer("logits", experts), Buffer("gate", 1), Buffer("out", experts + 1)
    sizes = dict(zip(("groups", "chosen_groups", "best"), groups, strict=True))
    op = Route(a, b, c, chosen, renormalised, 1.3, score, **sizes, **more)  # type: ignore[arg-type]
    want = meaning(op, c, {a: logits, b: gate}, weights)
    found = scored(op, logits, weights, gate)
    np.testing.assert_allclose(found, want, rtol=5e-6, atol=1e-12)
    assert ((found != 0).sum(axis=1) == chosen + 1).all()


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_noticed(odd: float, score: str) -> None:
    logits = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    logits[1, 4] = odd
    op = Route(Buffer("x", 8), None, Buffer("y", 8), 2, True, 1.0, score, groups=2)
    found = scored(op, logits, {})
    assert np.isnan(found[1]).any() and np.isfinite(found[[0, 2]]).all()
