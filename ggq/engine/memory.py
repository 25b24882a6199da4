"""How much memory a loaded model holds beside its file."""

from __future__ import annotations

import os
import re
from pathlib import Path

MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ +(?P<path>.*)$")


def memory_beside(file: str | os.PathLike[str]) -> int | None:
    """Bytes of memory that this process holds now, without the pages of a mapped file, which the system takes back
    whenever it wants; None where it does not say (anywhere but on Linux)."""
    wanted, total, counted = os.path.realpath(file), 0, True
    try:
        with Path("/proc/self/smaps").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if found := MAPPING.match(line):
                    counted = found["path"] != wanted
                elif counted and line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
    except OSError:
        return None
    return total
