"""The options of a conversion: each is declared here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ggq.convert.declare import Record, option
from ggq.models.text.parts import POOLS

MOST_WORKERS = 1024

ACTIVATIONS = ("group", "token", "static")
"""How inputs are rounded to int8: a scale for some columns of a token, for all of them, or one for a matrix."""

PRESETS = {"small": 3.3, "balanced": 4.6, "high": 6.6}
"""Bits per weight of what one word asks for: mixes, as no scheme does as well at any size (docs/notes/mixes.md)."""

Progress = Callable[[int, int, str], None]
"""Called with the source bytes done, the source bytes in all, and the name of the tensor that is waited for."""


@dataclass(frozen=True, kw_only=True)
class SchemeOptions(Record):
    """Which scheme and method each tensor gets."""

    scheme: str | None = option(
        None, "Scheme of the layers, such as q4-g32, q4m-g32-s6 or bf16; `ggq schemes` lists them.", "SCHEME"
    )
    method: str | None = option(
        None,
        "How codes and scales are chosen, such as mse, gptq or awq+gptq; by default as fits the scheme; "
        "`ggq methods` lists them.",
        "METHOD",
    )
    embedding: str | None = option(
        None, "Scheme of the embedding and the output; by default that of the layers with at least 6 bits.", "SCHEME"
    )
    keep: Sequence[str] | None = option(
        None,
        "Matrices whose names match get this scheme; the first rule that matches decides, before those of a recipe.",
        "REGEX=SCHEME",
    )
    recipe: str | os.PathLike[str] | None = option(
        None, "Schemes and methods from a recipe file, such as `ggq inspect --recipe` prints.", "FILE.toml"
    )
    activations: str | None = option(
        None,
        "How inputs are rounded to int8: group (the default), token, or static (needs calibration).",
        "FORM",
        words=ACTIVATIONS,
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(Record):
    """What methods know of the inputs of matrices."""

    calibration: str | os.PathLike[str] | None = option(
        None, "A text like those that the model will see, for methods that look at the inputs of matrices.", "TEXT"
    )
    calibration_tokens: int | None = option(
        None, "How many tokens of the text to use, evenly over its length; 16384 by default.", "N", least=1
    )
    calibration_context: int | None = option(
        None,
        "Tokens of a window of the text; 512 by default, 32 for a model of vectors, or its context if that is shorter.",
        "N",
        least=2,
    )
    statistics: str | os.PathLike[str] | None = option(
        None, "A file that keeps what calibration found: written if it is missing, else read instead of a text.", "FILE"
    )


@dataclass(frozen=True, kw_only=True)
class TargetOptions(Record):
    """How large the result may be, where the schemes are chosen for that."""

    preset: str | None = option(
        None,
        "small, balanced or high: a mix of 3.3, 4.6 or 6.6 bits; balanced if no scheme is named.",
        "PRESET",
        words=tuple(PRESETS),
    )
    target_bpw: float | None = option(
        None,
        "Choose the scheme of each matrix so that all together have at most this many bits per weight and lose least.",
        "BITS",
        above=0,
    )
    target_size: str | int | None = option(None, "The same for the bytes of the file, such as 3GiB.", "SIZE")
    report: Callable[[str], None] | None = option(
        None, "Called with what is being done while schemes are chosen for a target.", python_only=True
    )


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Record):
    """How a checkpoint is read."""

    ignore: Sequence[str] | None = option(
        None, "Leave out tensors whose whole names match, whatever they are.", "REGEX"
    )
    pooling: str | None = option(
        None,
        "Make a model that gives each text a vector: the mean of its tokens' rows, or the first or last one's; by "
        "default as modules.json says.",
        "ROWS",
        words=POOLS,
    )
    lora: Sequence[str] | None = option(
        None, "Add a LoRA adapter of PEFT, times a weight, before anything is quantized.", "FOLDER[=WEIGHT]"
    )
    generic: bool = option(
        False, "Store the tensors of any safetensors file or folder by the recipe, without a model that could run."
    )
    offline: bool = option(False, "Take a model of the hub from the cache, and ask nobody.")
    follow_links: bool = option(False, "Read files that are links out of the checkpoint's folder.")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Record):
    """How a plan is carried out."""

    workers: int | None = option(
        None,
        "Threads; by default one per physical core. The result does not depend on it.",
        "N",
        least=1,
        most=MOST_WORKERS,
    )
    resume: bool = option(
        False, "Go on from what an interrupted conversion of the same checkpoint with the same options has left."
    )
    force: bool = option(False, "Replace an existing file.")
    progress: Progress | None = option(
        None, "Called with source bytes done, source bytes in all, and a tensor's name.", python_only=True
    )


# Fields of a record's bases come in reverse order of the bases.


@dataclass(frozen=True, kw_only=True)
class PlanOptions(SourceOptions, TargetOptions, CalibrationOptions, SchemeOptions):
    """Everything that decides what a conversion writes."""


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions, PlanOptions):
    """All options of `convert`."""
