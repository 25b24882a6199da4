"""The processor that kernels are compiled for: this machine's, or one of AArch64 elsewhere.

NUMBA_CPU_NAME=neoverse-n1 on another machine than an AArch64 one has kernels compiled that are saved and cannot be run
there (tools/release_wheel.py, tools/aarch64.py). Nothing here imports Numba.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys

from ggq_kernels.code.targets import TARGETS, Target

AARCH64 = "aarch64"
TRIPLES = {AARCH64: "aarch64-unknown-linux-gnu"}
"""What LLVM calls machines that others compile for."""

HWCAPS = (
    *("fp-armv8", "neon", "", "aes", "", "", "sha2", "crc", "lse", "", "fullfp16", "", "rdm", "jsconv", "complxnum"),
    *("rcpc", "", "sha3", "", "sm4", "dotprod", "", "sve", "fp16fml", "", "", "rcpc-immo", "flagm", "ssbs"),
)
"""LLVM's names of features by the bits of AT_HWCAP on AArch64, where they are one and the same.

Source: Linux, Documentation/arch/arm64/elf_hwcaps.rst.
"""
HWCAPS2 = {1: "sve2", 13: "i8mm", 14: "bf16"}
"""The same by the bits of AT_HWCAP2."""
AT_HWCAP, AT_HWCAP2 = 16, 26

APPLE = ("dotprod", "fullfp16", "fp-armv8", "neon", "lse", "rdm", "rcpc", "crc")
"""Features of all of Apple's processors for computers; all but the first have i8mm, too."""


def machine() -> str:
    """The architecture of this machine: "x86_64", "aarch64" ..."""
    name = platform.machine()
    return {"arm64": AARCH64, "ARM64": AARCH64, "AMD64": "x86_64"}.get(name, name)


def chosen() -> Target | None:
    """The target of AArch64 that NUMBA_CPU_NAME names on another machine."""
    name = os.environ.get("NUMBA_CPU_NAME")
    if machine() == AARCH64:
        return None
    return next((each for each in TARGETS if each.machine == AARCH64 and each.cpu == name), None)


def foreign() -> bool:
    """Whether kernels are compiled for another machine than this one, which cannot run them."""
    return chosen() is not None


def architecture() -> str:
    """The architecture that kernels are compiled for."""
    target = chosen()
    return machine() if target is None else target.machine


@functools.cache
def processor() -> tuple[str, str]:
    """LLVM's name of the processor that kernels are compiled for, and its features as LLVM writes them: "+avx2,
    -avx512f"; this machine's, whatever NUMBA_CPU_NAME says, but for one of AArch64 elsewhere."""
    target = chosen()
    if target is not None:
        return target.cpu, target.listed
    import llvmlite.binding as llvm

    name, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features()
    for feature in more_features(name):  # of which LLVM says nothing on AArch64, or nothing where cpuinfo is another's
        features[feature] = True
    return name, features.flatten()


def more_features(name: str) -> tuple[str, ...]:
    """LLVM's names of features that the system says an AArch64 processor has; none elsewhere.

    Args:
        name: LLVM's name of the processor.
    """
    if machine() != AARCH64:
        return ()
    if sys.platform == "darwin":
        later = () if name in ("apple-m1", "generic") else ("i8mm",)
        return (*APPLE, *later) if name.startswith("apple-m") else ()
    if not sys.platform.startswith("linux"):
        return ()
    library = ctypes.CDLL(None)
    library.getauxval.argtypes, library.getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return named_features(int(library.getauxval(AT_HWCAP)), int(library.getauxval(AT_HWCAP2)))


def named_features(first: int, second: int) -> tuple[str, ...]:
    """LLVM's names of the features that Linux reports on AArch64.

    Args:
        first, second: AT_HWCAP and AT_HWCAP2.
    """
    named = [name for bit, name in enumerate(HWCAPS) if name and first >> bit & 1]
    return (*named, *(name for bit, name in HWCAPS2.items() if second >> bit & 1))
