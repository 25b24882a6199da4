"""Texts that the full-precision model writes, to train on instead of a given one: it has learned from more than that.

Source: Liu et al. 2023, LLM-QAT: Data-Free Quantization Aware Training for Large Language Models (arXiv 2305.17888),
section 2.1, with beginnings from a text instead of single tokens.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ggq.convert.convert import plan as plan_conversion
from ggq.convert.convert import run as convert
from ggq.convert.options import RunOptions
from ggq.errors import UsageError
from ggq.format.unfinished import replacing
from ggq.generate.loading import load
from ggq.train.texts.windows import Windows

SCHEME = "q8-g32"
"""Of the file that writes: as good as full precision for this, and several times as quick."""

BEGINNING = 12
"""Tokens of a text that each window begins with."""

TOGETHER = 16
"""Windows that are written at the same time."""

ZIP = b"PK\x03\x04"
"""What NumPy's file of windows begins with."""


def sampled(
    source: str | os.PathLike[str],
    windows: Windows,
    count: int,
    seed: int,
    threads: int | None,
    tell: Callable[[int], None] = lambda done: None,
) -> Windows:
    """Windows that the model writes behind beginnings taken from a text, at temperature 1.

    What ends before its window does is followed by another one's, as texts are packed.

    Args:
        source: The checkpoint.
        windows: Of the text, int32 (windows, context).
        count: Windows wanted.
        seed: Decides about beginnings and tokens.
        threads: Of the engine; None for one per physical core.
        tell: Called with how many windows there are.

    Returns:
        int32 (count, context).

    Raises:
        UsageError: Windows are too short to begin one.
        GGQError: The checkpoint cannot be run.
    """
    context = windows.shape[1]
    beginning = min(BEGINNING, context // 2)
    if beginning < 1:
        raise UsageError(f"windows of {context} tokens are too short for texts that the model writes")
    random, stream = np.random.default_rng([seed, 1]), list[int]()
    with tempfile.TemporaryDirectory(prefix="ggq-sampled-") as folder:
        path = Path(folder) / "model.ggq"
        convert(plan_conversion(source, scheme=SCHEME), path, RunOptions())
        with load(path, threads=threads) as model:
            while len(stream) < count * context:
                rows = windows[random.integers(0, len(windows), TOGETHER), :beginning].tolist()
                first = int(random.integers(1 << 31))
                options = {"max_tokens": context - beginning, "seed": first, "stop": []}
                plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
                answers = [model.answer(row, {**plain, **options}, index) for index, row in enumerate(rows)]  # type: ignore[typeddict-item]
                model.complete(answers)
                for row, answer in zip(rows, answers, strict=True):
                    stream += [*row, *answer.tokens]
                tell(min(count, len(stream) // context))
    return np.array(stream[: count * context], np.int32).reshape(count, context)


def kept(place: Path, make: Callable[[], Windows], resume: bool) -> Windows:
    """Windows that are written once for a training, and found again where it is resumed.

    Args:
        place: A file beside the training's state.
        make: Writes them.
        resume: Whether the file's may be used.
    """
    if resume and place.exists():
        with np.load(place, allow_pickle=False) as found:
            return np.asarray(found["windows"], np.int32)
    made = make()
    with replacing(place, ZIP) as file:
        np.savez(file, windows=made)
    return made
