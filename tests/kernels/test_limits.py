"""The measures of the machine, and the package's own few functions."""

from __future__ import annotations

import numpy as np
import pytest

import ggq_kernels
from ggq_kernels.code import store
from ggq_kernels.run import limits, peaks
from ggq_kernels.run.calls import row
from ggq_kernels.vector.isa import ISA, TOKENS
from tests.kit.kernel_support import address, aligned, run

pytestmark = pytest.mark.kernels


def test_reading_reads_every_piece() -> None:
    """The last piece's sum is what is left in the output; a piece of ones more or less would show."""
    words = aligned(np.ones(peaks.PIECE // 4, np.float32))
    words[17] = 1001
    out = np.zeros(16, np.float32)
    run(row(peaks.read_memory, {peaks.SOURCE: address(words), peaks.SIZE: words.nbytes, peaks.OUT: address(out)}))
    assert out[0] == len(words) + 1000


def test_speeds_are_numbers_of_this_machine() -> None:
    assert 0.001 < limits.read_bandwidth(1, repeat=1, size=1 << 24) < 10_000  # emulated ones are slow
    assert 0.001 < limits.integer_peak(1, repeat=1) < 100_000


def test_a_memory_reader_can_be_asked_again() -> None:
    reader = limits.MemoryReader(2, size=1 << 22)
    try:
        assert [len(reader.rates(count)) for count in (1, 3)] == [1, 3]
    finally:
        reader.close()


def test_the_package_names_its_instruction_set() -> None:
    assert TOKENS == {"avx512-vnni": 8, "avx-vnni": 6}.get(ISA, 4)
    # Asked twice, since importing a module of the same name would replace the function.
    assert ggq_kernels.instruction_set() == ggq_kernels.instruction_set() == ISA


def test_listeners_are_not_told_of_what_is_ready() -> None:
    told: list[str] = []
    ggq_kernels.on_compile(told.append)
    try:
        assert peaks.read_memory.address == peaks.read_memory.address != 0
        assert told in ([], ["read_memory"])  # "read_memory" when the cache was empty and no test ran before
        before = len(store.compile_log)
        assert peaks.read_memory.address and len(told) < 2 and len(store.compile_log) == before
    finally:
        store.listeners.remove(told.append)
