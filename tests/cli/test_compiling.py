"""What is told while kernels are compiled: how many are left, about how long it takes, how long it took."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ggq
import ggq_kernels
from ggq import notebook
from ggq.cli import compiling
from ggq.cli.main import main
from ggq_kernels.code import store, together
from ggq_kernels.code.store import Left
from tests.kit.small_models import write_demo

KEYS = ("linear.linear_q4_int8", "attention.attention_f16", "norm.rms_norm", "gate.gate_silu")
"""Of 5, 2.5, .5 and .5 seconds, about."""


@pytest.fixture(autouse=True)
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command tells its users ends with the test."""
    monkeypatch.setattr(store, "listeners", [])
    monkeypatch.setattr(store, "watchers", [])
    compiling.announce_compiling.cache_clear()
    yield
    compiling.announce_compiling.cache_clear()


@pytest.fixture
def compile_four(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has four kernels compiled, each at twice the time that is foreseen, by a clock that nobody waits for."""
    clock, saved = [0.0], set[str]()

    def compile_one(key: str) -> None:
        for listener in store.listeners:
            listener(key)
        clock[0] += 2 * together._seconds(key)
        store.compile_log.append((key, 2 * together._seconds(key)))
        saved.add(key)

    @contextmanager
    def claim(key: str) -> Iterator[bool]:
        yield True

    monkeypatch.setattr(store, "compile_log", [])
    monkeypatch.setattr(store, "waits", [])
    monkeypatch.setattr(store, "claim", claim)
    monkeypatch.setattr(store, "is_saved", saved.__contains__)
    monkeypatch.setattr(together, "_compile", compile_one)
    monkeypatch.setattr(together, "helps", lambda keys: False)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    return lambda: together.compile_missing(KEYS)


def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


def test_watchers_are_told_what_is_left(compile_four: Callable[[], None]) -> None:
    told: list[Left] = []
    store.watchers.append(told.append)
    compile_four()
    assert [(left.kernels, left.total) for left in told] == [(4, 4), (3, 4), (2, 4), (1, 4), (0, 4), (0, 4)]
    # 8.5 s are foreseen; the pace of what was done counts more and more, and is half of that.
    expected = [8.5, 3.5 * 15 / 10, 1.0 * 20 / 12.5, 0.5 * 21 / 13, 0, 0]
    assert [left.seconds for left in told] == pytest.approx(expected)
    assert ggq_kernels.compile_seconds() == pytest.approx(17)


def test_without_a_terminal_it_is_one_line(
    compile_four: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    compiling.announce_compiling()
    compile_four()
    target = ggq_kernels.instruction_set()
    text = f"compiling kernels for {target}, once for this version and processor: 4, about 8 s\n"
    assert capsys.readouterr().err == text


def test_a_terminal_shows_how_much_is_left_and_nothing_at_the_end(
    compile_four: Callable[[], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "120")
    compiling.announce_compiling()
    compile_four()
    head, _, line = capsys.readouterr().err.partition("\n")
    assert head.endswith(": 4, about 8 s")
    shown = [f"{n} of 4 kernels left, about {s} s" for n, s in ((4, 8), (3, 5), (2, 2), (1, 1))]
    assert line == compiling.ERASE.join([*shown, ""])


def test_a_single_kernel_is_told_without_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    compiling.announce_compiling()
    store.listeners[0]("encode_bf16")
    assert capsys.readouterr().err.endswith(", once for this version and processor ...\n")


def test_load_shows_it_on_a_terminal(
    compile_four: Callable[[], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with notebook.compiling():
        compile_four()
    assert capsys.readouterr().err == ""
    terminal(monkeypatch)
    monkeypatch.setattr(store, "is_saved", lambda key: False)
    with notebook.compiling():
        compile_four()
    lines = capsys.readouterr().err.split("\r\x1b[K")
    assert lines[1] == "compiling kernels, once: 4 of 4 left, about 8 s" and lines[-1] == "" and not store.watchers


def test_run_tells_compiling_apart_from_loading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_demo(tmp_path / "demo.ggq", "q4-g32")
    arguments = ["run", str(path), "import os", "-n", "4", "--greedy"]
    assert main([*arguments, "--interpreter", "numpy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compile_s"] == 0
    load = ggq.load

    def slow(*given: object, **options: object) -> object:
        monkeypatch.setattr(store, "waits", [*store.waits, 0.25])
        time.sleep(0.25)
        return load(*given, **options)

    monkeypatch.setattr("ggq.cli.commands.run.load", slow)
    monkeypatch.setattr(store, "compile_log", [("something before", 100.0)])
    monkeypatch.setattr(store, "waits", [])
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        0.25 <= found["compile_s"] < 100
        and found["load_s"] > 0
        and found["first_token_s"] >= found["compile_s"] + found["load_s"]
    )
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert re.search(r"; compiled for \d+\.\d\d s, loaded in \d+\.\d\d s, first token after \d+\.\d\d s\n$", told)


def test_warmup_for_a_file_makes_its_kernels_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_demo(tmp_path / "demo.ggq", "q4-g32")
    for _ in range(2):
        assert main(["warmup", "--for", str(path)]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"the kernels for demo.ggq on {ggq_kernels.instruction_set()} are ready ")
    assert text.endswith("and were so before\n")
    assert main(["warmup", "--for", str(tmp_path / "none.ggq")]) == 2
    assert "none.ggq" in capsys.readouterr().err
