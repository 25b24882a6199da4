"""What many tests need: where the sample models lie, and a way to run the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggq.format.scheme_names import BITS, GROUPS, SCHEMES

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "ggq" / "demo"
"""The embedded checkpoint: a trained Llama of about a million parameters, always there."""

ALL = bool(os.environ.get("GGQ_TEST_ALL"))
"""Whether tests that run whole models take every scheme, which takes minutes more."""


def models_schemes() -> list[str]:
    """The schemes that whole models are run with: all bits, sizes of groups and forms, but one group for each of bits
    and zero-point. The tests of single kernels have all of them."""
    groups = [f"g{group}" if group else "row" for group in GROUPS]
    crossed = [(f"q{bits}{zero}", i + 2 * (zero == "z")) for i, bits in enumerate(BITS) for zero in ("", "z")]
    left_out = {f"{head}-{group}" for head, turn in crossed for group in groups if group != groups[turn % 4]}
    return [name for name in SCHEMES if ALL or name not in left_out]


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
        timeout=int(os.environ.get("GGQ_TEST_TIMEOUT", "120")),
    )


def run_ggq(*args: str | os.PathLike[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own: `run_ggq("inspect", path)`."""
    return run_python("-m", "ggq", *[os.fspath(arg) for arg in args], **environment)
