"""Where buffers lie: live ranges become addresses, and buffers of one form take turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from ggq.engine.lower.ops import Rounded
from ggq.tape.program import Buffer, Program

Form = tuple[object, ...]
"""Buffers of one form may take the same memory: rows, width and padded width, or the form of a rounded one."""


@dataclass(frozen=True)
class Value:
    """What a buffer holds from where it is filled until it is read last.

    Args:
        buffer: The buffer.
        first, last: Operations that write it and read it last.
    """

    buffer: Buffer
    first: int
    last: int


def values(program: Program) -> list[Value]:
    """What the buffers of a program hold, by the place where it is filled.

    What is read before anything fills it is there from the beginning, and outputs are to the end.
    """
    end, filled, last = len(program.ops), dict[Buffer, int](), dict[Buffer, int]()
    found: list[Value] = []
    for place, op in enumerate(program.ops):
        reads, writes = set(op.reads()), set(op.writes())
        for buffer in op.reads():
            if buffer not in filled:
                filled[buffer] = -1
            last[buffer] = place
        for buffer in dict.fromkeys(op.writes()):
            if buffer in reads:
                continue
            if buffer in filled:
                found.append(Value(buffer, filled[buffer], last[buffer]))
            filled[buffer] = last[buffer] = place
        for buffer in writes & reads:
            last[buffer] = place
    kept = set(program.outputs.values())
    found += [Value(buffer, first, end if buffer in kept else last[buffer]) for buffer, first in filled.items()]
    return sorted(found, key=lambda value: value.first)


LEAST_BYTES, MOST_BYTES, TIMES_FILE = 64 << 20, 512 << 20, 2
"""Memory of the buffers of a batch: so many times the file, within these bounds."""


def batch_rows(program: Program, most: int, file_bytes: int) -> int:
    """How many tokens are computed together, so that the buffers stay within bounds however wide a file says they are.

    Args:
        program: Its buffers that are live at one time count, as floats and rounded: six bytes an element. Those of an
            expert count in full, as every row may go through it.
        most: The most that anybody asks for.
        file_bytes: Of the model's file.
    """
    limit = min(MOST_BYTES, max(LEAST_BYTES, TIMES_FILE * file_bytes))
    distinct = {buffer for op in program.ops for buffer in op.writes()}
    if 6 * most * sum(buffer.width for buffer in distinct if rows_of(buffer) == "tokens") <= limit:
        return most  # also if all were live at once
    changes = [0] * (len(program.ops) + 2)
    for value in values(program):
        if rows_of(value.buffer) == "tokens":
            changes[max(value.first, 0)] += value.buffer.width
            changes[value.last + 1] -= value.buffer.width
    row = 6 * max(accumulate(changes))
    return max(1, min(most, limit // max(row, 1)))


def form_of(buffer: Buffer, width: int) -> Form:
    """What buffers must have in common to take the same memory, the one after the other. Those of experts share with
    each other alone, so that all experts of a layer find theirs in the same places."""
    rows = rows_of(buffer) + ("." if "." in buffer.rows else "")
    if isinstance(buffer, Rounded):
        return rows, buffer.columns, buffer.group, buffer.halves
    return rows, buffer.width, width


def rows_of(buffer: Buffer) -> str:
    """What a buffer has at most a row for: "tokens" or "wanted", also where it has those that go through an expert."""
    return buffer.rows.partition(".")[0]


def plan(program: Program, form: Callable[[Buffer], Form]) -> list[dict[Buffer, int]]:
    """Which memory each operation finds its buffers in.

    Args:
        program: Lowered.
        form: Of a buffer; only buffers of equal form share.

    Returns:
        For each operation the number of the memory of each buffer that it touches; equal numbers never belong to
        buffers that hold something at the same time, nor to buffers of different forms.
    """
    places: list[dict[Buffer, int]] = [{} for _ in program.ops]
    touched = [set(op.buffers()) for op in program.ops]
    free: dict[Form, list[int]] = {}
    live: list[tuple[Value, int]] = []
    count = 0
    for value in values(program):
        for other, number in [each for each in live if each[0].last < value.first]:
            free.setdefault(form(other.buffer), []).append(number)
            live.remove((other, number))
        numbers = free.setdefault(form(value.buffer), [])
        if numbers:
            number = min(numbers)  # the same one for each expert
            numbers.remove(number)
        else:
            number, count = count, count + 1
        live.append((value, number))
        for place in range(max(value.first, 0), min(value.last, len(places) - 1) + 1):
            if value.buffer in touched[place]:
                places[place][value.buffer] = number
    return places
