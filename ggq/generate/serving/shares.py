"""Who gets how many tokens of a step, and who begins next: fair between clients, and the same for all of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from ggq.generate.serving.pace import BESIDE

BUDGET = 512
"""Tokens of a step."""


class Waiting(Protocol):
    """What is asked of a request here."""

    client: str
    last_step: int
    sequence: int | None

    @property
    def pending(self) -> int:
        """Tokens wanted and not computed."""
        ...


R = TypeVar("R", bound=Waiting)


def hand_out(ready: Sequence[Waiting], beside: int = BESIDE) -> list[int]:
    """The tokens that each request gets of a step's budget.

    Those that want a single token come first; requests for which the budget leaves nothing are first in the next step.
    Prompts share what is left, at most `beside` tokens where somebody wants a single one, so that it does not wait
    long. Clients get even shares of that. Of one client the oldest prompt gets half, so that it ends, and the shortest
    ones the rest.
    """
    shares = [0] * len(ready)
    single = [i for i, request in enumerate(ready) if request.pending == 1]
    prompts = [i for i, request in enumerate(ready) if request.pending > 1]
    most = max(BUDGET - len(single), BUDGET // 2)
    left = min(beside, most, sum(ready[i].pending for i in prompts)) if single else BUDGET
    for i in sorted(single, key=lambda i: ready[i].last_step)[: BUDGET - left]:
        shares[i] = 1
    clients: dict[str, list[int]] = {}
    for i in prompts:
        clients.setdefault(ready[i].client, []).append(i)
    wanted = {client: sum(ready[i].pending for i in own) for client, own in clients.items()}
    for others, client in zip(range(len(clients), 0, -1), sorted(clients, key=lambda client: wanted[client])):
        part = min(wanted[client], left // others)
        left -= part
        _share(ready, clients[client], part, shares)
    return shares


def _share(ready: Sequence[Waiting], own: Sequence[int], part: int, shares: list[int]) -> None:
    """Share a client's part: half for its oldest prompt, the rest for the shortest first."""
    shares[own[0]] = min(ready[own[0]].pending, -(-part // 2))
    part -= shares[own[0]]
    for i in sorted(own, key=lambda i: ready[i].pending):
        more = min(ready[i].pending - shares[i], part)
        shares[i] += more
        part -= more


def in_turn(ready: Sequence[R]) -> list[R]:
    """Requests in the order in which they get memory: those that run, then the waiting ones, of which the client comes
    first that has fewest before it."""
    running = [request for request in ready if request.sequence is not None]
    if len(running) == len(ready):
        return running
    counts: dict[str, int] = {}
    for request in running:
        counts[request.client] = counts.get(request.client, 0) + 1
    turns: list[tuple[int, R]] = []
    for request in ready:
        if request.sequence is None:
            turns.append((counts.get(request.client, 0), request))
            counts[request.client] = turns[-1][0] + 1
    return running + [request for _, request in sorted(turns, key=lambda turn: turn[0])]
