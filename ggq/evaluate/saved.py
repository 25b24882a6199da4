"""References kept in a file: of each scored token the likeliest tokens, what the rest has together, the token's own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import FormatError, UsageError
from ggq.evaluate.forward import log_probabilities
from ggq.evaluate.reference import Distribution, check_windows, chosen
from ggq.evaluate.text_windows import LLAMA_CPP, Progress, Windows, parts, report_progress
from ggq.format.identify import identify
from ggq.format.native.layout import MAGIC
from ggq.format.paths import open_regular, os_error
from ggq.format.unfinished import replacing
from ggq.generate.model import Model

TOP = 256
"""Tokens kept of each distribution by default: 2 kB a scored token. On pylm (4,096 tokens, perplexity 14) the mean
divergence comes out 6 % too small with them, with 64 tokens 15 %, with 1,024 1 %, whatever the file
(docs/notes/evaluation.md)."""

FORMAT, VERSION = "ggq-logits", "1"
MASS_TOLERANCE = 1e-3
"""How far the probabilities of a row may be from 1 before the file counts as damaged; float32 leaves about 1e-6."""

TENSORS = {"windows": np.int32, "ids": np.uint32, "log_probs": np.float32, "rest": np.float32, "targets": np.float32}
"""What a file holds: (windows, context), (tokens, top), (tokens, top), (tokens,), (tokens,)."""
KEYS = ("format", "version", "stride", "recipe", "vocabulary", "text_digest", "tokens_digest", "model_digest", "model")
"""Metadata, all text."""


@dataclass(frozen=True)
class SavedLogits:
    """A reference as a file holds it.

    Args:
        windows: What it was computed on.
        vocabulary: Tokens of the model's vocabulary.
        ids: uint32 (tokens, top): the likeliest tokens, the likeliest first.
        log_probs: float32 (tokens, top): theirs.
        rest: float32 (tokens,): the logarithm of what all others have together, -inf where there are none.
        targets: float64 (tokens,), float32 in the file: log-probability of the scored token.
        notes: "text_digest", "model_digest", "model": what it was made from.
    """

    windows: Windows
    vocabulary: int
    ids: NDArray[np.uint32]
    log_probs: NDArray[np.float32]
    rest: NDArray[np.float32]
    targets: NDArray[np.float64]
    notes: dict[str, str]
    path: str | None = None

    def distributions(self, windows: Windows) -> Iterator[Distribution]:
        """See `Reference`."""
        check_windows(self.windows, windows, self.path)
        for part in parts(windows, self.vocabulary):
            at = part.rows
            yield Distribution(self.ids[at], self.log_probs[at], self.rest[at], self.targets[at])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a safetensors file, which appears under its name when it is whole.

        Raises:
            GGQError: The file cannot be written.
        """
        from safetensors.numpy import save

        tensors = {"windows": self.windows.ids, **{name: getattr(self, name) for name in list(TENSORS)[1:]}}
        stored = {name: np.ascontiguousarray(tensors[name], dtype) for name, dtype in TENSORS.items()}
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "stride": str(self.windows.stride),
            "recipe": self.windows.recipe,
            "vocabulary": str(self.vocabulary),
            "tokens_digest": self.windows.digest,
            **self.notes,
        }
        with replacing(path, FORMAT.encode()) as file:
            file.write(save(stored, metadata))


def top_logits(
    model: Model,
    windows: Windows,
    top: int = TOP,
    notes: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> SavedLogits:
    """Run a model over windows and keep the likeliest tokens of each distribution.

    Args:
        model: The reference.
        windows: The text.
        top: Tokens to keep, at least 1; the whole vocabulary if it has fewer.
        notes: See `SavedLogits`.
        progress: Called after each part.

    Raises:
        UsageError, ModelError: See `log_probabilities`.
    """
    vocabulary = model.config.vocabulary_size
    if top < 1:
        raise UsageError(f"top is {top}, at least 1 needed")
    top = min(top, vocabulary)
    ids = np.empty((windows.tokens, top), np.uint32)
    log_probs = np.empty((windows.tokens, top), np.float32)
    rest, targets = np.empty(windows.tokens, np.float32), np.empty(windows.tokens)
    for part, found in log_probabilities(model, windows):
        at = part.rows
        ids[at], log_probs[at], rest[at] = likeliest(found, top)
        targets[at] = chosen(found, windows.targets[at])
        report_progress(progress, at.stop, windows)
    return SavedLogits(windows, vocabulary, ids, log_probs, rest, targets, notes or {})


def likeliest(log_probs: NDArray[np.float64], top: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The likeliest tokens of each row, the first among equals first; theirs; the logarithm of what is left."""
    if top < log_probs.shape[1]:
        ids = np.sort(np.argpartition(-log_probs, top - 1, axis=1)[:, :top], axis=1)
    else:
        ids = np.broadcast_to(np.arange(top), log_probs.shape)
    order = np.argsort(-np.take_along_axis(log_probs, ids, axis=1), axis=1, kind="stable")
    ids = np.take_along_axis(ids, order, axis=1)
    others = np.exp(log_probs)
    np.put_along_axis(others, ids, 0.0, axis=1)
    with np.errstate(divide="ignore"):
        rest = np.log(others.sum(axis=1))
    return ids, np.take_along_axis(log_probs, ids, axis=1), rest


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether a reference is a .ggq file; if not, it is a file of saved logits.

    Raises:
        FormatError: It is neither.
        GGQError: It cannot be read.
    """
    name, problem = os.fspath(path), "a .ggq file or a file of --save-logits expected, found {}"
    try:
        with open_regular(name, problem) as file:
            head = file.read(64)
    except OSError as error:
        raise os_error(error, name, "read") from None
    if head.startswith(MAGIC):
        return True
    if head[8:9] == b"{":
        return False
    found = identify(head) or ("something else" if head else "an empty file")
    raise FormatError(problem.format(found), path=name)


def load_logits(path: str | os.PathLike[str]) -> SavedLogits:
    """Read a saved reference and check it whole.

    Raises:
        FormatError: It is no file of --save-logits, or it is damaged.
        GGQError: It cannot be read.
    """
    name = os.fspath(path)
    if is_model(path):
        raise FormatError("a file of --save-logits expected", path=name)
    metadata, tensors = _read(name)
    if metadata.get("format") != FORMAT:
        raise refuse("a safetensors file that holds no logits", name)
    if metadata.get("version") != VERSION:
        raise refuse(f"version {metadata.get('version')!r}, this version of ggq reads {VERSION}", name)
    if set(tensors) != set(TENSORS):
        raise refuse(f"tensors {', '.join(sorted(tensors))} found, {', '.join(TENSORS)} expected", name)
    missing = [key for key in KEYS if key not in metadata]
    if missing:
        raise refuse(f"metadata without {missing[0]}", name)
    stride, vocabulary = (whole(metadata, key, name) for key in ("stride", "vocabulary"))
    recipe = metadata["recipe"]
    if recipe not in ("", LLAMA_CPP):
        raise refuse(f"recipe {recipe!r:.40} is not known", name)
    check_shapes(tensors, stride, recipe, name)
    windows = Windows(tensors.pop("windows"), stride, recipe)
    check_numbers(tensors, vocabulary, name)
    tensors["targets"] = tensors["targets"].astype(np.float64)
    notes = {key: metadata[key] for key in ("text_digest", "model_digest", "model")}
    return SavedLogits(windows, vocabulary, notes=notes, path=name, **tensors)


def _read(path: str) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Metadata and tensors of a safetensors file, read and not mapped: it may be cut short meanwhile."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with open_regular(path) as file:
            data = file.readall()
        tensors: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, KeyError, TypeError) as error:  # the latter of types that NumPy has not
        raise FormatError(f"not a safetensors file: {error}", path=path) from None
    except OSError as error:
        raise os_error(error, path, "read") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__") or {}, tensors


def check_shapes(tensors: dict[str, NDArray[Any]], stride: int, recipe: str, path: str) -> None:
    """Refuse tensors of a type or shape that contradicts the others."""
    for name, dtype in TENSORS.items():
        if tensors[name].dtype != dtype:
            raise refuse(f"{tensors[name].dtype} found, {np.dtype(dtype)} expected", path, name)
    ids = tensors["windows"]
    if ids.ndim != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise refuse(f"shape {list(ids.shape)} found, windows of 2 tokens or more expected", path, "windows")
    tokens = Windows(ids, stride, recipe).tokens
    top = tensors["ids"].shape[-1] if tensors["ids"].ndim == 2 else 0
    wanted = {"ids": (tokens, top), "log_probs": (tokens, top), "rest": (tokens,), "targets": (tokens,)}
    for name, shape in wanted.items():
        if tensors[name].shape != shape or top < 1:
            raise refuse(f"shape {list(tensors[name].shape)} found, {list(shape)} expected", path, name)


def check_numbers(tensors: dict[str, NDArray[Any]], vocabulary: int, path: str) -> None:
    """Refuse ids outside the vocabulary and probabilities that are none."""
    if int(tensors["ids"].max()) >= vocabulary:
        raise refuse(f"token id {tensors['ids'].max()} found, the vocabulary has {vocabulary}", path, "ids")
    with np.errstate(over="ignore", invalid="ignore"):
        mass = np.exp(tensors["log_probs"], dtype=np.float64).sum(axis=1) + np.exp(tensors["rest"], dtype=np.float64)
        wrong = ~(np.abs(mass - 1) < MASS_TOLERANCE) | ~(tensors["targets"] < MASS_TOLERANCE)
    for name in ("log_probs", "targets"):
        if not np.isfinite(tensors[name]).all():
            row = int(np.argwhere(~np.isfinite(tensors[name]))[0, 0])
            raise refuse(f"damaged: a probability of row {row} is zero or no number", path, name)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise refuse(f"damaged: the probabilities of row {row} add up to {mass[row]:.4g}", path, "log_probs")


def whole(metadata: dict[str, str], key: str, path: str) -> int:
    """A positive whole number of the metadata."""
    text = metadata[key]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise refuse(f"{text[:20]!r} found, a positive whole number expected", path, f"metadata {key}")
    return int(text)


def refuse(problem: str, path: str, where: str | None = None) -> FormatError:
    """The refusal of a file of logits."""
    fix = "make it anew: ggq eval MODEL --text FILE --save-logits OUT"
    return FormatError(problem, path=path, where=where, fix=fix)
