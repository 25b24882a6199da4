"""Quantized language models on the CPU: convert a checkpoint, look inside the file, run it."""

from __future__ import annotations

import sys
import types

from ggq.errors import GGQError

TYPE_CHECKING = False  # without `typing`: while this module loads, Ctrl-C still shows a traceback
if TYPE_CHECKING:
    from typing import Any

    from ggq.comparison import compare
    from ggq.convert.convert import convert
    from ggq.evaluate.evaluate import evaluate
    from ggq.generate.file import open_file as open
    from ggq.generate.inspection import inspect
    from ggq.generate.loading import load
    from ggq.generate.serving.asynchronous import AsyncModel
    from ggq.generate.verification import verify
    from ggq.serve.serve import asgi, serve

__version__ = "0.1.0"
__all__ = [
    "AsyncModel",
    "GGQError",
    "__version__",
    "asgi",
    "compare",
    "convert",
    "evaluate",
    "inspect",
    "load",
    "open",
    "serve",
    "verify",
]


class _Package(types.ModuleType):
    """This module, with its functions found when they are first asked for, so that `import ggq` stays quick."""

    def __dir__(self) -> list[str]:
        return sorted({*__all__, *(name for name in super().__dir__() if name.startswith("__"))})

    @property
    def convert(self) -> Any:
        """The function, also after the subpackage `ggq.convert` has been imported, which would take its name."""
        from ggq.convert.convert import convert

        return convert

    @convert.setter
    def convert(self, subpackage: types.ModuleType) -> None:
        """The import system's own assignment: `sys.modules` already holds the subpackage."""

    @property
    def evaluate(self) -> Any:
        """The function, also after the subpackage `ggq.evaluate` has been imported."""
        from ggq.evaluate.evaluate import evaluate

        return evaluate

    @evaluate.setter
    def evaluate(self, subpackage: types.ModuleType) -> None:
        """As for `convert`."""

    @property
    def inspect(self) -> Any:
        from ggq.generate.inspection import inspect

        return inspect

    @property
    def verify(self) -> Any:
        from ggq.generate.verification import verify

        return verify

    @property
    def compare(self) -> Any:
        from ggq.comparison import compare

        return compare

    @property
    def open(self) -> Any:
        from ggq.generate.file import open_file

        return open_file

    @property
    def serve(self) -> Any:
        """The function, also after the subpackage `ggq.serve` has been imported."""
        from ggq.serve.serve import serve

        return serve

    @serve.setter
    def serve(self, subpackage: types.ModuleType) -> None:
        """As for `convert`."""

    @property
    def asgi(self) -> Any:
        from ggq.serve.serve import asgi

        return asgi

    @property
    def AsyncModel(self) -> Any:
        from ggq.generate.serving.asynchronous import AsyncModel

        return AsyncModel

    @property
    def load(self) -> Any:
        from ggq.generate.loading import load

        return load


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """The subpackage `ggq.train`, which is imported when it is first asked for."""
    if name == "train":
        import importlib

        return importlib.import_module("ggq.train")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
