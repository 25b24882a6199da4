"""Which pages of a sequence are needed: of keys those up to its last token, from the first one that a window still
reaches; of states the last, and some before it."""

from __future__ import annotations

from collections.abc import Sequence

from ggq.engine.kv.pool import PagePool

SLACK = 128
"""Positions that a window keeps beyond what it sees, so that a sequence can be cut back by as many tokens: rejected
drafts, or a chat whose template changes the end of the last answer."""


def page_count(length: int, positions: int) -> int:
    """Pages that hold `length` tokens, `positions` to a page."""
    return -(-length // positions)


def first_page(length: int, window: int, positions: int) -> int:
    """The first page that a sequence of `length` tokens keeps; those before it are never read again.

    The next token stands at position `length` and sees the last `window` positions, its own included. The kernels
    read no page before that of position `length - window + 1`; the table holds 0 for pages that were freed.

    Args:
        length: Tokens that the sequence holds.
        window: How many positions a token sees; 0 for all.
        positions: Positions of a page.
    """
    return max(0, length - window + 1 - SLACK) // positions if window else 0


def reachable(length: int, window: int, first: int, positions: int) -> bool:
    """Whether a sequence can be cut back to `length` tokens and go on from there, with pages from `first` on."""
    seen_from = max(0, length - window + 1) if window else 0
    return length == 0 or seen_from // positions >= first


SPACING = 128
"""Tokens, computed one at a time, after which a state is kept; and where the end of a prompt is cut."""
MOST_STATES = 4
"""Earlier states that a sequence keeps at most: of a model of 0.8B parameters with delta rules each takes 20 MB."""


def worth_keeping(pool: PagePool, size: int) -> bool:
    """Whether a state of so many bytes is kept: only while half of the pool is free, since it may never be used."""
    return 2 * (pool.room - size) >= pool.limit


def border(length: int, tokens: int) -> int:
    """How many of the last tokens of a prompt to compute first, so that a state is kept shortly before its end: a
    conversation that goes on often has another beginning of the last answer, such as without what was thought.

    Args:
        length: Tokens before them.
        tokens: How many there are.

    Returns:
        Those up to the last multiple of SPACING; 0 where there is none inside.
    """
    end = length + tokens
    return max(0, end - end % SPACING - length) if end % SPACING else 0


def least_useful(lengths: Sequence[int], length: int) -> int | None:
    """Which of too many earlier states to drop: the one whose neighbours are nearest to each other, measured by how far
    back they are, so that there are more of late ones. The last one stays.

    Args:
        lengths: Tokens that each covers, ascending.
        length: Of the sequence.
    """
    if len(lengths) <= MOST_STATES:
        return None
    before = [0, *lengths]
    gaps = [(lengths[i + 1] - before[i]) / (length - before[i]) for i in range(len(lengths) - 1)]
    return gaps.index(min(gaps))
