"""What notebooks show: tables of results, and bars while something takes long."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
    """The kernels that are compiled while the block runs, in a notebook."""
    if not in_notebook():
        yield
        return
    from tqdm.auto import tqdm

    from ggq_kernels.code import store

    shown = None

    def tell(name: str) -> None:
        nonlocal shown
        shown = shown or tqdm(desc="compiling kernels, once", unit="kernel")
        shown.set_postfix_str(name, refresh=False)
        shown.update(1)

    store.listeners.append(tell)
    try:
        yield
    finally:
        store.listeners.remove(tell)
        if shown is not None:
            shown.close()


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as HTML; what comes from files is escaped."""
    cells = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows[:MOST_ROWS])
    more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><caption>{html.escape(caption)}</caption><tr>{names}</tr>{body}</table>{more}"
