"""Modules of kernels without Numba: their constants and the addresses of their kernels, as saved before.

`linear = module("linear")` has the attributes of ggq_kernels.product.linear that a tape is made with. What was not
saved, or not for this version and processor, comes from the module itself, which imports Numba and compiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ggq_kernels.code import store


def _amx() -> ModuleType:
    from ggq_kernels.product import amx

    return amx


def _attention() -> ModuleType:
    from ggq_kernels.attend import attention

    return attention


def _bf16() -> ModuleType:
    from ggq_kernels.row import bf16

    return bf16


def _conv() -> ModuleType:
    from ggq_kernels.scan import conv

    return conv


def _elementwise() -> ModuleType:
    from ggq_kernels.row import elementwise

    return elementwise


def _embed() -> ModuleType:
    from ggq_kernels.product import embed

    return embed


def _encode_rows() -> ModuleType:
    from ggq_kernels.quantize import encode_rows

    return encode_rows


def _experts() -> ModuleType:
    from ggq_kernels.row import experts

    return experts


def _fault() -> ModuleType:
    from ggq_kernels.run import fault

    return fault


def _gate() -> ModuleType:
    from ggq_kernels.row import gate

    return gate


def _gather() -> ModuleType:
    from ggq_kernels.row import gather

    return gather


def _half_blocks() -> ModuleType:
    from ggq_kernels.product import half_blocks

    return half_blocks


def _half_tiles() -> ModuleType:
    from ggq_kernels.product import half_tiles

    return half_tiles


def _isa() -> ModuleType:
    from ggq_kernels.vector import isa

    return isa


def _linear() -> ModuleType:
    from ggq_kernels.product import linear

    return linear


def _lloyd() -> ModuleType:
    from ggq_kernels.quantize import lloyd

    return lloyd


def _norm() -> ModuleType:
    from ggq_kernels.row import norm

    return norm


def _peaks() -> ModuleType:
    from ggq_kernels.run import peaks

    return peaks


def _products() -> ModuleType:
    from ggq_kernels.product import products

    return products


def _repack_rows() -> ModuleType:
    from ggq_kernels.quantize import repack_rows

    return repack_rows


def _rope() -> ModuleType:
    from ggq_kernels.row import rope

    return rope


def _rounding() -> ModuleType:
    from ggq_kernels.row import rounding

    return rounding


def _scan() -> ModuleType:
    from ggq_kernels.scan import scan

    return scan


def _search_rows() -> ModuleType:
    from ggq_kernels.quantize import search_rows

    return search_rows


def _shift_rows() -> ModuleType:
    from ggq_kernels.quantize import shift_rows

    return shift_rows


def _steps() -> ModuleType:
    from ggq_kernels.product import steps

    return steps


def _streams() -> ModuleType:
    from ggq_kernels.row import streams

    return streams


def _sum_lanes() -> ModuleType:
    from ggq_kernels.quantize import sum_lanes

    return sum_lanes


def _team() -> ModuleType:
    from ggq_kernels.run import team

    return team


MODULES: dict[str, Callable[[], ModuleType]] = {
    "amx": _amx,
    "attention": _attention,
    "bf16": _bf16,
    "conv": _conv,
    "elementwise": _elementwise,
    "embed": _embed,
    "encode_rows": _encode_rows,
    "experts": _experts,
    "fault": _fault,
    "gate": _gate,
    "gather": _gather,
    "half_blocks": _half_blocks,
    "half_tiles": _half_tiles,
    "isa": _isa,
    "linear": _linear,
    "lloyd": _lloyd,
    "norm": _norm,
    "peaks": _peaks,
    "products": _products,
    "repack_rows": _repack_rows,
    "rope": _rope,
    "rounding": _rounding,
    "scan": _scan,
    "search_rows": _search_rows,
    "shift_rows": _shift_rows,
    "steps": _steps,
    "streams": _streams,
    "sum_lanes": _sum_lanes,
    "team": _team,
}


class Kernel:
    """A kernel by its name; used as an `Op`.

    Args:
        module: Its module, which is imported when the kernel must be compiled.
        name: Its name there.
        arguments, returns: How many int64 it takes, and whether it returns one.
    """

    def __init__(self, module: str, name: str, arguments: int, returns: bool) -> None:
        self.module, self.name, self._form = module, name, (arguments, returns)
        self.key = f"{module}.{name}"
        self._address = 0

    @property
    def address(self) -> int:
        """Address of the machine code."""
        if not self._address:
            with store.LOCK:
                saved = store.load_code(self.key)
                self._address = saved or getattr(MODULES[self.module](), self.name).address
        return self._address

    @functools.cached_property
    def _call(self) -> Callable[..., Any]:
        return store.callable_at(self.address, *self._form)

    def __call__(self, *arguments: int) -> Any:
        """Run it; the GIL is released meanwhile."""
        return self._call(*arguments)


class Ready:
    """A module's constants and kernels.

    Args:
        name: A name of MODULES.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @functools.cached_property
    def _saved(self) -> dict[str, Any]:
        found = store.find(f"{self._name}.module")
        if found is None:
            whole = _describe(MODULES[self._name]())
            store.write(f"{self._name}.module", whole)
        else:
            whole = found[0]
        kernels = {name: Kernel(self._name, name, *form) for name, form in whole["kernels"].items()}
        return {**whole["constants"], **kernels}

    def kernel_keys(self) -> list[str]:
        """Its kernels, "module.name" each."""
        return [value.key for value in self._saved.values() if isinstance(value, Kernel)]

    def __getattr__(self, name: str) -> Any:
        try:
            value = self._saved[name]
        except KeyError:
            raise AttributeError(f"{self._name} of ggq_kernels has no constant or kernel {name}") from None
        self.__dict__[name] = value
        return value


def _describe(module: ModuleType) -> dict[str, dict[str, Any]]:
    from ggq_kernels.code.compiled import Op

    names = vars(module).items()
    constants = {name: value for name, value in names if name.isupper() and isinstance(value, int | str)}
    return {"constants": constants, "kernels": {name: op.form for name, op in names if isinstance(op, Op)}}


NEED_TILES = ("amx.", "bf16.", "half_tiles.", "peaks.multiply_tiles")
"""Beginnings of kernels that are compiled for processors with tiles of bf16 alone; LLVM ends the process elsewhere."""


def all_keys() -> list[str]:
    """Every kernel of MODULES that this system and processor can have, "module.name" each."""
    from ggq_kernels.run.guard import WATCHED

    left_out = (() if module("isa").AMX else NEED_TILES) + (() if WATCHED else ("fault.",))
    return [key for name in MODULES for key in module(name).kernel_keys() if not key.startswith(left_out)]


@functools.cache
def module(name: str) -> Any:
    """A module of kernels; nothing is read or imported yet."""
    return Ready(name)
