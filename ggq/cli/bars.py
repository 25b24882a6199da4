"""How far a conversion is, on standard error, where somebody watches."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ggq.cli.layout import shortened
from ggq.cli.output import printable
from ggq.convert.options import Progress

NAME = 44
"""Columns of a tensor's name beside the bar."""


@dataclass
class _Bar:
    """Forwards progress to a rich bar."""

    bar: Any
    task: Any

    def __call__(self, done: int, total: int, name: str) -> None:
        shown = shortened(printable(name), max(min(NAME, shutil.get_terminal_size().columns - 50), 8))
        self.bar.update(self.task, completed=done, total=total, description=shown)


@contextmanager
def reporting() -> Iterator[Callable[[str], None] | None]:
    """What the plan is being solved by, as one changing line on standard error; None when nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield lambda text: print(f"\r\x1b[2K{printable(text)}", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


@contextmanager
def conversion_bar(total: int) -> Iterator[Progress | None]:
    """A bar on standard error: the tensor, bytes, speed; None when nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    room = shutil.get_terminal_size().columns
    figures = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) if room >= 100 else (DownloadColumn(),)
    columns = (TextColumn(f"{{task.description:<{max(min(NAME, room - 50), 8)}}}", markup=False), BarColumn(), *figures)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, bar.add_task("", total=total))
