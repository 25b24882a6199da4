"""What many tests need: where the sample models lie, and a way to run the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "ggq" / "demo"
"""The embedded checkpoint: a trained Llama of about a million parameters, always there."""


def shared(*parts: str) -> Path:
    """A path in the folder of sample models and texts beside the repository; skips the test where there is none.

    Args:
        parts: Path parts below that folder, e.g. "models", "stories260k".
    """
    path = ROOT.parent.joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"needs {Path('shared', *parts)} beside the repository")
    return path


def run_python(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh Python that finds both packages, with extra environment variables; its output is text.

    Args:
        args: The interpreter's arguments, e.g. "-c", "import ggq".
        environment: Variables added to this process's own.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, *args],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_ggq(*args: str | os.PathLike[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own: `run_ggq("inspect", path)`."""
    return run_python("-m", "ggq", *[os.fspath(arg) for arg in args], **environment)
