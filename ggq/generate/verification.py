"""Every byte against its digest, and the numbers against the rules of their scheme."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ggq.errors import FormatError
from ggq.format import Problem, Reader, open_reader
from ggq.format import verify as check_digests
from ggq.quant.check import check_segments


def verify(path: str | os.PathLike[str], progress: Callable[[int, int], Any] | None = None) -> list[Problem]:
    """Check every byte of a file, as `ggq.verify`.

    Args:
        path: A .ggq file.
        progress: Called with the bytes read and those in all.

    Returns:
        What is damaged, in the file's order; nothing when all is as it was written.

    Raises:
        FormatError: The file cannot be read at all.
    """
    with open_reader(path) as reader:
        return check(reader, progress)


def check(reader: Reader, progress: Callable[[int, int], Any] | None = None) -> list[Problem]:
    """The same of an open file."""
    problems = check_digests(reader, progress)
    return problems + check_numbers(reader, {problem.tensor for problem in problems})


def check_numbers(reader: Reader, damaged: set[str | None]) -> list[Problem]:
    """What the scheme's rules have against the numbers of tensors whose bytes are the ones written."""
    problems = []
    for tensor in reader.tensors.values():
        if tensor.scheme is None or tensor.name in damaged:
            continue
        try:
            segments = {part: reader.read_segment(tensor.name, part) for part in tensor.segments}
            check_segments(tensor.scheme, tensor.shape, segments, where=tensor.name)
        except FormatError as error:
            problems.append(Problem(tensor.name, f"tensor {tensor.name}", error.problem))
    return problems
