"""What tools/aarch64.py makes of what it is told; running it takes an hour (.ci/aarch64)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ggq_kernels.code.targets import TARGETS
from tools import aarch64


def test_every_target_is_emulated() -> None:
    assert list(aarch64.EMULATED) == [target.name for target in TARGETS if target.machine == "aarch64"]


def test_sums_of_what_pytest_says() -> None:
    lines = ["9 passed, 1 skipped in 2.03s", "1 failed, 10 passed in 9.00s (0:00:09)", "no tests ran in 0.01s", ""]
    assert aarch64.summary(lines) == "19 passed, 1 skipped, 1 failed"


@pytest.mark.parametrize(("status", "found"), [(0, 0), (1, 1), (2, 1), (5, 0), (-11, 1)])
def test_a_module_that_fails_or_crashes_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, found: int
) -> None:
    ran: list[list[str]] = []

    def pytest_there(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, status, "3 passed in 1.00s\n", "")

    for name in ("download", "copy_tree", "compile_for"):
        monkeypatch.setattr(aarch64, name, lambda *_: None)
    monkeypatch.setattr(aarch64.subprocess, "run", pytest_there)
    assert aarch64.main([str(tmp_path / "kept"), "tests/kernels/test_rope.py"]) == found
    assert [command[-1] for command in ran] == ["tests/kernels/test_rope.py"] * 2
    assert ran[0][0] == str(tmp_path / "kept" / "python")
    told = capsys.readouterr()
    assert "aarch64-neoverse-n1: 3 passed" in told.out
    assert ("failed on aarch64-neoverse-v1: tests/kernels/test_rope.py" in told.err) == bool(found)
