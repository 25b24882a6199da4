"""Kernels for AArch64, compiled on any machine and looked at; tools/aarch64.py runs all tests there under emulation."""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from ggq_kernels.code import processor
from ggq_kernels.code.targets import TARGETS
from tests.kit.kernel_support import once
from tests.kit.support import run_python

pytestmark = [once, pytest.mark.skipif(platform.machine() in ("aarch64", "arm64"), reason="the other tests run them")]

ASSEMBLY = """
import json
import llvmlite.binding as llvm
from ggq_kernels.attend import attention
from ggq_kernels.code.object_code import lowered, target_machine
from ggq_kernels.product import linear
from ggq_kernels.vector.isa import ISA
ops = linear.linear_c4_int8, attention.store_kv_f16
print(json.dumps([ISA, {op.name: target_machine().emit_assembly(lowered(op.function, op.signature)[1]) for op in ops}]))
"""
LIBRARY = {"free", "malloc", "memcpy", "memset"}
"""Functions of the C library that kernels may call."""


class Code(NamedTuple):
    """What a kernel was compiled to.

    Args:
        counts: How often each instruction occurs.
        by_quarters: How many products of bytes take the activations from a quarter of a register.
        missing: Functions that are called and that neither the kernel, Python, Numba nor the C library has.
        scalable: Whether it uses registers of SVE.
    """

    counts: Counter[str]
    by_quarters: int
    missing: set[str]
    scalable: bool


def code_of(text: str) -> Code:
    """Read LLVM's assembly."""
    counts = Counter(re.findall(r"^\t([a-z]\w*)\b", text, re.MULTILINE))
    named = set(re.findall(r":abs_g\d(?:_nc)?:([A-Za-z_][\w.$]*)", text)) | set(re.findall(r"^\tbl\t(\S+)", text, re.M))
    defined = set(re.findall(r"^([A-Za-z_.][\w.$]*):", text, re.MULTILINE))
    quarters = re.findall(r"^\t(?:sdot|usdot)\s+v\d+\.4s, v\d+\.16b, v\d+\.4b\[\d\]", text, re.MULTILINE)
    called = {name for name in named - defined if not name.startswith((".L", "numba_", "NRT_", "Py"))}
    return Code(counts, len(quarters), called - LIBRARY, bool(re.search(r"\bz\d+\.[bhsd]\b", text)))


@pytest.fixture(scope="module", params=[target.cpu for target in TARGETS if target.machine == processor.AARCH64])
def compiled(request: pytest.FixtureRequest) -> tuple[str, str, dict[str, Code]]:
    """The processor, the form, and two kernels."""
    done = run_python("-c", ASSEMBLY, NUMBA_CPU_NAME=request.param)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    form, texts = json.loads(done.stdout)
    return request.param, form, {name: code_of(text) for name, text in texts.items()}


def test_products_and_halves_are_instructions_and_no_function_is_missing(
    compiled: tuple[str, str, dict[str, Code]],
) -> None:
    cpu, form, kernels = compiled
    product, stored = kernels["linear_c4_int8"], kernels["store_kv_f16"]
    dots = {name: product.counts[name] for name in ("sdot", "usdot", "usmmla", "udot", "tbl", "fcvtl")}
    # A block of 32 columns: 8 quads of 4 registers of codes, for each of 4 tokens or for each of two tiles.
    few, single, panel = 8 * 4 * 4, 8 * 4 * 2, 8 * 4 * 4
    if cpu == "neoverse-n1":
        assert form == "neon-dot" and dots["sdot"] >= few + single + panel
        assert dots["sdot"] * 9 // 10 <= product.by_quarters and dots["usdot"] == dots["usmmla"] == 0
    else:
        assert form == "neon-i8mm" and dots["usmmla"] >= panel // 2 and dots["usdot"] >= few + single
        assert dots["usdot"] * 9 // 10 <= product.by_quarters and dots["sdot"] == 0
    assert dots["tbl"] >= 32 and dots["fcvtl"] >= 2 and dots["udot"] == 0
    assert stored.counts["fcvtn"] >= 2
    for code in kernels.values():
        assert code.missing == set() and not code.scalable


def test_code_for_another_machine_is_saved_and_not_run(tmp_path: Path) -> None:
    script = (
        "from ggq_kernels.code import store, together\n"
        "from ggq_kernels.code.ready import module\n"
        "together.compile_missing(['gather.select'])\n"
        "head, code = store.read('gather.select.kernel')\n"
        "assert code[:4] == b'\\x7fELF' and code[18] == 183, code[:20]  # EM_AARCH64\n"
        "try:\n    module('gather').select(0, 0)\nexcept OSError as error:\n    print(error)"
    )
    done = run_python("-c", script, NUMBA_CPU_NAME="neoverse-n1", NUMBA_CACHE_DIR=str(tmp_path))
    assert done.stdout == "NUMBA_CPU_NAME has kernels compiled for aarch64, which this machine cannot run\n", (
        done.stderr
    )


def test_features_are_those_that_linux_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neoverse N1 and V1, as /proc/cpuinfo of such machines lists them."""
    bits = {"fp": 0, "asimd": 1, "crc32": 7, "atomics": 8, "asimdhp": 10, "asimdrdm": 12, "lrcpc": 15, "asimddp": 20}
    n1 = sum(1 << bit for bit in bits.values())
    needed = {target.cpu: set(target.features) for target in TARGETS if target.machine == processor.AARCH64}
    assert set(processor.named_features(n1, 0)) == needed["neoverse-n1"]
    assert set(processor.named_features(n1, 1 << 13)) == needed["neoverse-v1"]
    assert processor.named_features(1 << 22, 1 << 1 | 1 << 14) == ("sve", "sve2", "bf16")
    assert processor.named_features(1 << 2, 1 << 0) == ()


@pytest.mark.parametrize(
    ("system", "name", "found"),
    [
        ("darwin", "apple-m1", (True, False)),
        ("darwin", "apple-m2", (True, True)),
        ("darwin", "cyclone", (False, False)),
        ("win32", "oryon-1", (False, False)),
    ],
)
def test_apples_processors_are_known_by_name(
    monkeypatch: pytest.MonkeyPatch, system: str, name: str, found: tuple[bool, bool]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(processor.sys, "platform", system)
    features = processor.more_features(name)
    assert ("dotprod" in features, "i8mm" in features) == found
