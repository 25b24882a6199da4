"""A wheel for release, built for this machine and installed: no run imports Numba or compiles anything.

Building it compiles every kernel, which takes minutes: `pytest -m release`; .ci/run does. GGQ_RELEASE_WHEEL=FILE tests
a wheel that was built before, with all of its targets that this machine can run.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ggq_kernels.code.key import processor
from ggq_kernels.code.targets import TARGETS, target_of
from tests.kit.support import ROOT, run_python

pytestmark = pytest.mark.release

PROGRAM = """
import contextlib, io, json, sys
from ggq.cli.main import main
from ggq_kernels.code import precompiled, targets
(target,) = (each for each in targets.TARGETS if each.name == sys.argv[2])
listed = ",".join(f"+{feature}" for feature in target.features)
precompiled.processor = lambda: (target.cpu, listed)  # as on such a machine
done = io.StringIO()
with contextlib.redirect_stdout(done):
    status = [main(arguments) for arguments in json.loads(sys.argv[1])]
from ggq_kernels.code import store
import ggq
print(json.dumps([status, "numba" in sys.modules, store.compile_log, precompiled.archive().target, ggq.__file__]))
"""


CPU, LISTED = processor()
FEATURES = frozenset(feature[1:] for feature in LISTED.split(",") if feature.startswith("+"))
OWN = target_of(CPU, FEATURES)
"""The target that this machine takes."""
CAN_RUN = [target.name for target in TARGETS if FEATURES.issuperset(target.features)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel for this machine's processor; GGQ_RELEASE_CACHE may name a folder that keeps its kernels."""
    if built := os.environ.get("GGQ_RELEASE_WHEEL"):
        return Path(built)
    if OWN is None:
        pytest.skip("no target of the wheel is for this processor")
    out = tmp_path_factory.mktemp("release")
    cache = os.environ.get("GGQ_RELEASE_CACHE", str(out / "cache"))
    tool = str(ROOT / "tools" / "release_wheel.py")
    command = [sys.executable, tool, str(out), "--target", OWN.name, "--cache", cache]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel, and with what it depends on from this one."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    fresh = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(fresh), "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return fresh


def targets_of(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as opened:
        return [Path(name).stem for name in opened.namelist() if name.endswith(".kernels")]


def test_it_is_small_and_holds_the_kernels_of_its_targets(wheel: Path) -> None:
    assert wheel.stat().st_size < 25_000_000
    built = "GGQ_RELEASE_WHEEL" in os.environ
    assert set(targets_of(wheel)) == ({target.name for target in TARGETS} if built else {OWN and OWN.name})


@pytest.mark.parametrize("target", CAN_RUN)
def test_no_run_imports_numba_or_compiles_anything(wheel: Path, python: Path, tmp_path: Path, target: str) -> None:
    if target not in targets_of(wheel):
        pytest.skip("the wheel has no kernels for it")
    demo, cache = str(tmp_path / "demo.ggq"), tmp_path / "cache"
    source = str(ROOT / "ggq" / "demo")
    commands = [
        ["convert", source, demo, "--scheme", "q4-g32"],
        ["run", demo, "-p", "import os", "-n", "8", "--greedy"],
        ["run", demo, "-p", "import os", "-n", "8", "--activations", "float32"],
        ["bench", demo, "--prompt", "16", "--generate", "4", "--repeat", "1"],
        ["warmup"],
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTHON"))}
    done = subprocess.run(
        [str(python), "-c", PROGRAM, json.dumps(commands), target],
        env={**environment, "NUMBA_CACHE_DIR": str(cache)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    status, numba, compiled, used, where = json.loads(done.stdout)
    assert (status, numba, compiled, used) == ([0] * len(commands), False, [], target)
    assert Path(where).is_relative_to(python.parents[1])
    assert not list(cache.rglob("*.kernel"))


def test_what_it_generates_is_what_compiled_kernels_generate(python: Path, tmp_path: Path) -> None:
    demo = str(tmp_path / "demo.ggq")
    arguments = ["run", demo, "-p", "def read(self):", "-n", "24", "--greedy", "--activations", "float32"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTHON"))}
    convert = ["convert", str(ROOT / "ggq" / "demo"), demo, "--scheme", "q8-g32"]
    for command in (convert, arguments):
        done = subprocess.run([str(python), "-m", "ggq", *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout == run_python("-m", "ggq", *arguments).stdout
