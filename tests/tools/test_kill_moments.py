"""kill -9 at a dozen random moments of what writes files."""

from __future__ import annotations

from tests.kit.support import ROOT, run_python


def test_a_dozen_moments() -> None:
    commands = "convert,edit,statistics,gguf,import"
    tool = str(ROOT / "tools" / "kill_moments.py")
    done = run_python(tool, "--count", "12", "--seed", "4", "--commands", commands)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 moments" in done.stdout and "0 bad" in done.stdout
