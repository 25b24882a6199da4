"""The best choice of one option for each of many items under a budget: a multiple-choice knapsack, solved exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_STATES = 1 << 15
"""Partial solutions that are kept; of more, those with the best bounds go on, and the result is not proven best."""

HALVINGS = 200
"""Steps in which the price of a bit is found; the bounds hold for any price, a good one only leaves fewer states."""


class Option(NamedTuple):
    """One choice for an item: what it costs, a whole number, and what is lost by it."""

    cost: int
    loss: float


def solve(items: Sequence[Sequence[Option]], budget: int) -> list[int] | None:
    """Choose an option for each item so that the costs' sum is within the budget and the losses' sum is least.

    A price for each unit of cost makes the items independent; the right price gives a lower bound of the losses and,
    with what is left of the budget spent greedily, an upper one. Between the two, partial solutions are gone through
    item by item; one that costs more and loses more than another is dropped, and one whose bound lies above the upper.

    Args:
        items: The options of each item, at least one, in any order.
        budget: The largest sum of costs.

    Returns:
        The number of each item's option, or None where even the cheapest options are too dear. Of equally good
        choices always the same one.

    Source: H. Kellerer, U. Pferschy, D. Pisinger, Knapsack Problems (2004), chapter 11.
    """
    useful = [_useful(options) for options in items]
    costs = [np.array([items[i][k].cost for k in kept], np.int64) for i, kept in enumerate(useful)]
    losses = [np.array([items[i][k].loss for k in kept], np.float64) for i, kept in enumerate(useful)]
    if sum(int(cost[0]) for cost in costs) > budget:
        return None
    price = _price(costs, losses, budget)
    chosen = _spend(costs, losses, _at(costs, losses, price), budget)
    exact = _search(costs, losses, budget, price, sum(float(loss[k]) for loss, k in zip(losses, chosen)))
    return [kept[k] for kept, k in zip(useful, exact or chosen, strict=True)]


def _useful(options: Sequence[Option]) -> list[int]:
    """Numbers of the options that none is both cheaper and better than, from the cheapest to the best."""
    kept: list[int] = []
    for number in sorted(range(len(options)), key=lambda k: options[k]):
        if not kept or options[number].loss < options[kept[-1]].loss:
            kept.append(number)
    return kept


def _at(costs: list[NDArray[np.int64]], losses: list[NDArray[np.float64]], price: float) -> list[int]:
    """The best option of each item at a price; of equals the cheapest."""
    return [int(np.argmin(loss + price * cost)) for cost, loss in zip(costs, losses)]


def _price(costs: list[NDArray[np.int64]], losses: list[NDArray[np.float64]], budget: int) -> float:
    """The least price, about, at which the best options are within the budget."""

    def fits(price: float) -> bool:
        return sum(int(cost[k]) for cost, k in zip(costs, _at(costs, losses, price))) <= budget

    if fits(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not fits(high):
        low, high = high, high * 16
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _spend(
    costs: list[NDArray[np.int64]], losses: list[NDArray[np.float64]], chosen: list[int], budget: int
) -> list[int]:
    """Improve a choice by the steps that gain most for their cost, as long as one is within the budget."""
    chosen = list(chosen)
    left = budget - sum(int(cost[k]) for cost, k in zip(costs, chosen))
    while True:
        steps = [
            ((loss[now] - loss[k]) / (cost[k] - cost[now]), item, k)
            for item, (cost, loss, now) in enumerate(zip(costs, losses, chosen))
            for k in range(now + 1, len(cost))
            if cost[k] - cost[now] <= left
        ]
        if not steps:
            return chosen
        _, item, k = max(steps, key=lambda step: step[0])
        left -= int(costs[item][k] - costs[item][chosen[item]])
        chosen[item] = k


def _search(
    costs: list[NDArray[np.int64]], losses: list[NDArray[np.float64]], budget: int, price: float, known: float
) -> list[int] | None:
    """The best choice if it loses no more than `known`; None where too many partial solutions had to be dropped."""
    bound = [float((loss + price * cost).min()) for cost, loss in zip(costs, losses)]
    rest, cheapest = float(sum(bound)), sum(int(cost[0]) for cost in costs)
    limit = known + price * budget
    limit += 1e-12 * abs(limit)  # sums round
    spent, lost = np.zeros(1, np.int64), np.zeros(1, np.float64)
    trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for cost, loss, best in zip(costs, losses, bound):
        rest -= best
        cheapest -= int(cost[0])
        new_spent = (spent[:, None] + cost).reshape(-1)
        new_lost = (lost[:, None] + loss).reshape(-1)
        bounds = new_lost + price * new_spent + rest
        places = np.flatnonzero((new_spent + cheapest <= budget) & (bounds <= limit))
        if len(places) > MOST_STATES:
            places = np.sort(places[np.argsort(bounds[places], kind="stable")[:MOST_STATES]])
        places = places[np.lexsort((new_lost[places], new_spent[places]))]
        least = np.minimum.accumulate(new_lost[places]) if len(places) else new_lost[places]
        first = np.ones(len(places), bool)
        first[1:] = least[1:] < least[:-1]
        places = places[first]
        if not len(places):
            return None
        trail.append((places // len(cost), places % len(cost)))
        spent, lost = new_spent[places], new_lost[places]
    state = int(np.argmin(lost))
    chosen: list[int] = []
    for parents, options in reversed(trail):
        chosen.append(int(options[state]))
        state = int(parents[state])
    return chosen[::-1]
