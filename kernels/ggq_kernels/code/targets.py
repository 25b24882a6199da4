"""Which form of the kernels a processor runs, and the processors that a wheel for release is compiled for.

Nothing here imports Numba: a start asks which of the compiled kernels are for its machine.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

BEFORE_VNNI = ("haswell", "broadwell", "skylake", "znver1", "znver2", "znver3")
"""Processor names that ask for AVX2; Numba lends them the host's features where NUMBA_CPU_FEATURES is not set."""

WITHOUT_AVX512 = (*BEFORE_VNNI, *("x86-64-v3", "alderlake", "raptorlake", "meteorlake", "gracemont", "sierraforest"))
"""These, and names that ask for AVX2 with AVX-VNNI where that is there."""

BEFORE_AMX = (
    *("cascadelake", "cooperlake", "icelake-client", "icelake-server", "rocketlake", "tigerlake"),
    *("znver4", "znver5", "x86-64-v4"),
)
"""The same of names that ask for AVX-512 without AMX: NUMBA_CPU_NAME=icelake-server turns AMX off."""


def usable(cpu: str, features: Set[str]) -> frozenset[str]:
    """The features that the kernels use of those that a processor is said to have.

    Args:
        cpu: LLVM's name of the processor.
        features: LLVM's names of its features.
    """
    if cpu in WITHOUT_AVX512:
        features = {f for f in features if not f.startswith(("avx512", "amx"))}
    if cpu in BEFORE_VNNI:
        features = features - {"avxvnni"}
    if cpu in BEFORE_AMX:
        features = {f for f in features if not f.startswith("amx")}
    return frozenset(features)


class Form(NamedTuple):
    """What decides how data lie and which kernels run.

    Args:
        instruction_set: "avx512-vnni", "avx-vnni" (256 bits), "avx2", "neon-i8mm", "neon-dot" or "generic".
        tiles: Whether the processor has tiles of bf16; the system must allow them too (permission.py).
    """

    instruction_set: str
    tiles: bool


def form_of(features: Set[str]) -> Form:
    """The form that a processor with these features runs."""
    needs = {"avx512-vnni": {"avx512vnni"}, "avx-vnni": {"avx2", "avxvnni"}, "avx2": {"avx2"}}
    needs |= {"neon-i8mm": {"neon", "dotprod", "i8mm"}, "neon-dot": {"neon", "dotprod"}}
    name = next((name for name, needed in needs.items() if needed <= features), "generic")
    return Form(name, name == "avx512-vnni" and {"amx-tile", "amx-bf16", "avx512bf16"} <= features)


_V3 = (
    *("64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16"),
    *("sahf", "crc32", "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"),
)
_VNNI = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni")
_AMX = (
    *_VNNI,
    *("amx-tile", "amx-bf16", "avx512bf16", "avx512bitalg", "avx512fp16", "avx512ifma", "avx512vbmi", "avx512vbmi2"),
    *("avx512vpopcntdq", "avxvnni", "gfni", "vaes", "vpclmulqdq"),
)
"""All that code for LLVM's "sapphirerapids" may use."""

_DOT = ("fp-armv8", "neon", "crc", "lse", "rdm", "rcpc", "fullfp16", "dotprod")
_LATER = ("sve", "bf16", "fp16fml", "jsconv", "complxnum", "rcpc-immo", "flagm")
"""What "neoverse-v1" has and kernels do without, so that others with i8mm can run them, too."""


class Target(NamedTuple):
    """A processor that kernels are compiled for in advance.

    Args:
        name: What its file is called.
        cpu: LLVM's name of the processor; it must have no feature that code uses and `features` lacks.
        features: The features that the code may use, and a machine must have.
        machine: The architecture.
        without: Features that the processor has and the code must not use.
    """

    name: str
    cpu: str
    features: tuple[str, ...]
    machine: str = "x86_64"
    without: tuple[str, ...] = ()

    @property
    def listed(self) -> str:
        """The features as LLVM writes them."""
        return ",".join([*(f"+{each}" for each in self.features), *(f"-{each}" for each in self.without)])


TARGETS = (
    Target("x86-64-v3", "x86-64-v3", _V3),
    Target("x86-64-v3-vnni", "x86-64-v3", (*_V3, "avxvnni")),
    Target("x86-64-v4-vnni", "x86-64-v4", _VNNI),
    Target("x86-64-v4-amx", "sapphirerapids", _AMX),
    Target("aarch64-neoverse-n1", "neoverse-n1", _DOT, "aarch64"),
    Target("aarch64-neoverse-v1", "neoverse-v1", (*_DOT, "i8mm"), "aarch64", _LATER),
)
"""One for each form but "generic"; a form has one target at most."""


def target_of(cpu: str, features: Set[str]) -> Target | None:
    """The target whose code a processor runs: that of its own form, if it has all of the features.

    Another form's is never taken, even where it would run: data lie in other ways there, and kernels that are compiled
    on the machine are of its own form.
    """
    features = usable(cpu, features)
    fitting = (each for each in TARGETS if form_of(frozenset(each.features)) == form_of(features))
    return next((each for each in fitting if features.issuperset(each.features)), None)
