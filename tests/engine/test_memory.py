"""Memory of buffers: whoever shares it never holds something at the same time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.engine.memory import LEAST_BYTES, MOST_BYTES, batch_rows, plan, values
from ggq.tape.ops import Add, Embed, Norm, Operation, Select
from ggq.tape.program import Buffer, Inputs, Program

NAMES = [Buffer(f"b{i}", 16 if i % 3 else 32) for i in range(7)]


def program(ops: list[Operation], out: Buffer) -> Program:
    return Program(tuple(ops), Inputs(8, 8), {"logits": out})


def form(buffer: Buffer) -> tuple[object, ...]:
    return buffer.rows, buffer.width


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Operations on buffers of two widths; some read what nobody filled before."""
    ops: list[Operation] = []
    for _ in range(draw(st.integers(1, 12))):
        a = draw(st.sampled_from(NAMES))
        b = draw(st.sampled_from([each for each in NAMES if each.width == a.width]))
        ops.append(Add(a, b) if draw(st.booleans()) else Norm(a, "n", b, 1e-5))
    return program(ops, draw(st.sampled_from(NAMES)))


def run(whole: Program, places: list[dict[Buffer, int]] | None) -> np.ndarray:
    """What a program computes where buffers lie in memories, or each in its own."""
    memory: dict[object, np.ndarray] = {}

    def key(i: int, buffer: Buffer) -> object:
        return buffer if places is None else places[i][buffer]

    def first(buffer: Buffer) -> np.ndarray:
        return np.arange(buffer.width, dtype=np.float64) + 7 * NAMES.index(buffer)

    seen: set[Buffer] = set()
    for i, op in enumerate(whole.ops):
        for buffer in op.reads():
            if buffer not in seen:  # filled from outside
                memory[key(i, buffer)] = first(buffer)
                seen.add(buffer)
        found = sum(memory[key(i, buffer)] * (j + 2) for j, buffer in enumerate(op.reads()))
        for buffer in op.writes():
            memory[key(i, buffer)] = np.sin(found + i)
            seen.add(buffer)
    out = whole.logits
    touched = [i for i, op in enumerate(whole.ops) if out in op.buffers()]
    return memory[key(touched[-1], out)] if touched else first(out)


@given(programs())
def test_shared_memory_computes_what_separate_memory_does(whole: Program) -> None:
    """Buffers that are read before they are filled are there from the beginning, so they share with nobody before."""
    outside = {buffer for i, op in enumerate(whole.ops) for buffer in op.reads() if not _written(whole, i, buffer)}
    places = plan(whole, form)
    first_memory = {places[i][b] for i, op in enumerate(whole.ops) for b in op.reads() if not _written(whole, i, b)}
    assert len(first_memory) == len(outside)
    assert np.array_equal(run(whole, places), run(whole, None))
    forms: dict[int, set[object]] = {}
    for each in places:
        for buffer, number in each.items():
            forms.setdefault(number, set()).add(form(buffer))
    assert all(len(found) == 1 for found in forms.values())


def _written(whole: Program, place: int, buffer: Buffer) -> bool:
    return any(buffer in op.writes() for op in whole.ops[:place])


def test_a_chain_of_buffers_takes_two_memories() -> None:
    a, b, c, d = (Buffer(name, 16) for name in "abcd")
    whole = program([Norm(a, "n", b, 1e-5), Norm(b, "n", c, 1e-5), Norm(c, "n", d, 1e-5)], d)
    places = plan(whole, form)
    assert places[2][d] == places[1][b] and len({number for each in places for number in each.values()}) == 2
    assert [(value.buffer.name, value.first, value.last) for value in values(whole)] == [
        ("a", -1, 0),
        ("b", 0, 1),
        ("c", 1, 2),
        ("d", 2, 3),
    ]


@pytest.mark.parametrize("kept", [True, False])
def test_results_are_kept_to_the_end(kept: bool) -> None:
    a, b, c, d = (Buffer(name, 16) for name in "abcd")
    whole = program([Select(a, b), Select(a, c), Select(c, d)], b if kept else d)
    places = plan(whole, form)
    assert (places[0][b] in (places[1][c], places[2][d])) is not kept


@pytest.mark.parametrize("width", [64, 1 << 15, 1 << 20, 1 << 26])
@pytest.mark.parametrize("file_bytes", [1 << 10, 100 << 20, 40 << 30])
def test_a_wide_layer_makes_fewer_rows(width: int, file_bytes: int) -> None:
    wide, narrow = Buffer("wide", width), Buffer("narrow", width)
    whole = program([Norm(wide, "n", narrow, 1e-5), Norm(narrow, "n", wide, 1e-5)], wide)
    rows = batch_rows(whole, 512, file_bytes)
    limit = min(MOST_BYTES, max(LEAST_BYTES, 2 * file_bytes))
    assert 1 <= rows <= 512
    assert rows == 1 or rows * 2 * 6 * width <= limit
    assert rows == 512 or (rows + 1) * 2 * 6 * width > limit
    assert width != 64 or rows == 512


def test_buffers_of_experts_count_for_the_rows_of_a_batch() -> None:
    """Every row may go through an expert; two experts, of which one is computed after the other, count once."""
    wide = 1 << 17

    def rows(experts: int, place: str) -> int:
        ops: list[Operation] = [Embed("table", Buffer("a", 16))]
        for expert in range(experts):
            inner = Buffer(f"inner{expert}", wide, f"tokens.{expert}" if place == "expert" else "tokens")
            ops += [Embed("table", inner), Norm(inner, None, Buffer(f"end{expert}", 16), 1e-5)]
        ops.append(Select(Buffer("a", 16), Buffer("out", 16, "wanted")))
        return batch_rows(program(ops, Buffer("out", 16, "wanted")), 512, 0)

    assert rows(1, "expert") == rows(1, "tokens") < 512
    assert rows(5, "expert") == rows(1, "expert")
