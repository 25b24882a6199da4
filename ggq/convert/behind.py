"""Compiling, while a conversion runs and behind it, the kernels that its result will need.

A process of its own does it at the lowest priority, on cores that are idle; it asks nobody to wait. What it does is
an optimization: where it cannot be started, or fails, kernels are compiled when the model first runs.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from ggq.engine.foreseen import Foreseen
from ggq.format.scheme import Scheme
from ggq.tape.program import Program

if TYPE_CHECKING:
    from ggq.convert.plan.plan import Plan

OFF = "GGQ_COMPILE_BEHIND"
"""Set to 0, this variable of the environment turns it off."""
WORK = "import sys; sys.path[:] = {path!r}\nfrom ggq.convert.behind import work; work()"
Need = tuple[Program, dict[str, tuple[Scheme, tuple[int, ...]]]]
"""A program, and scheme and shape of its tensors by role."""

_started: list[subprocess.Popen[bytes]] = []


def compile_behind(plan: Plan) -> None:
    """Start compiling what the result of a plan needs; returns at once.

    Nothing is started where the installed wheel carries kernels.
    """
    from ggq_kernels.code import precompiled, store

    off = os.environ.get(OFF) == "0" or not sys.executable or getattr(sys, "frozen", False)
    if off or plan.built is None or precompiled.folder().is_dir() or not store.CAN_CLAIM:
        return
    need: Need = (plan.built, {tensor.role: (tensor.scheme, tensor.shape) for tensor in plan.tensors})
    with suppress(OSError), tempfile.TemporaryFile() as file:  # no process can be started, or no file be written
        pickle.dump(need, file)
        file.seek(0)
        _started.append(start(file))  # so that nobody is warned that it still runs


def start(need: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the process; its input is a pickled Need."""
    return subprocess.Popen(
        [sys.executable, "-c", WORK.format(path=sys.path)],
        stdin=need,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )


def work() -> None:
    """What the process does: one at a time for each cache folder."""
    from ggq_kernels.code import store, together

    if hasattr(os, "nice"):
        os.nice(19)
    need: Need = pickle.load(sys.stdin.buffer)  # from the process that started this one
    with store.claim("behind") as alone:
        if alone and not store.distrust() and os.access(store.own_folder(), os.W_OK):
            together.compile_behind(needed(*need))


def needed(program: Program, tensors: Mapping[str, tuple[Scheme, tuple[int, ...]]]) -> list[str]:
    """The kernels that the result of a conversion runs as `ggq run` runs it, "module.name" each.

    Args:
        program: The model.
        tensors: Scheme and shape of each tensor, by role.
    """
    from ggq.engine.bind import kernels_for
    from ggq.engine.weights import Weights

    exact = all(scheme == Scheme("float", 32, "f32") for scheme, _ in tensors.values())
    return kernels_for(
        program, Weights(Foreseen(tensors), {role: role for role in tensors}), "int8", "f32" if exact else "f16"
    )
