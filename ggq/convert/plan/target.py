"""Budgets: what `--target-bpw` and `--target-size` leave for the matrices."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ggq.convert.plan.plan import Plan
from ggq.errors import UsageError

UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}{end}": 1000**power for power, letter in enumerate("kmgt", 1) for end in ("", "b")},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
"""Bytes of each unit, in lower case."""

_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]{0,3})\s*", re.ASCII)


@dataclass(frozen=True)
class Target:
    """What a file may have: bits for each weight of its matrices, or bytes in all; the other is None."""

    bits_per_weight: float | None = None
    file_bytes: int | None = None

    def budget(self, planned: Plan) -> int:
        """Bits that the matrices may have together.

        Args:
            planned: Of any recipe: what is not of its matrices is the same for each.

        Raises:
            UsageError: The rest of the file alone is too large.
        """
        if self.bits_per_weight is not None:
            return math.floor(self.bits_per_weight * planned.weights)
        assert self.file_bytes is not None
        rest = planned.file_bytes - sum(tensor.bytes for tensor in planned.matrices)
        if rest >= self.file_bytes:
            raise UsageError(
                f"a file of {self.file_bytes} bytes is too small: tokenizer, norms and index alone take {rest}",
                fix="raise the target",
            )
        return 8 * (self.file_bytes - rest)


def parse_target(bits_per_weight: float | None, size: str | int | None) -> Target | None:
    """The target that options ask for, None where they ask for none.

    Args:
        bits_per_weight: Of all matrices, scales and padding included.
        size: Bytes of the file, as a number or as text such as "3GiB", "500 MB".

    Raises:
        UsageError: The size is no such text.
    """
    if bits_per_weight is not None:
        return Target(bits_per_weight=bits_per_weight)
    return None if size is None else Target(file_bytes=size if isinstance(size, int) else parse_size(size))


def parse_size(text: str) -> int:
    """Bytes written as a number and a unit, B, kB, MB, GB, TB, KiB, MiB, GiB or TiB in any case.

    Raises:
        UsageError: It is written in another way.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in UNITS:
        raise UsageError(f"target_size must be a number and a unit, not {text!r}", fix="for example 3GiB or 500MB")
    return math.floor(float(match[1]) * UNITS[match[2].lower()])
