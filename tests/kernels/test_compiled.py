"""Compiled code is found again by the next process, and never by one with other sources or another target."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ggq_kernels.code import precompiled, store
from ggq_kernels.code.together import helps
from ggq_kernels.run.cores import physical_cores
from ggq_kernels.vector.isa import CPU, FEATURES, ISA
from tests.kit.kernel_support import once
from tests.kit.support import ROOT, run_python

pytestmark = pytest.mark.kernels

COMPILE = """
import json, sys, warnings
warnings.simplefilter("error")
import numpy as np
from ggq_kernels.run import calls, threads
from ggq_kernels import on_compile
from ggq_kernels.code import store
told = []
on_compile(told.append)
two = threads.Team(2)
source, out, nothing = np.arange(32, dtype=np.float32), np.zeros(32, np.float32), np.zeros(1, np.int64)
one = np.ones(1, np.int64)
here, there = (calls.Rows(array.ctypes.data, 128, 32) for array in (source, out))
two.run(calls.select_row(one.ctypes.data, here, there, nothing.ctypes.data)[None])
two.close()
names = [name for name, seconds in store.compile_log if seconds > 0]
print(json.dumps([sorted(names), sorted(told), "numba" in sys.modules, bool((out == source).all())]))
"""


def python(code: str, **environment: str) -> Any:
    """What a fresh Python prints, as JSON."""
    done = run_python("-c", code, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def saved(folder: Path) -> list[Path]:
    return sorted(folder.glob("kernels-*/*"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which three kernels are; copy it before changing anything."""
    if precompiled.archive() is not None:
        pytest.skip("a wheel's kernels are there: nothing is compiled")
    folder = tmp_path_factory.mktemp("warm")
    assert python(COMPILE, NUMBA_CACHE_DIR=str(folder)) == [["lead", "select", "serve"]] * 2 + [True, True]
    return folder


def test_the_next_process_compiles_nothing_and_imports_no_numba(warm: Path) -> None:
    files = saved(warm)
    assert {"gather.select.kernel", "team.lead.kernel", "team.module"} <= {file.name for file in files}
    assert python(COMPILE, NUMBA_CACHE_DIR=str(warm)) == [[], [], False, True]
    assert saved(warm) == files


@once
@pytest.mark.parametrize("change", ["cut", "flip", "empty", "swap", "writable"])
def test_a_file_that_is_damaged_or_that_others_can_write_is_made_anew(warm: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(warm, tmp_path, dirs_exist_ok=True)
    (folder,) = tmp_path.iterdir()
    file = folder / "gather.select.kernel"
    whole = file.read_bytes()
    if change == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif change == "flip":
        file.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    elif change == "empty":
        file.write_bytes(b"")
    elif change == "writable":
        file.chmod(0o620)
    else:  # another kernel's file, whole in itself
        shutil.copy(folder / "team.lead.kernel", file)
    assert python(COMPILE, NUMBA_CACHE_DIR=str(tmp_path)) == [["select"], ["select"], True, True]
    assert file.stat().st_mode & 0o777 == 0o600
    assert python(COMPILE, NUMBA_CACHE_DIR=str(tmp_path)) == [[], [], False, True]


@once
def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert python(COMPILE, NUMBA_CACHE_DIR=str(tmp_path / "file"))[3]


def test_what_cannot_be_saved_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "own_folder", lambda: tmp_path)
    monkeypatch.setattr(store, "write_failures", [])
    monkeypatch.setattr(os, "replace", full)
    store.write("name", {})
    assert store.write_failures == ["No space left on device"]
    assert not list(tmp_path.iterdir())


def test_numba_works_beside_kernels_that_were_loaded_without_it(warm: Path) -> None:
    """Its runtime's functions, which lead to abort() before it is imported, are its own again."""
    code = (
        COMPILE.replace("print(", "before = (")
        + """
import numba
@numba.njit
def fail(n):
    if n > 2:
        raise ValueError("three")
    return np.ones(n).sum()
assert fail(2) == 2
try:
    fail(3)
except ValueError as error:
    print(json.dumps(str(error)))
"""
    )
    assert python(code, NUMBA_CACHE_DIR=str(warm)) == "three"


TOGETHER = """
import json, sys, time
from ggq_kernels.code import store, together
together.START = 0.0
keys = sys.argv[1:]
together.compile_missing(keys)
print(json.dumps([[name for name, _ in store.compile_log], [store.is_saved(key) for key in keys]]))
"""


@once
@pytest.mark.skipif(physical_cores() < 2, reason="two processes on one processor save nothing")
def test_two_processes_share_the_work_and_leave_no_locks(tmp_path: Path) -> None:
    keys = ["rope.rope_half", "gather.select", "gate.gate_silu", "norm.rms_norm"]
    command = [sys.executable, "-c", TOGETHER, *keys]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=300)[0]) for process in both]
    assert [there for _, there in answers] == [[True] * 4] * 2
    compiled = [name for names, _ in answers for name in names]
    assert len(compiled) == len(set(compiled))  # nothing twice; what is missing here the helpers compiled
    assert not [path for path in saved(tmp_path) if path.suffix == ".lock"]


CLAIMED = """
import json, sys, threading, time
from ggq_kernels.code import store, together
together.helps = lambda keys: False
def other():
    with store.claim("gather.select") as claimed:
        assert claimed
        ready.set()
        time.sleep(0.5)
        if sys.argv[1] == "saves":
            store.write("gather.select.kernel", {"symbol": "", "needed": ["nowhere"]})
ready = threading.Event()
thread = threading.Thread(target=other)
thread.start()
ready.wait()
if sys.argv[1] == "stops":
    store.PATIENCE = 0.1
together.compile_missing(["gather.select"])
waited = store.is_saved("gather.select") or not thread.is_alive()
thread.join()
from ggq_kernels.code.ready import module
print(json.dumps([waited, module("gather").select.address > 0, [name for name, _ in store.compile_log]]))
"""


@once
@pytest.mark.parametrize(("other", "waited"), [("saves", True), ("fails", True), ("stops", False)])
def test_a_kernel_that_another_compiles_is_waited_for_but_not_for_ever(
    tmp_path: Path, other: str, waited: bool
) -> None:
    done = run_python("-c", CLAIMED, other, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [waited, True, ["select"]]


def test_little_is_not_worth_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggq_kernels.code.together.physical_cores", lambda: 2)
    assert helps(["linear.linear_q4_int8", "linear.linear_q6_int8"])
    assert not helps(["linear.linear_q4_int8", "team.lead"]) and not helps(["team.lead", "team.serve"])
    monkeypatch.setattr("ggq_kernels.code.together.physical_cores", lambda: 1)
    assert not helps(["linear.linear_q4_int8", "linear.linear_q6_int8"])


FOLDER = "import json\nfrom ggq_kernels.code.store import cache_folder\nprint(json.dumps(str(cache_folder())))"


@once
def test_a_changed_source_has_another_folder(tmp_path: Path) -> None:
    here, copy = python(FOLDER, NUMBA_CACHE_DIR="/cache"), tmp_path / "ggq_kernels"
    assert Path(here).parent == Path("/cache")
    shutil.copytree(ROOT / "kernels" / "ggq_kernels", copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + FOLDER
    assert python(code, NUMBA_CACHE_DIR="/cache") == here  # the place does not count
    with (copy / "planes.py").open("a") as source:
        source.write("# changed\n")
    assert python(code, NUMBA_CACHE_DIR="/cache") != here


def test_a_new_folder_is_the_users_alone_and_the_oldest_others_go(tmp_path: Path) -> None:
    for age in range(12):
        folder = tmp_path / f"kernels-{age:020x}"
        folder.mkdir()
        (folder / "a.kernel").touch()
        os.utime(folder, (1e9 - age, 1e9 - age))
    (tmp_path / "kernels-mine").mkdir()
    code = "import json\nfrom ggq_kernels.code.store import own_folder\nprint(json.dumps(str(own_folder())))"
    own = Path(python(code, NUMBA_CACHE_DIR=str(tmp_path)))
    assert own.stat().st_mode & 0o777 == 0o700
    kept = [f"kernels-{age:020x}" for age in range(8)]
    assert {path.name for path in tmp_path.iterdir()} == {*kept, own.name, "kernels-mine"}


def test_the_users_cache_folder_is_used_when_none_is_set(tmp_path: Path) -> None:
    folder = python(FOLDER, NUMBA_CACHE_DIR="", XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))
    assert tmp_path in Path(folder).parents


@once
def test_each_target_has_a_folder_and_an_instruction_set() -> None:
    code = "import json\nfrom ggq_kernels.code.store import cache_folder\nfrom ggq_kernels.vector.isa import ISA\n"
    code += "print(json.dumps([ISA, str(cache_folder())]))"
    targets = {
        "generic": "",
        "avx2": "+avx2,+fma,+f16c",
        "avx-vnni": "+avx2,+fma,+f16c,+avxvnni",
        "avx512-vnni": "+avx2,+fma,+f16c,+avx512f,+avx512vnni",
    }
    folders = set()
    for name, features in targets.items():
        isa, folder = python(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=features)
        assert isa == name
        folders.add(folder)
    folders.add(python(code, NUMBA_CPU_NAME="nocona", NUMBA_CPU_FEATURES="")[1])
    folders.add(python(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", NUMBA_BOUNDSCHECK="1")[1])
    assert len(folders) == 6


# ---- machine code of targets that this machine may not have

ASSEMBLY = """
import json, re
import llvmlite.binding as llvm
from ggq_kernels.attend import attention
from ggq_kernels.code.object_code import lowered, target_machine
from ggq_kernels.product import linear
from ggq_kernels.vector.isa import ISA
found = {}
for op in (linear.linear_c4_int8, attention.store_kv_f16):
    text = target_machine().emit_assembly(lowered(op.function, op.signature)[1])
    named = set(re.findall(r"\\$([A-Za-z_][\\w.$]*)", text))
    named |= set(re.findall(r"\\bcallq?\\s+([A-Za-z_][\\w.$]*)", text))
    defined = set(re.findall(r"^([A-Za-z_.][\\w.$]*):", text, re.M))
    missing = [n for n in named - defined if not llvm.address_of_symbol(n)]
    products = re.findall(r"vpdpbusd\\s[^\\n]*%zmm", text)
    found[op.name] = [missing, len(products), bool(re.search(r"vcvtps2ph\\s[^\\n]*%zmm", text))]
print(json.dumps([ISA, found]))
"""


@once
@pytest.mark.skipif(ISA == "avx512-vnni", reason="the other tests run this code")
@pytest.mark.skipif(not {"64bit", "sse2"} & FEATURES and CPU != "generic", reason="this machine is no x86")
def test_code_for_avx512_uses_its_integer_product_and_no_missing_function(tmp_path: Path) -> None:
    """It is compiled, not run: one vpdpbusd for each quad of columns."""
    features = "+avx,+avx2,+fma,+f16c,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni"
    target = {"NUMBA_CPU_NAME": "znver4", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    isa, found = python(ASSEMBLY, **target)
    assert isa == "avx512-vnni"
    for name, (missing, products, converts) in found.items():
        assert missing == [], name
        if name.startswith("linear"):
            assert products >= 8 * (2 * 8 + 1)  # 8 quads: 8 tokens in groups of 32 and longer ones, and 1 token
        else:
            assert converts
