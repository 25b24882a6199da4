"""Rows of experts that are like their neighbours: made of theirs, all at once, instead of operation by operation.

The matrices of a stack lie one behind the other, so the rows of its experts differ by the same from one to the next: in
addresses, and in the number of the expert. Lowering writes the first two experts of a stretch and its last one; what is
between is made here, and the last one shows that it is right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.engine.emit import Context, Step

Words = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tape:
    """What a team runs.

    Args:
        rows: int64 (rows, 32), C-contiguous: the words that the kernels read.
        sources: The operation of the lowered program that each row was made of.
        experts: The expert of each row; -1 for none.
    """

    rows: Words
    sources: Words
    experts: Words


class Block(NamedTuple):
    """Consecutive rows of one expert."""

    expert: int
    start: int
    stop: int


def written(rows: Words, shown: Sequence[Step]) -> Tape:
    """The tape of what lowering has written, a row for each step."""
    numbers = [_expert(step) for step in shown]
    return Tape(rows, np.arange(len(rows)), np.array(numbers, np.int64))


def filled(tape: Tape, shown: Sequence[Step], at: Context) -> Tape | None:
    """The tape with the rows of the experts that were left out; None where those that are there do not tell them.

    Args:
        tape: From `written`, with the addresses of kernels.
        shown: What its rows do.
        at: Has the tables that rows of products point to, and keeps those that are made.
    """
    blocks, start = list[Block](), 0
    for number, group in groupby(map(_expert, shown)):
        blocks.append(Block(number, start, start := start + len(list(group))))
    if not any(_jump(*pair) for pair in zip(blocks, blocks[1:])):
        return tape
    pieces: list[tuple[Words, Words, Words]] = []
    for place, block in enumerate(blocks):
        if place >= 2 and _jump(blocks[place - 1], block):
            made = _between(tape.rows, blocks[place - 2 : place + 1], at)
            if made is None:
                return None
            count, length = made.shape[:2]
            before = blocks[place - 1]
            numbers = np.repeat(np.arange(before.expert + 1, block.expert), length)
            pieces.append(
                (made.reshape(-1, made.shape[2]), np.tile(tape.sources[before.start : before.stop], count), numbers)
            )
        own = slice(block.start, block.stop)
        pieces.append((tape.rows[own], tape.sources[own], tape.experts[own]))
    rows, origins, experts = (np.concatenate(each) for each in zip(*pieces, strict=True))
    return Tape(np.ascontiguousarray(rows), origins, experts)


def steps(tape: Tape, shown: Sequence[Step]) -> list[Step]:
    """What each row of a tape does."""
    found = []
    for source, expert in zip(tape.sources.tolist(), tape.experts.tolist(), strict=True):
        step = shown[source]
        if expert != _expert(step):
            label = re.sub(r"\bexperts\.[0-9]+\.", f"experts.{expert}.", step.label)
            step = replace(step, label=label, rows=f"{step.rows.partition('.')[0]}.{expert}")
        found.append(step)
    return found


def _expert(step: Step) -> int:
    return int(step.rows.partition(".")[2] or -1)


def _jump(before: Block, block: Block) -> bool:
    """Whether experts were left out between two blocks."""
    return before.expert >= 0 and block.expert > before.expert + 1


def _between(rows: Words, blocks: Sequence[Block], at: Context) -> Words | None:
    """The rows between the second and the third block, int64 (experts, rows, words); None where these two and the first
    do not differ by the same from one expert to the next."""
    first, second, last = (rows[block.start : block.stop] for block in blocks)
    if not first.shape == second.shape == last.shape or blocks[1].expert != blocks[0].expert + 1:
        return None
    gap, word = blocks[2].expert - blocks[1].expert, at.calls.TABLE // 8
    far, each = np.arange(1, gap + 1)[:, None, None], second - first
    pointing = [i for i in range(len(second)) if int(second[i, word]) in at.tables]
    each[pointing, word] = 0
    made: Words = second + far * each
    for i in pointing:
        tables = [at.tables.get(int(part[i, word])) for part in (first, second, last)]
        one, two, end = tables
        if one is None or two is None or end is None or not one.shape == two.shape == end.shape:
            return None
        table = np.ascontiguousarray(two + far * (two - one))
        if not np.array_equal(table[-1], end):
            return None
        at.kept.append(table)
        made[:, i, word] = table.ctypes.data + table.strides[0] * np.arange(gap)
        made[-1, i, word] = last[i, word]
    return made[:-1] if np.array_equal(made[-1], last) else None
