"""Compiled code is found again by the next process, and never by one with other sources or another target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ggq_kernels.isa import CPU, FEATURES, ISA
from tests.support import ROOT, run_python

pytestmark = pytest.mark.kernels

COMPILE = """
import json, warnings
warnings.simplefilter("error")
from numba.core import config
before = config.CACHE_DIR
import numpy as np
from ggq_kernels import activations, compiled, on_compile, team
told = []
on_compile(told.append)
address = activations.select.address
again = activations.select.address
two = team.Team(2)
words = np.zeros((1, 32), np.int64)
nothing = np.zeros(1, np.int64)
words[0, :2] = address, nothing.ctypes.data
two.run(words)
two.close()
names = [name for name, seconds in compiled.compile_log if seconds > 0]
print(json.dumps([sorted(names), sorted(told), config.CACHE_DIR == before, address == again != 0]))
"""


def python(code: str, **environment: str) -> Any:
    """What a fresh Python prints, as JSON."""
    done = run_python("-c", code, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_the_next_process_compiles_nothing(tmp_path: Path) -> None:
    first = python(COMPILE, NUMBA_CACHE_DIR=str(tmp_path))
    assert "select" in first[0] and first[0] == first[1] and first[2:] == [True, True]
    folders = list(tmp_path.iterdir())
    assert len(folders) == 1 and folders[0].name.startswith("kernels-")
    assert list(folders[0].glob("**/*.nbi")) and list(folders[0].glob("**/*.nbc"))
    assert python(COMPILE, NUMBA_CACHE_DIR=str(tmp_path)) == [[], [], True, True]
    assert list(tmp_path.iterdir()) == folders


FOLDER = "import json\nfrom ggq_kernels.compiled import cache_folder\nprint(json.dumps(str(cache_folder())))"


def test_a_changed_source_has_another_folder(tmp_path: Path) -> None:
    here, copy = python(FOLDER, NUMBA_CACHE_DIR="/cache"), tmp_path / "ggq_kernels"
    assert Path(here).parent == Path("/cache")
    shutil.copytree(ROOT / "kernels" / "ggq_kernels", copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + FOLDER
    assert python(code, NUMBA_CACHE_DIR="/cache") == here  # the place does not count
    with (copy / "planes.py").open("a") as source:
        source.write("# changed\n")
    assert python(code, NUMBA_CACHE_DIR="/cache") != here


def test_the_users_cache_folder_is_used_when_none_is_set(tmp_path: Path) -> None:
    folder = python(FOLDER, NUMBA_CACHE_DIR="", XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))
    assert tmp_path in Path(folder).parents


def test_each_target_has_a_folder_and_an_instruction_set() -> None:
    code = "import json\nfrom ggq_kernels.compiled import cache_folder\nfrom ggq_kernels.isa import ISA\n"
    code += "print(json.dumps([ISA, str(cache_folder())]))"
    targets = {"generic": "", "avx2": "+avx2,+fma,+f16c", "avx512-vnni": "+avx2,+fma,+f16c,+avx512f,+avx512vnni"}
    folders = set()
    for name, features in targets.items():
        isa, folder = python(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=features)
        assert isa == name
        folders.add(folder)
    folders.add(python(code, NUMBA_CPU_NAME="nocona", NUMBA_CPU_FEATURES="")[1])
    assert len(folders) == 4


# ---- machine code of targets that this machine may not have

ASSEMBLY = """
import json, re
import llvmlite.binding as llvm
from ggq_kernels import attention, linear
from ggq_kernels.isa import ISA
found = {}
for op in (linear.linear_c4_int8, attention.store_kv_f16):
    assert op.address
    text = op._made._library.get_asm_str()
    named = set(re.findall(r"\\$([A-Za-z_][\\w.$]*)", text))
    named |= set(re.findall(r"\\bcallq?\\s+([A-Za-z_][\\w.$]*)", text))
    defined = set(re.findall(r"^([A-Za-z_.][\\w.$]*):", text, re.M))
    missing = [n for n in named - defined if not llvm.address_of_symbol(n)]
    products = re.findall(r"vpdpbusd\\s[^\\n]*%zmm", text)
    found[op.name] = [missing, len(products), bool(re.search(r"vcvtps2ph\\s[^\\n]*%zmm", text))]
print(json.dumps([ISA, found]))
"""


@pytest.mark.skipif(ISA == "avx512-vnni", reason="the other tests run this code")
@pytest.mark.skipif(not {"64bit", "sse2"} & FEATURES and CPU != "generic", reason="this machine is no x86")
def test_code_for_avx512_uses_its_integer_product_and_no_missing_function(tmp_path: Path) -> None:
    """It is compiled (Numba shows no code that it has loaded), not run: one vpdpbusd for each quad of columns."""
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
