"""What notebooks show: tables of results, and bars while something takes long."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggq_kernels.code.store import Left

MOST_ROWS = 200
"""Rows of a table that are shown."""


def in_notebook() -> bool:
    """Whether this process runs the cells of a notebook."""
    if "ipykernel" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


@contextmanager
def bar(label: str, unit: str, *, scale: bool = False) -> Iterator[Callable[..., None] | None]:
    """A bar below the cell while the block runs.

    Args:
        label: What is going on.
        unit: What is counted.
        scale: Whether counts are written with k, M and G.

    Returns:
        A function to call with the number done, the number in all and, if that is known, a name; None outside of
        notebooks.
    """
    if not in_notebook():
        yield None
        return
    from tqdm.auto import tqdm  # of huggingface_hub's own dependencies

    with tqdm(desc=label, unit=unit, unit_scale=scale) as shown:

        def advance(done: int, total: int, name: str = "") -> None:
            shown.total = total
            if name:
                shown.set_postfix_str(name, refresh=False)
            shown.update(done - shown.n)

        yield advance


@contextmanager
def compiling() -> Iterator[None]:
    """How many kernels are left, and about how long they take, while the block compiles them: a bar in a notebook, a
    line on a terminal. Where somebody else tells it (the command line), nothing."""
    from ggq_kernels.code import store

    watcher = _Bar() if in_notebook() else _Line() if sys.stderr is not None and sys.stderr.isatty() else None
    if watcher is None or store.watchers:
        yield
        return
    store.watchers.append(watcher)
    try:
        yield
    finally:
        store.watchers.remove(watcher)


class _Bar:
    """A bar below the cell."""

    def __init__(self) -> None:
        self._shown: Any = None

    def __call__(self, left: Left) -> None:
        from tqdm.auto import tqdm

        self._shown = self._shown or tqdm(desc="compiling kernels, once", unit="kernel", total=left.total)
        self._shown.set_postfix_str(f"about {left.seconds:.0f} s left" if left.kernels else "", refresh=False)
        self._shown.update(left.total - left.kernels - self._shown.n)
        if not left.kernels:
            self._shown.close()
            self._shown = None


class _Line:
    """A line that is written over, and is gone at the end."""

    def __call__(self, left: Left) -> None:
        text = f"compiling kernels, once: {left.kernels} of {left.total} left, about {max(left.seconds, 1):.0f} s"
        print(f"\r\x1b[K{text if left.kernels else ''}", end="", file=sys.stderr, flush=True)


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as HTML; what comes from files is escaped."""
    cells = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows[:MOST_ROWS])
    more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><caption>{html.escape(caption)}</caption><tr>{names}</tr>{body}</table>{more}"
