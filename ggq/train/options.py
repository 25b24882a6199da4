"""The options of a training: each is declared here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ggq.convert.declare import Record, option

QAT, LSQ, BLOCKWISE = "qat", "lsq", "blockwise"

METHODS = (QAT, LSQ, BLOCKWISE)
"""How quantizers are trained."""

INPUTS = ("group", "token", "static")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Record):
    """All options of `train`."""

    text: Sequence[str | os.PathLike[str]] | None = option(
        None, "A text to train on, UTF-8; several are packed behind each other.", "TEXT"
    )
    scheme: str | None = option(None, "Scheme of the layers, such as q2-g64, ternary-g64 or binary-g64.", "SCHEME")
    embedding: str | None = option(
        None, "Scheme of the embedding and the output; by default that of the layers with at least 6 bits.", "SCHEME"
    )
    keep: Sequence[str] | None = option(
        None, "Matrices whose names match get this scheme; the first rule that matches decides.", "REGEX=SCHEME"
    )
    method: str | None = option(
        None,
        "blockwise (each layer on its own, then steps end to end: the default), lsq (steps are learned) or qat (steps "
        "follow the weights).",
        "METHOD",
        words=METHODS,
    )
    grid: str | None = option(
        None,
        "The post-training method that chooses steps, or where they begin: mse (the default), absmax, zero-point ...; "
        "threshold for ternary weights as in TWN.",
        "METHOD",
    )
    start: str | os.PathLike[str] | None = option(
        None,
        "A .ggq file of the same schemes, such as one by gptq, whose steps and codes the training begins with.",
        "FILE",
    )
    sample: int = option(
        0,
        "Train on N windows that the full-precision model writes behind beginnings of the text, instead of the text.",
        "N",
        least=0,
    )
    steps: int | None = option(None, "Steps end to end; 300 by default, 150 behind layers.", "N", least=0)
    layer_steps: int | None = option(None, "Steps of each layer with blockwise; 100 by default.", "N", least=1)
    batch: int = option(8, "Windows of a step; 8 by default.", "N", least=1)
    context: int | None = option(
        None, "Tokens of a window; 512 by default, or the model's context if that is shorter.", "N", least=2
    )
    rate: float | None = option(
        None, "Rate of weights; 0.0002 by default. That of norms and biases is 10 times as large.", "RATE", above=0
    )
    step_rate: float | None = option(
        None, "Rate of steps, as a share of a matrix's mean step; 0.0003 by default.", "RATE", above=0
    )
    distill: float | None = option(
        None,
        "Share of the loss, up to 1, that is the divergence from the full-precision model; 0 without it, 1 with "
        "blockwise.",
        "SHARE",
        above=0,
    )
    rank: int | None = option(
        None, "Train corrections of this rank instead of the matrices; they are folded in at the end.", "N", least=1
    )
    activations: str | None = option(
        None, "Round inputs to int8 while training: group, token or static.", "FORM", words=INPUTS
    )
    bf16: bool = option(False, "Compute products in bf16.")
    checkpointing: bool = option(False, "Keep no layer's inner numbers but compute them again: less memory.")
    seed: int = option(0, "Of the order of the windows; 0 by default.", "N", least=0)
    validation: str | os.PathLike[str] | None = option(
        None, "A text to score; without it the last windows of the training text are kept back.", "TEXT"
    )
    score_every: int = option(50, "Steps between two scores; 50 by default.", "N", least=1)
    patience: int | None = option(
        None, "Stop after so many scores without a better one, and keep the best.", "N", least=1
    )
    threads: int | None = option(None, "Threads; by default one per physical core.", "N", least=1, most=1024)
    save_every: int = option(50, "Steps between two saves to OUT.ggq.training; 50 by default.", "N", least=1)
    resume: bool = option(False, "Go on from OUT.ggq.training, which the same command has left.")
    force: bool = option(False, "Replace an existing file, and what an interrupted training has left.")
    out_checkpoint: str | os.PathLike[str] | None = option(
        None, "Keep the trained checkpoint too, in a new folder: converted again it gives the same file.", "DIR"
    )
    progress: Callable[[Any], None] | None = option(
        None, "Called with a `ggq.train.loop.Progress` after each step.", python_only=True
    )
