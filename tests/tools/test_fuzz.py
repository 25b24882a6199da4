"""A short seeded run of the fuzzer finds nothing, and one of a reader that is broken finds it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import tools.fuzz
from tests.kit.support import ROOT, run_python
from tools.fuzz import Kind, fuzz


def test_a_short_run_finds_nothing() -> None:
    script = str(ROOT / "tools" / "fuzz.py")
    done = run_python(script, "--count", "20", "--seed", "5", PYTHONPATH=f"{ROOT}:{ROOT}/kernels")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "240 inputs, 0 found" in done.stdout


def crash(path: Path) -> None:
    """A reader that hangs, raises what is none of ours, or dies, by what it reads."""
    data = path.read_bytes()
    if data != GOOD:
        {0: lambda: time.sleep(30), 1: lambda: 1 // 0, 2: lambda: os._exit(9)}[len(data) % 3]()


GOOD = b"good bytes"


def test_a_broken_reader_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.fuzz, "SILENT", 3.0)
    for size, problem in ((10, "a hang"), (11, "ZeroDivisionError"), (13, "a crash")):
        remainder = {"a hang": 0, "ZeroDivisionError": 1, "a crash": 2}[problem]
        kind = Kind(GOOD, lambda rng, data, n=size, r=remainder: b"y" * (3 * n + r), crash)
        done, found, _ = fuzz("test", kind, tmp_path, size, 1, time.monotonic() + 60)
        assert done == 1 and len(found) == 1 and problem in found[0]
