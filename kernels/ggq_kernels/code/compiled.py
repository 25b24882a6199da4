"""Kernels: a Python function gets an address, by code that is saved (store.py) or else compiled (object_code.py)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
from numba import types

from ggq_kernels.code import settings, store
from ggq_kernels.code.object_code import object_code

settings.never_read_file()

OP = types.void(types.int64, types.int64)
"""Signature of every operation of a tape: the address of its row, the address of the team's state."""


def inlined(function: Callable[..., Any]) -> Any:
    """A function that becomes part of the kernels that call it; it has no cache entry of its own."""
    # No wrappers: nobody calls it from Python, and a tenth of the time goes into them.
    return numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


class Op:
    """A kernel that lives at an address: compiled, or loaded, when that is first asked for.

    Args:
        function: What it computes, of int64 arguments.
        signature: Numba's; that of an operation of a tape by default.
    """

    def __init__(self, function: Callable[..., Any], signature: Any = OP) -> None:
        self.function, self.name, self.signature = function, function.__name__, signature
        package, _, module = function.__module__.rpartition(".")
        # The folder's name knows the sources of this package and no others: those are compiled in every process.
        self.key = f"{module}.{self.name}" if package.partition(".")[0] == "ggq_kernels" else ""
        self._address = 0
        self._made: Any = None
        self.__doc__ = function.__doc__

    @property
    def address(self) -> int:
        """Address of the machine code, void(int64 row, int64 team) or as its signature says."""
        if not self._address:
            with store.LOCK:
                self._address = self._address or (self.key and store.load_code(self.key)) or self._compile()
        return self._address

    @property
    def form(self) -> tuple[int, bool]:
        """How many arguments it takes, and whether it returns anything."""
        return len(self.signature.args), self.signature.return_type != types.void

    @functools.cached_property
    def _call(self) -> Callable[..., Any]:
        return store.callable_at(self.address, *self.form)

    def __call__(self, *arguments: int) -> Any:
        """Run it; the GIL is released meanwhile."""
        return self._call(*arguments)

    def save(self) -> None:
        """Compile it for a machine that need not be this one, and save its code."""
        with self._reported():
            store.save_code(self.key, object_code(self.function, self.signature))

    def _compile(self) -> int:
        with self._reported():
            made = object_code(self.function, self.signature)
            if self.key:
                store.save_code(self.key, made)
            address = store.link(made)
            if address is None:  # this process lacks what the code names, and Numba can bring it
                self._made = numba.cfunc(self.signature, nopython=True, error_model="numpy")(self.function)
                address = int(self._made.address)
        return address

    @contextmanager
    def _reported(self) -> Iterator[None]:
        for listener in store.listeners:
            listener(self.name)
        start = time.perf_counter()
        yield
        store.compile_log.append((self.name, time.perf_counter() - start))


def op(function: Callable[..., Any]) -> Op:
    """Make an operation of `function(row, team)`; nothing is compiled yet."""
    return Op(function)


def compiled(arguments: int, *, returns: bool = False) -> Callable[[Callable[..., Any]], Op]:
    """Make a kernel that Python calls, of so many int64 arguments, that returns one or nothing; nothing is compiled
    yet."""
    signature = (types.int64 if returns else types.void)(*[types.int64] * arguments)
    return lambda function: Op(function, signature)
