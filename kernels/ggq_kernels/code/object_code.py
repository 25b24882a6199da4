"""From a function to an object file: Numba types it and brings it into LLVM's language, LLVM makes machine code of it.

Numba by itself would make machine code of every function that becomes part of a kernel, of the kernel as it is, and we
once more of what is saved. `_Codegen` leaves the first two out, which are a fifth of the time of compiling.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import config
from numba.core.codegen import AOTCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from ggq_kernels.code.processor import TRIPLES, architecture, foreign, processor
from ggq_kernels.code.store import ObjectCode

if foreign():
    config.CPU_NAME = config.CPU_FEATURES = None  # Numba's own target stays this machine


def object_code(function: Callable[..., Any], signature: Any) -> ObjectCode:
    """The machine code of a function of Numba's signature."""
    symbol, module = lowered(function, signature)
    named = [item for items in (module.functions, module.global_variables) for item in items]
    needed = [item.name for item in named if item.is_declaration and not item.name.startswith("llvm.")]
    # LLVM prepares a module in place before it makes code of it, and makes better code of one that it has prepared
    # before: 3 % of a prompt of q8-g32, for 0.1 to 0.2 s.
    target_machine().emit_object(module)
    return ObjectCode(symbol, needed, target_machine().emit_object(module))


def lowered(function: Callable[..., Any], signature: Any) -> tuple[str, Any]:
    """The name of a function's entry, and its optimized module in LLVM's language."""
    with _no_machine_code():
        made = numba.cfunc(signature, nopython=True, error_model="numpy")(function)
        return made.native_name, llvm.parse_assembly(_aligned(made.inspect_llvm()))


@functools.cache
def target_machine() -> Any:
    """LLVM's description of the target, as Numba makes it."""
    _, cpu, features = codegen().magic_tuple()
    return make_machine(cpu, features, opt=3)


def make_machine(cpu: str, features: str, opt: int) -> Any:
    """The same for a processor, and for this machine or for another (processor.py)."""
    target = llvm.Target.from_triple(triple())
    place = "static" if target.name.startswith("x86") else "default"
    options = {"cpu": cpu, "features": features, "opt": opt, "reloc": place, "codemodel": "jitdefault", "jit": True}
    return target.create_target_machine(**options)


def triple() -> str:
    """What LLVM calls the machine that kernels are compiled for."""
    if not foreign():
        return str(llvm.get_process_triple())
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return TRIPLES[architecture()]


class _Library(AOTCodeLibrary):
    """Numba's record of one function, which gets no machine code."""

    def get_pointer_to_function(self, name: str) -> int:
        """No address: `name` is optimized, and nothing more."""
        self._ensure_finalized()
        return 0


class _Codegen(JITCPUCodegen):
    """Numba's way to machine code for this process, up to the optimized module."""

    _library_class = _Library

    def _add_module(self, module: Any) -> None:
        """Keep a module from the engine that would make machine code of it."""

    def _get_host_cpu_features(self) -> str:
        return processor()[1] if config.CPU_FEATURES is None else str(config.CPU_FEATURES)

    def _get_host_cpu_name(self) -> str:
        return processor()[0] if config.CPU_NAME is None else str(config.CPU_NAME)

    def set_env(self, env_name: str, env: Any) -> None:
        """Store no Python objects for machine code that there is not; kernels use none."""


class _ForeignCodegen(_Codegen):
    """The same for a machine of another architecture: nothing of it is ever run here."""

    def _init(self, llvm_module: Any) -> None:
        self._tm_features = self._get_host_cpu_features()
        self._tm = make_machine(self._get_host_cpu_name(), self._tm_features, int(config.OPT))
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)
        self._loopvect, self._opt_level = False, 0

    def _create_empty_module(self, name: str) -> Any:
        module = super()._create_empty_module(name)
        module.triple = triple()
        return module


@functools.cache
def codegen() -> _Codegen:
    """Numba's description of the target, and its way to an optimized module."""
    return _ForeignCodegen("ggq_kernels") if foreign() else _Codegen("ggq_kernels")


@contextmanager
def _no_machine_code() -> Iterator[None]:
    """What Numba compiles gets no machine code; other threads that compile wait meanwhile."""
    with global_compiler_lock:
        context = cpu_target.target_context
        usual = context._internal_codegen
        context._internal_codegen = codegen()
        try:
            yield
        finally:
            context._internal_codegen = usual


def _aligned(text: str) -> str:
    """LLVM's language with the stack of all functions at multiples of 64: vectors that registers have no room for would
    cross cache lines there (q6-g32, 64 tokens: 158 to 187 GOP/s of one core by chance)."""
    return re.sub(r"^(define .*) \{$", r'\1 alignstack(64) "stackrealign" {', text, flags=re.MULTILINE)
