"""Settings of Numba's that would end the process, or that somebody else made, are passed over."""

from __future__ import annotations

import os
import re
import sys
import warnings

FILE = ".numba_config.yaml"
"""Numba takes settings from a file of this name in the current folder, which may be a stranger's."""

FORMS = {
    "NUMBA_CPU_FEATURES": r"([+-][^,+\s]+(,|$))*",
    "NUMBA_FUNCTION_CACHE_SIZE": r"\d+",
    "NUMBA_NUM_THREADS": r"0*[1-9]\d*",
}
"""Variables of the environment that Numba or LLVM would end the process of, were they otherwise."""

own_settings = False
"""Whether the program had imported Numba before, with settings of its own."""


def tidy() -> None:
    """Called once, before anything here imports Numba."""
    global own_settings
    # Set for a whole coverage run, it would have the kernels, which are machine code or nothing, run as Python.
    os.environ.pop("NUMBA_DISABLE_JIT", None)
    for name, form in FORMS.items():
        if os.environ.get(name) and not re.fullmatch(form, os.environ[name]):
            _tell(f"{name} is passed over: {ascii(os.environ.pop(name))}")
    own_settings = "numba" in sys.modules
    if own_settings:
        sys.modules["numba"].config.DISABLE_JIT = 0
    elif os.path.isfile(FILE):
        _tell(f"{FILE} of this folder is passed over")
        _import_without_file()


def never_read_file() -> None:
    """Called once Numba is imported: it would look for the file whenever it compiles something."""
    if not own_settings:
        sys.modules["numba.core.config"]._config_fname = os.devnull  # type: ignore[attr-defined]


def _import_without_file() -> None:
    """Import Numba, which reads the file while it is imported, and has no switch that keeps it from doing so."""
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:  # then it reads none
        return
    read = yaml.safe_load
    yaml.safe_load = lambda stream: None
    try:
        import numba  # noqa: F401
    finally:
        yaml.safe_load = read


def _tell(text: str) -> None:
    warnings.warn(text, stacklevel=4)
