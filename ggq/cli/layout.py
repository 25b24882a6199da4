"""Columns, tables and examples that fit into the terminal: nothing is broken inside a word."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

GAP = 2
"""Spaces between columns."""
LEAST_TEXT = 24
"""Columns that a text beside its name has at least; with fewer it is printed below the name."""
LEAST_NAME = 28
"""Columns to which a table's column of names is shortened at most."""
WORDS = re.compile(r"""(?:'[^']*'|"[^"]*"|\S)+""")
"""Words of a command, quoted ones whole."""
CUT = "..."
"""What stands for the beginning of a shortened name."""


def terminal_columns() -> int | None:
    """Columns of the terminal that is printed to; None where nobody watches, so that lines may be of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of a text, broken between words; a word that is longer than a line has one of its own."""
    lines = textwrap.wrap(text, max(columns, 1), break_long_words=False, break_on_hyphens=False)
    return lines or [""]


def fitted(line: str, columns: int | None) -> list[str]:
    """A line as lines of so many columns, where that is known; spaces stay as they are in one that fits."""
    return [line] if columns is None or len(line) <= columns else wrapped(line, columns)


def paragraph(text: str) -> None:
    """Print lines, each broken between words where it does not fit."""
    columns = terminal_columns()
    print("\n".join(line for given in text.split("\n") for line in fitted(given, columns)))


def remark(text: str) -> None:
    """The same on standard error."""
    columns = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    lines = [line for given in text.split("\n") for line in fitted(given, columns)]
    print("\n".join(lines), file=sys.stderr, flush=True)


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and what belongs to them in two columns."""
    width, columns = max((len(name) for name, _ in rows), default=0) + GAP, terminal_columns()
    below = columns is not None and columns - width < LEAST_TEXT
    for name, text in rows:
        if columns is None or len(text) <= columns - width:
            print(f"{name:<{width}}{text}".rstrip())
        elif below or any(len(word) > columns - width for word in text.split()):
            print("\n".join([name.rstrip(), *("  " + line for line in wrapped(text, columns - GAP))]))
        else:
            first, *others = wrapped(text, columns - width)
            print("\n".join([f"{name:<{width}}{first}", *(" " * width + line for line in others)]))


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), *, sentences: bool = False
) -> None:
    """Print rows under a head, in columns as wide as their longest cell.

    Where the terminal is narrower, columns of names lose their cells' beginnings, the widest first; where that is not
    enough, each row is printed as pairs.

    Args:
        head: Names of the columns.
        rows: Cells, as many as there are columns.
        right: Indices of the columns that are aligned to the right; they are never shortened.
        sentences: Whether the last column is text, which goes on in the next line.
    """
    widths, columns = [max(map(len, column)) for column in zip(head, *rows)], terminal_columns()
    if columns is not None and sentences and columns - _width(widths[:-1]) - GAP >= LEAST_TEXT:
        widths[-1] = min(widths[-1], columns - _width(widths[:-1]) - GAP)
    elif columns is not None and _width(widths) > columns:
        widths = _shrunk(widths, [i for i in range(len(head)) if i not in right], columns)
        if _width(widths) > columns:
            for number, row in enumerate(rows):
                if number:
                    print()
                pairs(list(zip(head, row)))
            return
    for row in [head, ["-" * width for width in widths], *rows]:
        more = wrapped(row[-1], widths[-1]) if sentences else [row[-1]]
        cells = zip([*row[:-1], more[0]], widths)
        shown = [f"{c:>{w}}" if i in right else f"{shortened(c, w):<{w}}" for i, (c, w) in enumerate(cells)]
        print((" " * GAP).join(shown).rstrip())
        for line in more[1:]:
            print(" " * (_width(widths[:-1]) + GAP) + line)


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _shrunk(widths: Sequence[int], names: Sequence[int], columns: int) -> list[int]:
    """Widths that fit, as far as columns of names can give way: the widest of them first."""
    found = list(widths)
    for i in sorted(names, key=lambda i: -found[i]):
        spare = max(found[i] - LEAST_NAME, 0)
        found[i] -= min(spare, max(_width(found) - columns, 0))
    return found


def shortened(name: str, width: int) -> str:
    """A name without its beginning, from a dot, a slash or a space on where there is one: "...v_proj.weight"."""
    if len(name) <= width:
        return name
    kept = name[len(name) - (width - len(CUT)) :]
    places = [kept.find(mark) for mark in "./ " if 0 <= kept.find(mark) < len(kept) - 1]
    return CUT + (kept[min(places) + 1 :] if places else kept)


def example(text: str, columns: int) -> str:
    """The examples of a command's help: what is longer than a line goes on in the next as a shell has it."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        if len(line) <= columns or not line.lstrip().startswith("ggq "):
            lines.append(line)
            continue
        parts = [""]
        for word in WORDS.findall(line):
            if parts[-1] and len(f"{indent}  {parts[-1]} {word} \\") > columns:
                parts.append("")
            parts[-1] = f"{parts[-1]} {word}".lstrip()
        lines.append(" \\\n".join(f"{indent}{'  ' * (i > 0)}{part}" for i, part in enumerate(parts)))
    return "\n".join(lines)
