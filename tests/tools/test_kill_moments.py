"""kill -9 at a dozen random moments of what writes files."""

from __future__ import annotations

import json
from pathlib import Path

from tests.kit.support import ROOT, run_python


def test_a_dozen_moments() -> None:
    commands = "convert,edit,statistics,gguf,import"
    tool = str(ROOT / "tools" / "kill_moments.py")
    done = run_python(tool, "--count", "12", "--seed", "4", "--commands", commands)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 moments" in done.stdout and "0 bad" in done.stdout


def test_a_run_goes_on_behind_what_has_passed(tmp_path: Path) -> None:
    """A moment that a file tells of is not run again, one of another seed or whose line is torn is; problems count."""
    tool, log = str(ROOT / "tools" / "kill_moments.py"), tmp_path / "log"
    said = [{"attack": "full", "seed": seed, "number": 0, "command": "import", "note": True} for seed in (4, 5)]
    lines = [json.dumps({**each, "problem": "odd" * (each["seed"] == 4)}) for each in said]
    torn = json.dumps({**said[0], "number": 1, "problem": ""})[:-5]
    log.write_text("\n".join([*lines, torn]))
    again = ("--disk", "2", "--seed", "4", "--commands", "import", "--log", str(log))
    done = run_python(tool, *again)
    assert "2 of 2: import: well" in done.stdout and "1 of 2" not in done.stdout
    assert done.returncode == 1 and "1 bad" in done.stdout
    more = run_python(tool, *again)
    assert " of 2:" not in more.stdout and more.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
