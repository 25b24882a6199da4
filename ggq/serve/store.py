"""Responses that are kept for the next turn, the oldest of them forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

MOST, MOST_BYTES = 1000, 64 << 20
"""Responses that are kept at most, and how many bytes of them."""


class Store:
    """Keeps responses with the messages behind them, in memory; a client finds only its own."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[dict[str, Any], list[dict[str, Any]], int]] = OrderedDict()
        self._bytes = 0

    def put(self, client: str, response: dict[str, Any], items: list[dict[str, Any]]) -> None:
        """Keep a response.

        Args:
            client: Whose it is.
            response: With its "id".
            items: All of the conversation up to its end, as input items.
        """
        size = len(repr(response)) + len(repr(items))
        self._kept[client, response["id"]] = response, items, size
        self._bytes += size
        while len(self._kept) > MOST or (self._bytes > MOST_BYTES and len(self._kept) > 1):
            self._bytes -= self._kept.popitem(last=False)[1][2]

    def get(self, client: str, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """A response and the conversation up to its end."""
        found = self._kept.get((client, name))
        return None if found is None else found[:2]

    def delete(self, client: str, name: str) -> bool:
        """Forget a response; False where there is none."""
        found = self._kept.pop((client, name), None)
        if found is None:
            return False
        self._bytes -= found[2]
        return True
